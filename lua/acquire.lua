-- acquire: choose the best account for each of some leases, one after the other, and take them.
--
-- KEYS  the six of ledger.lua
--       next  the cooldowns of each lease's scope (ZSET, account id -> until, ms), in order; or none
--       session  the key that holds each lease's session (STRING, see Sessions), in order; only with ARGV 5 above 0
-- ARGV  1 ttl, ms
--       2 seed, 0..2147483647, fresh for each call: Redis starts its own the same way at every boot
--       3 weight of the random part, millionths
--       4 mode: take   choose, and take the leases
--               dry    choose as `take` would for each alone, and write nothing (reaps nothing either)
--               force  record leases of the accounts named, whatever their counts
--       5 how long the sessions are remembered, ms; 0: no sessions
--       6.. lease ids, [A-Za-z0-9._-]{1,64}, each once, 1..1000; with force, then as many account ids; with sessions, then how
--         many bytes a session key may hold, 100..32768, and the tag of each lease's session, 16 hex digits
-- Returns {epoch, answer ..}: for each lease, in order
--         account id            the lease holds a slot of it; if it held one already, that one's
--         account id ":probe"   and it probes, for an account that has cooled: `cooldown` wants to know whether it passed
--         integer               saturated: retry after so many ms
--         nil                   the account is not in this pool (force)
-- Errors  NOPOOL (no accounts: sync first), BADARG; GARBAGE, when what stands in the ledger cannot be there, and after an id
--         in `free` that is no account's was taken out of it. No lease is taken then.
-- Sessions  One key holds many, each as `=<tag><mark><account id> <until, ms>`. The mark is `,` for a new session, and `;` for one
--       that came back in time. The new ones are first, and among equals the one that was written longest ago. When a key is
--       full, its first sessions are forgotten. When those that came back take more than three quarters, the first of them
--       count as new again. So new sessions push out new ones, and no client can make a key grow.
-- Cost  O(log accounts + log leases) each; with a session, O(bytes of its key) more; with a scope, O(accounts cooling in it)
--       more, and refused, O(accounts behind) at most. Eight commands, however many leases, and one to three more for each.
local ttl, seed, weight, mode, session_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local dry, force = mode == 'dry', mode == 'force'
local tagged = session_ttl and session_ttl > 0 and 1 or 0
local count = (#ARGV - 5 - tagged) / ((force and 2 or 1) + tagged)
-- Behind which the keys of sessions and of scopes stand, and the tags of the sessions.
local sessions, tags = tagged == 1 and #KEYS - count, #ARGV - count
local scopes = (sessions or #KEYS) > 6 and 6
local wrong, seen = #KEYS ~= 6 + (sessions and count or 0) + (scopes and count or 0), {}
for i = 6, 5 + count do
  local lease = ARGV[i]
  wrong = wrong or #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]') or seen[lease]
  seen[lease] = true
end
local room = sessions and tonumber(ARGV[tags])
if sessions then
  wrong = wrong or not (room and room >= 100 and room <= 32768 and room % 1 == 0)
  for i = tags + 1, #ARGV do
    wrong = wrong or #ARGV[i] ~= 16 or string.find(ARGV[i], '%X')
  end
end
if wrong or not (ttl and ttl >= 1 and ttl <= 86400000 and ttl % 1 == 0)
  or not (seed and seed >= 0 and seed <= 2147483647 and seed % 1 == 0) or not (weight and weight >= 0 and weight <= 1e9)
  or not (session_ttl and session_ttl >= 0 and session_ttl <= 1e12 and session_ttl % 1 == 0)
  or not (count >= 1 and count <= 1000 and count % 1 == 0) or not (dry or force or mode == 'take') then
  local check = tools()
  check.whole(ARGV[1], 'ttl_ms', 1, 86400000)
  check.whole(ARGV[2], 'seed', 0, 2147483647)
  check.whole(ARGV[3], 'random', 0, 1e9)
  check.whole(ARGV[5], 'session_ttl_ms', 0, 1e12)
  if sessions then
    check.whole(ARGV[tags], 'session bytes', 100, 32768)
  end
  for i = 6, 5 + count do
    check.id(ARGV[i], 'lease')
  end
  check.refuse('BADARG mode, leases, sessions or keys: not take, dry or force, not 1..1000 leases, one twice, a session without '
    .. 'its tag or bytes, or a key too many or too few')
end
-- How many expired leases, and ended cooldowns, one call may clear away at a time; and how many leases share that work. A
-- call that finds no free slot always does it, so nobody is refused for a lease that is over.
local REAP, SHARED_BY = 32, 4
-- How many accounts are looked at one by one before the rest is drawn from together.
local PAGE = 4
-- The draw ends after this many tries, with the best found so far: it takes one or two in a pool of any size.
local TRIES = 64
-- What a number becomes in a command: left to Redis, it is printed with 17 digits, which costs more than the command.
local format = string.format

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The account of each lease that is new, and the owner of each that is not.
local chosen, owners = {}, {}
-- How many leases each account gets, and those accounts in order.
local given, accounts = {}, {}
-- As Redis has it: `free` by first rank; record and count of accounts that came up again.
local pages, records, used = {}, nil, nil

-- What an account's score in `free` is after what it got here; nil: it can't take more.
local function score_now(account, score)
  local more = given[account]
  if not more then
    return tonumber(score)
  end
  records, used = records or {}, used or {}
  if not used[account] then
    records[account] = call('HGET', ACCOUNTS, account)
    used[account] = tonumber(call('HGET', USED, account) or 0) or math.huge
  end
  more = more + used[account]
  -- As in `refresh_free`, but one that cools has got its one probe.
  local max, load, base, flags = string.match(records[account] or '', '^(%d+) (%d+) (%d+) (%d+)$')
  return flags == '0' and more < tonumber(max) and base + math.floor(load * more / max) or nil
end

-- The account with the least base + weight * u, as if each in `free` had drawn its own even u, in O(log accounts).
-- The first few do draw. Those behind can only win below the best score so far, and are drawn from together: at s, an
-- account whose base is below s comes next with hazard 1 / (weight - (s - base)), so the winner is the first point of a
-- Poisson process that bounds them all from above, thinned to the true hazards (Lewis and Shedler 1979).
-- One that got a lease here stands in `free` with a score lower than its own by now, so that it is bounded too.
math.randomseed(seed)
local random = math.random
local function choose(shut)
  local account, score = nil, math.huge
  local from, page, fresh = 0, nil, nil
  repeat
    page = pages[from]
    if not page then
      page = call('ZRANGE', FREE, from == 0 and '0' or format('%d', from), format('%d', from + PAGE - 1), 'WITHSCORES')
      pages[from] = page
    end
    for i = 1, #page, 2 do
      local base = tonumber(page[i + 1])
      if base >= score then
        return account
      end
      if not (shut and shut[page[i]]) then
        base = score_now(page[i], base)
        fresh = fresh or not given[page[i]]
        local drawn = base and base + weight * random() or score
        if drawn < score then
          account, score = page[i], drawn
        end
      end
    end
    from = from + PAGE
    -- With one that stands where it belongs among them, the best is less than `weight` above those behind.
  until fresh or #page < 2 * PAGE
  if #page < 2 * PAGE then
    return account
  end
  -- Windows from `low` to `high`. One that holds many more accounts than can be in play wastes tries on those at its far
  -- end: with even density, the winner lies about sqrt(2 * width * weight / others) above `low`. Equal bases need none.
  local low, high = tonumber(page[2 * PAGE]), score
  local least = low
  local wide = page[2] ~= page[2 * PAGE]
  local others, room, s
  for _ = 1, TRIES do
    if not others then
      others = call('ZCOUNT', FREE, '-inf', format('(%d', math.ceil(high))) - from
      if wide and others * (high - low) > 8 * weight then
        high = low + math.sqrt(8 * (high - low) * weight / others)
        others = call('ZCOUNT', FREE, '-inf', format('(%d', math.ceil(high))) - from
      end
      room, s = weight - (high - least), low
    end
    s = others > 0 and s - math.log(1 - random()) * room / others or high
    if s < high then
      local rank = format('%d', from + random(0, others - 1))
      local other = call('ZRANGE', FREE, rank, rank, 'WITHSCORES')
      local base = score_now(other[1], other[2])
      local behind = base and s - base or 0
      if behind > 0 and not (shut and shut[other[1]]) and random() * (weight - behind) < room then
        return other[1]
      end
      if not wide then
        low, wide, others = s, true, nil
      end
    elseif high == score then
      break
    else
      low, high, others = high, score, nil
    end
  end
  return account
end

-- How long a binding that is written now lives: a little longer than it must, so that most leases need not write it again.
local life = sessions and session_ttl + math.ceil(session_ttl / 16)
-- What each session key holds.
local held = sessions and {}
-- Until all is chosen nothing is written, but to clear away what is over. `lasts`: by tag, the account of the session; by
-- number, the tag of a lease whose session is to be written.
local lasts, shuts, got, missing = sessions and {}, scopes and {}, nil, nil
for try = 1, 2 do
  if not dry and (try == 2 or seed % SHARED_BY < count) then
    local over = call('ZRANGEBYSCORE', LEASES, '-inf', format('%d', now), 'LIMIT', '0', REAP)
    -- One without an owner was written by hand.
    if #over > 0 and end_leases(over) < #over then
      call('ZREM', LEASES, unpack(over))
    end
    if try == 2 then
      pages, records, used = {}, nil, nil
      tools().cut_late(now, ttl)
    end
  end
  if not dry then
    owners = call('HMGET', OWNER, unpack(ARGV, 6, 5 + count))
  end
  missing = false
  for i = 1, count do
    if not chosen[i] and not owners[i] then
      local account, bind, shut, last, lasting
      if force then
        account = ARGV[5 + count + i]
      else
        if scopes then
          -- Accounts that cool in this scope.
          local scope = KEYS[scopes + i]
          shut = shuts[scope]
          if not shut then
            shut = {}
            local last
            for k, cooling in ipairs(redis.pcall('ZRANGEBYSCORE', scope, format('(%d', now), '+inf', 'WITHSCORES')) do
              if k % 2 == 1 then
                shut[cooling] = true
              else
                last = cooling
              end
            end
            -- None may cool for longer than it may cool: Redis' clock was set back.
            if last and not dry then
              local tool = tools()
              local longest = tool.longest('#rest')
              if last - now > longest then
                tool.cut(scope, now, longest)
                call('PEXPIREAT', scope, format('%.0f', now + longest))
              end
            end
            shuts[scope] = shut
          end
        end
        if sessions then
          bind = ARGV[tags + i]
          last = lasts[bind]
          lasting = last
          if not last then
            local key = KEYS[sessions + i]
            local value = held[key] or redis.pcall('GET', key)
            -- Someone's own key under this name is none.
            value = type(value) == 'string' and string.find(value, '^=%x+[,;]') and value or ''
            held[key] = value
            local at, stop = string.find(value, '=' .. bind, 1, true)
            local space = at and string.find(value, ' ', stop, true)
            local left = space and (tonumber(string.sub(value, space + 1, space + 13)) or 0) - now or 0
            if left > 0 then
              last = string.sub(value, stop + 2, space - 1)
              lasting = left >= session_ttl and left <= life and string.byte(value, stop + 1) == 59
            end
          end
          local score = last and call('ZSCORE', FREE, last)
          score = score and score_now(last, score)
          if score and shut and shut[last] then
            bind = nil
          elseif score then
            account = last
            if score >= BEHIND then
              -- One that is behind spills too, unless all are.
              account = choose(shut)
              if tonumber(call('ZSCORE', FREE, account)) < BEHIND then
                bind = nil
              else
                account = last
              end
            end
          elseif last then
            -- Full or cooling: another serves this request, and the session stays where its cache is.
            local record = call('HGET', ACCOUNTS, last)
            local flags = record and string.match(record, '%d+$')
            if flags == '0' or flags == '4' then
              bind = nil
            end
          end
        end
        account = account or choose(shut) or dry and tools().would_be_free(now, shut, REAP)
      end
      chosen[i] = account
      if not account then
        missing = true
      elseif not dry then
        if not given[account] then
          accounts[#accounts + 1] = account
        end
        given[account] = (given[account] or 0) + 1
        if bind then
          lasts[bind] = account
          lasts[i] = not (lasting and last == account) and bind
        end
      end
    elseif owners[i] and #owners[i] > 128 then
      -- An account's id and a mark are shorter.
      tools().garbage('owner', ARGV[5 + i], 'an account')
    end
  end
  got = call('HMGET', ACCOUNTS, '#epoch', '#wake', '#pass', '#uncounted', unpack(accounts))
  if not got[1] then
    return redis.error_reply('NOPOOL no accounts are synced for this pool')
  end
  -- As `digits` of the tools.
  if #got[1] > 16 or not string.find(got[1], '^%d+$') then
    tools().garbage('accounts', '#epoch', 'a whole number')
  end
  -- One that is no number is put right here; one that is a day off cannot be right.
  local wake = not dry and got[2] and (tonumber(got[2]) or 0)
  if wake and not (wake > now and wake <= now + 86400000) then
    tools().end_cooldowns(now, REAP)
    got = call('HMGET', ACCOUNTS, '#epoch', '#wake', '#pass', '#uncounted', unpack(accounts))
  end
  if dry or not missing then
    break
  end
end

local answers, wait = {got[1]}, nil
if missing then
  -- How long until something may come free, as far as the ledger can tell: a cooldown's end, or soon when a lease is live,
  -- since most end long before they expire.
  local from, cooling = 0, nil
  wait = accounts[1] and math.min(1000, ttl) or 60000
  repeat
    cooling = call('ZRANGE', COOLDOWN, from, from + 15, 'WITHSCORES')
    for i = 2, #cooling, 2 do
      -- One that is behind can take a lease already.
      if not string.find(cooling[i - 1], ':') then
        wait = math.min(wait, cooling[i] - now)
      end
    end
    from = from + 16
  until #cooling < 32 or cooling[32] - now >= wait
  local live = call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
  if live[2] then
    wait = math.min(wait, 1000, live[2] - now)
  end
  wait = math.max(wait, 1)
end

local pass, expiry = got[3], format('%d', now + ttl)
local leases, owned, uses, free, probes = {}, {}, {}, {}, nil
if accounts[1] then
  used = call('HMGET', USED, unpack(accounts))
end
for k = 1, #accounts do
  local account, record = accounts[k], got[k + 4]
  local flags = record and string.match(record, '^%d+ %d+ %d+ (%d+)$')
  -- Other names are no account's. A long one would make a reply that the filter does not take.
  if not flags or #account > 64 or not string.find(account, '^[%w._-]+$') then
    if not force then
      call('ZREM', FREE, account)
      tools().garbage(record and 'accounts' or 'free', account, 'an account with a record')
    end
    given[account] = nil
  else
    -- One that is missing: this is its first lease, unless the counts were lost.
    local held = tonumber(used[k] or not (force or got[4]) and 0) or tools().used(account)
    used[k] = held + given[account]
    if used[k] < math.huge then
      uses[#uses + 1], uses[#uses + 2] = account, format('%d', used[k])
    end
    if flags == '4' and tools().wants_probe(account) then
      probes = probes or {}
      probes[account] = true
    end
  end
end
for i = 1, count do
  local lease, account = ARGV[5 + i], chosen[i]
  if dry and account and not tools().is_id(account) then
    tools().garbage('free', account, 'an account')
  end
  answers[i + 1] = account or wait
  if account and not dry then
    if given[account] then
      leases[#leases + 1], leases[#leases + 2] = expiry, lease
      owned[#owned + 1], owned[#owned + 2] = lease, pass and account .. ':' .. pass or account
      if probes and probes[account] == true then
        answers[i + 1], probes[account] = account .. ':probe', lease
      end
    else
      answers[i + 1] = false
    end
  end
end
if leases[1] then
  -- First to a key that may not have been read so far.
  call('ZADD', LEASES, unpack(leases))
  call('HSET', OWNER, unpack(owned))
  if uses[1] then
    call('HSET', USED, unpack(uses))
  end
  for account, lease in pairs(probes or {}) do
    call('HSET', ACCOUNTS, '#probe:' .. account, lease)
  end
  for k = 1, #accounts do
    local account = accounts[k]
    if given[account] then
      if pass then
        redis.pcall('HINCRBY', USED, '#' .. account, format('%d', given[account]))
      end
      refresh_free(account, got[k + 4], used[k], free)
    end
  end
  if free[1] then
    call('ZADD', FREE, unpack(free))
  end
  for i = 1, sessions and count or 0 do
    local tag = lasts[i]
    if tag then
      local key = KEYS[sessions + i]
      local value, entry = held[key], lasts[tag] .. format(' %d', now + life)
      -- Copies of the value are what this costs: Lua's collector has to clear them away.
      local at, stop = string.find(value, '=' .. tag, 1, true)
      local rest = at and (string.find(value, '=', stop, true) or #value + 1)
      local back = at and tonumber(string.match(value, '^[^ ]* (%d+)', stop) or 0) > now
      entry = '=' .. tag .. (back and ';' or ',') .. entry
      local size = #value + #entry - (at and rest - at or 0)
      local again = math.max((string.find(value, ';', 1, true) or size + 18) - 17, 1)
      local most = math.floor(room * 3 / 4)
      if back and size <= room and again > at and size - again + rest - at < most then
        -- It was a new one, and all that came back have room.
        value = string.sub(value, 1, at - 1) .. string.sub(value, rest) .. entry
      else
        if at then
          value = string.sub(value, 1, at - 1) .. string.sub(value, rest)
          again = math.max((string.find(value, ';', 1, true) or size + 18) - 17, 1)
        end
        -- The first session that can stay.
        local first = size > room and (string.find(value, '=', size - room + 1, true) or size) or 1
        if not back then
          value = string.sub(value, first, again - 1) .. entry .. string.sub(value, math.max(first, again))
        else
          if size - again >= most then
            rest = string.find(value, '=', size - most + 1, true) or size
            value = string.sub(value, 1, again - 1) .. string.gsub(string.sub(value, again, rest - 1), ';', ',')
              .. string.sub(value, rest)
          end
          value = string.sub(value, first) .. entry
        end
      end
      held[key] = value
      -- The leases are taken by now: an error here must not hide that from who asked.
      redis.pcall('SET', key, value, 'PX', format('%d', life))
    end
  end
end
for i = 1, dry and 0 or count do
  if owners[i] then
    local account = string.match(owners[i], '^[^:]*')
    local probing = call('HGET', ACCOUNTS, '#probe:' .. account) == ARGV[5 + i]
    answers[i + 1] = probing and account .. ':probe' or account
  end
end
return answers
