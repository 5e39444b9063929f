-- cooldown: no new leases for an account until a time; it only ever extends, but never beyond the longest there may be. And
-- what else an upstream's answers say of it.
--
-- KEYS  the eight of ledger.lua
--       9 scope's cooldowns (ZSET, account id -> until, ms), only to cool in that scope alone
-- ARGV  1 account id
--       2 how long from now, ms; for passed it is not looked at; for disable 0: until an operator lets it go
--       3 what: cool    no new leases (the default)
--               probe   the same, and afterwards one lease at a time, until one has passed; not in a scope
--               behind  it takes leases only when no other account can
--               passed  ARGV 4 has: end the probing, if that is the lease that probes
--               disable the account is out of use: as probe, or with 0 without an end; not in a scope
--               less    its limit falls, where limits adapt, unless it has since its lease was taken, ARGV 2 ms ago; not in a scope
--       4 lease id, for passed; for disable why, [A-Za-z0-9._-]{1,64}: the answer's status, say
-- Returns for how long it cools or is behind now, ms, an integer; for less its limit; for passed whether probing ended, 1 or 0; for disable
--         1 it was in use, 2 it was out of use and had its probe, or was to have one, 0 it is out of use as it was
-- Errors  NOACCOUNT, BADARG, WRONGTYPE, GARBAGE; nothing is written then
-- Flags  allow-oom: it holds traffic back
-- Cost  O(log accounts)
local tool = tools()
local account = tool.id(ARGV[1], 'account')
local what, scope = ARGV[3] or 'cool', KEYS[9]
local off = what == 'disable'
if not (what == 'cool' or not scope and (off or what == 'probe' or what == 'behind' or what == 'passed' or what == 'less')) then
  tool.refuse('BADARG what: not cool, or without a scope probe, behind, passed, disable or less')
end
local length = what ~= 'passed' and tool.whole(ARGV[2], 'cooldown_ms', (off or what == 'less') and 0 or 1, 86400000)
local why = off and tool.id(ARGV[4], 'why')
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
  local ends = call('ZSCORE', COOLDOWN, account)
  -- It may have taken the last turn.
  local paced = ends and tool.is_paced(call('HGET', ACCOUNTS, '#pace:' .. account), ends)
  if call('HGET', ACCOUNTS, probe) ~= lease or ends and not paced then
    return 0
  end
  call('HDEL', ACCOUNTS, probe)
  local held = call('HGET', ACCOUNTS, '#off:' .. account)
  if held and not string.find(held, tool.NO_END) then
    call('HDEL', ACCOUNTS, '#off:' .. account)
  end
  if not ends then
    tool.flag(account, tool.COOLING, false)
  end
  tool.serve(tool.now_ms())
  return 1
end
local now = tool.now_ms()
if what == 'less' then
  local least, limit = unpack(call('HMGET', ACCOUNTS, '#adaptive', '#limit:' .. account))
  local _, _, _, flags = tool.parts(record)
  local max, rest = string.match(record, '^(%d+) (.*)$')
  -- One of the operators' own that was there before limits adapted has none so far.
  limit = limit or flags and flags < tool.REMOVED and max .. ' 0 0' or ''
  local most, _, lowered = string.match(limit, '^(%d+) (%d+) (%d+)$')
  max, least = tonumber(max), tonumber(least)
  -- Once for all that were under way together.
  if not (least and most and max) or now - length < tonumber(lowered) and tonumber(lowered) <= now then
    return max or 0
  end
  max = math.max(math.min(least, max), math.floor(max * 0.7))
  record = string.format('%d %s', max, rest)
  call('HSET', ACCOUNTS, account, record, '#limit:' .. account, string.format('%s 0 %.0f', most, now), '#metered', '1')
  refresh_free(account, record, tool.used(account))
  return max
end
local changed
if off then
  local _, _, _, flags = tool.parts(record)
  local held = call('HGET', ACCOUNTS, '#off:' .. account)
  -- The configuration has it out of use, or an operator must say so, or it goes.
  if not flags or flags >= tool.REMOVED or tool.has(flags, tool.DISABLED) then
    return 0
  end
  -- Older scripts let it go and leave that behind.
  local cools = call('ZSCORE', COOLDOWN, account)
  cools = cools and not tool.is_paced(call('HGET', ACCOUNTS, '#pace:' .. account), cools)
  held = held and (cools or call('HEXISTS', ACCOUNTS, probe) == 1) and held
  changed = not held and 1 or (length == 0 or not cools) and 2 or 0
  local since = string.match(held or '', ' (%d+) %d+$') or string.format('%.0f', now)
  local ends = length > 0 and now + length or 0
  call('HSET', ACCOUNTS, '#off:' .. account, string.format('%s %s %.0f', why, since, ends))
  if length == 0 then
    tool.flag(account, tool.DISABLED, true)
    return changed
  end
  what = 'probe'
end
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
  -- Where scripts look that hand a slot on: they know of no scope's key.
  call('ZADD', COOLDOWN, ends, 'scope:' .. string.match(scope, '[^:]*$') .. ':' .. account)
  tool.note_next_end()
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
return changed or ends - now
