-- reconcile: prove that the counts are true, and mend what someone broke by hand. One step of bounded work.
--
-- A pass counts every lease once, in steps, while acquires and releases go on. A lease that the pass has counted carries its
-- number in `owner`; those taken during the pass carry it from the start; a release takes a counted one off again. So when
-- the last step has seen all of `owner`, `#<account>` in `used` is exact at any moment, and each account's count can be
-- compared, in steps again.
--
-- KEYS  the six of ledger.lua
--       7 pass (HASH: by, until ms, stage, cursor, drift; last, its number), the pass under way; it ends with who runs it
--       8 control (HASH, see control.lua)
-- ARGV  1 who asks, [A-Za-z0-9._-]{1,64}: only one in the fleet runs the passes. A number and a dot in front say how much its
--         pass knows of the ledger, none: 0. Who knows more takes over at once: it mends what the other would take for wrong.
--       2 how long it may stay silent before another takes over, ms
--       3 about how many entries to look at, 1..10000
-- Returns {state, drift}: elsewhere, someone else runs it | working | done, with the drift found and mended in this pass:
--         one for each lease without owner, owner without lease, wrong count or flag, account wrongly in or out of `free`
-- Errors  BADARG; nothing is written then
-- Flags  allow-oom: it frees slots
-- Cost  O(ARGV 3 · log leases)
local tool = tools()
local by = tool.id(ARGV[1], 'by')
local silence = tool.whole(ARGV[2], 'silence_ms', 1, 86400000)
local most = tool.whole(ARGV[3], 'count', 1, 10000)
local PASS = KEYS[7]
local now = tool.now_ms()
local state = call('HMGET', PASS, 'by', 'until', 'stage', 'cursor', 'drift', 'last')
local function knows(name)
  return tonumber(string.match(name, '^(%d+)%.') or 0)
end
if state[1] and state[1] ~= by and tonumber(state[2]) > now and knows(state[1]) >= knows(by) then
  return {'elsewhere', 0}
end
local stage, cursor, drift = state[3] or 'start', state[4] or '0', tonumber(state[5] or 0)
local pass = call('HGET', ACCOUNTS, '#pass')
if not pass and stage ~= 'clear' and stage ~= 'clean' then
  stage = 'start'
end

if stage == 'start' then
  -- Nobody may count for a pass before what an earlier one left behind is cleared away.
  call('HDEL', ACCOUNTS, '#pass')
  stage, cursor, drift = 'clear', '0', 0
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
    call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', 'start', 'cursor', '0', 'drift', 0)
    call('PEXPIRE', PASS, silence)
    return {'done', drift}
  elseif cursor == '0' then
    -- Another number than any mark that a lease still carries.
    pass = string.format('%.0f', math.max(now, tonumber(state[6] or 0) + 1))
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
    if not call('ZSCORE', LEASES, lease) then
      drift = drift + call('HDEL', OWNER, lease)
      if mark == pass then
        call('HINCRBY', USED, '#' .. account, '-1')
      end
    elseif mark ~= pass then
      call('HSET', OWNER, lease, account .. ':' .. pass)
      call('HINCRBY', USED, '#' .. account, '1')
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
    local account = list[i]
    if string.byte(account) ~= 35 and call('HEXISTS', ACCOUNTS, account) == 0 then
      local counted = tool.used('#' .. account)
      if tool.used(account) ~= counted then
        drift = drift + 1
        call('HSET', USED, account, counted)
      end
      settle(account, false, counted)
    end
  end
  if cursor == '0' then
    stage = 'compare'
  end
elseif stage == 'compare' then
  local list = scan('HSCAN', ACCOUNTS)
  for i = 1, #list, 2 do
    local account = list[i]
    local record = string.byte(account) ~= 35 and call('HGET', ACCOUNTS, account)
    local gone = string.match(account, '^#probe:(.*)')
    if gone and call('HEXISTS', ACCOUNTS, gone) == 0 then
      -- Older scripts remove an account and leave its probe.
      call('HDEL', ACCOUNTS, account)
    end
    if record then
      local counted = tool.used('#' .. account)
      if tool.used(account) ~= counted then
        drift = drift + 1
        call('HSET', USED, account, counted)
      end
      local flags = tonumber(string.match(record, '%d+$'))
      -- Not free although it waits for a probe: so leave it the scripts of an older version, which know no probes and would do
      -- it again. It is let go.
      if flags == tool.COOLING and counted < tonumber(string.match(record, '^%d+')) and not call('ZSCORE', FREE, account)
        and tool.wants_probe(account) then
        call('HDEL', ACCOUNTS, '#probe:' .. account)
      end
      local probed = not call('ZSCORE', COOLDOWN, account) and call('HEXISTS', ACCOUNTS, '#probe:' .. account) == 1
      for flag, true_now in pairs({
        [tool.COOLING] = probed or call('ZSCORE', COOLDOWN, account) and true or false,
        [tool.DRAINED] = call('HEXISTS', KEYS[8], 'drain:' .. account) == 1,
      }) do
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
      local before = call('ZSCORE', FREE, account)
      settle(account, record, counted)
      if before ~= call('ZSCORE', FREE, account) then
        drift = drift + 1
      end
    end
  end
  if cursor == '0' then
    tool.wake()
    stage = 'free'
  end
else
  -- Accounts in `free` that have no record.
  local list = scan('ZSCAN', FREE)
  for i = 1, #list, 2 do
    if call('HEXISTS', ACCOUNTS, list[i]) == 0 and call('ZREM', FREE, list[i]) == 1 then
      drift = drift + 1
    end
  end
  if cursor == '0' then
    call('HDEL', ACCOUNTS, '#pass')
    stage = 'clean'
  end
end
call('HSET', PASS, 'by', by, 'until', now + silence, 'stage', stage, 'cursor', cursor, 'drift', drift)
call('PEXPIRE', PASS, silence)
return {'working', drift}
