-- inspect: every account as the next acquire would see it. Writes nothing, so a replica may run it.
--
-- KEYS  the eight of ledger.lua
--       9 control (HASH, see control.lua); 10 roster (HASH, see accounts.lua); 11 changes (LIST, see changes.lua)
-- ARGV  1 cursor, 0 to begin with
--       2 about how many accounts to answer, 1..1000
-- Returns {next cursor or 0, now ms, revision, epoch, leases, how many of them have expired, percent as it stands (?: far
--         too long) or nothing, accounts, whose they are (config, or ledger: the operators'), and on cursor 0 who waits, and the last ten changes},
--         accounts a list of {id, max, used, base, load's part of the score, state, until ms or 0, flags, set, pace, off, most}
--         set: what an operator has set of it, "<max> <priority> <disabled> <pace>", each - if it is not; empty: nothing
--         pace: requests/ms/burst, or empty
--         state, until, off: as in state.lua; base: without what puts it behind the others
--         flags: all that is against it, as in its record
--         most: how far its limit may rise that adapts; or empty
--         Who waits: {how many, the longest wait in ms, tenants}, the last a list of {tenant, leases, how many wait, the longest wait
--         in ms}, of 50 at most: those of whom most wait. The waits are those of the first 100 lines. It is empty where the
--         user may not ask for it.
-- Errors  NOPOOL, BADARG; WRONGTYPE and GARBAGE name what cannot be there
-- Flags  no-writes
-- Cost  O(accounts answered · log accounts)
local tool = tools()
local QUEUE, TENANTS = KEYS[7], KEYS[8]
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
    local state, ends, off, own_base = state_of(account, max, base, flags, used, now, longest)
    base, ends = string.format('%.0f', own_base), string.format('%.0f', ends)
    local set, pace = redis.pcall('HGET', KEYS[10], account), call('HGET', ACCOUNTS, '#pace:' .. account)
    set = type(set) == 'string' and #set <= 200 and string.match(set, '^(%S+ %S+ %S+ %S+) ') or ''
    pace = string.match(pace or '', '^(%d+/%d+/%d+) ') or ''
    local limit = call('HGET', ACCOUNTS, '#limit:' .. account)
    local most = string.match(limit or '', '^(%d+) %d+ %d+$') or ''
    rows[#rows + 1] = {account, max, used, base, math.floor(load * used / max), state, ends, flags, set, pace, off, most}
  end
end
local percent = redis.pcall('HGET', KEYS[9], 'percent')
if percent and (type(percent) == 'table' or #percent > 5) then
  percent = '?'
end

-- How many lines of the queue, tenants, and expired leases are looked at; how many tenants are shown.
local LINES, TENANTS_READ, EXPIRED, SHOWN = 100, 200, 200, 50

-- Who waits, by tenant and all together: how many, and since when the first of them, ms.
local function who_waits()
  local count = redis.pcall('ZLEXCOUNT', QUEUE, '[w:', '(w;')
  if type(count) == 'table' then
    return nil
  end
  local since, all, from = {}, nil, '[w:'
  for _ = 1, count > 0 and LINES or 0 do
    local member = call('ZRANGEBYLEX', QUEUE, from, '(w;', 'LIMIT', '0', '1')[1]
    local tenant, line, order = string.match(member or '', '^w:([^:]*):([^:]*):(%d+):')
    if not member then
      break
    elseif tenant then
      local came = tonumber(string.sub(order, 1, 13))
      since[tenant] = math.min(since[tenant] or came, came)
      all = math.min(all or came, came)
    end
    from = tenant and '[w:' .. tenant .. ':' .. line .. ';' or '(' .. member
  end
  return count, since, all
end

-- The tenants of whom most wait, then those with most leases.
local function tenants_of(since)
  local names, waiting = {}, {}
  for tenant in pairs(since) do
    if tenant ~= '-' then
      names[#names + 1] = tenant
      waiting[tenant] = call('ZLEXCOUNT', QUEUE, '[w:' .. tenant .. ':', '(w:' .. tenant .. ';')
    end
  end
  local page = call('HSCAN', TENANTS, '0', 'COUNT', TENANTS_READ)[2]
  for i = 1, math.min(#page, 2 * TENANTS_READ), 2 do
    if #page[i] == 16 and string.find(page[i], '^%x+$') and not waiting[page[i]] then
      names[#names + 1], waiting[page[i]] = page[i], 0
    end
  end
  local held = names[1] and call('HMGET', TENANTS, unpack(names)) or {}
  local rows = {}
  for i = 1, #names do
    local wait = since[names[i]] and math.max(now - since[names[i]], 0) or 0
    local leases = tonumber(tool.digits(held[i], 9) or 0)
    rows[i] = {names[i], leases, waiting[names[i]], string.format('%.0f', wait)}
  end
  table.sort(rows, function(one, other)
    if one[3] ~= other[3] then
      return one[3] > other[3]
    elseif one[2] ~= other[2] then
      return one[2] > other[2]
    end
    return one[1] < other[1]
  end)
  return {unpack(rows, 1, SHOWN)}
end

local leases, expired = call('ZCARD', LEASES), call('ZCOUNT', LEASES, '-inf', now)
local whose = tool.is_ledgers() and 'ledger' or 'config'
local answer = {page[1], string.format('%.0f', now), revision, epoch, leases, expired, percent, rows, whose}
local waiting, since, all = who_waits()
if waiting and waiting > 0 then
  answer[5] = leases - waiting
  -- Of the expired ones a few at most are not cleared away yet.
  local over = expired > 0 and call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, EXPIRED)
  for _, owner in ipairs(over and call('HMGET', OWNER, unpack(over)) or {}) do
    answer[6] = answer[6] - (owner and string.byte(owner) == WAITS and 1 or 0)
  end
end
if ARGV[1] == '0' then
  answer[10], answer[11] = {}, {}
  for _, line in ipairs(redis.pcall('LRANGE', KEYS[11], '0', '9')) do
    -- Nothing that a script has written is as long.
    table.insert(answer[11], #line <= 512 and line or nil)
  end
end
if waiting and ARGV[1] == '0' then
  answer[10] = {waiting, string.format('%.0f', all and math.max(now - all, 0) or 0), tenants_of(since)}
end
return answer
