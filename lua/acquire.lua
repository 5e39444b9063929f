-- acquire: choose the best account that can take a lease, and take it.
--
-- KEYS  the six of ledger.lua; 7 session (STRING, account id), only for a request with a session
-- ARGV  1 lease id, [A-Za-z0-9._-]{1,64}
--       2 ttl, ms
--       3 seed, 0..2147483647, fresh for each call: Redis starts its own the same way at every boot
--       4 weight of the random part, millionths
--       5 mode: take   choose, and take a lease
--               dry    choose as `take` would, and write nothing (reaps nothing either)
--               pin    take a lease of ARGV 6 or answer saturated
--               force  record a lease of ARGV 6 whatever its count
--       6 account id, for pin and force; else empty
--       7 session's ttl, ms; with KEYS 7
-- Returns {granted, account, epoch} | {saturated, retry after, ms}
--         A lease id that holds a lease already gets the same answer again.
-- Errors  NOPOOL (no accounts: sync first), NOACCOUNT (pin, force), BADARG. Nothing is written then.
-- Cost  O(log accounts + log leases)
local lease = lease_id(ARGV[1])
local ttl = whole(ARGV[2], 'ttl_ms', 1, 86400000)
local seed = whole(ARGV[3], 'seed', 0, 2147483647)
local random_weight = whole(ARGV[4], 'random', 0, 1e9)
local mode, wanted = ARGV[5], ARGV[6]
local session = KEYS[7]
local session_ttl = session and whole(ARGV[7], 'session_ttl_ms', 1, 1e12)
if not (mode == 'take' or mode == 'dry' or mode == 'pin' or mode == 'force') then
  refuse('BADARG mode: not take, dry, pin or force')
end

-- The walk ends after this many draws: those behind are worse by then in all but freak cases.
local DRAWS = 64
-- How many accounts are read at a time.
local STRIDE = 4

-- The account with the least base + random part, as if each one in `free` had drawn its own random number.
-- Going up from the least base, an account can no longer win once its base alone is over the best score so far.
-- Accounts of equal base draw together: the least of n even draws is 1 - (1 - u)^(1/n), and each is as likely to hold it.
local function best()
  math.randomseed(seed)
  local account, rank, score = nil, nil, math.huge
  local from, draws = 0, 0
  repeat
    local page = redis.call('ZRANGE', FREE, from, from + STRIDE - 1, 'WITHSCORES')
    local listed, at = #page / 2, 0
    while at < listed do
      local text = page[2 * at + 2]
      local base = tonumber(text)
      if base >= score then
        return account, rank
      end
      local same = 1
      while page[2 * (at + same) + 2] == text do
        same = same + 1
      end
      if at + same == STRIDE then
        same = redis.call('ZCOUNT', FREE, text, text)
      end
      local drawn = base + random_weight * (1 - (1 - math.random()) ^ (1 / same))
      if drawn < score then
        local pick = at + math.random(0, same - 1)
        account, rank, score = page[2 * pick + 1], from + pick, drawn
      end
      at = at + same
      draws = draws + 1
    end
    from = from + at
  until listed < STRIDE or draws >= DRAWS
  return account, rank
end

local function choose()
  local account, rank = best()
  if rank and not account then
    account = redis.call('ZRANGE', FREE, rank, rank)[1]
  end
  return account
end

-- How long until something may come free, as far as the ledger can tell: a cooldown's end, or at once when a lease
-- is live, since most end long before they expire.
local function retry_after(now)
  local wait = 60000
  local cooling = redis.call('ZRANGE', COOLDOWN, 0, 0, 'WITHSCORES')
  if cooling[2] then
    wait = math.min(wait, tonumber(cooling[2]) - now)
  end
  local live = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
  if live[2] then
    wait = math.min(wait, 1000, tonumber(live[2]) - now)
  end
  return math.max(wait, 1)
end

local now = now_ms()
if mode ~= 'dry' then
  reap(now)
end

local epoch = redis.call('HGET', ACCOUNTS, '#epoch')
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
local account = redis.call('HGET', OWNER, lease)
if account then
  return {'granted', account, epoch}
end

local rebind = session
if mode == 'force' then
  account, rebind = wanted, nil
elseif mode == 'pin' then
  account, rebind = redis.call('ZSCORE', FREE, wanted) and wanted, nil
else
  local bound = session and redis.call('GET', session)
  if bound then
    if redis.call('ZSCORE', FREE, bound) then
      account = bound
    else
      -- Full or cooling: another serves this request, and the session stays where its cache is.
      local record = redis.call('HGET', ACCOUNTS, bound)
      local _, _, _, flags = parse(record or '0 0 0 8')
      if flags == 0 or flags == COOLING then
        rebind = nil
      end
    end
  end
  account = account or choose()
end

local record = redis.call('HGET', ACCOUNTS, account or wanted)
if mode == 'pin' or mode == 'force' then
  if not record then
    return redis.error_reply('NOACCOUNT ' .. string.sub(wanted, 1, 64) .. ' is not in this pool')
  end
end
if not account then
  return {'saturated', retry_after(now)}
end
if mode == 'dry' then
  return {'granted', account, epoch}
end
take(lease, account, record, now + ttl)
if rebind then
  redis.call('SET', session, account, 'PX', session_ttl)
end
return {'granted', account, epoch}
