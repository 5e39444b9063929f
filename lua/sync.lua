-- sync: put a pool's accounts in force, if their revision is higher than what Redis holds.
--
-- KEYS  the six of ledger.lua; 7 control (HASH, operator's overrides: drain:<account> -> 1)
-- ARGV  1 revision, 1..2^53-1
--       2 digest of the accounts and weights: tells apart two configurations with one revision
--       3 epoch to begin with when the ledger is empty, a random whole number
--       4 full weight of the load, millionths
--       5.. four for each account: id, max_concurrency, base, 1 when disabled and else 0
--       Without accounts it only asks whether they are wanted.
-- Returns {answer, revision in force, epoch}
--         wanted    send them (only without accounts)
--         replaced  they are in force now
--         current   this revision was in force already
--         newer     a higher one is in force; nothing changed
--         differs   this revision is in force with other accounts; nothing changed
-- Errors  BADARG; nothing is written then
-- Cost  O(accounts · log accounts) when they are replaced, else O(1)
local tool = tools()
local revision = tool.whole(ARGV[1], 'revision', 1, 9007199254740991)
local digest = ARGV[2]
local new_epoch = tool.whole(ARGV[3], 'epoch', 0, 9007199254740991)
local load = tool.whole(ARGV[4], 'load', 0, 1e9)
local accounts = (#ARGV - 4) / 4
if accounts ~= math.floor(accounts) then
  tool.refuse('BADARG accounts: not four arguments each')
end
for i = 1, accounts do
  tool.id(ARGV[4 * i + 1], 'account')
  tool.whole(ARGV[4 * i + 2], 'max_concurrency', 1, 100000)
  tool.whole(ARGV[4 * i + 3], 'base', 0, 1e15)
  tool.whole(ARGV[4 * i + 4], 'disabled', 0, 1)
end

local held = call('HMGET', ACCOUNTS, '#revision', '#digest', '#epoch')
local in_force = tonumber(held[1])
local epoch = held[3] or ARGV[3]
if in_force and in_force > revision then
  return {'newer', held[1], epoch}
end
if in_force == revision then
  return {held[2] == digest and 'current' or 'differs', held[1], epoch}
end
if accounts == 0 then
  return {'wanted', held[1] or '0', epoch}
end

-- All is read before anything is written. `used` may be there without `accounts`, after a loss of that key alone.
local function pairs_of(list)
  local map = {}
  for i = 1, #list, 2 do
    map[list[i]] = list[i + 1]
  end
  return map
end
local used = pairs_of(call('HGETALL', USED))
local until_ms = pairs_of(call('ZRANGE', COOLDOWN, 0, -1, 'WITHSCORES'))
local control = pairs_of(call('HGETALL', KEYS[7]))
local gone = pairs_of(call('HGETALL', ACCOUNTS))
if not in_force then
  -- What a lost `accounts` left behind.
  call('DEL', FREE)
end

for i = 1, accounts do
  local account = ARGV[4 * i + 1]
  local flags = (ARGV[4 * i + 4] == '1' and tool.DISABLED or 0)
    + (control['drain:' .. account] and tool.DRAINED or 0)
    + ((until_ms[account] or gone['#probe:' .. account]) and tool.COOLING or 0)
  local base = ARGV[4 * i + 3] + (until_ms['behind:' .. account] and BEHIND or 0)
  local record = string.format('%d %.0f %.0f %d', ARGV[4 * i + 2], load, base, flags)
  call('HSET', ACCOUNTS, account, record)
  settle(account, record, tonumber(used[account] or 0))
  gone[account] = nil
end
for account, record in pairs(gone) do
  if string.byte(account) ~= 35 then
    record = string.gsub(record, '%d+$', tool.REMOVED)
    call('HSET', ACCOUNTS, account, record)
    call('ZREM', COOLDOWN, account, 'behind:' .. account)
    call('HDEL', ACCOUNTS, '#probe:' .. account)
    -- Its leases finish; the last one takes the record with it.
    settle(account, record, tonumber(used[account] or 0))
  end
end
-- The last: with a value this long Redis stores no hash as a list, which it would search from end to end for each field.
call('HSET', ACCOUNTS, '#revision', ARGV[1], '#digest', digest, '#epoch', epoch, '#table', string.rep('-', 72))
tool.wake()
return {'replaced', ARGV[1], epoch}
