-- cooldown: no new leases for an account until a time; it only ever extends.
--
-- KEYS  the six of ledger.lua
--       7 scope's cooldowns (ZSET, account id -> until, ms), only to cool in that scope alone
-- ARGV  1 account id
--       2 how long from now, ms
-- Returns for how long it cools now, ms, an integer
-- Errors  NOACCOUNT, BADARG; nothing is written then
-- Flags  allow-oom: it holds traffic back
-- Cost  O(log accounts)
local tool = tools()
local account = tool.id(ARGV[1], 'account')
local length = tool.whole(ARGV[2], 'cooldown_ms', 1, 86400000)
if not call('HGET', ACCOUNTS, account) then
  return redis.error_reply('NOACCOUNT ' .. account .. ' is not in this pool')
end
local now = tool.now_ms()
local scope = KEYS[7]
local key = scope or COOLDOWN
local ends = math.max(now + length, tonumber(call('ZSCORE', key, account) or 0))
if scope then
  call('ZREMRANGEBYSCORE', scope, '-inf', now)
end
call('ZADD', key, ends, account)
if scope then
  local last = call('ZRANGE', scope, -1, -1, 'WITHSCORES')
  call('PEXPIREAT', scope, last[2])
else
  tool.flag(account, tool.COOLING, true)
  tool.wake()
end
return ends - now
