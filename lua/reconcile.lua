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

local state = redis.pcall('HMGET', PASS, 'by', 'until', 'stage', 'cursor', 'drift', 'last', 'revive')
if state.err then
  wrong('pass is no hash')
  call('DEL', PASS)
  state = {}
end
local ends, last = tonumber(state[2] or 0) or 0, tonumber(tool.digits(state[6]) or 0)
local meta = redis.pcall('HMGET', ACCOUNTS, '#pass', '#epoch', '#revision', '#digest')
if meta.err then
  meta = {}
end
if tool.digits(meta[2]) then
  for field, ms in pairs({['#ttl'] = ttl, ['#rest'] = rest}) do
    if ms > 0 then
      tool.note_longest(field, ms, now)
    end
  end
end

local function answer(what)
  return {what, drift, table.concat(found, '; '), tool.digits(meta[3]) or '', tool.digits(meta[4], 20) or ''}
end
local function knows(name)
  return tonumber(string.match(name, '^(%d+)%.') or 0)
end
-- One whose time is longer than anyone's may be is of before Redis' clock was set back.
local other = state[1] and state[1] ~= by and ends > now and ends <= now + math.max(silence, 120000)
if other and soon and (state[3] == 'start' or ends < now + silence - 5000) then
  other = false
end
if other and knows(state[1]) >= knows(by) then
  return answer('elsewhere')
end

local stage, cursor, revive = state[3] or 'start', tool.digits(state[4], 20) or '0', state[7]
drift = drift + (tonumber(tool.digits(state[5]) or 0))
local known = {start = 1, clear = 1, count = 1, leases = 1, unknown = 1, compare = 1, cooldown = 1, free = 1, clean = 1}
local pass = meta[1]
if not known[stage] then
  wrong('pass stage: not one')
  stage = 'start'
end
-- Someone else's number is no pass: it counts nothing.
if stage ~= 'clear' and stage ~= 'clean' and not (pass and tonumber(pass) == last) or tool.wrong_key() then
  stage = 'start'
end

if stage == 'start' then
  drift = #found
  local at, what = tool.wrong_key()
  local lost = false
  while at do
    wrong(what)
    call('DEL', KEYS[at])
    if KEYS[at] == LEASES then
      revive = '1'
    elseif KEYS[at] == OWNER or KEYS[at] == USED then
      -- Nobody takes a slot before all are counted.
      call('DEL', FREE)
    end
    lost = lost or KEYS[at] == USED
    if KEYS[at] == OWNER and tool.digits(meta[2]) then
      call('HSET', ACCOUNTS, '#epoch', string.format('%.0f', now))
    end
    at, what = tool.wrong_key(at)
  end
  if lost or tool.lost_counts() then
    call('HSET', ACCOUNTS, '#uncounted', '1')
  end
  if meta[2] and not tool.digits(meta[2]) then
    wrong('accounts #epoch: not a whole number')
    call('HSET', ACCOUNTS, '#epoch', string.format('%.0f', now))
  end
  for field, i in pairs({['#revision'] = 3, ['#digest'] = 4}) do
    if meta[i] and not tool.digits(meta[i], i == 4 and 20 or 16) then
      wrong('accounts ' .. field .. ': not a whole number')
      call('HDEL', ACCOUNTS, field)
    end
  end
  local fields = {['#wake'] = '^%d+$', ['#ttl'] = '^%d+ %d+$', ['#rest'] = '^%d+ %d+$', ['#coming'] = '^%d+ %S+ %S+ %d+ %S+$'}
  for field, pattern in pairs(fields) do
    local text = call('HGET', ACCOUNTS, field)
    if text and not string.find(text, pattern) then
      wrong('accounts ' .. field .. ': not as it is written')
      call('HDEL', ACCOUNTS, field)
    end
  end
  tool.note_next_end()
  -- Nobody may count for a pass before what an earlier one left behind is cleared away.
  call('HDEL', ACCOUNTS, '#pass')
  stage, cursor = 'clear', '0'
end
tool.cut_late(now, ttl)

-- A count as it stands; nil when it is none.
local function count_of(field)
  local count = tonumber(call('HGET', USED, field) or 0)
  return count and count % 1 == 0 and count or nil
end
-- One more, or one less, of an account's leases in this pass. What someone wrote there meanwhile is no count: begin anew.
local restart = false
local function add(account, more)
  if type(redis.pcall('HINCRBY', USED, '#' .. account, more)) == 'table' then
    restart = true
  end
end

local function scan(command, key)
  local page = call(command, key, cursor, 'COUNT', most)
  cursor = page[1]
  return page[2]
end

if stage == 'clear' or stage == 'clean' then
  -- What this pass leaves behind, or an earlier one that did not end.
  local list = scan('HSCAN', USED)
  for i = 1, #list, 2 do
    if string.byte(list[i]) == 35 then
      call('HDEL', USED, list[i])
    end
  end
  if cursor == '0' and stage == 'clean' then
    call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', 'start', 'cursor', '0', 'drift', 0, 'revive', '')
    call('PEXPIRE', PASS, silence)
    return answer('done')
  elseif cursor == '0' then
    -- Another number than any mark that a lease still carries.
    pass = string.format('%.0f', math.max(now, last + 1))
    call('HSET', ACCOUNTS, '#pass', pass)
    call('HSET', PASS, 'last', pass)
    stage = 'count'
  end
elseif stage == 'count' then
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
elseif stage == 'leases' then
  local list = scan('ZSCAN', LEASES)
  for i = 1, #list, 2 do
    if call('HEXISTS', OWNER, list[i]) == 0 and call('ZREM', LEASES, list[i]) == 1 then
      drift = drift + 1
    end
  end
  if cursor == '0' then
    stage = 'unknown'
  end
elseif stage == 'unknown' then
  -- Counts of accounts that have no record.
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
elseif stage == 'compare' then
  local lost = call('HEXISTS', ACCOUNTS, '#uncounted') == 1
  local list = scan('HSCAN', ACCOUNTS)
  for i = 1, #list, 2 do
    local account = list[i]
    local record = string.byte(account) ~= 35 and call('HGET', ACCOUNTS, account)
    local gone = string.match(account, '^#probe:(.*)')
    if gone and call('HEXISTS', ACCOUNTS, gone) == 0 then
      -- Older scripts remove an account and leave its probe.
      call('HDEL', ACCOUNTS, account)
    elseif gone and list[i + 1] ~= '' and not tool.is_id(list[i + 1]) then
      wrong(tool.name_of('accounts', account) .. ': not a lease')
      call('HSET', ACCOUNTS, account, '')
    end
    local max, _, _, flags = tool.parts(record or '')
    local counted = record and count_of('#' .. account)
    if record and not (max and tool.is_id(account)) then
      wrong(tool.name_of('accounts', account) .. ': not an account with a record')
      call('HDEL', ACCOUNTS, account)
      call('ZREM', FREE, account)
      if tool.is_id(account) then
        -- Whoever has these accounts configured puts it in again.
        call('HDEL', ACCOUNTS, '#digest')
        meta[4] = nil
      else
        call('HDEL', USED, account)
      end
    elseif record and not counted then
      restart = true
    elseif record then
      local before = count_of(account)
      if before ~= counted then
        drift = drift + (before and 1 or 0)
        if not before then
          wrong(tool.name_of('used', account) .. ': not a number')
        end
      end
      if before ~= counted or lost then
        call('HSET', USED, account, counted)
      end
      -- Not free although it waits for a probe: so leave it the scripts of an older version, which know no probes and would do
      -- it again. It is let go.
      if flags == tool.COOLING and counted < max and not call('ZSCORE', FREE, account)
        and tool.wants_probe(account) then
        call('HDEL', ACCOUNTS, '#probe:' .. account)
      end
      local probed = not call('ZSCORE', COOLDOWN, account) and call('HEXISTS', ACCOUNTS, '#probe:' .. account) == 1
      local now_true = {[tool.COOLING] = probed or call('ZSCORE', COOLDOWN, account) and true or false}
      local drained = redis.pcall('HEXISTS', KEYS[8], 'drain:' .. account)
      if type(drained) == 'number' then
        now_true[tool.DRAINED] = drained == 1
      end
      for flag, true_now in pairs(now_true) do
        if flags < tool.REMOVED and (math.floor(flags / flag) % 2 == 1) ~= true_now then
          tool.flag(account, flag, true_now)
          record = call('HGET', ACCOUNTS, account)
          -- A recount of an older version takes the flag of one that probes away: nobody broke anything.
          drift = drift + (flag == tool.COOLING and probed and 0 or 1)
        end
      end
      if flags < tool.REMOVED and tool.behind(account, call('ZSCORE', COOLDOWN, 'behind:' .. account) and true or false) then
        record = call('HGET', ACCOUNTS, account)
        drift = drift + 1
      end
      local score = call('ZSCORE', FREE, account)
      refresh_free(account, record, counted)
      if score ~= call('ZSCORE', FREE, account) then
        drift = drift + 1
      end
    end
  end
  if cursor == '0' then
    call('HDEL', ACCOUNTS, '#uncounted')
    stage = 'cooldown'
  end
elseif stage == 'cooldown' then
  -- Of an account that is gone it ends by itself.
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
else
  -- Accounts in `free` that have no record.
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
if restart then
  stage, cursor = 'start', '0'
end
call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', stage, 'cursor', cursor, 'drift', drift, 'revive', revive or '')
call('PEXPIRE', PASS, silence)
return answer('working')
