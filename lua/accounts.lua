-- What the scripts share that put accounts in or take them away: sync, account and reconcile. Follows ledger.lua and queue.lua.
--
-- What an operator has set of an account is kept in
--   roster  HASH  account id -> "<max> <priority> <disabled> <pace> <max> <base> <disabled> <pace>": what is set, - where nothing is,
--                 and then what holds without it: what the configuration says, or what the account came with
-- beside the keys of ledger.lua. In `accounts` are, of this,
--   #scale       "<best> <worst> <span> <weight> <load>": which priorities there are, what they add to a score (base_of), and
--                what a full account adds
--   #ledger      the digest of a sync that left the accounts to the operators: they are theirs while `#digest` is the same
--   #pace:<account id>  how many requests it may get in a time, and when its next turn comes (ledger.lua, `meter`)
local function roster_of(ROSTER, CONTROL)
  local self, tool = {}, tools()
  local ACCOUNTS, FREE, USED, _, _, COOLDOWN = unpack(KEYS)
  local ENTRY = '^(%S+) (%S+) (%S+) (%S+) (%d+) (%d+) ([01]) (%S+)$'

  -- Whether it is a pace as it is written: how many requests, in how many ms, and how many of them at once; - or none.
  function self.is_pace(text)
    local requests, per_ms, burst = string.match(text, '^(%d+)/(%d+)/(%d+)$')
    requests, per_ms, burst = tonumber(requests), tonumber(per_ms), tonumber(burst)
    return text == '-' or text == 'none' or requests and #text <= 32 and requests >= 1 and requests <= 1000000 and per_ms >= 1 and per_ms <= 86400000
      and burst >= 1 and burst <= requests
  end

  local scale
  -- The parts of #scale as numbers; none when it is missing: an older version's sync is in force.
  function self.scale()
    if not scale then
      local text = call('HGET', ACCOUNTS, '#scale') or ''
      scale = {string.match(#text <= 80 and text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')}
    end
    return tonumber(scale[1]), tonumber(scale[2]), tonumber(scale[3]), tonumber(scale[4]), tonumber(scale[5])
  end

  -- A priority's part of the score; nil: this pool has no such priority.
  function self.base_of(priority)
    local best, worst, span, weight = self.scale()
    if best and priority >= best and priority <= worst then
      return math.floor(weight * (priority - best) / math.max(span, 1) + 0.5)
    end
  end

  -- An entry of the roster: what is set, and what holds without it; nil: it is none.
  function self.entry(text)
    local max, priority, disabled, pace, own_max, own_base, own_disabled, own_pace = string.match(text or '', ENTRY)
    local function is(value, low, high)
      return value == '-' or tool.digits(value) and tonumber(value) >= low and tonumber(value) <= high
    end
    if own_max and is(max, 1, 100000) and is(priority, 0, 1000000) and is(disabled, 0, 1) and self.is_pace(pace)
      and is(own_max, 1, 100000) and is(own_base, 0, 1e15) and self.is_pace(own_pace) then
      return {max = max, priority = priority, disabled = disabled, pace = pace},
        {max = own_max, base = own_base, disabled = own_disabled, pace = own_pace}
    end
  end

  -- An entry as it is kept.
  function self.text(set, own)
    return table.concat({set.max, set.priority, set.disabled, set.pace, own.max, own.base, own.disabled, own.pace}, ' ')
  end

  -- What holds of both.
  function self.in_force(set, own)
    local base, pace = set.priority ~= '-' and self.base_of(tonumber(set.priority)), set.pace == '-' and own.pace or set.pace
    return {
      max = set.max == '-' and own.max or set.max, base = base or own.base,
      disabled = set.disabled == '-' and own.disabled or set.disabled, pace = pace == 'none' and '-' or pace,
    }
  end

  local function named(prefix, ids)
    local names = {}
    for i = 1, #ids do
      names[i] = prefix .. ids[i]
    end
    return unpack(names)
  end

  -- Puts accounts in, at most 500, as they stand in `terms` by id, or as an operator has set them since. They stay cooling,
  -- behind, probing, disabled by an answer, or drained. `missing`: the count of one that `used` does not have; `load`: what a full
  -- one adds to its score.
  function self.put_in(ids, terms, missing, load)
    -- `used` may be there without `accounts`, after a loss of that key alone.
    local used = call('HMGET', USED, unpack(ids))
    local cooling, behind = call('ZMSCORE', COOLDOWN, unpack(ids)), call('ZMSCORE', COOLDOWN, named('behind:', ids))
    local before, probes = call('HMGET', ACCOUNTS, unpack(ids)), call('HMGET', ACCOUNTS, named('#probe:', ids))
    local metered, adapts = unpack(call('HMGET', ACCOUNTS, '#metered', '#adaptive'))
    local paces = metered and call('HMGET', ACCOUNTS, named('#pace:', ids)) or {}
    local limits = metered and call('HMGET', ACCOUNTS, named('#limit:', ids)) or {}
    -- An operator's key of another type leaves drained what is drained, and nothing else set.
    local drained = redis.pcall('HMGET', CONTROL, named('drain:', ids))
    local any = redis.pcall('HSCAN', ROSTER, '0', 'COUNT', '1')
    local entries = not any.err and (any[1] ~= '0' or any[2][1]) and call('HMGET', ROSTER, unpack(ids)) or {}
    local records, fields, free, kept, gone = {}, {}, {}, {}, {}
    for i = 1, #ids do
      local account, own = ids[i], terms[ids[i]]
      local set = entries[i] and self.entry(entries[i])
      if set then
        kept[#kept + 1], kept[#kept + 2] = account, self.text(set, own)
        own = self.in_force(set, own)
      end
      local drain = drained[i]
      if drained.err then
        drain = tool.has(tonumber(string.match(before[i] or '', ' (%d+)$')) or 0, tool.DRAINED)
      end
      local shut = own.disabled == '1'
      -- Only one that has a flag may be out of use.
      if before[i] and not string.find(before[i], ' 0$') then
        local off = string.find(call('HGET', ACCOUNTS, '#off:' .. account) or '', tool.NO_END)
        if shut and off then
          -- What was set holds.
          gone[#gone + 1] = '#off:' .. account
        end
        shut = shut or off
      end
      local flags = (shut and tool.DISABLED or 0) + (drain and tool.DRAINED or 0) + ((cooling[i] or probes[i]) and tool.COOLING or 0)
      local max = tonumber(own.max)
      if adapts then
        -- The limit in force stays where it is, below the highest.
        local credit, lowered = string.match(limits[i] or '', '^%d+ (%d+) (%d+)$')
        max = credit and math.min(max, tonumber(string.match(before[i] or '', '^%d+')) or max) or max
        fields[#fields + 1] = '#limit:' .. account
        fields[#fields + 1] = string.format('%.0f %s %s', own.max, credit or '0', lowered or '0')
      elseif limits[i] then
        gone[#gone + 1] = '#limit:' .. account
      end
      records[2 * i - 1] = account
      records[2 * i] = string.format('%.0f %.0f %.0f %d', max, load, own.base + (behind[i] and BEHIND or 0), flags)
      if own.pace ~= '-' then
        -- Its turns go on where they were.
        fields[#fields + 1] = '#pace:' .. account
        fields[#fields + 1] = own.pace .. ' ' .. (tool.digits(string.match(paces[i] or '', ' (%d+)$'), 17) or '0')
      elseif paces[i] then
        gone[#gone + 1] = '#pace:' .. account
      end
    end
    call('HSET', ACCOUNTS, unpack(records))
    if fields[1] then
      call('HSET', ACCOUNTS, '#metered', '1', unpack(fields))
    end
    if gone[1] then
      call('HDEL', ACCOUNTS, unpack(gone))
    end
    if kept[1] then
      call('HSET', ROSTER, unpack(kept))
    end
    for i = 1, #ids do
      -- A count that is none, or lost, keeps the account out of `free` until the recount.
      refresh_free(ids[i], records[2 * i], tonumber(used[i] or missing) or math.huge, free)
    end
    if free[1] then
      call('ZADD', FREE, unpack(free))
    end
  end

  -- Takes an account away. Its leases finish; the last one takes the record with it. Answers whether it was there.
  function self.take_away(account)
    local record = call('HGET', ACCOUNTS, account)
    if not record or string.sub(account, 1, 1) == '#' then
      return false
    end
    call('ZREM', COOLDOWN, account, 'behind:' .. account)
    call('HDEL', ACCOUNTS, '#probe:' .. account, '#off:' .. account, '#pace:' .. account, '#limit:' .. account)
    redis.pcall('HDEL', ROSTER, account)
    local _, _, _, flags = tool.parts(record)
    if flags then
      record = string.gsub(record, '%d+$', tool.REMOVED)
      call('HSET', ACCOUNTS, account, record)
    else
      call('HDEL', ACCOUNTS, account)
      record = false
      call('ZREM', FREE, account)
    end
    refresh_free(account, record, tool.count(account) or 1)
    return flags ~= nil and flags < tool.REMOVED
  end

  return self
end

