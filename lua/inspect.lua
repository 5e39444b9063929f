-- inspect: every account as the next acquire would see it. Writes nothing, so a replica may run it.
--
-- KEYS  the six of ledger.lua
--       7 control (HASH, see control.lua)
-- ARGV  1 cursor, 0 to begin with
--       2 about how many accounts to answer, 1..1000
-- Returns {next cursor or 0, now ms, revision, epoch, leases, how many of them have expired, percent as it stands (?: far
--         too long) or nothing, accounts}, the last a list of
--         {id, max, used, base, load's part of the score, state, until ms or 0, flags}
--         state: free | probe (free for one lease) | behind (free when no other is) | full | probing (by that one) | disabled
--         | drained | cooling | removed; of several the last one named
--         flags: all that is against it, as in its record
--         A cooldown, or a time behind, that is over but not cleared away yet counts as over.
-- Errors  NOPOOL, BADARG; WRONGTYPE and GARBAGE name what cannot be there
-- Flags  no-writes
-- Cost  O(accounts answered · log accounts)
local tool = tools()
if not ARGV[1] or not string.find(ARGV[1], '^%d+$') then
  tool.refuse('BADARG cursor: not a whole number')
end
local most = tool.whole(ARGV[2], 'count', 1, 1000)
tool.check_keys()
local revision, epoch = unpack(call('HMGET', ACCOUNTS, '#revision', '#epoch'))
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
if revision and not tool.digits(revision) then
  tool.garbage('accounts', '#revision', 'a whole number')
end
if not tool.digits(epoch) then
  tool.garbage('accounts', '#epoch', 'a whole number')
end
local now = tool.now_ms()
local longest = now + tool.longest('#rest')
local page = call('HSCAN', ACCOUNTS, ARGV[1], 'COUNT', most)
local rows = {}
for i = 1, #page[2], 2 do
  local account = page[2][i]
  if string.sub(account, 1, 1) ~= '#' then
    local max, load, base, flags = tool.parts(page[2][i + 1])
    if not max or not tool.is_id(account) then
      tool.garbage('accounts', account, 'an account with a record')
    end
    local used = tool.used(account)
    if used < 0 or used > 1e9 or used % 1 ~= 0 then
      tool.garbage('used', account, 'a count')
    end
    -- What Redis' clock, set back, left too long is cut by who meets it.
    local ends = math.min(tonumber(call('ZSCORE', COOLDOWN, account) or 0), longest)
    local behind = base >= BEHIND
    if behind then
      base = base - BEHIND
      behind = tonumber(call('ZSCORE', COOLDOWN, 'behind:' .. account) or 0) > now
    end
    local state = used < max and (behind and 'behind' or 'free') or 'full'
    local probe = tool.has(flags, tool.COOLING) and tool.probe_of(account)
    if probe and probe ~= '' then
      state = 'probing'
    elseif probe and used < max and not behind then
      -- Of one that is behind this says less: that decides whether it is chosen.
      state = 'probe'
    end
    if tool.has(flags, tool.DISABLED) then
      state = 'disabled'
    end
    if tool.has(flags, tool.DRAINED) then
      state = 'drained'
    end
    if ends > now then
      state = 'cooling'
    end
    if flags >= tool.REMOVED then
      state = 'removed'
    end
    base, ends = string.format('%.0f', base), string.format('%.0f', ends)
    rows[#rows + 1] = {account, max, used, base, math.floor(load * used / max), state, ends, flags}
  end
end
local percent = redis.pcall('HGET', KEYS[7], 'percent')
if percent and (type(percent) == 'table' or #percent > 5) then
  percent = '?'
end
local leases, expired = call('ZCARD', LEASES), call('ZCOUNT', LEASES, '-inf', now)
return {page[1], string.format('%.0f', now), revision, epoch, leases, expired, percent, rows}
