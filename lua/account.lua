-- account: an operator's change of a pool's accounts, in force with the next acquire of every worker.
--
-- In a pool whose accounts are the ledger's they are put in and taken away. In any pool what is set of one holds from now on,
-- whatever its configuration says, until it is reset.
--
-- KEYS  the eight of ledger.lua; 9 control (HASH, see control.lua); 10 roster (HASH, see accounts.lua)
--       11 changes (LIST, see changes.lua)
-- ARGV  1 verb: add     put accounts in, or set what they have
--               set     set what accounts have that are there
--               remove  take accounts away: their leases finish
--               reset   forget what was set of accounts, and what answers have said of them
--         or check-add, check-set, check-remove, check-reset: the same, but nothing is written
--       2 who asks, for `changes`; empty: nobody says. More than ten accounts are one line there
--       3.. for add and set five for each account: id, max_concurrency, priority, 1 when disabled and else 0, pace
--         (requests/ms/burst, or none); - for what stays as it is. For remove and reset: ids
-- Returns for each account {what, before, now}: added, changed, same, removed, reset, or missing: there is none to take away;
--         and how it was and is, "<max_concurrency> <priority or -: as it came> <disabled> <pace or ->", each empty: there was, or is, none
-- Errors  NOPOOL, NOACCOUNT, BADARG, WRONGTYPE, GARBAGE; nothing is written then
--         NOTLEDGER  the accounts are a configuration's: none may be put in or taken away here
-- Flags  allow-oom: an operator needs it most when things are full
-- Cost  O(log accounts) for each
local tool = tools()
local CONTROL, ROSTER = KEYS[9], KEYS[10]
local roster = roster_of(ROSTER, CONTROL)
local check, verb = string.match(ARGV[1] or '', '^(c?h?e?c?k?%-?)(%a+)$')
local puts = verb == 'add' or verb == 'set'
if not (puts or verb == 'remove' or verb == 'reset') or check ~= '' and check ~= 'check-' then
  tool.refuse('BADARG verb: not add, set, remove or reset')
end
local words = puts and 5 or 1
local count = (#ARGV - 2) / words
if count ~= math.floor(count) or count < 1 or count > 500 then
  tool.refuse('BADARG accounts: not 1..500 of them')
end

tool.check_keys()
for _, key in ipairs({CONTROL, ROSTER}) do
  if type(redis.pcall('HEXISTS', key, '#')) == 'table' then
    tool.refuse('WRONGTYPE ' .. string.match(key, '[^:]*$') .. ' is no hash')
  end
end
if not call('HGET', ACCOUNTS, '#epoch') then
  return redis.error_reply('NOPOOL no accounts are synced for this pool')
end
local ledgers = tool.is_ledgers()
if not ledgers and (verb == 'add' or verb == 'remove') then
  tool.refuse('NOTLEDGER the accounts of this pool come from its configuration')
end
local best, worst, _, _, load = roster.scale()
local now = tool.now_ms()

-- A value to set: - if it stays.
local function value(text, account, name, low, high)
  if text == '-' then
    return text
  end
  return string.format('%.0f', tool.whole(text, account .. ' ' .. name, low, high))
end

local function priority_of(text, account)
  local priority = value(text, account, 'priority', 0, 1000000)
  if priority == '-' then
    return priority
  elseif not best then
    tool.refuse('BADARG priority: these accounts were put in force by an older version, which says no range; raise the revision')
  elseif tonumber(priority) < best or tonumber(priority) > worst then
    tool.refuse(string.format('BADARG %s priority: not in %d..%d, the range of this pool', account, best, worst))
  end
  return priority
end

local function pace_of(text, account)
  if text ~= 'none' and not roster.is_pace(text) then
    tool.refuse('BADARG ' .. account .. ' pace: not requests/ms/burst, with 1..1000000 requests, 1..86400000 ms, a burst of 1..requests')
  end
  return text
end

-- How an account is, for the answer.
local function shown(set, own)
  local held = roster.in_force(set, own)
  return table.concat({held.max, set.priority, held.disabled, held.pace}, ' ')
end

-- What each account has now, and what it is to have. All is read, and may fail, before anything is written.
local plans, seen = {}, {}
for i = 3, #ARGV, words do
  local account = tool.id(ARGV[i], 'account')
  if seen[account] then
    tool.refuse('BADARG account ' .. account .. ': twice')
  end
  seen[account] = true
  local fields = {account, '#pace:' .. account, '#off:' .. account, '#limit:' .. account}
  local record, pace, off, limit = unpack(call('HMGET', ACCOUNTS, unpack(fields)))
  local max, _, base, flags = tool.parts(record or '')
  if record and not max then
    tool.garbage('accounts', account, 'an account with a record')
  end
  tool.used(account)
  local is_there = max and flags < tool.REMOVED
  local set, own = roster.entry(call('HGET', ROSTER, account))
  local was_set = is_there and set ~= nil
  if not is_there then
    set, own = nil, nil
  elseif not set then
    set = {max = '-', priority = '-', disabled = '-', pace = '-'}
    -- What an answer has disabled is not so because of what was set.
    local disabled = tool.has(flags, tool.DISABLED) and not string.find(off or '', tool.NO_END)
    own = {
      max = string.match(limit or '', '^(%d+) %d+ %d+$') or max, base = string.format('%.0f', base >= BEHIND and base - BEHIND or base), disabled = disabled and '1' or '0',
      pace = string.match(pace or '', '^(%S+) ') or '-',
    }
  end
  local lowered = limit and tonumber(string.match(limit, '^%d+')) ~= max
  local plan = {account = account, off = off, before = is_there and shown(set, own) or '', own = own}
  if not is_there and (verb == 'set' or verb == 'reset') then
    return redis.error_reply('NOACCOUNT ' .. account .. ' is not in this pool')
  elseif verb == 'remove' then
    plan.what, plan.now = is_there and 'removed' or 'missing', ''
  else
    local now_set = {max = '-', priority = '-', disabled = '-', pace = '-'}
    if puts then
      now_set = {
        max = value(ARGV[i + 1], account, 'max_concurrency', 1, 100000), priority = priority_of(ARGV[i + 2], account),
        disabled = value(ARGV[i + 3], account, 'disabled', 0, 1), pace = pace_of(ARGV[i + 4], account),
      }
      plan.enables = now_set.disabled == '0'
      if not is_there then
        if now_set.max == '-' then
          tool.refuse('BADARG ' .. account .. ' max_concurrency: a new account needs one')
        elseif not best then
          tool.refuse('BADARG ' .. account .. ': the accounts in force are of an older version, which says no range of priorities; raise the revision')
        end
        -- As a configuration that does not say it.
        local priority = now_set.priority == '-' and string.format('%d', math.min(math.max(1, best), worst)) or now_set.priority
        now_set.priority = priority
        plan.own = {max = now_set.max, base = string.format('%.0f', roster.base_of(tonumber(priority))), disabled = '0', pace = '-'}
      end
      for name, text in pairs(set or {}) do
        if now_set[name] == '-' then
          now_set[name] = text
        end
        -- What is set holds from now on, also where it is so already.
        plan.sets = plan.sets or now_set[name] ~= text
      end
    end
    plan.set, plan.now = now_set, shown(now_set, plan.own)
    local same = plan.before == plan.now and not (off and (plan.enables or verb == 'reset')) and not ((lowered or was_set) and verb == 'reset')
    plan.what = not is_there and 'added' or same and 'same' or verb == 'reset' and 'reset' or 'changed'
  end
  plans[#plans + 1] = plan
end

local answers, ids, terms = {}, {}, {}
for i, plan in ipairs(plans) do
  answers[i] = {plan.what, plan.before, plan.now}
end
if check ~= '' then
  return answers
end
for _, plan in ipairs(plans) do
  local account = plan.account
  if plan.what == 'removed' then
    roster.take_away(account)
  elseif plan.set and (plan.what ~= 'same' or plan.sets or plan.enables) then
    if verb == 'reset' then
      call('HDEL', ROSTER, account)
      call('HDEL', ACCOUNTS, '#limit:' .. account)
    else
      call('HSET', ROSTER, account, roster.text(plan.set, plan.own))
    end
    if plan.off and (verb == 'reset' or plan.enables) then
      call('HDEL', ACCOUNTS, '#off:' .. account, '#probe:' .. account)
      call('ZREM', COOLDOWN, account)
    end
    ids[#ids + 1], terms[account] = account, plan.own
  end
end
local noted = {}
for _, plan in ipairs(plans) do
  if plan.what ~= 'same' and plan.what ~= 'missing' then
    noted[#noted + 1] = plan
  end
end
if #noted > 10 then
  -- A whole file of them would leave no place for what else was changed.
  local done = {add = 'added', set = 'changed', remove = 'removed', reset = 'reset'}
  note_change(KEYS[11], now, ARGV[2], done[verb], string.format('%d accounts', #noted), '', '')
  noted = {}
end
for _, plan in ipairs(noted) do
  note_change(KEYS[11], now, ARGV[2], plan.what, plan.account, plan.before, plan.now)
end
if ids[1] then
  if not load then
    load = select(2, tool.parts(call('HGET', ACCOUNTS, ids[1])))
  end
  roster.put_in(ids, terms, tool.uncounted() and math.huge or 0, load)
end
tool.note_next_end()
tool.serve(now)
return answers
