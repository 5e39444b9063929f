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
--   used, free, cooldown, #epoch, #wake, the pass itself: made anew.
--   control         is an operator's: what was drained stays so while it is of another type; overrides.lua names it.
-- Leases and cooldowns that end later than they can, because Redis' clock was set back, are cut.
--
-- KEYS  the six of ledger.lua
--       7 pass (HASH: by, until ms, stage, cursor, drift, revive; last, its number), the pass under way; it ends with who runs
--         it
--       8 control (HASH, see control.lua)
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
local PASS = KEYS[7]
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
local meta = redis.pcall('HMGET', ACCOUNTS, '#pass', '#epoch', '#revision', '#digest')
if meta.err then
  meta = {}
end
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

-- Counts one more, or one less, of an account's leases in this pass.
local function add(account, more)
  if type(redis.pcall('HINCRBY', USED, '#' .. account, more)) == 'table' then
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
  local patterns = {['#wake'] = '^%d+$', ['#ttl'] = '^%d+ %d+$', ['#rest'] = '^%d+ %d+$', ['#coming'] = '^%d+ %S+ %S+ %d+ %S+$'}
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
  mend_fields()
  tool.note_next_end()
  -- Nobody may count for a pass before what an earlier one left behind is cleared away.
  call('HDEL', ACCOUNTS, '#pass')
  stage, cursor = 'clear', '0'
end

-- What this pass leaves behind in `used`, or an earlier one that did not end.
local function clear_counts()
  local list = scan('HSCAN', USED)
  for i = 1, #list, 2 do
    if string.sub(list[i], 1, 1) == '#' then
      call('HDEL', USED, list[i])
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
  local drained = redis.pcall('HEXISTS', KEYS[8], 'drain:' .. account)
  if type(drained) == 'number' then
    must_be[tool.DRAINED] = drained == 1
  end
  for flag, on in pairs(must_be) do
    if tool.has(flags, flag) ~= on then
      changed = tool.flag(account, flag, on) or changed
      -- A recount of an older version takes the flag of one that probes away: nobody broke anything.
      drift = drift + (flag == tool.COOLING and probed and 0 or 1)
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
  clear_counts()
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
    local account, mark = string.match(call('HGET', OWNER, lease) or '', '^([^:]*):?(.*)$')
    local live = call('ZSCORE', LEASES, lease)
    if not live and revive == '1' and tool.is_id(account) then
      live = call('ZADD', LEASES, string.format('%.0f', now + math.max(ttl, tool.longest('#ttl'))), lease)
    end
    if not live then
      drift = drift + call('HDEL', OWNER, lease)
      if mark == pass then
        add(account, '-1')
      end
    elseif not tool.is_id(account) then
      wrong(tool.name_of('owner', lease) .. ': not an account')
      call('HDEL', OWNER, lease)
      call('ZREM', LEASES, lease)
    elseif mark ~= pass then
      call('HSET', OWNER, lease, account .. ':' .. pass)
      add(account, '1')
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
    local probed = string.match(field, '^#probe:(.*)')
    local record = string.sub(field, 1, 1) ~= '#' and call('HGET', ACCOUNTS, field)
    if probed then
      check_probe(field, probed, list[i + 1])
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
    stage = 'cooldown'
  end
end

-- A cooldown of an account that is gone ends by itself.
function stages.cooldown()
  local list = scan('ZSCAN', COOLDOWN)
  for i = 1, #list, 2 do
    if not tool.is_id((string.gsub(list[i], '^behind:', ''))) then
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
  clear_counts()
  if cursor == '0' then
    stage, done = 'start', true
  end
end

if is_elsewhere() then
  return answer('elsewhere')
end
drift, stage = drift + before, stage or 'start'
if stage ~= 'start' and not stages[stage] then
  wrong('pass stage: not one')
  stage = 'start'
end
-- Someone else's number is no pass: it counts nothing.
if stage ~= 'clear' and stage ~= 'clean' and not (pass and tonumber(pass) == last) or tool.wrong_key() then
  stage = 'start'
end
if stage == 'start' then
  start()
end
tool.cut_late(now, ttl)
stages[stage]()
if restart then
  stage, cursor = 'start', '0'
end
call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', stage, 'cursor', cursor, 'drift', done and 0 or drift,
  'revive', not done and revive or '')
call('PEXPIRE', PASS, silence)
return answer(done and 'done' or 'working')
