-- renew: keep leases alive, and take up again those that Redis no longer knows.
--
-- KEYS  the six of ledger.lua
-- ARGV  1 ttl, ms
--       2.. three for each lease, 1..1000 leases: lease id, account id, epoch its acquire answered
-- Returns {epoch, answers}: one letter for each lease, in order
--         r  renewed
--         a  re-adopted: it was gone and is counted again, because Redis lost its data since (the epoch is another)
--            or because the account still had a slot nobody uses, even when it takes no new leases; or only its owner was
--            lost, and is there again
--         l  lost: it had expired, and the slot is someone else's by now
-- Errors  NOPOOL, BADARG; nothing is written then. GARBAGE; what was there is renewed then
-- Flags  allow-oom: a lease that can't be renewed would be granted twice
-- Cost  O(log leases) each
local ttl, leases = tonumber(ARGV[1]), (#ARGV - 1) / 3
local wrong = not (ttl and ttl >= 1 and ttl <= 86400000 and ttl % 1 == 0 and leases >= 1 and leases <= 1000 and leases % 1 == 0)
local ids = {}
for i = 1, wrong and 0 or leases do
  local lease = ARGV[3 * i - 1]
  wrong = wrong or #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]')
  ids[i] = lease
end
if wrong then
  local check = tools()
  check.whole(ARGV[1], 'ttl_ms', 1, 86400000)
  for i = 1, #ids do
    check.id(ids[i], 'lease')
  end
  check.refuse('BADARG leases: not 1..1000 of lease, account, epoch')
end

local epoch = call('HGET', ACCOUNTS, '#epoch')
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
local time = call('TIME')
local expires_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ttl)
local expiries = call('ZMSCORE', LEASES, unpack(ids))
-- Of another type: whose they are shows when a recount has made it anew.
local owners = redis.pcall('HMGET', OWNER, unpack(ids))
local answers, renewed = {}, {}
for i = 1, leases do
  if expiries[i] and (owners.err or owners[i]) then
    renewed[#renewed + 1] = expires_ms
    renewed[#renewed + 1] = ids[i]
    answers[i] = 'r'
  end
end
-- Before anything that may fail: no lease ends because another one cannot be taken up.
if #renewed > 0 then
  call('ZADD', LEASES, unpack(renewed))
end
-- As `digits` of the tools.
if #epoch > 16 or not string.find(epoch, '^%d+$') then
  tools().garbage('accounts', '#epoch', 'a whole number')
end
if #renewed == 2 * leases then
  return {epoch, table.concat(answers)}
end

local tool = tools()

-- Takes up a lease that has no owner; `counted`: its account's count has it already.
local function adopt(lease, account, record, counted)
  local pass = call('HGET', ACCOUNTS, '#pass')
  -- The one key that nobody has read before comes first.
  local used = tool.used(account) + (counted and 0 or 1)
  if used < math.huge and not counted then
    call('HINCRBY', USED, account, '1')
  end
  call('ZADD', LEASES, expires_ms, lease)
  call('HSET', OWNER, lease, pass and account .. ':' .. pass or account)
  if pass then
    redis.pcall('HINCRBY', USED, '#' .. account, '1')
  end
  refresh_free(account, record, used)
end

for i = 1, leases do
  if not answers[i] then
    local account, lease_epoch = ARGV[3 * i], ARGV[3 * i + 1]
    local record = tool.is_id(account) and call('HGET', ACCOUNTS, account)
    local max = record and tool.parts(record)
    -- Owned all the same: only its expiry was lost; or it stands twice in one batch.
    if call('HEXISTS', OWNER, ids[i]) == 1 then
      call('ZADD', LEASES, expires_ms, ids[i])
      answers[i] = 'a'
    elseif max and (expiries[i] or lease_epoch ~= epoch or tool.used(account) < max) then
      -- Only its owner was lost: the count has it still.
      adopt(ids[i], account, record, expiries[i])
      answers[i] = 'a'
    else
      answers[i] = 'l'
    end
  end
end
return {epoch, table.concat(answers)}
