-- What the scripts share that note what was changed, and by whom: control, account and sync. Follows ledger.lua and queue.lua.
--
--   changes  LIST  the newest first: "<ms> <by> <what> <of what> <before> <now>", a tab between. `by` is the name that an
--                  operator has given, or empty: a configuration
-- How many are kept; how long a name is that is kept, bytes.
local CHANGES, NAME = 100, 64

-- Notes a change. This comes after writes, and a user of Redis may lack the right to it: what can't be noted is not.
local function note_change(key, now, by, what, subject, before, after)
  local words = {string.format('%.0f', now), string.sub(by or '', 1, NAME), what, subject, before, after}
  for i = 1, #words do
    words[i] = string.gsub(words[i], '%c', '?')
  end
  local line = table.concat(words, '\t')
  if type(redis.pcall('LPUSH', key, line)) == 'number' then
    redis.pcall('LTRIM', key, 0, CHANGES - 1)
  end
end

