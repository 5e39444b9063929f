-- renew: keep leases alive, and take up again those that Redis no longer knows.
--
-- KEYS  the six of ledger.lua
-- ARGV  1 ttl, ms
--       2.. three for each lease, 1..1000 leases: lease id, account id, epoch its acquire answered
-- Returns {epoch, answers}: one letter for each lease, in order
--         r  renewed
--         a  re-adopted: it was gone and is counted again, because Redis lost its data since (the epoch is another)
--            or because the account still had a slot nobody uses, even when it takes no new leases
--         l  lost: it had expired, and the slot is someone else's by now
-- Errors  NOPOOL, BADARG; nothing is written then. GARBAGE; what was there is renewed then
-- Flags  allow-oom: a lease that can't be renewed would be granted twice
-- Cost  O(log leases) each
local tool = tools()
local ttl = tool.whole(ARGV[1], 'ttl_ms', 1, 86400000)
local leases = (#ARGV - 1) / 3
if leases < 1 or leases > 1000 or leases ~= math.floor(leases) then
  tool.refuse('BADARG leases: not 1..1000 of lease, account, epoch')
end
local ids = {}
for i = 1, leases do
  ids[i] = tool.id(ARGV[3 * i - 1], 'lease')
end

local epoch = call('HGET', ACCOUNTS, '#epoch')
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
local expires_ms = string.format('%.0f', tool.now_ms() + ttl)
local expiries = call('ZMSCORE', LEASES, unpack(ids))
local answers, renewed = {}, {}
for i = 1, leases do
  if expiries[i] then
    renewed[#renewed + 1] = expires_ms
    renewed[#renewed + 1] = ids[i]
    answers[i] = 'r'
  end
end
-- Before anything that may fail: no lease ends because another one cannot be taken up.
if #renewed > 0 then
  call('ZADD', LEASES, unpack(renewed))
end
if not tool.digits(epoch) then
  tool.garbage('accounts', '#epoch', 'a whole number')
end
for i = 1, leases do
  if not expiries[i] then
    local account = ARGV[3 * i]
    local record = tool.is_id(account) and call('HGET', ACCOUNTS, account)
    -- Owned all the same: only its expiry was lost; or it stands twice in one batch.
    if call('HEXISTS', OWNER, ids[i]) == 1 then
      call('ZADD', LEASES, expires_ms, ids[i])
      answers[i] = 'a'
    elseif record and tool.parts(record)
      and (ARGV[3 * i + 1] ~= epoch or tool.used(account) < tonumber(string.match(record, '^%d+'))) then
      tool.adopt(ids[i], account, record, expires_ms)
      answers[i] = 'a'
    else
      answers[i] = 'l'
    end
  end
end
return {epoch, table.concat(answers)}
