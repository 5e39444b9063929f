-- acquire: choose the best account that can take a lease, and take it.
--
-- KEYS  the six of ledger.lua
--       next  scope's cooldowns (ZSET, account id -> until, ms), only with ARGV 8
--       last  session (STRING, account id), only with ARGV 7 above 0
-- ARGV  1 lease id, [A-Za-z0-9._-]{1,64}
--       2 ttl, ms
--       3 seed, 0..2147483647, fresh for each call: Redis starts its own the same way at every boot
--       4 weight of the random part, millionths
--       The rest may be left out from the end: an argument costs as much as a hash look-up.
--       5 mode: take   choose, and take a lease (the default)
--               dry    choose as `take` would, and write nothing (reaps nothing either)
--               pin    take a lease of ARGV 6 or answer saturated
--               force  record a lease of ARGV 6 whatever its count
--       6 account id, for pin and force; else empty
--       7 how long the session is remembered, ms; 0: no session
--       8 scope: 1 when the scope's cooldowns count too; 0
-- Returns {granted, account, epoch, probe} | {saturated, retry after, ms}
--         probe: only there when the lease probes, for an account that has cooled: `cooldown` wants to know whether it passed
--         A lease id that holds a lease already gets its account again, and probe again.
-- Errors  NOPOOL (no accounts: sync first), NOACCOUNT (pin, force), BADARG. No lease is taken then.
-- Cost  O(log accounts + log leases); with a scope, O(accounts cooling in it) more, and refused, O(accounts behind) at most
local lease, mode, wanted = ARGV[1], ARGV[5] or 'take', ARGV[6] or ''
local ttl, seed, weight = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local session_ttl, scoped = tonumber(ARGV[7] or 0), tonumber(ARGV[8] or 0)
if not (ttl and ttl >= 1 and ttl <= 86400000 and ttl % 1 == 0) or not (seed and seed >= 0 and seed <= 2147483647 and seed % 1 == 0)
  or not (weight and weight >= 0 and weight <= 1e9) or not (session_ttl and session_ttl >= 0 and session_ttl <= 1e12 and session_ttl % 1 == 0)
  or not (scoped == 0 or scoped == 1) or #KEYS ~= 6 + scoped + (session_ttl > 0 and 1 or 0)
  or not (mode == 'take' or mode == 'dry' or mode == 'pin' or mode == 'force')
  or #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]') then
  local check = tools()
  check.id(lease, 'lease')
  check.whole(ARGV[2], 'ttl_ms', 1, 86400000)
  check.whole(ARGV[3], 'seed', 0, 2147483647)
  check.whole(ARGV[4], 'random', 0, 1e9)
  check.whole(ARGV[7] or 0, 'session_ttl_ms', 0, 1e12)
  check.whole(ARGV[8] or 0, 'scope', 0, 1)
  check.refuse('BADARG mode or keys: not take, dry, pin or force, or a key too many or too few')
end
-- How many expired leases, and ended cooldowns, one call may clear away; and how many calls share that work. A call that
-- finds no free slot always does it, so nobody is refused for a lease that is over.
local REAP, SHARED_BY = 32, 4
-- How many accounts are looked at one by one before the rest is drawn from together.
local PAGE = 4
-- The draw ends after this many tries, with the best found so far: it takes one or two in a pool of any size.
local TRIES = 64
-- What a number becomes in a command: left to Redis, it is printed with 17 digits, which costs more than the command.
local format = string.format

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local session = session_ttl > 0 and KEYS[#KEYS]
local bound = session and call('GET', session)

-- Accounts that cool in this scope.
local shut
if scoped == 1 then
  shut = {}
  for _, account in ipairs(call('ZRANGEBYSCORE', KEYS[7], format('(%d', now), '+inf')) do
    shut[account] = true
  end
end

-- Ends leases that are over.
local function reap()
  local over = call('ZRANGEBYSCORE', LEASES, '-inf', format('%d', now), 'LIMIT', '0', REAP)
  -- One without an owner was written by hand.
  if #over > 0 and drop(over) < #over then
    call('ZREM', LEASES, unpack(over))
  end
end
if seed % SHARED_BY == 0 and mode ~= 'dry' then
  reap()
end

-- The account with the least base + weight * u, as if each in `free` had drawn its own even u, in O(log accounts).
-- The first few do draw. Those behind can only win below the best score so far, and are drawn from together: at s, an
-- account whose base is below s comes next with hazard 1 / (weight - (s - base)), so the winner is the first point of a
-- Poisson process that bounds them all from above, thinned to the true hazards (Lewis and Shedler 1979).
local function choose()
  math.randomseed(seed)
  local random = math.random
  local account, first, score = nil, nil, math.huge
  local from, page = 0, nil
  repeat
    page = call('ZRANGE', FREE, from == 0 and '0' or format('%d', from), format('%d', from + PAGE - 1), 'WITHSCORES')
    for i = 1, #page, 2 do
      local base = tonumber(page[i + 1])
      if base >= score then
        return account
      end
      if not (shut and shut[page[i]]) then
        first = first or base
        local drawn = base + weight * random()
        if drawn < score then
          account, score = page[i], drawn
        end
      end
    end
    from = from + PAGE
  until account or #page < 2 * PAGE
  if #page < 2 * PAGE then
    return account
  end
  -- Windows from `low` to `high`. One that holds many more accounts than can be in play wastes tries on those at its far
  -- end: with even density, the winner lies about sqrt(2 * width * weight / others) above `low`. Equal bases need none.
  local low, high = tonumber(page[2 * PAGE]), score
  local wide = page[2] ~= page[2 * PAGE]
  local others, room, s
  for _ = 1, TRIES do
    if not others then
      others = call('ZCOUNT', FREE, '-inf', format('(%d', math.ceil(high))) - from
      if wide and others * (high - low) > 8 * weight then
        high = low + math.sqrt(8 * (high - low) * weight / others)
        others = call('ZCOUNT', FREE, '-inf', format('(%d', math.ceil(high))) - from
      end
      room, s = weight - (high - first), low
    end
    s = others > 0 and s - math.log(1 - random()) * room / others or high
    if s < high then
      local rank = format('%d', from + random(0, others - 1))
      local other = call('ZRANGE', FREE, rank, rank, 'WITHSCORES')
      local behind = s - other[2]
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

local account
local rebind = session
if mode == 'force' then
  account, rebind = wanted, nil
elseif mode == 'pin' then
  account, rebind = call('ZSCORE', FREE, wanted) and not (shut and shut[wanted]) and wanted, nil
else
  if bound then
    local score = call('ZSCORE', FREE, bound)
    if score then
      -- One that is behind spills too, unless all are.
      if shut and shut[bound]
        or tonumber(score) >= BEHIND and tonumber(call('ZRANGE', FREE, '0', '0', 'WITHSCORES')[2]) < BEHIND then
        rebind = nil
      else
        account = bound
      end
    else
      -- Full or cooling: another serves this request, and the session stays where its cache is.
      local record = call('HGET', ACCOUNTS, bound)
      local flags = record and string.match(record, '%d+$')
      if flags == '0' or flags == '4' then
        rebind = nil
      end
    end
  end
  account = account or choose()
end

local got = call('HMGET', ACCOUNTS, account or wanted, '#epoch', '#wake', '#pass')
local waking = got[3] and tonumber(got[3]) <= now
if waking and mode ~= 'dry' then
  tools().thaw(now, REAP)
  got[1] = call('HGET', ACCOUNTS, account or wanted)
end
if not account then
  -- Whatever is over has to go before anyone is refused.
  if mode == 'dry' then
    account = tools().would_be_free(now, shut, REAP)
  else
    reap()
    if mode == 'take' then
      account = choose()
    elseif call('ZSCORE', FREE, wanted) and not (shut and shut[wanted]) then
      account = wanted
    end
  end
  got[1] = call('HGET', ACCOUNTS, account or wanted)
end
local epoch = got[2]
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
if (mode == 'pin' or mode == 'force') and (not got[1] or string.byte(wanted) == 35) then
  return redis.error_reply('NOACCOUNT ' .. string.sub(wanted, 1, 64) .. ' is not in this pool')
end
if not account or mode == 'dry' then
  local held = call('HGET', OWNER, lease) or account
  if held then
    account = string.match(held, '^[^:]*')
    local probing = mode ~= 'dry' and call('HGET', ACCOUNTS, '#probe:' .. account) == lease
    return {'granted', account, epoch, probing and 'probe' or nil}
  end
  -- How long until something may come free, as far as the ledger can tell: a cooldown's end, or soon when a lease is live,
  -- since most end long before they expire.
  local wait, from, cooling = 60000, 0, nil
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
  return {'saturated', math.max(wait, 1)}
end

local probes = got[1] and string.sub(got[1], -2) == ' 4' and tools().wants_probe(account) or nil
-- The first write tells whether the lease is new. Were a key of the wrong type, nothing is written yet, or it is taken back.
if call('ZADD', LEASES, 'NX', format('%d', now + ttl), lease) == 0 then
  local held = call('HGET', OWNER, lease)
  if held then
    account = string.match(held, '^[^:]*')
    return {'granted', account, epoch, call('HGET', ACCOUNTS, '#probe:' .. account) == lease and 'probe' or nil}
  end
end
local used = redis.pcall('HINCRBY', USED, account, '1')
local owned = type(used) == 'number' and redis.pcall('HSET', OWNER, lease, got[4] and account .. ':' .. got[4] or account)
if type(owned) ~= 'number' then
  call('ZREM', LEASES, lease)
  if owned then
    call('HINCRBY', USED, account, '-1')
  end
  return owned or used
end
if got[4] then
  call('HINCRBY', USED, '#' .. account, '1')
end
if probes then
  call('HSET', ACCOUNTS, '#probe:' .. account, lease)
end
settle(account, got[1], used)
if rebind then
  call('SET', session, account, 'PX', session_ttl)
end
return {'granted', account, epoch, probes and 'probe'}
