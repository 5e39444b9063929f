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
local revision = whole(ARGV[1], 'revision', 1, 9007199254740991)
local digest = ARGV[2]
local new_epoch = whole(ARGV[3], 'epoch', 0, 9007199254740991)
local load = whole(ARGV[4], 'load', 0, 1e9)
local accounts = (#ARGV - 4) / 4
if accounts ~= math.floor(accounts) then
  refuse('BADARG accounts: not four arguments each')
end
for i = 1, accounts do
  lease_id(ARGV[4 * i + 1])
  whole(ARGV[4 * i + 2], 'max_concurrency', 1, 100000)
  whole(ARGV[4 * i + 3], 'base', 0, 1e15)
  whole(ARGV[4 * i + 4], 'disabled', 0, 1)
end

local held = redis.call('HMGET', ACCOUNTS, '#revision', '#digest', '#epoch')
local in_force = tonumber(held[1])
local epoch = held[3] or ms(new_epoch)
if in_force and in_force > revision then
  return {'newer', held[1], epoch}
end
if in_force == revision then
  return {held[2] == digest and 'current' or 'differs', held[1], epoch}
end
if accounts == 0 then
  return {'wanted', held[1] or '0', epoch}
end

-- `used` is read before it is trusted: after a loss of `accounts` alone the leases are still there.
local used = {}
local counts = redis.call('HGETALL', USED)
for i = 1, #counts, 2 do
  used[counts[i]] = tonumber(counts[i + 1])
end
local cooling = {}
for _, account in ipairs(redis.call('ZRANGE', COOLDOWN, 0, -1)) do
  cooling[account] = true
end
local drained = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[7])) do
  drained[string.match(field, '^drain:(.*)$') or ''] = true
end

local gone = {}
local records = redis.call('HGETALL', ACCOUNTS)
for i = 1, #records, 2 do
  gone[records[i]] = records[i + 1]
end
for i = 1, accounts do
  local account = ARGV[4 * i + 1]
  local max, base = tonumber(ARGV[4 * i + 2]), tonumber(ARGV[4 * i + 3])
  local flags = (ARGV[4 * i + 4] == '1' and DISABLED or 0)
    + (drained[account] and DRAINED or 0) + (cooling[account] and COOLING or 0)
  redis.call('HSET', ACCOUNTS, account, string.format('%d %.0f %.0f %d', max, base, load, flags))
  place(account, max, base, load, flags, used[account] or 0)
  gone[account] = nil
end
for account, record in pairs(gone) do
  if string.sub(account, 1, 1) ~= '#' then
    redis.call('ZREM', FREE, account)
    if (used[account] or 0) > 0 then
      -- Its leases finish; the last one takes the record with it.
      local max, base, weight = parse(record)
      redis.call('HSET', ACCOUNTS, account, string.format('%d %.0f %.0f %d', max, base, weight, REMOVED))
    else
      redis.call('HDEL', ACCOUNTS, account)
      redis.call('HDEL', USED, account)
      redis.call('ZREM', COOLDOWN, account)
    end
  end
end
redis.call('HSET', ACCOUNTS, '#revision', ms(revision), '#digest', digest, '#epoch', epoch)
return {'replaced', ms(revision), epoch}
