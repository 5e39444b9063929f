-- What the scripts share that tell the states of accounts: inspect and overrides. Follows ledger.lua.
--
-- The state of an account with this record, as the next acquire would see it at `now`, ms; `longest` is how long a cooldown may be.
-- Answers
--   free | probe (free for one lease) | behind (free when no other is) | full | probing (by that one) | disabled | drained
--     | paced (out of turns) | cooling | removed; of several the last one named. One that an answer took out of use is disabled,
--     not cooling
--   until when it cools, ms, or 0
--   what took it out of use, "why since until", ms, the last 0 when it has no end; or empty: no answer has taken it out of use
--   its base without BEHIND
-- A cooldown, or a time behind, that is over but not cleared away yet counts as over.
local function state_of(account, max, base, flags, used, now, longest)
  local tool = tools()
  -- What Redis' clock, set back, left too long is cut by who meets it.
  local ends = math.min(tonumber(call('ZSCORE', COOLDOWN, account) or 0), longest)
  local behind = base >= BEHIND
  if behind then
    base = base - BEHIND
    behind = tonumber(call('ZSCORE', COOLDOWN, 'behind:' .. account) or 0) > now
  end
  local state = used < max and (behind and 'behind' or 'free') or 'full'
  local probe = tool.has(flags, tool.COOLING) and tool.probe_of(account)
  if probe and probe ~= '' then
    state = 'probing'
  elseif probe and used < max and not behind then
    -- Of one that is behind this says less: that decides whether it is chosen.
    state = 'probe'
  end
  if tool.has(flags, tool.DISABLED) then
    state = 'disabled'
  end
  if tool.has(flags, tool.DRAINED) then
    state = 'drained'
  end
  local may_be_off = tool.has(flags, tool.DISABLED) or tool.has(flags, tool.COOLING)
  local off = may_be_off and call('HGET', ACCOUNTS, '#off:' .. account) or ''
  local why, since = string.match(off, '^([%w._-]+) (%d+) %d+$')
  -- What older scripts leave behind of one that is back says nothing.
  if not tool.is_id(why) or #since > 16 or not string.find(off, tool.NO_END) and ends <= now and not probe then
    off = ''
  else
    off = why .. ' ' .. since .. ' ' .. (string.find(off, tool.NO_END) and '0' or string.format('%.0f', ends))
  end
  if ends > now then
    state = off == '' and 'cooling' or 'disabled'
  end
  if flags >= tool.REMOVED then
    state = 'removed'
  end
  if state == 'cooling' and tool.is_paced(call('HGET', ACCOUNTS, '#pace:' .. account), ends) then
    state = 'paced'
  end
  return state, ends, off, base
end

