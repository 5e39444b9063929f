-- renew: keep leases alive, take up again those that Redis no longer knows, and put right those that it has elsewhere.
--
-- The worker knows best which account a request uses. After Redis lost its data, an acquire that asked again for a lease may
-- come before the renewal of that lease: then it has a slot of another account, or waits for one.
--
-- KEYS  the eight of ledger.lua
-- ARGV  1 ttl, ms
--       2.. three for each lease, 1..1000 leases: lease id, account id, epoch its acquire answered
-- Returns {epoch, answers}: one letter for each lease, in order
--         r  renewed
--         a  re-adopted: it was gone and is counted again, because Redis lost its data since (the epoch is another)
--            or because the account still had a slot nobody uses, even when it takes no new leases; or only its owner was
--            lost, and is there again; or it waited, or was another account's, and is this one's now
--         l  lost: it had expired, and the slot is someone else's by now. If it waited, or was another account's, it has ended
-- Errors  NOPOOL, BADARG; nothing is written then. GARBAGE; what was there is renewed then
-- Flags  allow-oom: a lease that can't be renewed would be granted twice
-- Cost  O(log leases) each; five commands as long as nothing is to be taken up or put right
local ttl, leases = tonumber(ARGV[1]), (#ARGV - 1) / 3
local wrong = not (ttl and ttl >= 1 and ttl <= 86400000 and ttl % 1 == 0 and leases >= 1 and leases <= 1000 and leases % 1 == 0)
local ids = {}
for i = 1, wrong and 0 or leases do
  local lease = ARGV[3 * i - 1]
  wrong = wrong or #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]')
  ids[i] = lease
end
if wrong then
  local check = tools()
  check.whole(ARGV[1], 'ttl_ms', 1, 86400000)
  for i = 1, #ids do
    check.id(ids[i], 'lease')
  end
  check.refuse('BADARG leases: not 1..1000 of lease, account, epoch')
end

local epoch = call('HGET', ACCOUNTS, '#epoch')
if not epoch then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expires_ms = string.format('%.0f', now + ttl)
local expiries = call('ZMSCORE', LEASES, unpack(ids))
-- Of another type: whose they are shows when a recount has made it anew.
local owners = redis.pcall('HMGET', OWNER, unpack(ids))

-- By owner, its account: most leases share theirs with others.
local account_of = {}
local argv, unknown, count, right = ARGV, owners.err, 0, 0
local answers, renewed = {}, {}
for i = 1, leases do
  local owner, account = owners[i], argv[3 * i]
  if expiries[i] and (owner or unknown) then
    renewed[2 * count + 1], renewed[2 * count + 2] = expires_ms, ids[i]
    count = count + 1
    if owner and not account_of[owner] then
      account_of[owner] = string.match(owner, '^[^:]*')
    end
    if unknown or account_of[owner] == account then
      answers[i], right = 'r', right + 1
    end
  end
end
-- Before anything that may fail: no lease ends because another one cannot be taken up.
if count > 0 then
  call('ZADD', LEASES, unpack(renewed))
end
-- As `digits` of the tools.
if #epoch > 16 or not string.find(epoch, '^%d+$') then
  tools().garbage('accounts', '#epoch', 'a whole number')
end
if right == leases then
  return {epoch, table.concat(answers)}
end

local tool = tools()
local pass = call('HGET', ACCOUNTS, '#pass')

-- Accounts that lost a lease to another one here.
local freed = {}

-- Takes up a lease on an account. `counted`: that account's count has it already, and only its owner was lost. `elsewhere`: its
-- owner so far, if it has one; what that has of it is given back, and to whom that goes is seen to later.
local function adopt(lease, account, record, counted, elsewhere)
  -- The one key that nobody has read before comes first.
  local used = tool.used(account) + (counted and 0 or 1)
  local other, mark = string.match(elsewhere or '', '^([^:~]*):?(.*)$')
  if used < math.huge and not counted then
    call('HINCRBY', USED, account, '1')
  end
  call('ZADD', LEASES, expires_ms, lease)
  call('HSET', OWNER, lease, pass and account .. ':' .. pass or account)
  if pass then
    redis.pcall('HINCRBY', USED, '#' .. account, '1')
  end
  if other == '' and mark ~= '' then
    waiters().after_end({lease, elsewhere}, nil, nil, {})
  elseif other ~= '' then
    -- As in `end_leases`: a count that is missing, or none, stays so until the recount.
    local held = tonumber(call('HGET', USED, other) or nil) or math.huge
    if held < math.huge then
      held = held - 1
      call('HSET', USED, other, string.format('%d', held))
    end
    if mark == pass then
      redis.pcall('HINCRBY', USED, '#' .. other, '-1')
    end
    refresh_free(other, call('HGET', ACCOUNTS, other), held)
    freed[#freed + 1] = other
    counted = true
  end
  if #lease == OF_TENANT and not (counted and pass and mark == pass) then
    count_tenants({lease}, counted and 0 or 1, nil, pass)
  end
  refresh_free(account, record, used)
end

local moved, lost = false, {}
for i = 1, leases do
  if not answers[i] then
    local lease, account, lease_epoch = ids[i], ARGV[3 * i], ARGV[3 * i + 1]
    local record = tool.is_id(account) and call('HGET', ACCOUNTS, account)
    local max = record and tool.parts(record)
    local owner = call('HGET', OWNER, lease)
    local counted = expiries[i] and not owners[i]
    if lost[lease] then
      answers[i] = 'l'
    elseif owner and string.match(owner, '^[^:]*') == account then
      -- Only its expiry was lost; or it stands twice in one batch.
      call('ZADD', LEASES, expires_ms, lease)
      answers[i] = 'a'
    elseif max and (counted or lease_epoch ~= epoch or tool.used(account) < max) then
      adopt(lease, account, record, counted, owner)
      moved = moved or owner
      answers[i] = 'a'
    else
      answers[i], lost[lease] = 'l', owner
      lost[#lost + 1] = owner and lease or nil
    end
  end
end
-- After all are taken up: what comes free is handed on.
if lost[1] then
  end_leases(lost, now, freed)
end
if moved then
  tool.serve(now)
end
return {epoch, table.concat(answers)}
