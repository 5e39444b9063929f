-- cooldown: no new leases for an account until a time; it only ever extends, but never beyond the longest there may be. And
-- what else an upstream's answers say of it.
--
-- KEYS  the six of ledger.lua
--       7 scope's cooldowns (ZSET, account id -> until, ms), only to cool in that scope alone
-- ARGV  1 account id
--       2 how long from now, ms; for passed it is not looked at
--       3 what: cool    no new leases (the default)
--               probe   the same, and afterwards one lease at a time, until one has passed; not in a scope
--               behind  it takes leases only when no other account can
--               passed  ARGV 4 has: end the probing, if that is the lease that probes
--       4 lease id, for passed
-- Returns for how long it cools or is behind now, ms, an integer; for passed whether probing ended, 1 or 0
-- Errors  NOACCOUNT, BADARG, WRONGTYPE, GARBAGE; nothing is written then
-- Flags  allow-oom: it holds traffic back
-- Cost  O(log accounts)
local tool = tools()
local account = tool.id(ARGV[1], 'account')
local what, scope = ARGV[3] or 'cool', KEYS[7]
if not (what == 'cool' or not scope and (what == 'probe' or what == 'behind' or what == 'passed')) then
  tool.refuse('BADARG what: not cool, or without a scope probe, behind or passed')
end
local length = what ~= 'passed' and tool.whole(ARGV[2], 'cooldown_ms', 1, 86400000)
local lease = what == 'passed' and tool.id(ARGV[4], 'lease')
local record = call('HGET', ACCOUNTS, account)
if not record then
  return redis.error_reply('NOACCOUNT ' .. account .. ' is not in this pool')
end
if not scope then
  -- What may fail comes before the first write.
  tool.used(account)
  call('ZSCORE', FREE, account)
end
local probe = '#probe:' .. account
if lease then
  -- Another one's turn, or it has been pushed back since.
  if call('HGET', ACCOUNTS, probe) ~= lease or call('ZSCORE', COOLDOWN, account) then
    return 0
  end
  call('HDEL', ACCOUNTS, probe)
  tool.flag(account, tool.COOLING, false)
  return 1
end
local now = tool.now_ms()
local key = scope or COOLDOWN
local member = what == 'behind' and 'behind:' .. account or account
local longest = math.max(length, tool.longest('#rest'))
if scope and type(redis.pcall('ZREMRANGEBYSCORE', scope, '-inf', now)) == 'table' then
  -- Of another type: what it was, it is no scope's.
  call('DEL', scope)
end
tool.cut(key, now, longest)
local ends = math.max(now + length, tonumber(call('ZSCORE', key, member) or 0))
call('ZADD', key, ends, member)
if scope then
  local last = call('ZRANGE', scope, -1, -1, 'WITHSCORES')
  call('PEXPIREAT', scope, last[2])
  return ends - now
end
if what == 'behind' then
  tool.behind(account, true)
else
  if what == 'probe' and (tonumber(string.match(record, '%d+$')) or 0) < tool.REMOVED then
    call('HSET', ACCOUNTS, probe, '')
  end
  -- One that was probing has the flag already, and is no longer free.
  if tool.flag(account, tool.COOLING, true) == false then
    refresh_free(account, record, tool.used(account))
  end
end
tool.note_next_end()
return ends - now
