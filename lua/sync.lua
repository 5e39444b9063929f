-- sync: put a pool's accounts in force, if their revision is higher than what Redis holds.
--
-- A small pool's go in one call. Those of a large one go in parts, so that Redis serves others between two calls and the pool
-- works on with what it has: `first` and `more` put accounts in, `sweep` shows what is there so that the caller can tell what
-- has vanished, and `last` takes that away and puts the revision in force. One worker does this at a time; when it dies half
-- way, another one begins again after 10 s. A pool that was empty takes leases of what was put in so far, under revision 0.
--
-- KEYS  the six of ledger.lua; 7 control (HASH, operator's overrides: drain:<account> -> 1)
-- ARGV  1 revision, 1..2^53-1
--       2 digest of the accounts and weights: tells apart two configurations with one revision
--       3 epoch to begin with when the ledger is empty, a random whole number
--       4 full weight of the load, millionths
--       5.. four for each account: id, max_concurrency, base, 1 when disabled and else 0
--       Without accounts it only asks whether they are wanted.
--       Or 5 is @, and then
--       6 the longest this Envoy's leases last, ms; 0: nothing is said of it
--       7 the longest its cooldowns last, ms; 0: the same
--       8 who asks, [A-Za-z0-9._-]{1,64}
--       9 part: whole  as without @, but into a large pool only in parts
--               first, more  10.. four for each account
--               sweep  10 cursor, 0 to begin with; 11.. ids to take away
--               last   10.. ids to take away
--               stray  10.. ids to take away if these accounts are in force: nobody configured them
-- Returns {answer, revision in force, epoch}
--         wanted    send them (without accounts; or once more from the first part)
--         replaced  they are in force now
--         part      send the next part; of sweep {part, cursor or 0, ids with a space between}
--         coming    someone else puts these in force just now, or a higher revision's
--         current   this revision was in force already
--         newer     a higher one is in force; nothing changed
--         differs   this revision is in force with other accounts; nothing changed
-- Errors  BADARG, WRONGTYPE; nothing is written then
-- Cost  O(accounts · log accounts) of those in the call, else O(1)
-- How many accounts are read and written together; how many `sweep` shows; how long who syncs in parts may be silent, ms.
local TOGETHER, SHOWN, SILENCE = 500, 1000, 10000
-- With more fields in `accounts`, a full set in one call would take away too many others at once: 500 accounts, each with its
-- probe, and what else stands there.
local SMALL = 1020

local tool = tools()
local revision = tool.whole(ARGV[1], 'revision', 1, 9007199254740991)
local digest = ARGV[2]
tool.whole(ARGV[3], 'epoch', 0, 9007199254740991)
local load = tool.whole(ARGV[4], 'load', 0, 1e9)
-- Where the accounts, or the ids to take away, begin; and how many arguments each of them has.
local part, first, words, by, ttl, rest = 'whole', 5, 4, nil, 0, 0
if ARGV[5] == '@' then
  ttl, rest = tool.whole(ARGV[6], 'ttl_ms', 0, 86400000), tool.whole(ARGV[7], 'longest_cooldown_ms', 0, 86400000)
  by, part, first = tool.id(ARGV[8], 'by'), ARGV[9], 10
end
local cursor
if part == 'sweep' then
  cursor = tool.digits(ARGV[first], 20) or tool.refuse('BADARG cursor: not a whole number')
  first, words = first + 1, 1
elseif part == 'last' or part == 'stray' then
  words = 1
elseif part ~= 'whole' and part ~= 'first' and part ~= 'more' then
  tool.refuse('BADARG part: not whole, first, more, sweep, last or stray')
end
local listed, accounts = words == 4, (#ARGV - first + 1) / words
if accounts ~= math.floor(accounts) then
  tool.refuse('BADARG accounts: not four arguments each')
end
for i = first, #ARGV, words do
  tool.id(ARGV[i], 'account')
  if listed then
    tool.whole(ARGV[i + 1], 'max_concurrency', 1, 100000)
    tool.whole(ARGV[i + 2], 'base', 0, 1e15)
    tool.whole(ARGV[i + 3], 'disabled', 0, 1)
  end
end

tool.check_keys()
local held = call('HMGET', ACCOUNTS, '#revision', '#digest', '#epoch', '#coming')
-- What cannot be there counts as not there, and is put right by a sync.
local held_revision, held_digest, held_epoch = tool.digits(held[1]), tool.digits(held[2], 20), tool.digits(held[3])
local in_force = held_epoch and tonumber(held_revision)
local epoch = held_epoch or ARGV[3]
local now = tool.now_ms()
if in_force then
  tool.note_longest(ttl, rest, now)
end

-- The sync in parts that is under way, and what was in force when it began.
local coming, coming_digest, coming_by, ends, coming_after = string.match(held[4] or '', '^(%d+) (%S+) (%S+) (%d+) (%S+)$')
ends = tonumber(ends or 0)
local live = tool.digits(coming) and ends > now and ends <= now + SILENCE
local after = (held_revision or '-') .. '/' .. (held_digest or '-')

-- Takes an account away. Its leases finish; the last one takes the record with it.
local function take_away(account)
  local record = call('HGET', ACCOUNTS, account)
  if not record or string.sub(account, 1, 1) == '#' then
    return
  end
  call('ZREM', COOLDOWN, account, 'behind:' .. account)
  call('HDEL', ACCOUNTS, '#probe:' .. account)
  if tool.parts(record) then
    record = string.gsub(record, '%d+$', tool.REMOVED)
    call('HSET', ACCOUNTS, account, record)
  else
    call('HDEL', ACCOUNTS, account)
    record = false
    call('ZREM', FREE, account)
  end
  refresh_free(account, record, tool.count(account) or 1)
end

local function take_away_listed()
  for i = first, #ARGV do
    take_away(ARGV[i])
  end
end

-- The answer when no accounts are to be put in, or taken away, by this call; nil: they are. Strays go here.
local function answer_at_once()
  if in_force and in_force > revision then
    return {'newer', held_revision, epoch}
  end
  if in_force == revision and held_digest then
    if held_digest == digest and part == 'stray' then
      if live then
        -- It may be one of those that come.
        return {'coming', coming, epoch}
      end
      take_away_listed()
    end
    return {held_digest == digest and 'current' or 'differs', held_revision, epoch}
  end
  if live and coming_by ~= by and tonumber(coming) >= revision and not (part == 'whole' and accounts > 0) then
    return {'coming', coming, epoch}
  end
  local mine = live and coming_by == by and coming == ARGV[1] and coming_digest == digest and coming_after == after
  local large = part == 'whole' and by and call('HSCAN', ACCOUNTS, '0', 'COUNT', SMALL)[1] ~= '0'
  if part == 'stray' or accounts == 0 and listed or large or not (part == 'whole' or part == 'first' or mine) then
    return {'wanted', held_revision or '0', epoch}
  end
end

-- Of the accounts from `at` to `last`: their ids, with something before each.
local function named(prefix, at, last)
  local names = {}
  for i = at, last, 4 do
    names[#names + 1] = prefix .. ARGV[i]
  end
  return unpack(names)
end

-- Puts these accounts in, which the ledger keeps as they cool, are behind, probe, or are drained.
local function put_in(at, last, missing)
  -- `used` may be there without `accounts`, after a loss of that key alone.
  local used = call('HMGET', USED, named('', at, last))
  local cooling = call('ZMSCORE', COOLDOWN, named('', at, last))
  local behind = call('ZMSCORE', COOLDOWN, named('behind:', at, last))
  local before = call('HMGET', ACCOUNTS, named('', at, last))
  local probes = call('HMGET', ACCOUNTS, named('#probe:', at, last))
  -- An operator's key of another type leaves drained what is drained.
  local drained = redis.pcall('HMGET', KEYS[7], named('drain:', at, last))
  local records, free = {}, {}
  for i = 1, (last - at + 1) / 4 do
    local a = at + 4 * i - 4
    local account, max, base, disabled = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3] == '1'
    local drain = drained[i]
    if drained.err then
      drain = tool.has(tonumber(string.match(before[i] or '', ' (%d+)$')) or 0, tool.DRAINED)
    end
    local flags = (disabled and tool.DISABLED or 0) + (drain and tool.DRAINED or 0)
      + ((cooling[i] or probes[i]) and tool.COOLING or 0)
    records[2 * i - 1] = account
    records[2 * i] = string.format('%d %.0f %.0f %d', max, load, base + (behind[i] and BEHIND or 0), flags)
  end
  call('HSET', ACCOUNTS, unpack(records))
  for i = 1, #records / 2 do
    -- A count that is none, or lost, keeps the account out of `free` until the recount.
    refresh_free(records[2 * i - 1], records[2 * i], tonumber(used[i] or missing) or math.huge, free)
  end
  if free[1] then
    call('ZADD', FREE, unpack(free))
  end
end

-- Puts all accounts of this call in; and takes away what has vanished, when they are all that there are.
local function put_all_in()
  local gone = part == 'whole' and call('HGETALL', ACCOUNTS) or {}
  if not in_force and (part == 'whole' or part == 'first') then
    -- What a lost `accounts` left behind.
    call('DEL', FREE)
  end
  local missing = tool.uncounted() and math.huge or 0
  for at = first, #ARGV, 4 * TOGETHER do
    put_in(at, math.min(at + 4 * TOGETHER - 1, #ARGV), missing)
  end
  if part == 'first' and not in_force then
    held_revision, after = '0', '0/' .. (held_digest or '-')
    call('HSET', ACCOUNTS, '#revision', held_revision, '#epoch', epoch)
  end
  local put = {}
  for i = first, #ARGV, 4 do
    put[ARGV[i]] = true
  end
  for i = 1, #gone, 2 do
    if not put[gone[i]] then
      take_away(gone[i])
    end
  end
end

-- What is there, for the caller to tell what has vanished.
local function show()
  local page, ids = call('HSCAN', ACCOUNTS, cursor, 'COUNT', SHOWN), {}
  for i = 1, #page[2], 2 do
    ids[#ids + 1] = tool.is_id(page[2][i]) and page[2][i] or nil
  end
  return {'part', page[1], table.concat(ids, ' ')}
end

local answer = answer_at_once()
if answer then
  return answer
end
if listed then
  put_all_in()
end
if part == 'first' or part == 'more' or part == 'sweep' then
  call('HSET', ACCOUNTS, '#coming', string.format('%s %s %s %.0f %s', ARGV[1], digest, by, now + SILENCE, after))
end
if part == 'first' or part == 'more' then
  return {'part', held_revision or '0', epoch}
end
if not listed then
  take_away_listed()
end
if part == 'sweep' then
  return show()
end
call('HDEL', ACCOUNTS, '#coming')
-- The last: with a value this long Redis stores no hash as a list, which it would search from end to end for each field.
call('HSET', ACCOUNTS, '#revision', ARGV[1], '#digest', digest, '#epoch', epoch, '#table', string.rep('-', 72))
tool.note_longest(ttl, rest, now)
tool.note_next_end()
return {'replaced', ARGV[1], epoch}
