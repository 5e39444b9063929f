-- release: end leases, however often it is asked.
--
-- KEYS  the six of ledger.lua
-- ARGV  1.. lease ids, 1..1000
-- Returns how many of them were live, an integer; an unknown id counts 0 and changes nothing
-- Errors  BADARG; nothing is written then
-- Flags  allow-oom: it only frees
-- Cost  O(log accounts + log leases) each; seven commands, however many they are
if #ARGV < 1 or #ARGV > 1000 then
  return redis.error_reply('BADARG leases: not 1..1000 of them')
end
for i = 1, #ARGV do
  if #ARGV[i] < 1 or #ARGV[i] > 64 or string.find(ARGV[i], '[^%w._-]') then
    return redis.error_reply('BADARG lease: not [A-Za-z0-9._-]{1,64}')
  end
end
return end_leases(ARGV)
