-- reconcile: prove that the counts are true, and mend what someone broke by hand. One step of bounded work.
--
-- A pass counts every lease once, in steps, while acquires and releases go on. A lease that the pass has counted carries its
-- number in `owner`; those taken during the pass carry it from the start; a release takes a counted one off again. So when
-- the last step has seen all of `owner`, `#<account>` in `used` is exact at any moment, and each account's count can be
-- compared, in steps again.
--
-- What cannot be there is mended, as far as the truth can be derived, and named:
--   leases, owner   are the truth. If `leases` is of another type, every lease that has an owner gets one more time to live; if
--                   `owner` is, nobody knows whose the leases were: the pool begins anew with another epoch, so that each is
--                   taken up again at its next renewal.
--   accounts        of another type, a record that is none, a revision or a digest that is none: taken out, and the next sync
--                   puts the accounts in again. An id that is none: taken out.
--   used, free, cooldown, tenants' counts, #epoch, #wake, the pass itself: made anew.
--   queue           made anew from the waiters in `owner`; what stands there of no waiter is taken out.
--   roster          entries that are none, or of accounts that are gone, are taken out; what holds of the others is put in force.
--   control         is an operator's: what was drained stays so while it is of another type; overrides.lua names it.
-- Leases and cooldowns that end later than they can, because Redis' clock was set back, are cut.
--
-- KEYS  the eight of ledger.lua
--       9 pass (HASH: by, until ms, stage, cursor, drift, revive; last, its number), the pass under way; it ends with who runs
--         it
--       10 control (HASH, see control.lua); 11 roster (HASH, see accounts.lua)
-- ARGV  1 who asks, [A-Za-z0-9._-]{1,64}: only one in the fleet runs the passes. A number and a dot in front say how much its
--         pass knows of the ledger, none: 0. Who knows more takes over at once: it mends what the other would take for wrong.
--       2 how long it may stay silent before another takes over, ms
--       3 about how many entries to look at, 1..10000
--       4 the longest this Envoy's leases last, ms; 0 or none: nothing is said of it
--       5 the longest its cooldowns last, ms; the same
--       6 soon: it has seen what cannot be there. It takes over between two passes, or after 5 s of silence
-- Returns {state, drift, found, revision, digest}
--         state: elsewhere, someone else runs it | working | done, with the drift found and mended in this pass:
--         one for each lease without owner, owner without lease, wrong count or flag, account wrongly in or out of `free`, and
--         for each thing that cannot be there
--         found: what cannot be there, of this step, "key field: not what" with "; " between, the first three; or empty
--         revision and digest in force, each empty when there is none: whoever has a higher one syncs
-- Errors  BADARG; nothing is written then
-- Flags  allow-oom: it frees slots
-- Cost  O(ARGV 3 · log leases)
local tool = tools()
local by = tool.id(ARGV[1], 'by')
local silence = tool.whole(ARGV[2], 'silence_ms', 1, 86400000)
local most = tool.whole(ARGV[3], 'count', 1, 10000)
local ttl = tool.whole(ARGV[4] or 0, 'ttl_ms', 0, 86400000)
local rest = tool.whole(ARGV[5] or 0, 'longest_cooldown_ms', 0, 86400000)
local soon = ARGV[6] == 'soon'
local QUEUE, TENANTS, PASS, ROSTER = KEYS[7], KEYS[8], KEYS[9], KEYS[11]
local roster = roster_of(ROSTER, KEYS[10])
local now = tool.now_ms()
local drift, found = 0, {}

-- Something cannot be there.
local function wrong(what)
  drift = drift + 1
  if #found < 3 then
    found[#found + 1] = what
  end
end

local state = redis.pcall('HMGET', PASS, 'by', 'until', 'last', 'stage', 'cursor', 'drift', 'revive')
if state.err then
  wrong('pass is no hash')
  call('DEL', PASS)
  state = {}
end
local runner, ends, last = state[1], tonumber(state[2] or 0) or 0, tonumber(tool.digits(state[3]) or 0)
local stage, cursor, before, revive = state[4], tool.digits(state[5], 20) or '0', tool.digits(state[6]) or 0, state[7]
-- Of a key of another type there is none of them.
local meta = redis.pcall('HMGET', ACCOUNTS, '#pass', '#epoch', '#revision', '#digest')
local pass, epoch, revision, digest = meta[1], meta[2], meta[3], meta[4]
if tool.digits(epoch) then
  tool.note_longest(ttl, rest, now)
end

local function answer(what)
  return {what, drift, table.concat(found, '; '), tool.digits(revision) or '', tool.digits(digest, 20) or ''}
end

-- How much of the ledger a worker's pass knows.
local function knows(name)
  return tonumber(string.match(name, '^(%d+)%.') or 0)
end

-- Whether another worker runs the pass, and goes on.
local function is_elsewhere()
  -- One whose time is longer than anyone's may be is of before Redis' clock was set back.
  if not runner or runner == by or ends <= now or ends > now + math.max(silence, 120000) then
    return false
  end
  if soon and (stage == 'start' or ends < now + silence - 5000) then
    return false
  end
  return knows(runner) >= knows(by)
end

-- The pass begins anew: what someone wrote into a count meanwhile is none. Or it has ended.
local restart, done = false, false

-- The next entries of a key, each with its value after it. The last page leaves the cursor at 0.
local function scan(command, key)
  local page = call(command, key, cursor, 'COUNT', most)
  cursor = page[1]
  return page[2]
end

-- A count as it stands; nil when it is none.
local function count_of(field)
  local count = tonumber(call('HGET', USED, field) or 0)
  return count and count % 1 == 0 and count or nil
end

-- What queue.lua has for a recount.
local queue_tools
local function mender()
  queue_tools = queue_tools or waiters().mender()
  return queue_tools
end

-- Counts one more, or one less, of an account's leases in this pass, and of the lease's tenant's.
local function add(account, lease, more)
  if type(redis.pcall('HINCRBY', USED, '#' .. account, more)) == 'table' then
    restart = true
  end
  local tenant = mender().tenant_of(lease)
  if tenant ~= '-' and type(redis.pcall('HINCRBY', TENANTS, '#' .. tenant, more)) == 'table' then
    restart = true
  end
end

-- Makes a key of another type anew, as far as the truth can be derived.
local function drop_key(key)
  call('DEL', key)
  if key == LEASES then
    revive = '1'
  elseif key == OWNER or key == USED then
    -- Nobody takes a slot before all are counted.
    call('DEL', FREE)
  end
  if key == OWNER and tool.digits(epoch) then
    call('HSET', ACCOUNTS, '#epoch', string.format('%.0f', now))
  end
end

-- The pool's own fields of `accounts`.
local function mend_fields()
  if epoch and not tool.digits(epoch) then
    wrong('accounts #epoch: not a whole number')
    call('HSET', ACCOUNTS, '#epoch', string.format('%.0f', now))
  end
  for field, held in pairs({['#revision'] = revision, ['#digest'] = digest}) do
    if held and not tool.digits(held, field == '#digest' and 20 or 16) then
      wrong('accounts ' .. field .. ': not a whole number')
      call('HDEL', ACCOUNTS, field)
    end
  end
  local patterns = {
    ['#wake'] = '^%d+$', ['#ttl'] = '^%d+ %d+$', ['#rest'] = '^%d+ %d+$', ['#coming'] = '^%d+ %S+ %S+ %d+ %S+$', ['#queue'] = '^1$',
    ['#metered'] = '^1$', ['#scale'] = '^%d+ %d+ %d+ %d+ %d+$', ['#ledger'] = '^%d+$', ['#adaptive'] = '^%d+$',
  }
  for field, pattern in pairs(patterns) do
    local text = call('HGET', ACCOUNTS, field)
    if text and not string.find(text, pattern) then
      wrong('accounts ' .. field .. ': not as it is written')
      call('HDEL', ACCOUNTS, field)
    end
  end
end

-- Before a pass: each key is of its type, and nobody counts for an earlier one.
local function start()
  drift = #found
  local lost, at, what = false, tool.wrong_key()
  while at do
    wrong(what)
    drop_key(KEYS[at])
    lost = lost or KEYS[at] == USED
    at, what = tool.wrong_key(at)
  end
  if lost or tool.lost_counts() then
    call('HSET', ACCOUNTS, '#uncounted', '1')
  end
  if type(redis.pcall('HEXISTS', ROSTER, '#')) == 'table' then
    wrong('roster is no hash')
    call('DEL', ROSTER)
  end
  mend_fields()
  tool.note_next_end()
  -- Nobody may count for a pass before what an earlier one left behind is cleared away.
  call('HDEL', ACCOUNTS, '#pass')
  stage, cursor = 'clear', '0'
end

-- What this pass leaves behind in a key, or an earlier one that did not end.
local function clear_counts(key)
  local list = scan('HSCAN', key)
  for i = 1, #list, 2 do
    if string.sub(list[i], 1, 1) == '#' then
      call('HDEL', key, list[i])
    end
  end
end

-- A field that says at what pace an account takes leases.
local function check_pace(field, account, text)
  local requests, per_ms, burst, used_up = string.match(text, '^(%d+)/(%d+)/(%d+) (%d+)$')
  if call('HEXISTS', ACCOUNTS, account) == 0 then
    call('HDEL', ACCOUNTS, field)
  elseif not (requests and roster.is_pace(requests .. '/' .. per_ms .. '/' .. burst) and tool.digits(used_up, 17)) then
    wrong(tool.name_of('accounts', field) .. ': not a pace')
    -- Whoever has it configured, or an operator, says it again.
    call('HDEL', ACCOUNTS, field, '#digest')
    digest = nil
  end
end

-- A field that says how an account's limit adapts.
local function check_limit(field, account, text)
  local record = call('HGET', ACCOUNTS, account)
  if not record then
    call('HDEL', ACCOUNTS, field)
  elseif not (#text <= 40 and string.find(text, '^%d+ %d+ %d+$')) then
    wrong(tool.name_of('accounts', field) .. ': not a limit')
    -- Whoever has it configured puts it in again.
    call('HDEL', ACCOUNTS, field, '#digest')
    digest = nil
  elseif call('HEXISTS', ACCOUNTS, '#adaptive') == 0 then
    -- Limits adapt no longer, and no sync says so of the operators' own accounts.
    call('HDEL', ACCOUNTS, field)
    record = string.gsub(record, '^%d+', string.match(text, '^%d+'))
    if tool.parts(record) then
      call('HSET', ACCOUNTS, account, record)
      refresh_free(account, record, tool.count(account) or math.huge)
    end
  end
end

-- A field that says which lease probes an account.
local function check_probe(field, account, lease)
  if call('HEXISTS', ACCOUNTS, account) == 0 then
    -- Older scripts remove an account and leave its probe.
    call('HDEL', ACCOUNTS, field)
  elseif lease ~= '' and not tool.is_id(lease) then
    wrong(tool.name_of('accounts', field) .. ': not a lease')
    call('HSET', ACCOUNTS, field, '')
  end
end

-- A field that says why an account is out of use. A time that is over goes with the probe that passed.
local function check_off(field, account, off)
  local flags = string.match(call('HGET', ACCOUNTS, account) or '', ' (%d+)$')
  if not flags then
    call('HDEL', ACCOUNTS, field)
  elseif #off > 100 or not string.find(off, '^[%w._-]+ %d+ %d+$') then
    wrong(tool.name_of('accounts', field) .. ': not as it is written')
    call('HDEL', ACCOUNTS, field)
    if tool.has(flags, tool.DISABLED) then
      -- Because of this, or by the configuration: whoever has that puts the account in again.
      call('HDEL', ACCOUNTS, '#digest')
      digest = nil
    end
  elseif not string.find(off, tool.NO_END) and not call('ZSCORE', COOLDOWN, account)
    and call('HEXISTS', ACCOUNTS, '#probe:' .. account) == 0 then
    call('HDEL', ACCOUNTS, field)
  end
end

-- What is no account with a record is taken out.
local function take_out(account)
  wrong(tool.name_of('accounts', account) .. ': not an account with a record')
  call('HDEL', ACCOUNTS, account)
  call('ZREM', FREE, account)
  if tool.is_id(account) then
    -- Whoever has these accounts configured puts it in again.
    call('HDEL', ACCOUNTS, '#digest')
    digest = nil
  else
    call('HDEL', USED, account)
  end
end

-- An account's flags, and whether it is behind, as they must be. Answers whether its record has changed.
local function mend_flags(account, flags)
  local changed = false
  local probed = not call('ZSCORE', COOLDOWN, account) and call('HEXISTS', ACCOUNTS, '#probe:' .. account) == 1
  local must_be = {[tool.COOLING] = probed or call('ZSCORE', COOLDOWN, account) and true or false}
  local off = call('HGET', ACCOUNTS, '#off:' .. account)
  off = off and string.find(off, tool.NO_END)
  if off then
    must_be[tool.DISABLED] = true
  end
  local drained = redis.pcall('HEXISTS', KEYS[10], 'drain:' .. account)
  if type(drained) == 'number' then
    must_be[tool.DRAINED] = drained == 1
  end
  for flag, on in pairs(must_be) do
    if tool.has(flags, flag) ~= on then
      changed = tool.flag(account, flag, on) or changed
      -- A recount of an older version takes the flag of one that probes away, and its sync that of one that is out of use:
      -- nobody broke anything.
      drift = drift + ((flag == tool.COOLING and probed or flag == tool.DISABLED) and 0 or 1)
    end
  end
  if tool.behind(account, call('ZSCORE', COOLDOWN, 'behind:' .. account) and true or false) then
    changed = true
    drift = drift + 1
  end
  return changed
end

-- An account's count, and what follows from it.
local function compare_account(account, record, max, flags, counted, lost)
  local before = count_of(account)
  if not before then
    wrong(tool.name_of('used', account) .. ': not a number')
  elseif before ~= counted then
    drift = drift + 1
  end
  if before ~= counted or lost then
    call('HSET', USED, account, counted)
  end
  -- Not free although it waits for a probe: so leave it the scripts of an older version, which know no probes and would do
  -- it again. It is let go.
  if flags == tool.COOLING and counted < max and not call('ZSCORE', FREE, account) and tool.wants_probe(account) then
    call('HDEL', ACCOUNTS, '#probe:' .. account)
  end
  if flags < tool.REMOVED and mend_flags(account, flags) then
    record = call('HGET', ACCOUNTS, account)
  end
  local score = call('ZSCORE', FREE, account)
  refresh_free(account, record, counted)
  if score ~= call('ZSCORE', FREE, account) then
    drift = drift + 1
  end
end

-- Each looks at one page, and at the last one says which stage comes next.
local stages = {}

function stages.clear()
  clear_counts(USED)
  if cursor == '0' then
    stage = 'clear tenants'
  end
end

stages['clear tenants'] = function()
  clear_counts(TENANTS)
  if cursor == '0' then
    -- Another number than any mark that a lease still carries.
    pass = string.format('%.0f', math.max(now, last + 1))
    call('HSET', ACCOUNTS, '#pass', pass)
    call('HSET', PASS, 'last', pass)
    stage = 'count'
  end
end

function stages.count()
  local list = scan('HSCAN', OWNER)
  for i = 1, #list, 2 do
    local lease = list[i]
    -- Read again: the list may name an entry twice.
    local owner = call('HGET', OWNER, lease) or ''
    local account, mark = string.match(owner, '^([^:]*):?(.*)$')
    local waits = string.byte(owner) == WAITS and mender().parts(owner)
    local live = call('ZSCORE', LEASES, lease)
    if not live and revive == '1' and (waits or tool.is_id(account)) then
      live = call('ZADD', LEASES, string.format('%.0f', now + math.max(ttl, tool.longest('#ttl'))), lease)
    end
    if not live then
      drift = drift + call('HDEL', OWNER, lease)
      if mark == pass then
        add(account, lease, '-1')
      end
    elseif waits then
      drift = drift + mender().put_in(lease, owner, call('ZSCORE', LEASES, lease))
    elseif not tool.is_id(account) then
      wrong(tool.name_of('owner', lease) .. ': not an account')
      call('HDEL', OWNER, lease)
      call('ZREM', LEASES, lease)
    elseif mark ~= pass then
      call('HSET', OWNER, lease, account .. ':' .. pass)
      add(account, lease, '1')
    end
  end
  if cursor == '0' then
    stage = 'leases'
  end
end

function stages.leases()
  local list = scan('ZSCAN', LEASES)
  for i = 1, #list, 2 do
    if call('HEXISTS', OWNER, list[i]) == 0 and call('ZREM', LEASES, list[i]) == 1 then
      drift = drift + 1
    end
  end
  if cursor == '0' then
    stage = 'unknown'
  end
end

-- Counts of accounts that have no record.
function stages.unknown()
  local list = scan('HSCAN', USED)
  for i = 1, #list, 2 do
    -- Also of those that this pass alone has counted.
    local account = string.gsub(list[i], '^#', '')
    if call('HEXISTS', ACCOUNTS, account) == 0 then
      local counted = count_of('#' .. account)
      restart = restart or not counted
      if counted and count_of(account) ~= counted then
        drift = drift + 1
        call('HSET', USED, account, counted)
      end
      refresh_free(account, false, counted or 1)
    end
  end
  if cursor == '0' then
    stage = 'compare'
  end
end

function stages.compare()
  local lost = call('HEXISTS', ACCOUNTS, '#uncounted') == 1
  local list = scan('HSCAN', ACCOUNTS)
  for i = 1, #list, 2 do
    local field = list[i]
    local probed, paced = string.match(field, '^#probe:(.*)'), string.match(field, '^#pace:(.*)')
    local off, limited = string.match(field, '^#off:(.*)'), string.match(field, '^#limit:(.*)')
    local record = string.sub(field, 1, 1) ~= '#' and call('HGET', ACCOUNTS, field)
    if probed then
      check_probe(field, probed, list[i + 1])
    elseif paced then
      check_pace(field, paced, list[i + 1])
    elseif off then
      check_off(field, off, list[i + 1])
    elseif limited then
      check_limit(field, limited, list[i + 1])
    elseif record then
      local max, _, _, flags = tool.parts(record)
      local counted = count_of('#' .. field)
      if not (max and tool.is_id(field)) then
        take_out(field)
      elseif not counted then
        restart = true
      else
        compare_account(field, record, max, flags, counted, lost)
      end
    end
  end
  if cursor == '0' then
    call('HDEL', ACCOUNTS, '#uncounted')
    stage = 'roster'
  end
end

-- What an operator has set of an account: an older version's sync does not know of it.
local function compare_entry(account, text, ledgers)
  local set, own = roster.entry(text)
  local fields = {account, '#pace:' .. account, '#off:' .. account, '#limit:' .. account}
  local record, pace, off, limit = unpack(call('HMGET', ACCOUNTS, unpack(fields)))
  local max, load, base, flags = tool.parts(record or '')
  if not set or not tool.is_id(account) then
    wrong(tool.name_of('roster', account) .. ': not what an operator has set')
    call('HDEL', ROSTER, account)
    return
  elseif not max or flags >= tool.REMOVED then
    if not ledgers then
      call('HDEL', ROSTER, account)
      return
    end
    load = select(5, roster.scale())
  else
    local held, is_set = roster.in_force(set, own), string.match(pace or '', '^(%S+) ') or '-'
    base = base >= BEHIND and base - BEHIND or base
    local shut = tool.has(flags, tool.DISABLED)
    max = tonumber(string.match(limit or '', '^(%d+) %d+ %d+$')) or max
    if tonumber(held.max) == max and tonumber(held.base) == base and held.pace == is_set
      and (held.disabled == '1' or string.find(off or '', ' 0$') ~= nil) == shut then
      return
    end
    if not ledgers then
      own.max, own.base, own.disabled = max, string.format('%.0f', base), shut and '1' or '0'
      call('HSET', ROSTER, account, roster.text(set, own))
    end
  end
  if load then
    drift = drift + 1
    roster.put_in({account}, {[account] = own}, tool.uncounted() and math.huge or 0, load)
  end
end

function stages.roster()
  local list, ledgers = scan('HSCAN', ROSTER), tool.is_ledgers()
  for i = 1, #list, 2 do
    compare_entry(list[i], list[i + 1], ledgers)
  end
  if cursor == '0' then
    stage = 'tenants'
  end
end

-- Tenants' counts; a tag that was served long ago is no longer needed.
function stages.tenants()
  local list = scan('HSCAN', TENANTS)
  for i = 1, #list, 2 do
    local field, value = list[i], list[i + 1]
    local tenant = string.gsub(field, '^#', '')
    if string.find(tenant, '^%x+$') and #tenant == 16 then
      local counted, before = call('HGET', TENANTS, '#' .. tenant) or '0', call('HGET', TENANTS, tenant) or '0'
      if not tool.digits(before) then
        wrong(tool.name_of('tenants', tenant) .. ': not a count')
      elseif counted ~= before then
        drift = drift + 1
      end
      if not tool.digits(counted) then
        restart = true
      elseif counted ~= before then
        call('HDEL', TENANTS, tenant)
        if counted ~= '0' then
          call('HSET', TENANTS, tenant, counted)
        end
        mender().show_again(tenant, tonumber(tool.digits(before) or 0), tonumber(counted))
      end
    else
      local keeps = mender().keeps(field, value)
      if keeps == nil then
        wrong(tool.name_of('tenants', field) .. ': not a count or a tag')
      end
      if not keeps then
        call('HDEL', TENANTS, field)
      end
    end
  end
  if cursor == '0' then
    stage = 'queue'
  end
end

-- All members of the queue have score 0: with another one among them Redis finds none.
local function clear_scores()
  for low, high in pairs({['-inf'] = '(0', ['(0'] = '+inf'}) do
    for _, member in ipairs(call('ZRANGEBYSCORE', QUEUE, low, high, 'LIMIT', 0, most)) do
      wrong(tool.name_of('queue', member) .. ': not a waiter or a turn')
      call('ZREM', QUEUE, member)
    end
  end
end

-- Who stands in the queue and does not wait, and turns that are nobody's.
function stages.queue()
  local list = scan('ZSCAN', QUEUE)
  for i = 1, #list, 2 do
    local mended = mender().check(list[i], list[i + 1])
    if mended then
      drift = drift + mended
    else
      wrong(tool.name_of('queue', list[i]) .. ': not a waiter or a turn')
    end
  end
  if cursor == '0' then
    -- Without a queue its commands need not be in a user's rights.
    if call('ZCARD', QUEUE) > 0 and mender().count() > 0 and call('HEXISTS', ACCOUNTS, '#queue') == 0 then
      drift = drift + call('HSET', ACCOUNTS, '#queue', '1')
    end
    stage = 'cooldown'
  end
end

-- A cooldown of an account that is gone ends by itself.
function stages.cooldown()
  local list = scan('ZSCAN', COOLDOWN)
  for i = 1, #list, 2 do
    local account = string.gsub(string.gsub(list[i], '^behind:', ''), '^scope:%x+:', '')
    if not tool.is_id(account) then
      wrong(tool.name_of('cooldown', list[i]) .. ': not an account')
      call('ZREM', COOLDOWN, list[i])
    end
  end
  if cursor == '0' then
    tool.note_next_end()
    stage = 'free'
  end
end

-- Accounts in `free` that have no record.
function stages.free()
  local list = scan('ZSCAN', FREE)
  for i = 1, #list, 2 do
    local valid = tool.is_id(list[i])
    if not valid or call('HEXISTS', ACCOUNTS, list[i]) == 0 then
      wrong(tool.name_of('free', list[i]) .. ': not an account with a record')
      call('ZREM', FREE, list[i])
      if not valid and string.byte(list[i]) ~= 35 then
        -- Its record came behind this pass, and no acquire will meet it any more.
        call('HDEL', ACCOUNTS, list[i])
        call('HDEL', USED, list[i])
      end
    end
  end
  if cursor == '0' then
    call('HDEL', ACCOUNTS, '#pass')
    stage = 'clean'
  end
end

function stages.clean()
  clear_counts(USED)
  if cursor == '0' then
    stage = 'clean tenants'
  end
end

stages['clean tenants'] = function()
  clear_counts(TENANTS)
  if cursor == '0' then
    stage, done = 'start', true
  end
end

if is_elsewhere() then
  return answer('elsewhere')
end
if runner and knows(runner) ~= knows(by) then
  -- What the other has counted is not all that this one counts.
  stage = 'start'
end
drift, stage = drift + before, stage or 'start'
if stage ~= 'start' and not stages[stage] then
  wrong('pass stage: not one')
  stage = 'start'
end
-- Someone else's number is no pass: it counts nothing.
if not string.find(stage, '^clea[rn]') and not (pass and tonumber(pass) == last) or tool.wrong_key() then
  stage = 'start'
end
if stage == 'start' then
  start()
end
tool.cut_late(now, ttl)
clear_scores()
stages[stage]()
tool.serve(now)
if restart then
  stage, cursor = 'start', '0'
end
call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', stage, 'cursor', cursor, 'drift', done and 0 or drift,
  'revive', not done and revive or '')
call('PEXPIRE', PASS, silence)
return answer(done and 'done' or 'working')
