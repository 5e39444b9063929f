-- The beginning of every ledger script: its keys, and the functions that several scripts use.
--
-- KEYS, all under one hash tag, the same eight first in every script:
--   1 accounts  HASH  account id -> "max load base flags"; #revision, #digest, #epoch of the sync in force; #coming, the
--                     sync in parts under way (sync.lua); #ttl and #rest, the longest lease and the longest cooldown of
--                     all Envoys, "ms until" (note_longest);
--                     #wake, when the first cooldown ends, ms; #pass, number of the reconcile pass under way;
--                     #uncounted, while a recount makes `used` anew: a count that is missing is unknown, not 0;
--                     #queue, 1 while anyone waits; #metered, 1 where an account has a pace;
--                     #pace:<account id>, "<requests>/<ms>/<burst> <when its turns are used up, µs>" (meter);
--                     #adaptive, where limits adapt the lowest that they may be; then #limit:<account id>, "<the highest> <leases
--                     taken while it was full> <when it was lowered last, ms>", and its record's max is the limit in force;
--                     #probe:<account id>, once it has cooled it takes one lease at a time: that lease, or empty;
--                     #off:<account id>, an answer took it out of use: "why since until", ms
--   2 free      ZSET  account id -> score, only accounts that can take a lease now
--   3 used      HASH  account id -> number of live leases; #<account id> -> as recounted by the pass under way
--   4 leases    ZSET  lease id -> expiry, ms of Redis TIME; of one that waits for its slot, until when its worker vouches for it
--   5 owner     HASH  lease id -> account id; behind it ":<pass>" once that pass has counted it. Of one that waits: ~ and what
--                     queue.lua says
--   6 cooldown  ZSET  account id, behind:<account id>, or scope:<scope>:<account id> -> until, ms of Redis TIME
--   7 queue     ZSET  who waits, and whose turn comes next, all with score 0 (queue.lua)
--   8 tenants   HASH  tenant -> number of live leases; #<tenant> -> as recounted by the pass under way; and what queue.lua
--                     says. A lease id that ends in a dot and 16 hex digits has those as its tenant.
--
-- An account's record: max = its slots; load = what a full account adds to its score; base = the priority's part of it;
-- flags = why it takes no lease, added up, 0: it does. Scores are whole numbers, 1,000,000 to the unit.
--
-- An account that probes keeps the flag of one that cools, without being in `cooldown`: scripts that know no probes see one
-- that takes no lease, and let it go at their next recount. One that is behind has BEHIND on top of its base, above what any
-- base, load and chance can be: it is chosen when no other can take a lease, by scripts too that know nothing of it.
--
-- An account that an answer took out of use for a time cools, and probes then, and has #off beside that, until its probe has
-- passed. One that is out of use until an operator lets it go has 0 for its end there, and the flag of one that is disabled. An
-- account that the configuration disables has none.
--
-- Anyone may have written anything into these keys. A script that reads what cannot be there fails, before it writes, with
-- "GARBAGE <key> <field>: <what it is not>", or with Redis' own WRONGTYPE; reconcile.lua mends it, and names the key. An
-- account whose record cannot be read is not free.
--
-- A function that is made costs as much as a command, and more with each of the script's variables that it sees. So what few
-- calls need is made when it is needed, and has its own names of the keys.
local ACCOUNTS, FREE, USED, LEASES, OWNER, COOLDOWN = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call = redis.call
local BEHIND = 2 ^ 52
-- The flags in the record of an account that takes leases, and of one that only cools, or probes.
local OPEN, COOLING = '0', '4'
-- The first byte of a waiter's owner, ~; and how long the id of a tenant's lease is.
local WAITS, OF_TENANT = 126, 41
-- What queue.lua makes, only for scripts that free slots; and what it made.
local waiters, queue
-- Whether this script has seeded its random numbers.
local seeded = false

-- After `used` has changed: keeps `free` true. The one place that decides whether an account is in it. With a list, what is to
-- be added to `free` is put there, for one ZADD.
local function refresh_free(account, record, used, list)
  if not record then
    if used <= 0 then
      call('HDEL', KEYS[3], account)
    end
    return
  end
  local max, load, base, flags = string.match(record, '^(%d+) (%d+) (%d+) (%d+)$')
  max = tonumber(max)
  local open = flags == OPEN
  if flags == COOLING and used < max then
    local ACCOUNTS, _, _, _, OWNER, COOLDOWN = unpack(KEYS)
    -- As `wants_probe` of the tools, which few callers have at hand.
    local probe = call('HGET', ACCOUNTS, '#probe:' .. account)
    -- This may come after writes, so that it may not end in an error: whoever can't be judged is not open.
    local owner = probe and (redis.pcall('HGET', OWNER, probe) or '')
    open = type(owner) == 'string' and string.match(owner, '^[^:]*') ~= account
      and not redis.pcall('ZSCORE', COOLDOWN, account)
  end
  if open and used < max then
    local score = string.format('%d', base + math.floor(load * used / max))
    if list then
      list[#list + 1] = score
      list[#list + 1] = account
    else
      call('ZADD', KEYS[2], score, account)
    end
  else
    call('ZREM', KEYS[2], account)
    -- A removed account goes with its last lease.
    local removed = tonumber(flags or 0)
    if removed >= 8 and removed < 16 and used <= 0 then
      call('HDEL', KEYS[1], account)
      call('HDEL', KEYS[3], account)
    end
  end
end

-- Counts leases whose ids are a tenant's, `more` for each: 1, -1, or 0: it is counted already. The pass under way has to know of
-- those with its mark; without `marks` of all. This comes after writes, so what cannot be counted is left to the recount.
-- Answers by tenant how many of these leases it has, and how many it holds now.
local function count_tenants(leases, more, marks, pass)
  local TENANTS, each, passed, held = KEYS[8], {}, {}, {}
  for i = 1, #leases do
    if string.find(leases[i], '^%.%x+$', 25) then
      local tenant = string.sub(leases[i], 26)
      each[tenant] = (each[tenant] or 0) + 1
      if pass and (not marks or marks[i] == pass) then
        passed[tenant] = (passed[tenant] or 0) + (more < 0 and -1 or 1)
      end
    end
  end
  for tenant, count in pairs(each) do
    local now = redis.pcall('HINCRBY', TENANTS, tenant, more * count)
    held[tenant] = type(now) == 'number' and now or 0
    if held[tenant] <= 0 then
      redis.pcall('HDEL', TENANTS, tenant)
    end
    if passed[tenant] then
      redis.pcall('HINCRBY', TENANTS, '#' .. tenant, passed[tenant])
    end
  end
  return each, held
end

-- Ends leases, whoever asks, in seven commands however many they are. All is read before anything is written, so that a key
-- of the wrong type shows before anything is lost. One that waits leaves the queue. When anyone waits, what comes free is handed
-- on, with what this script has freed before, if `also` names it. Answers how many leases there were, and how many with those
-- that waited.
local function end_leases(ids, now, also)
  local ACCOUNTS, FREE, USED, LEASES, OWNER = unpack(KEYS, 1, 5)
  local owners = call('HMGET', OWNER, unpack(ids))
  -- A table has room for what most calls put in: it costs more to grow it.
  local leases, accounts, ended, seen = {nil}, {nil, nil, nil}, {}, #ids > 1 and {}
  local marked, left, of_tenants, marks
  for i = 1, #ids do
    local lease = ids[i]
    if owners[i] and not (seen and seen[lease]) then
      if seen then
        seen[lease] = true
      end
      leases[#leases + 1] = lease
      local account, mark = string.match(owners[i], '^([^:~]*):?(.*)$')
      if account == '' and string.byte(mark) == WAITS then
        left = left or {}
        left[#left + 1], left[#left + 2] = lease, mark
      else
        if not ended[account] then
          accounts[#accounts + 1] = account
        end
        ended[account] = (ended[account] or 0) + 1
        if mark ~= '' then
          marked = marked or {}
          marked[#marked + 1] = account
          marked[#marked + 1] = mark
        end
        if #lease == OF_TENANT then
          of_tenants, marks = of_tenants or {}, marks or {}
          of_tenants[#of_tenants + 1], marks[#marks + 1] = lease, mark
        end
      end
    end
  end
  local count = #accounts
  if not leases[1] then
    return 0, 0
  end
  local used = count > 0 and call('HMGET', USED, unpack(accounts))
  accounts[count + 1], accounts[count + 2] = '#pass', '#queue'
  local records = call('HMGET', ACCOUNTS, unpack(accounts))
  local pass, queued = records[count + 1], records[count + 2]
  local counts, free = {nil, nil}, {nil, nil}
  for i = 1, count do
    -- A lease stands, so one that is missing was lost: it stays so, and the account shut, until the recount.
    local held = tonumber(used[i] or math.huge)
    if not held then
      error({err = 'GARBAGE used ' .. string.gsub(string.sub(accounts[i], 1, 64), '[^%w._-]', '?') .. ': not a number'})
    end
    if used[i] then
      counts[#counts + 1], counts[#counts + 2] = accounts[i], string.format('%d', held - ended[accounts[i]])
    end
    used[i] = held - ended[accounts[i]]
  end
  call('ZREM', LEASES, unpack(leases))
  call('HDEL', OWNER, unpack(leases))
  if counts[1] then
    call('HSET', USED, unpack(counts))
  end
  -- The pass under way has counted them.
  for i = 1, marked and #marked or 0, 2 do
    if marked[i + 1] == pass then
      redis.pcall('HINCRBY', USED, '#' .. marked[i], '-1')
    end
  end
  for i = 1, count do
    refresh_free(accounts[i], records[i], used[i], free)
  end
  if free[1] then
    call('ZADD', FREE, unpack(free))
  end
  local fewer, held_by
  if of_tenants then
    fewer, held_by = count_tenants(of_tenants, -1, marks, pass)
  end
  if queued or left then
    accounts[count + 1], accounts[count + 2] = nil, nil
    for i = 1, also and #also or 0 do
      accounts[#accounts + 1] = also[i]
    end
    waiters().after_end(left, fewer, held_by, accounts, now)
  end
  return #leases - (left and #left / 2 or 0), #leases
end

-- The rest is built only when it is needed, and once: making a function costs about as much as a command.
local toolbox
local function tools()
  if toolbox then
    return toolbox
  end
  local self = {DISABLED = 1, DRAINED = 2, COOLING = 4, REMOVED = 8}
  -- What `#off` of an account ends with that is out of use until an operator lets it go.
  self.NO_END = ' %d+ 0$'
  toolbox = self
  local call, format = redis.call, string.format
  local ACCOUNTS, FREE, USED, LEASES, OWNER, COOLDOWN, QUEUE = unpack(KEYS)
  local RECORD = '^(%d+) (%d+) (%d+) (%d+)$'
  -- The longest lease, and the longest cooldown, that there can be.
  local DAY_MS = 86400000
  -- How long the longest time of all Envoys is remembered after the last of them said it.
  local LONGEST_MS = 300000
  -- How many entries of a key one call shortens.
  local CUT = 500

  function self.refuse(text)
    error({err = text})
  end

  function self.whole(text, name, low, high)
    local value = tonumber(text)
    if not value or value ~= math.floor(value) or value < low or value > high then
      self.refuse(format('BADARG %s: not a whole number in %.0f..%.0f', name, low, high))
    end
    return value
  end

  function self.is_id(text)
    return text and #text <= 64 and string.find(text, '^[%w._-]+$')
  end

  function self.id(text, name)
    if not self.is_id(text) then
      self.refuse('BADARG ' .. name .. ': not [A-Za-z0-9._-]{1,64}')
    end
    return text
  end

  -- Names a field of a key, whatever bytes it is made of.
  function self.name_of(key, field)
    return key .. ' ' .. string.gsub(string.sub(field, 1, 64), '[^%w._#:-]', '?')
  end

  function self.garbage(key, field, is_not)
    self.refuse('GARBAGE ' .. self.name_of(key, field) .. ': not ' .. is_not)
  end

  -- A whole number as it stands in Redis; nil when it is none, or of more digits than `most` (16).
  function self.digits(text, most)
    return text and #text <= (most or 16) and string.find(text, '^%d+$') and text or nil
  end

  -- The parts of an account's record; nil when it is none.
  function self.parts(record)
    local max, load, base, flags = string.match(record, RECORD)
    max, load, base, flags = tonumber(max), tonumber(load), tonumber(base), tonumber(flags)
    if max and max >= 1 and max <= 100000 and load <= 1e9 and base <= 1e15 + BEHIND and flags < 16 then
      return max, load, base, flags
    end
  end

  -- Whether one of these flags is among those of a record.
  function self.has(flags, flag)
    return math.floor(flags / flag) % 2 == 1
  end

  -- The next of the eight keys, after number `at`, that is of another type than it must be: its number, and what is wrong
  -- with it; nil: there is none. Hashes and sorted sets take turns, but the last two the other way round.
  function self.wrong_key(at)
    for i = (at or 0) + 1, 8 do
      local hash = i % 2 == 1 ~= (i > 6)
      local reply = redis.pcall(hash and 'HEXISTS' or 'ZSCORE', KEYS[i], '#')
      if type(reply) == 'table' and string.find(reply.err or '', '^WRONGTYPE') then
        return i, string.match(KEYS[i], '[^:]*$') .. ' is no ' .. (hash and 'hash' or 'sorted set')
      end
    end
  end

  function self.check_keys()
    local _, wrong = self.wrong_key()
    if wrong then
      self.refuse('WRONGTYPE ' .. wrong)
    end
  end

  -- Remembers the longest lease and the longest cooldown of all Envoys, ms; 0: nothing is said of it. Each of them says its own
  -- when it connects and once a minute, so it is forgotten a while after the last one that said it; not at once when the clock
  -- was set back.
  function self.note_longest(ttl, rest, now)
    for field, ms in pairs({['#ttl'] = ttl, ['#rest'] = rest}) do
      if ms > 0 then
        local held, ends = string.match(call('HGET', ACCOUNTS, field) or '', '^(%d+) (%d+)$')
        held, ends = tonumber(held), tonumber(ends)
        if not held or ms > held or ends <= now then
          held, ends = ms, 0
        end
        -- Not each time that it is said: those who connect together would all write it.
        if ends > now + LONGEST_MS or ms == held and ends < now + 0.8 * LONGEST_MS then
          call('HSET', ACCOUNTS, field, format('%.0f %.0f', held, now + LONGEST_MS))
        end
      end
    end
  end

  -- The longest time that was noted.
  function self.longest(field)
    return math.min(tonumber(string.match(call('HGET', ACCOUNTS, field) or '', '^(%d+) %d+$')) or DAY_MS, DAY_MS)
  end

  -- No entry of a sorted set may end later than this many ms from now: Redis' clock was set back, or this server's is slow.
  function self.cut(key, now, longest)
    local ends, list = format('%.0f', now + longest), {}
    for _, member in ipairs(call('ZRANGEBYSCORE', key, '(' .. ends, '+inf', 'LIMIT', 0, CUT)) do
      list[#list + 1], list[#list + 2] = ends, member
    end
    if list[1] then
      call('ZADD', key, unpack(list))
    end
    return #list > 0
  end

  -- The same for leases and cooldowns.
  function self.cut_late(now, ttl)
    self.cut(LEASES, now, math.max(ttl, self.longest('#ttl')))
    if self.cut(COOLDOWN, now, self.longest('#rest')) then
      self.note_next_end()
    end
  end

  -- Taken once in a script: before Redis 7.2 it moves while the script runs.
  function self.now_ms()
    local time = call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
  end

  -- Whether a hash has no field; a key of another type has. Commands that tell it in one word are in no user's rights so far.
  local function is_empty(key)
    local page = redis.pcall('HSCAN', key, '0', 'COUNT', '1')
    return page[1] == '0' and not page[2][1]
  end

  -- Whether there are leases, and `used` counts none of them.
  function self.lost_counts()
    if not is_empty(USED) then
      return false
    end
    local page = redis.pcall('HSCAN', OWNER, '0', 'COUNT', '1')
    local owners = page[2] or {}
    for i = 2, #owners, 2 do
      if string.byte(owners[i]) ~= WAITS then
        return true
      end
    end
    -- Nobody counts those that wait.
    return page[1] ~= '0' and call('ZCARD', LEASES) > call('ZLEXCOUNT', QUEUE, '[w:', '(w;')
  end

  -- Whether `used` was lost: what is missing there is nobody's 0.
  function self.uncounted()
    return call('HEXISTS', ACCOUNTS, '#uncounted') == 1 or self.lost_counts()
  end

  -- How many leases an account has; math.huge: nobody knows before the recount; nil: what stands there is no number.
  function self.count(account)
    return tonumber(call('HGET', USED, account) or self.uncounted() and math.huge or 0)
  end

  function self.used(account)
    return self.count(account) or self.garbage('used', account, 'a number')
  end

  -- The lease that probes an account; empty: it waits for one; false: it takes what it can hold. All three also while it cools.
  function self.probe_of(account)
    local probe = call('HGET', ACCOUNTS, '#probe:' .. account)
    return probe and (string.match(call('HGET', OWNER, probe) or '', '^[^:]*') == account and probe or '')
  end

  -- Whether an account with the flag of one that cools, and no other, has cooled and takes a probe.
  function self.wants_probe(account)
    return self.probe_of(account) == '' and not call('ZSCORE', COOLDOWN, account)
  end

  -- Sets or clears one flag of an account, which has this many leases (or read it here). Answers whether it changed; nil: there
  -- is no such account. An error comes before anything is written.
  function self.flag(account, value, on, used)
    local record = call('HGET', ACCOUNTS, account)
    local max, load, base, flags = string.match(record or '', RECORD)
    if not max then
      return nil
    end
    if self.has(flags, value) == on then
      return false
    end
    record = format('%s %s %s %d', max, load, base, on and flags + value or flags - value)
    used = used or self.used(account)
    call('HSET', ACCOUNTS, account, record)
    refresh_free(account, record, used)
    return true
  end

  -- Puts an account behind the others, or back; otherwise as `flag`.
  function self.behind(account, on, used)
    local record = call('HGET', ACCOUNTS, account)
    local max, load, base, flags = string.match(record or '', RECORD)
    if not max then
      return nil
    end
    base = tonumber(base)
    if (base >= BEHIND) == on then
      return false
    end
    record = format('%s %s %.0f %s', max, load, on and base + BEHIND or base - BEHIND, flags)
    used = used or self.used(account)
    call('HSET', ACCOUNTS, account, record)
    refresh_free(account, record, used)
    return true
  end

  -- Notes when the first cooldown ends.
  function self.note_next_end()
    local first = call('ZRANGE', COOLDOWN, 0, 0, 'WITHSCORES')
    if first[2] then
      call('HSET', ACCOUNTS, '#wake', first[2])
    else
      call('HDEL', ACCOUNTS, '#wake')
    end
  end

  -- After an account's cooldown is over: it takes leases again, or one at a time.
  function self.after_cooldown(account, used)
    local record = call('HGET', ACCOUNTS, account)
    if record and call('HEXISTS', ACCOUNTS, '#probe:' .. account) == 1 then
      refresh_free(account, record, used)
    else
      self.flag(account, self.COOLING, false, used)
    end
  end

  -- Whether the accounts are the operators' (accounts.lua), as the sync in force said.
  function self.is_ledgers()
    local held = redis.pcall('HMGET', ACCOUNTS, '#ledger', '#digest')
    return held[1] and held[1] == held[2] and true or false
  end

  -- How many more leases an account may take at once by its pace; math.huge: it has none.
  function self.turns(text, now_us)
    local requests, per_ms, burst, used_up = string.match(text or '', '^(%d+)/(%d+)/(%d+) (%d+)$')
    requests, per_ms, burst, used_up = tonumber(requests), tonumber(per_ms), tonumber(burst), tonumber(used_up)
    if not requests or requests < 1 then
      return math.huge
    end
    local every = per_ms * 1000 / requests
    return math.floor((now_us + burst * every - math.max(used_up, now_us)) / every + 1e-6), every, burst, used_up
  end

  -- Whether an account of this pace cools until its next turn, and for nothing that was said of it.
  function self.is_paced(text, ends)
    local _, every, burst, used_up = self.turns(text and #text <= 64 and text or '', 0)
    return every and math.abs(ends - math.ceil((used_up - (burst - 1) * every) / 1000)) <= 1
  end

  -- After an account has taken leases, of which it has so many now: its limit rises by one when as many as it says were taken while
  -- it was full. Answers its record.
  local function raise_limit(account, record, leases, used, text)
    local most, credit, lowered = string.match(text, '^(%d+) (%d+) (%d+)$')
    local max, rest = string.match(record, '^(%d+) (.*)$')
    max, most = tonumber(max), tonumber(most)
    if not most or used < max or max >= most then
      return record
    end
    credit = tonumber(credit) + leases
    if credit >= max then
      credit, record = 0, format('%d %s', max + 1, rest)
      call('HSET', ACCOUNTS, account, record)
    end
    call('HSET', ACCOUNTS, '#limit:' .. account, format('%d %d %s', most, credit, lowered))
    return record
  end

  -- After an account has taken leases, of which it has so many now: counts them for its adaptive limit, and for its pace, a token
  -- bucket kept as the moment when it is full again. One out of pace cools until its next turn. Answers its record. This comes
  -- after writes: what cannot be read is no pace, and no limit.
  function self.meter(account, record, leases, used, now_us)
    local held = redis.pcall('HMGET', ACCOUNTS, '#pace:' .. account, '#limit:' .. account)
    if type(held[2]) == 'string' and #held[2] <= 40 then
      record = raise_limit(account, record, leases, used, held[2])
    end
    local text = held[1]
    local turns, every, burst, used_up = self.turns(type(text) == 'string' and #text <= 64 and text or '', now_us)
    if not every then
      return record
    end
    -- Leases that were taken whatever the pace, or a clock that was set back, shut it for no longer than this.
    used_up = math.min(math.max(used_up, now_us) + leases * every, now_us + (burst + 1) * every)
    call('HSET', ACCOUNTS, '#pace:' .. account, string.match(text, '^%S+') .. format(' %.0f', used_up))
    if turns - leases >= 1 then
      return record
    end
    local now = math.floor(now_us / 1000)
    local until_ms = math.ceil((used_up - (burst - 1) * every) / 1000)
    local held = redis.pcall('ZSCORE', COOLDOWN, account)
    if type(held) == 'table' or until_ms <= now then
      return record
    end
    self.note_longest(0, until_ms - now, now)
    call('ZADD', COOLDOWN, format('%.0f', math.max(until_ms, tonumber(held) or 0)), account)
    self.note_next_end()
    local max, load, base, flags = string.match(record, RECORD)
    if not self.has(tonumber(flags), self.COOLING) then
      record = format('%s %s %s %d', max, load, base, flags + self.COOLING)
      call('HSET', ACCOUNTS, account, record)
    end
    return record
  end

  -- Hands on what is free, if anyone waits.
  function self.serve(now)
    if call('HGET', ACCOUNTS, '#queue') then
      waiters().hand_off(now)
    end
  end

  -- Ends at most `most` cooldowns that are over. Answers how many.
  function self.end_cooldowns(now, most)
    self.cut(COOLDOWN, now, self.longest('#rest'))
    local over = call('ZRANGEBYSCORE', COOLDOWN, '-inf', now, 'LIMIT', 0, most)
    for _, member in ipairs(over) do
      local behind, scoped = string.match(member, '^behind:(.*)$'), string.find(member, '^scope:')
      -- A count that is none keeps the account out of `free` until the recount, and stops nobody else's.
      local used = not scoped and (self.count(behind or member) or math.huge)
      call('ZREM', COOLDOWN, member)
      if behind then
        self.behind(behind, false, used)
      elseif not scoped then
        self.after_cooldown(member, used)
      end
    end
    self.note_next_end()
    self.serve(now)
    return #over
  end

  -- How long until something may come free, as far as the ledger can tell, but no longer than `most`: a cooldown's end, or soon
  -- when a lease is live, since most end long before they expire.
  function self.retry_after(now, most)
    local from, wait, cooling = 0, most, nil
    repeat
      cooling = call('ZRANGE', COOLDOWN, from, from + 15, 'WITHSCORES')
      for i = 2, #cooling, 2 do
        -- One that is behind, or cools in a scope, can take a lease already.
        if not string.find(cooling[i - 1], ':') then
          wait = math.min(wait, cooling[i] - now)
        end
      end
      from = from + 16
    until #cooling < 32 or cooling[32] - now >= wait
    local first = call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
    if first[2] then
      local owner = call('HGET', OWNER, first[1]) or ''
      if string.byte(owner) ~= WAITS then
        wait = math.min(wait, 1000, first[2] - now)
      elseif call('ZCARD', LEASES) > call('ZLEXCOUNT', QUEUE, '[w:', '(w;') then
        wait = math.min(wait, 1000)
      end
    end
    return math.max(wait, 1)
  end

  return self
end

