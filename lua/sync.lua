-- sync: put a pool's accounts in force, if their revision is higher than what Redis holds.
--
-- A small pool's go in one call. Those of a large one go in parts, so that Redis serves others between two calls and the pool
-- works on with what it has: `first` and `more` put accounts in, `sweep` shows what is there so that the caller can tell what
-- has vanished, and `last` takes that away and puts the revision in force. One worker does this at a time; when it dies half
-- way, another one begins again after 10 s. A pool that was empty takes leases of what was put in so far, under revision 0.
--
-- Accounts may be the operators' own (account.lua): then those of the first sync of an empty pool are what it begins with, and
-- later ones only put their revision in force. What an operator has set of a configuration's accounts outlives each sync, but
-- for one that takes the accounts back from the operators.
--
-- KEYS  the eight of ledger.lua; 9 control (HASH, operator's overrides: drain:<account> -> 1); 10 roster (accounts.lua)
--       11 changes (changes.lua)
-- ARGV  1 revision, 1..2^53-1
--       2 digest of the accounts and weights: tells apart two configurations with one revision
--       3 epoch to begin with when the ledger is empty, a random whole number
--       4 full weight of the load, millionths; with a space between, "<best> <worst> <span> <weight>" of the priorities
--         (accounts.lua), whose the accounts are, config or ledger, and how low limits may fall that adapt, 0: none adapts
--       5.. four for each account: id, max_concurrency, base, 1 when disabled and else 0; with a space between, its pace
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
-- probe and one field more (its pace, or why it is out of use), and what else stands there.
local SMALL = 1520

local tool = tools()
local revision = tool.whole(ARGV[1], 'revision', 1, 9007199254740991)
local digest = ARGV[2]
tool.whole(ARGV[3], 'epoch', 0, 9007199254740991)
local load, scale, from, adapts = string.match(ARGV[4], '^(%d+) (%d+ %d+ %d+ %d+) (%a+) (%d+)$')
load = tool.whole(load or ARGV[4], 'load', 0, 1e9)
for number in string.gmatch(scale or '', '%d+') do
  tool.whole(number, 'scale', 0, 1e15)
end
local ledgers = from == 'ledger'
if from and not ledgers and from ~= 'config' then
  tool.refuse('BADARG from: not config or ledger')
end
local roster = roster_of(KEYS[10], KEYS[9])
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
    tool.whole(string.match(ARGV[i + 3], '^%S+'), 'disabled', 0, 1)
    if not roster.is_pace(string.match(ARGV[i + 3], ' (.*)$') or '-') then
      tool.refuse('BADARG pace: not requests/ms/burst')
    end
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

local function take_away_listed()
  for i = first, #ARGV do
    roster.take_away(ARGV[i])
  end
end

-- Whether what is there stays: the accounts are the ledger's, and there are some.
local keeps = ledgers and (in_force or 0) > 0

-- The answer when no accounts are to be put in, or taken away, by this call; nil: they are. Strays go here.
local function answer_at_once()
  if in_force and in_force > revision then
    return {'newer', held_revision, epoch}
  end
  if in_force == revision and held_digest then
    if held_digest == digest and part == 'stray' and not ledgers then
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
  if keeps then
    return nil
  end
  local mine = live and coming_by == by and coming == ARGV[1] and coming_digest == digest and coming_after == after
    or ledgers and part == 'last'
  local large = part == 'whole' and by and call('HSCAN', ACCOUNTS, '0', 'COUNT', SMALL)[1] ~= '0'
  if part == 'stray' or accounts == 0 and listed or large or not (part == 'whole' or part == 'first' or mine) then
    return {'wanted', held_revision or '0', epoch}
  end
end

-- Puts all accounts of this call in; and takes away what has vanished, when they are all that there are.
local function put_all_in()
  local gone = part == 'whole' and call('HGETALL', ACCOUNTS) or {}
  if not in_force and (part == 'whole' or part == 'first') then
    -- What a lost `accounts` left behind.
    call('DEL', FREE)
  end
  if part == 'whole' or part == 'first' then
    if tool.is_ledgers() then
      redis.pcall('DEL', KEYS[10])
    end
  end
  local missing = tool.uncounted() and math.huge or 0
  for at = first, #ARGV, 4 * TOGETHER do
    local ids, terms = {}, {}
    for i = at, math.min(at + 4 * TOGETHER - 1, #ARGV), 4 do
      ids[#ids + 1] = ARGV[i]
      local disabled, pace = string.match(ARGV[i + 3], '^(%d) ?(.*)$')
      terms[ARGV[i]] = {max = ARGV[i + 1], base = ARGV[i + 2], disabled = disabled, pace = pace == '' and '-' or pace}
    end
    roster.put_in(ids, terms, missing, load)
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
      roster.take_away(gone[i])
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
if scale then
  call('HSET', ACCOUNTS, '#scale', string.format('%s %.0f', scale, load))
  if tool.whole(adapts, 'adaptive', 0, 100000) > 0 then
    call('HSET', ACCOUNTS, '#adaptive', adapts)
  else
    call('HDEL', ACCOUNTS, '#adaptive')
  end
elseif listed then
  call('HDEL', ACCOUNTS, '#scale')
end
if listed and not keeps then
  put_all_in()
  tool.serve(now)
end
if not keeps and (part == 'first' or part == 'more' or part == 'sweep') then
  call('HSET', ACCOUNTS, '#coming', string.format('%s %s %s %.0f %s', ARGV[1], digest, by, now + SILENCE, after))
end
if not keeps and (part == 'first' or part == 'more') then
  return {'part', held_revision or '0', epoch}
end
if not (listed or keeps) then
  take_away_listed()
end
if part == 'sweep' and not keeps then
  return show()
end
call('HDEL', ACCOUNTS, '#coming')
-- The last: with a value this long Redis stores no hash as a list, which it would search from end to end for each field.
call('HSET', ACCOUNTS, '#revision', ARGV[1], '#digest', digest, '#epoch', epoch, '#table', string.rep('-', 72))
if ledgers then
  call('HSET', ACCOUNTS, '#ledger', digest)
else
  call('HDEL', ACCOUNTS, '#ledger')
end
tool.note_longest(ttl, rest, now)
tool.note_next_end()
note_change(KEYS[11], now, '', 'revision', '', held_revision or '', ARGV[1])
return {'replaced', ARGV[1], epoch}
