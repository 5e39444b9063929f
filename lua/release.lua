-- release: end leases, however often it is asked.
--
-- KEYS  the eight of ledger.lua
-- ARGV  1.. lease ids, 1..1000; of one that waits too
-- Returns how many of them were live, an integer; an unknown id counts 0 and changes nothing. When slots were handed on to leases
--         that waited, {that, grant ..}, each as queue.lua says it on a channel
-- Errors  BADARG; nothing is written then
-- Flags  allow-oom: it only frees
-- Cost  O(log accounts + log leases) each; seven commands, however many they are, and for each slot handed on some fifteen more,
--       O(log waiters + lines)
if #ARGV < 1 or #ARGV > 1000 then
  return redis.error_reply('BADARG leases: not 1..1000 of them')
end
for i = 1, #ARGV do
  local lease = ARGV[i]
  if #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]') then
    return redis.error_reply('BADARG lease: not [A-Za-z0-9._-]{1,64}')
  end
end
local live = end_leases(ARGV)
if queue and queue.handed[1] then
  return {live, unpack(queue.handed)}
end
return live
