-- overrides: an operator's overrides, and how full the accounts are.
--
-- KEYS  the six of ledger.lua
--       7 control (HASH, see control.lua)
--       8 question (STRING, what someone asks about a request)
-- ARGV  1 most drained accounts to name, 1..1000
--       2 most accounts to tell the use of, 0..1000
-- Returns {percent, drained, used, question}
--         percent  as Redis holds it, whoever wrote it; empty: none; ?: far too long
--         drained  ids in order, a space between; nil: more than ARGV 1
--         used     id, used, max of each account, spaces between; empty: more than ARGV 2
--         question as Redis holds it; empty: none, or more than 512 bytes
-- Errors  BADARG
-- Flags  no-writes
-- Cost  O(ARGV 1 * log ARGV 1 + ARGV 2), however many there are; a hash that Redis keeps as a listpack is read whole
local tool = tools()
local most_drained = tool.whole(ARGV[1], 'drained', 1, 1000)
local most_used = tool.whole(ARGV[2], 'used', 0, 1000)

-- A small hash; nil when it has more fields. Some versions of Redis count the values too.
local function small(key, most, ask)
  local page = ask('HSCAN', key, '0', 'COUNT', 2 * most + 1)
  return page[1] == '0' and #page[2] <= 2 * most and page[2]
end

local percent = call('HGET', KEYS[7], 'percent')
if percent and #percent > 5 then
  percent = '?'
end
-- One more for the percentage.
local control = small(KEYS[7], most_drained + (percent and 1 or 0), call)
local drained = {}
for i = 1, control and #control or 0, 2 do
  drained[#drained + 1] = #control[i] <= 70 and string.match(control[i], '^drain:([%w._-]+)$') or nil
end
table.sort(drained)

-- One more each for its probe, and ten for what else stands there. What is wrong with it must not hide an override.
local accounts = most_used > 0 and small(ACCOUNTS, 2 * most_used + 10, redis.pcall)
local ids, limits = {}, {}
for i = 1, accounts and #accounts or 0, 2 do
  local max, _, _, flags = tool.parts(accounts[i + 1])
  if max and flags < tool.REMOVED and tool.is_id(accounts[i]) then
    ids[#ids + 1] = accounts[i]
    limits[#ids] = max
  end
end
-- Nor must a question.
local question = redis.pcall('GET', KEYS[8])
if type(question) ~= 'string' or #question > 512 then
  question = ''
end
if #ids == 0 or #ids > most_used then
  return {percent or '', control and table.concat(drained, ' '), '', question}
end
local used = redis.pcall('HMGET', USED, unpack(ids))
for i = 1, #ids do
  ids[i] = ids[i] .. ' ' .. (tool.digits(used[i]) or '0') .. ' ' .. limits[i]
end
return {percent or '', control and table.concat(drained, ' '), table.concat(ids, ' '), question}
