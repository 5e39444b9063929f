-- control: what an operator changes by hand, kept through restarts of Envoy and new revisions. Accounts follow at once; the
-- percentage, and drains where a worker chooses by itself, as soon as each worker polls (overrides.lua, control.poll_ms).
--
-- KEYS  the eight of ledger.lua
--       9 control (HASH: drain:<account id> -> 1; percent -> basis points)
--       10 changes (LIST, see changes.lua)
--       11 the key that holds the session (STRING, see acquire.lua), only for unbind
-- ARGV  1 verb: drain     no new leases of the account, holders finish
--               undrain   the other way
--               percent   the percentage of the gray release, instead of the configured one
--               thaw      end the account's cooldown, its probing, its being behind, and its being out of use
--               unbind    forget the session's account
--       2 account id; basis points 0..10000, or empty for the configured ones; the session's tag, 16 hex digits
--       3 who asks, for `changes`; empty: nobody says
-- Returns {old, new}, each empty when nothing is set; old is ? when the old value is far too long
-- Errors  NOACCOUNT, BADARG, WRONGTYPE, GARBAGE; nothing is written then
-- Flags  allow-oom: an operator needs it most when things are full
-- Cost  O(log accounts)
local tool = tools()
local verb, subject, by = ARGV[1], ARGV[2] or '', ARGV[3]
local CONTROL, CHANGES = KEYS[9], KEYS[10]
if type(redis.pcall('HEXISTS', CONTROL, 'percent')) == 'table' then
  tool.refuse('WRONGTYPE control is no hash')
end
-- What stands there, whoever wrote it; ?: far too long.
local function held(field)
  local text = call('HGET', CONTROL, field) or ''
  return #text > 5 and '?' or text
end
if verb == 'drain' or verb == 'undrain' or verb == 'thaw' then
  -- The other verbs, the kill switch first of all, need none of them.
  tool.check_keys()
  tool.id(subject, 'account')
  -- One that was drained and is no longer configured can still be let go.
  if not call('HGET', ACCOUNTS, subject) and not (verb == 'undrain' and call('HGET', CONTROL, 'drain:' .. subject)) then
    return redis.error_reply('NOACCOUNT ' .. subject .. ' is not in this pool')
  end
  -- What may fail comes before the first write.
  tool.used(subject)
end
if verb == 'drain' or verb == 'undrain' then
  local old = held('drain:' .. subject)
  if verb == 'drain' then
    call('HSET', CONTROL, 'drain:' .. subject, '1')
  else
    call('HDEL', CONTROL, 'drain:' .. subject)
  end
  tool.flag(subject, tool.DRAINED, verb == 'drain')
  local now, new = tool.now_ms(), verb == 'drain' and '1' or ''
  if old ~= new then
    note_change(CHANGES, now, by, verb, subject, '', '')
  end
  tool.serve(now)
  return {old, new}
elseif verb == 'percent' then
  if subject ~= '' then
    subject = string.format('%d', tool.whole(subject, 'percent', 0, 10000))
  end
  local old = held('percent')
  if subject ~= '' then
    call('HSET', CONTROL, 'percent', subject)
  else
    call('HDEL', CONTROL, 'percent')
  end
  if old ~= subject then
    note_change(CHANGES, tool.now_ms(), by, verb, '', old, subject)
  end
  return {old, subject}
elseif verb == 'thaw' then
  local behind = 'behind:' .. subject
  local off = call('HGET', ACCOUNTS, '#off:' .. subject)
  local old = call('ZSCORE', COOLDOWN, subject) or call('ZSCORE', COOLDOWN, behind)
    or (off or call('HGET', ACCOUNTS, '#probe:' .. subject)) and '0' or ''
  call('ZREM', COOLDOWN, subject, behind)
  call('HDEL', ACCOUNTS, '#probe:' .. subject, '#off:' .. subject)
  if off and string.find(off, tool.NO_END) then
    tool.flag(subject, tool.DISABLED, false)
  end
  tool.flag(subject, tool.COOLING, false)
  tool.behind(subject, false)
  tool.note_next_end()
  local now = tool.now_ms()
  if old ~= '' then
    note_change(CHANGES, now, by, verb, subject, '', '')
  end
  tool.serve(now)
  return {old, ''}
elseif verb == 'unbind' then
  if not KEYS[11] then
    tool.refuse('BADARG session: its key is missing')
  end
  if #subject ~= 16 or string.find(subject, '%X') then
    tool.refuse('BADARG session: its tag is not 16 hex digits')
  end
  local value = call('GET', KEYS[11]) or ''
  local at, stop = string.find(value, '=' .. subject, 1, true)
  if not at then
    return {'', ''}
  end
  local account, ends = string.match(value, '^.([^ ]*) (%d+)', stop + 1)
  value = string.sub(value, 1, at - 1) .. string.sub(value, string.find(value, '=', stop, true) or #value + 1)
  if value == '' then
    call('DEL', KEYS[11])
  else
    call('SET', KEYS[11], value, 'KEEPTTL')
  end
  local now = tool.now_ms()
  local was = tool.is_id(account) and tonumber(ends) > now and account or ''
  if was ~= '' then
    note_change(CHANGES, now, by, verb, was, '', '')
  end
  return {was, ''}
end
tool.refuse('BADARG verb: not drain, undrain, percent, thaw or unbind')
