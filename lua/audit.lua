-- audit: what does not fit together in a pool's keys. Writes nothing, so a replica may run it. Only `slotgate doctor` does.
--
-- KEYS  the eight of ledger.lua
-- ARGV  1 of how many accounts and leases at most it looks, 1..100000
-- Returns {leases, accounts, findings}; both -1: there are more
--         findings: a list of {key, field, what stands there, what the other keys say}, 50 at most
-- Flags  no-writes
-- Cost  O(accounts + leases), at once: nothing changes meanwhile
local MOST_FINDINGS = 50
local tool = tools()
local QUEUE, TENANTS = KEYS[7], KEYS[8]
local most = tool.whole(ARGV[1], 'most', 1, 100000)

local findings = {}
-- Anyone may have written any bytes.
local function find(key, field, found, wanted)
  if #findings < MOST_FINDINGS then
    local name = string.gsub(string.sub(field, 1, 64), '[^%w._#:-]', '?')
    local said = string.gsub(string.sub(tostring(found), 1, 80), '[^ -~]', '?')
    findings[#findings + 1] = {key, name, said, tostring(wanted)}
  end
end

local at, wrong = tool.wrong_key()
while at do
  find(string.match(KEYS[at], '[^:]*$'), '', 'a key of another type', string.match(wrong, 'no (.*)$'))
  at, wrong = tool.wrong_key(at)
end
if findings[1] then
  return {0, 0, findings}
end

-- A hash as a table; nil: it has more fields.
local function all_of(key, fields)
  local page = call('HSCAN', key, '0', 'COUNT', fields)
  if page[1] ~= '0' then
    return nil
  end
  local table = {}
  for i = 1, #page[2], 2 do
    table[page[2][i]] = page[2][i + 1]
  end
  return table
end

local accounts, owners = all_of(ACCOUNTS, 5 * most + 16), call('ZCARD', LEASES) <= most and all_of(OWNER, 2 * most)
local used, tenants = all_of(USED, 2 * most), all_of(TENANTS, 4 * most)
local is_small = call('ZCARD', FREE) <= most and call('ZCARD', QUEUE) <= 4 * most
if not (accounts and owners and used and tenants and is_small) then
  return {-1, -1, findings}
end

local count, records = 0, {}
for id, record in pairs(accounts) do
  if string.sub(id, 1, 1) ~= '#' then
    local max, _, base, flags = tool.parts(record)
    count = count + 1
    if max and tool.is_id(id) then
      records[id] = {max, base, flags}
    else
      find('accounts', id, record, 'an account with a record')
    end
  end
end

-- Every lease has an owner, and every owner a lease; one that waits stands in the queue.
local held, of_tenants, leases = {}, {}, 0
for lease, owner in pairs(owners) do
  if not call('ZSCORE', LEASES, lease) then
    find('owner', lease, owner, 'a lease')
  end
  local tenant = string.match(lease, '^[^.]*%.(%x+)$')
  if string.byte(owner) == WAITS then
    local order, line = string.match(owner, '^~(%S+) (%S+)')
    if not order or not call('ZSCORE', QUEUE, table.concat({'w', tenant or '-', line, order, lease}, ':')) then
      find('owner', lease, owner, 'a place in queue')
    end
  else
    local account = string.match(owner, '^[^:]*')
    leases = leases + 1
    held[account] = (held[account] or 0) + 1
    if tenant then
      of_tenants[tenant] = (of_tenants[tenant] or 0) + 1
    end
  end
end
for _, member in ipairs(call('ZRANGEBYLEX', QUEUE, '[w:', '(w;')) do
  local lease = string.match(member, '([^:]*)$')
  if string.byte(owners[lease] or '') ~= WAITS then
    find('queue', member, 'who waits', 'no owner')
  end
end
local members = call('ZRANGE', LEASES, 0, -1)
for i = 1, #members do
  if not owners[members[i]] then
    find('leases', members[i], 'a lease', 'no owner')
  end
end

-- The counts are those of the leases, unless a recount makes them anew just now.
local function compare(key, counts, wanted, is_one)
  for field, text in pairs(counts) do
    if is_one(field) and tonumber(text) ~= (wanted[field] or 0) then
      find(key, field, text, wanted[field] or 0)
    end
  end
  for field, number in pairs(wanted) do
    if not counts[field] then
      find(key, field, 'nothing', number)
    end
  end
end
local counted = call('HEXISTS', ACCOUNTS, '#uncounted') == 0
if counted then
  compare('used', used, held, function(field)
    return string.sub(field, 1, 1) ~= '#'
  end)
end
compare('tenants', tenants, of_tenants, function(field)
  return string.find(field, '^%x+$') and #field == 16
end)

-- Of an account without a flag its count alone decides whether it is free. Whether one that cools is, its time does, and whoever
-- comes by first then.
for id, record in pairs(records) do
  local max, _, flags = unpack(record)
  local is_free, free = call('ZSCORE', FREE, id), flags == 0 and (held[id] or 0) < max
  if counted and flags ~= tool.COOLING and (is_free and true or false) ~= free then
    find('free', id, is_free and 'free' or 'not free', free and 'free' or 'not free')
  end
  if tool.has(flags, tool.COOLING) and not call('ZSCORE', COOLDOWN, id) and call('HEXISTS', ACCOUNTS, '#probe:' .. id) == 0 then
    -- Nobody would let it go before the next recount.
    find('accounts', id, 'cooling', 'a cooldown')
  end
end
for _, id in ipairs(call('ZRANGE', FREE, 0, -1)) do
  if not accounts[id] then
    find('free', id, 'free', 'no account')
  end
end
return {leases, count, findings}
