-- cooldown: no new leases for an account until a time; it only ever extends.
--
-- KEYS  the six of ledger.lua
-- ARGV  1 account id
--       2 how long from now, ms
-- Returns for how long it cools now, ms, an integer
-- Errors  NOACCOUNT, BADARG; nothing is written then
-- Cost  O(log accounts)
local account = ARGV[1]
local length = whole(ARGV[2], 'cooldown_ms', 1, 86400000)
if not account or not redis.call('HGET', ACCOUNTS, account) then
  return redis.error_reply('NOACCOUNT ' .. string.sub(account or '', 1, 64) .. ' is not in this pool')
end
local now = now_ms()
redis.call('ZADD', COOLDOWN, 'GT', ms(now + length), account)
flag(account, COOLING, true)
return tonumber(redis.call('ZSCORE', COOLDOWN, account)) - now
