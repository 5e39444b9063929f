-- overrides: an operator's overrides, and how full the accounts are.
--
-- KEYS  the eight of ledger.lua
--       9 control (HASH, see control.lua)
--       10 question (STRING, what someone asks about a request)
--       11 roster (HASH, see accounts.lua)
-- ARGV  1 most drained accounts to name, 1..1000
--       2 most accounts to tell the use of, 0..1000
-- Returns {percent, drained, used, question, set}
--         percent  as Redis holds it, whoever wrote it; empty: none; ?: far too long
--         drained  ids in order, a space between; nil: more than ARGV 1
--         used     id, used, max, state (state.lua; ?: something in the ledger keeps it from being told) of each account, spaces between;
--                  empty: more than ARGV 2
--         question as Redis holds it; empty: none, or more than 512 bytes
--         set      of how many accounts a configuration says otherwise than an operator, as far as one page tells
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

local percent = call('HGET', KEYS[9], 'percent')
if percent and #percent > 5 then
  percent = '?'
end
-- One more for the percentage.
local control = small(KEYS[9], most_drained + (percent and 1 or 0), call)
local drained = {}
for i = 1, control and #control or 0, 2 do
  drained[#drained + 1] = #control[i] <= 70 and string.match(control[i], '^drain:([%w._-]+)$') or nil
end
table.sort(drained)

-- Four more each for its probe, its pace, its limit and why it is out of use, and sixteen for what else stands there. What is wrong with it
-- must not hide an override.
local accounts = most_used > 0 and small(ACCOUNTS, 5 * most_used + 16, redis.pcall)
local ids, records = {}, {}
for i = 1, accounts and #accounts or 0, 2 do
  local max, _, base, flags = tool.parts(accounts[i + 1])
  if max and flags < tool.REMOVED and tool.is_id(accounts[i]) then
    ids[#ids + 1] = accounts[i]
    records[#ids] = {max, base, flags}
  end
end
-- Nor must a question.
local question = redis.pcall('GET', KEYS[10])
if type(question) ~= 'string' or #question > 512 then
  question = ''
end
local page = redis.pcall('HSCAN', KEYS[11], '0', 'COUNT', '1000')[2]
local set = page and #page / 2 or 0
if set > 0 and tool.is_ledgers() then
  set = 0
end
if #ids == 0 or #ids > most_used then
  return {percent or '', control and table.concat(drained, ' '), '', question, set}
end
local used = redis.pcall('HMGET', USED, unpack(ids))
local now, longest
-- Of most accounts the record alone tells it. The commands of the others may meet a key of another type.
local function told(account, max, base, flags, count)
  if flags == 0 and base < BEHIND then
    return count < max and 'free' or 'full'
  end
  now = now or tool.now_ms()
  longest = longest or now + tool.longest('#rest')
  local is_told, state = pcall(state_of, account, max, base, flags, count, now, longest)
  return is_told and state or '?'
end
for i = 1, #ids do
  local count = tool.digits(used[i]) or '0'
  local max, base, flags = unpack(records[i])
  ids[i] = table.concat({ids[i], count, max, told(ids[i], max, base, flags, tonumber(count))}, ' ')
end
return {percent or '', control and table.concat(drained, ' '), table.concat(ids, ' '), question, set}
