-- acquire: choose the best account for each of some leases, one after the other, and take them.
--
-- KEYS  the eight of ledger.lua
--       next  the cooldowns of each lease's scope (ZSET, account id -> until, ms), in order; or none
--       session  the key that holds each lease's session (STRING, see Sessions), in order; only with ARGV 5 above 0
-- ARGV  1 ttl, ms
--       2 seed, 0..2147483647, fresh for each call: Redis starts its own the same way at every boot
--       3 weight of the random part, millionths
--       4 mode: take   choose, and take the leases
--               dry    choose as `take` would for each alone, and write nothing (reaps nothing either)
--               force  record leases of the accounts named, whatever their counts
--               join <most waiting> <vouched for, ms> <channel>  as take; whoever finds no slot waits for one (queue.lua), unless
--                      so many wait already, 0: nobody may. Asked again, it waits on for as long as its worker vouches for it
--           take and join may end with " not <account id> ..", up to nine: the accounts that a request has tried. No lease of this
--           call gets one of them, its session stays bound where it is, and it does not wait while one of them has a free slot
--       5 how long the sessions are remembered, ms; 0: no sessions
--       6.. lease ids, [A-Za-z0-9._-]{1,64}, each once, 1..1000; with force, then as many account ids; with join as many times
--         "<cap> <most waiting> <weight> <cookie> <order>", of the lease's tenant the first three (0: no cap; 1..1000), the last -
--         or what it was told, or "+<ms>": it came so long ago, waits as if since then, and is let in however many wait; with
--         sessions, then how many bytes a session key may hold, 100..32768, and the tag of each lease's session, 16 hex digits
-- Returns {epoch, answer ..}: for each lease, in order
--         account id            the lease holds a slot of it; if it held one already, that one's
--         account id ":probe"   and it probes, for an account that has cooled: `cooldown` wants to know whether it passed
--         integer               saturated: retry after this many ms
--         "~<order> <retry> <wake>"   it waits; if it gives up, retry after this many ms; the next cooldown ends in so many ms,
--                               0: none
--         "!full <retry>"       as many wait as may; "!tenant <retry>"  its tenant holds as many leases as it may
--         nil                   the account is not in this pool (force)
-- Errors  NOPOOL (no accounts: sync first), BADARG; GARBAGE, when the ledger holds what cannot be there, and after an id
--         in `free` that is no account's was taken out of it. No lease is taken then.
-- Sessions  One key holds many, each as `=<tag><mark><account id> <until, ms>`. The mark is `,` for a new session, and `;` for one
--       that came back in time. The new ones are first, and among equals the one that was written longest ago. When a key is
--       full, its first sessions are forgotten. When those that came back take more than three quarters, the first of them
--       count as new again. So new sessions push out new ones, and no client can make a key grow.
-- Cost  O(log accounts + log leases) each; with a session, O(bytes of its key) more; with a scope, O(accounts cooling in it)
--       more, and refused, O(accounts behind) at most. Eight to thirteen commands, however many leases, and up to three more for each
--       lease that what was read for all of them does not decide.

-- How many expired leases, and ended cooldowns, one call may clear away at a time; and how many leases share that work. A
-- call that finds no free slot always does it, so nobody is refused for a lease that is over.
local REAP, SHARED_BY = 32, 4

-- The arguments, once they are known to be right. Of scopes and sessions: the place before their first key, and the one before
-- the first tag; nil: this call has none.
local function arguments()
  local argv = ARGV
  local ttl, seed, weight, mode = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
  local tried, names = nil, mode ~= 'take' and string.match(mode or '', ' not (.*)$')
  if names then
    mode, tried = string.sub(mode, 1, -#names - 6), {}
    for name in string.gmatch(names, '[^ ]+') do
      tried[#tried + 1], tried[name] = name, true
    end
  end
  local session_ttl = tonumber(ARGV[5])
  local dry, force = mode == 'dry', mode == 'force'
  local join = not dry and not force and mode ~= 'take' and string.find(mode or '', '^join %d+ [1-9]%d* %S') and #mode <= 250
  local tagged = session_ttl and session_ttl > 0 and 1 or 0
  local count = (#argv - 5 - tagged) / (((force or join) and 2 or 1) + tagged)
  local session_keys, tags, session_bytes
  if tagged == 1 then
    session_keys, tags = #KEYS - count, #argv - count
    session_bytes = tonumber(argv[tags])
  end
  local scope_keys = (session_keys or #KEYS) > 8 and 8 or nil
  local wrong = #KEYS ~= 8 + (session_keys and count or 0) + (scope_keys and count or 0)
    or tried and (dry or force or #tried < 1 or #tried > 9 or #names > 600 or string.find(names, '[^%w._ -]'))
  local seen = count > 1 and {}
  for i = 6, 5 + count do
    local lease = argv[i]
    wrong = wrong or #lease < 1 or #lease > 64 or string.find(lease, '[^%w._-]')
    if seen then
      wrong = wrong or seen[lease]
      seen[lease] = true
    end
  end
  if session_keys then
    wrong = wrong or not (session_bytes and session_bytes >= 100 and session_bytes <= 32768 and session_bytes % 1 == 0)
    for i = tags + 1, #argv do
      wrong = wrong or #argv[i] ~= 16 or string.find(argv[i], '%X')
    end
  end
  local caps = false
  for i = 6 + count, join and 5 + 2 * count or 0 do
    -- Mostly a newcomer whose tenant has no cap.
    if not string.find(argv[i], '^0 %d+ [1-9]%d* %d+ %-$') then
      local order = string.match(argv[i], '^%d+ %d+ [1-9]%d* %d+ (%S+)$')
      wrong = wrong or not order or order ~= '-' and not (#order == 19 and not string.find(order, '%D'))
        and not (#order <= 10 and string.find(order, '^%+%d+$'))
      caps = true
    end
    wrong = wrong or #argv[i] > 64
  end
  if wrong or not (ttl and ttl >= 1 and ttl <= 86400000 and ttl % 1 == 0)
    or not (seed and seed >= 0 and seed <= 2147483647 and seed % 1 == 0) or not (weight and weight >= 0 and weight <= 1e9)
    or not (session_ttl and session_ttl >= 0 and session_ttl <= 1e12 and session_ttl % 1 == 0)
    or not (count >= 1 and count <= 1000 and count % 1 == 0) or not (dry or force or join or mode == 'take') then
    local check = tools()
    check.whole(argv[1], 'ttl_ms', 1, 86400000)
    check.whole(argv[2], 'seed', 0, 2147483647)
    check.whole(argv[3], 'random', 0, 1e9)
    check.whole(argv[5], 'session_ttl_ms', 0, 1e12)
    if session_keys then
      check.whole(argv[tags], 'session bytes', 100, 32768)
    end
    for i = 6, 5 + count do
      check.id(argv[i], 'lease')
    end
    check.refuse('BADARG mode, leases, sessions or keys: not take, dry, force or join, not 1..1000 leases, one twice, a session '
      .. 'without its tag or bytes, terms that are none, accounts tried that are none, or a key too many or too few')
  end
  return ttl, seed, weight, dry, force, join, tried, caps, count, scope_keys, session_keys, tags, session_ttl, session_bytes
end
local ttl, seed, weight, dry, force, join, tried, caps, count, scope_keys, session_keys, tags, session_ttl, session_bytes = arguments()

-- What a number becomes in a command: left to Redis, it is printed with 17 digits, which costs more than the command.
local format = string.format
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The account of each lease that is new, and the owner of each that is not.
local chosen, owners = {nil}, dry and {}
-- How many leases each account gets in this call.
local given = {}
-- As Redis has it: `free` by first rank; of accounts that came up again record, count, and turns by their pace.
local pages, records, counts, turns = {}, nil, nil, nil
-- Only where several leases share the call: how many accounts are in `free`, and the last one's base; accounts dealt to them,
-- with their bases, and the place of the next.
local everyone, highest, dealt, next_dealt
-- The accounts chosen, each once and in order. Here and below a table has room for one lease, which is what most calls take: it
-- costs more to grow it.
local accounts = {nil}

-- What an account's score in `free` is after what it got here; nil: it can't take more.
local function score_now(account, score)
  local more = given[account]
  if not more then
    return tonumber(score)
  end
  if not (counts and counts[account]) then
    records, counts, turns = records or {}, counts or {}, turns or {}
    -- With all others that may come up again: two commands, however many they are.
    local names = {}
    for _, name in ipairs(accounts) do
      if not counts[name] then
        names[#names + 1] = name
      end
    end
    local held, size = call('HMGET', USED, unpack(names)), #names
    for k = 1, size do
      names[size + k] = '#pace:' .. names[k]
    end
    local found = call('HMGET', ACCOUNTS, unpack(names))
    for k = 1, size do
      local name, pace = names[k], found[size + k]
      records[name], counts[name] = found[k], tonumber(held[k] or 0) or math.huge
      turns[name] = pace and tools().turns(pace, time[1] * 1000000 + time[2])
    end
  end
  if turns[account] and more >= turns[account] then
    return nil
  end
  local used = more + counts[account]
  -- As in `refresh_free`, but one that cools has got its one probe.
  local max, load, base, flags = string.match(records[account] or '', '^(%d+) (%d+) (%d+) (%d+)$')
  return flags == OPEN and used < tonumber(max) and base + math.floor(load * used / max) or nil
end

-- The account with the least base + weight * u, as if each in `free` had drawn its own even u, in O(log accounts).
-- The first few do draw. Those behind can only win below the best score so far, and are drawn from together: at s, an
-- account whose base is below s comes next with hazard 1 / (weight - (s - base)), so the winner is the first point of a
-- Poisson process that bounds them all from above, thinned to the true hazards (Lewis and Shedler 1979).
-- One that got a lease here stands in `free` with a score lower than its own by now, so that it is bounded too.
local function choose(shut)
  -- How many accounts draw one by one, before the rest is drawn from together.
  local PAGE = 4
  -- The draw ends after this many tries, with the best found so far: it takes one or two in a pool of any size.
  local TRIES = 64
  local random = math.random
  local account, score = nil, math.huge
  local from, page, fresh = 0, nil, nil
  repeat
    page = pages[from]
    if not page then
      page = call('ZRANGE', FREE, from == 0 and '0' or format('%d', from), format('%d', from + PAGE - 1), 'WITHSCORES')
      pages[from] = page
    end
    for i = 1, #page, 2 do
      local base = tonumber(page[i + 1])
      if base >= score then
        return account
      end
      if not (shut and shut[page[i]]) then
        base = score_now(page[i], base)
        fresh = fresh or not given[page[i]]
        local drawn = base and base + weight * random() or score
        if drawn < score then
          account, score = page[i], drawn
        end
      end
    end
    from = from + PAGE
    -- With one that stands where it belongs among them, the best is less than `weight` above those behind.
  until fresh or #page < 2 * PAGE
  if #page < 2 * PAGE then
    return account
  end
  -- Windows from `low` to `high`. One that holds many more accounts than can be in play wastes tries on those at its far
  -- end: with even density, the winner lies about sqrt(2 * width * weight / others) above `low`. Equal bases need none.
  local low, high = tonumber(page[2 * PAGE]), score
  local least = low
  local wide = page[2] ~= page[2 * PAGE]
  local others, room, s
  for try = 1, TRIES do
    if not others then
      if count > 1 and not everyone then
        everyone, highest = call('ZCARD', FREE), tonumber(call('ZRANGE', FREE, '-1', '-1', 'WITHSCORES')[2])
      end
      for pass = 1, 2 do
        others = (highest and highest < high and everyone or call('ZCOUNT', FREE, '-inf', format('(%d', math.ceil(high)))) - from
        if pass == 2 or not wide or others * (high - low) <= 8 * weight then
          break
        end
        high = low + math.sqrt(8 * (high - low) * weight / others)
      end
      room, s = weight - (high - least), low
    end
    s = others > 0 and s - math.log(1 - random()) * room / others or high
    if s < high then
      local other, base
      if try == 1 and from == PAGE and everyone == from + others then
        -- All behind are in play. Either this call reads them once; or it deals neighbours from an even random one on, one to each
        -- lease. To each lease they are as likely as if it had drawn by itself, but two get the same one less often. Whoever draws
        -- once more does that by itself.
        if not dealt or others > count and not dealt[next_dealt] then
          local first, size = from, others
          if others > count then
            first, size = from + random(0, others - 1), count
          end
          dealt, next_dealt = call('ZRANGE', FREE, format('%d', first), format('%d', first + size - 1), 'WITHSCORES'), 1
          if first + size > everyone then
            local rest = call('ZRANGE', FREE, format('%d', from), format('%d', from + first + size - everyone - 1), 'WITHSCORES')
            for k = 1, #rest do
              dealt[#dealt + 1] = rest[k]
            end
          end
        end
        if others <= count then
          next_dealt = 2 * random(others) - 1
        end
        other, base = dealt[next_dealt], dealt[next_dealt + 1]
        next_dealt = next_dealt + 2
      else
        local rank = format('%d', from + random(0, others - 1))
        other, base = unpack(call('ZRANGE', FREE, rank, rank, 'WITHSCORES'))
      end
      base = score_now(other, base)
      local behind = base and s - base or 0
      if behind > 0 and not (shut and shut[other]) and random() * (weight - behind) < room then
        return other
      end
      if not wide then
        low, wide, others = s, true, nil
      end
    elseif high == score then
      break
    else
      low, high, others = high, score, nil
    end
  end
  return account
end

-- Which accounts cool in the scope that has this key.
local cooling_in
if scope_keys then
  local shut_in = {}
  function cooling_in(scope)
    if not shut_in[scope] then
      local shut, last_end = {}, nil
      for k, member in ipairs(redis.pcall('ZRANGEBYSCORE', scope, format('(%d', now), '+inf', 'WITHSCORES')) do
        if k % 2 == 1 then
          shut[member] = true
        else
          last_end = member
        end
      end
      -- None may cool for longer than it may cool: Redis' clock was set back.
      local longest = last_end and not dry and tools().longest('#rest')
      if longest and last_end - now > longest then
        tools().cut(scope, now, longest)
        call('PEXPIREAT', scope, format('%.0f', now + longest))
      end
      shut_in[scope] = shut
    end
    return shut_in[scope]
  end
end

-- The accounts that a lease may not have: those that its request has tried, and those that cool in its scope.
local beside_tried
if tried then
  function beside_tried(shut)
    local all = {}
    for account in pairs(shut or {}) do
      all[account] = true
    end
    for _, account in ipairs(tried) do
      all[account] = true
    end
    return all
  end
end

-- With `free` empty: an account that could take a lease once what is over were cleared away; nil: none.
local would_be_free
if dry then
  function would_be_free(shut)
    local tool, ended = tools(), {}
    for _, account in ipairs(call('ZRANGEBYSCORE', COOLDOWN, '-inf', now, 'LIMIT', 0, REAP)) do
      ended[account] = 0
    end
    for _, lease in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, REAP)) do
      local account = string.match(call('HGET', OWNER, lease) or '', '^[^:]*')
      ended[account] = (ended[account] or 0) + 1
    end
    for account, leases in pairs(ended) do
      local record = call('HGET', ACCOUNTS, account)
      local max, flags = string.match(record or '', '^(%d+) %d+ %d+ (%d+)$')
      local cooled = flags == COOLING and tonumber(call('ZSCORE', COOLDOWN, account) or 0) <= now
      cooled = cooled and tonumber(call('ZSCORE', LEASES, tool.probe_of(account) or '') or 0) <= now
      if (flags == OPEN or cooled) and not (shut and shut[account]) and tool.used(account) - leases < tonumber(max) then
        return account
      end
    end
  end
end

-- Of the leases' sessions: what each key holds; by tag, the account that got one here; and the tags of the leases whose sessions
-- are to be written.
local held, account_of, unwritten, life, remembered, account_of_session, with_session
if session_keys then
  held, account_of = {}, {}
  -- How long a session that is written now is remembered: a little longer than it must, so that most leases need not write it.
  life = session_ttl + math.ceil(session_ttl / 16)

  -- The account that a session is bound to; and the one that need not be written again.
  function remembered(key, tag)
    local value = held[key] or redis.pcall('GET', key)
    -- Someone's own key under this name is none.
    value = type(value) == 'string' and string.find(value, '^=%x+[,;]') and value or ''
    held[key] = value
    local at, stop = string.find(value, '=' .. tag, 1, true)
    local space = at and string.find(value, ' ', stop, true)
    local left = space and (tonumber(string.sub(value, space + 1, space + 13)) or 0) - now or 0
    if left > 0 then
      local last = string.sub(value, stop + 2, space - 1)
      return last, left >= session_ttl and left <= life and string.sub(value, stop + 1, stop + 1) == ';' and last
    end
  end

  -- The account of a lease's session, if it can take the lease; the tag under which the account chosen is remembered, nil: the
  -- session stays where it is; and the account that need not be written again.
  function account_of_session(key, tag, shut)
    local last = account_of[tag]
    local kept = last
    if not last then
      last, kept = remembered(key, tag)
    end
    local score = last and call('ZSCORE', FREE, last)
    score = score and score_now(last, score)
    if not score then
      -- Full or cooling: another serves this request, and the session stays where its cache is.
      local record = last and call('HGET', ACCOUNTS, last)
      local flags = record and string.match(record, '%d+$')
      return nil, flags ~= OPEN and flags ~= COOLING and tag, kept
    elseif shut and shut[last] then
      return nil
    elseif score >= BEHIND then
      -- One that is behind spills too, unless all are.
      local other = choose(shut)
      if tonumber(call('ZSCORE', FREE, other)) < BEHIND then
        return other
      end
    end
    return last, tag, kept
  end

  -- The value of a key with the entry of one session, so that it is no longer than `room`.
  function with_session(value, tag, account, now, life, room)
    -- An entry is new, or its session came back in time.
    local NEW, CAME_BACK = ',', ';'
    -- Copies of the value are what this costs: Lua's collector has to clear them away.
    -- Where the session's old entry begins, and what follows it.
    local at, stop = string.find(value, '=' .. tag, 1, true)
    local rest = at and (string.find(value, '=', stop, true) or #value + 1)
    local back = at and tonumber(string.match(value, '^[^ ]* (%d+)', stop) or 0) > now
    local entry = '=' .. tag .. (back and CAME_BACK or NEW) .. account .. string.format(' %d', now + life)
    local size = #value + #entry - (at and rest - at or 0)
    -- Where those that came back begin: the mark comes 17 bytes later. And how many bytes they may take.
    local again = math.max((string.find(value, CAME_BACK, 1, true) or size + 18) - 17, 1)
    local most = math.floor(room * 3 / 4)
    if back and size <= room and again > at and size - again + rest - at < most then
      -- It was a new one, and all that came back have room.
      return string.sub(value, 1, at - 1) .. string.sub(value, rest) .. entry
    end
    if at then
      value = string.sub(value, 1, at - 1) .. string.sub(value, rest)
      again = math.max((string.find(value, CAME_BACK, 1, true) or size + 18) - 17, 1)
    end
    -- The first session that can stay.
    local first = size > room and (string.find(value, '=', size - room + 1, true) or size) or 1
    if not back then
      return string.sub(value, first, again - 1) .. entry .. string.sub(value, math.max(first, again))
    end
    if size - again >= most then
      -- The first of those that came back count as new again.
      rest = string.find(value, '=', size - most + 1, true) or size
      value = string.sub(value, 1, again - 1) .. string.gsub(string.sub(value, again, rest - 1), CAME_BACK, NEW)
        .. string.sub(value, rest)
    end
    return string.sub(value, first) .. entry
  end
end

-- By tenant: how many leases it holds, and how many this call takes for it.
local holds, takes, is_at_cap
if caps then
  -- Whether a lease's tenant holds as many as it may.
  function is_at_cap(i)
    local lease, cap = ARGV[5 + i], tonumber(string.match(ARGV[5 + count + i], '^%d+'))
    if cap == 0 or #lease ~= OF_TENANT then
      return false
    end
    local tenant = string.sub(lease, 26)
    holds[tenant] = holds[tenant] or tonumber(call('HGET', KEYS[8], tenant) or 0) or 0
    return holds[tenant] + (takes[tenant] or 0) >= cap
  end
end

-- The call itself, in one piece: a function that sees so many variables would cost as much as a command.
--
-- First an account for each lease; nothing is written so far, but to clear away what is over. When none is free, all that is
-- over is cleared away, and those without an account try once more. So do all when slots were handed on after the choice; the
-- third time nothing is.
math.randomseed(seed)
seeded = true
local pool, missing, capped, joins
-- Whether slots may have come free since the accounts were chosen; and how many had been handed on when they were.
local late, said = false, 0
-- Whether more waited for what was free than one call serves: then they come first.
local behind = false
for try = 1, 3 do
  if not dry then
    owners = call('HMGET', OWNER, unpack(ARGV, 6, 5 + count))
    local asks_again, needs_joins = false, join and try == 2
    for i = 1, join and try == 1 and count or 0 do
      if owners[i] then
        asks_again, needs_joins = asks_again or string.byte(owners[i]) == WAITS, true
      end
    end
    if needs_joins and not joins then
      -- What only those need that may have to wait.
      joins = {}
      local line = waiters().joiner()
      local most, vouched, channel = string.match(ARGV[4], '^join (%d+) (%d+) (%S+)')
      most, vouched = tonumber(most), format('%.0f', now + math.min(tonumber(vouched), 86400000))
      -- Vouches for those that wait, and puts them in again where the queue was lost.
      function joins.vouch()
        local waiting = {}
        for i = 1, count do
          if owners[i] and string.byte(owners[i]) == WAITS then
            if not line.parts(owners[i]) then
              tools().garbage('owner', ARGV[5 + i], 'an account')
            end
            waiting[#waiting + 1], waiting[#waiting + 2] = vouched, ARGV[5 + i]
          end
        end
        line.check_keys()
        call('ZADD', LEASES, unpack(waiting))
        for i = 1, count do
          if owners[i] and string.byte(owners[i]) == WAITS then
            line.put_in(ARGV[5 + i], owners[i], vouched)
          end
        end
      end

      -- Fails when a key is of another type, before anything is written. Answers how many wait, and when to come back.
      function joins.check(wait)
        local waiting = line.check_keys()
        return waiting, math.max(wait, line.estimate(waiting) or 1)
      end

      -- Whether an account that was tried has a free slot: whoever waited would be given that.
      function joins.may_be_given_tried()
        for _, account in ipairs(tried or {}) do
          if call('ZSCORE', FREE, account) then
            return true
          end
        end
        return false
      end

      -- Lets those without a slot wait, if they may, and says of each that waits where.
      function joins.answer(answers, waiting, wait)
        local before, joined, wake = #queue.handed, {}, tonumber(pool[2] or nil)
        wake = wake and math.max(wake - now, 1) or 0
        for i = 1, count do
          local lease, order = ARGV[5 + i], owners[i] and line.parts(owners[i])
          if not owners[i] and not chosen[i] then
            local cap, own_most, share, cookie, place = string.match(ARGV[5 + count + i], '^(%d+) (%d+) (%d+) (%d+) (%S+)$')
            local tenant = line.tenant_of(lease)
            own_most = tenant ~= '-' and tonumber(own_most) or 0
            if most == 0 or joins.may_be_given_tried() then
              answers[i + 1] = capped[i] and format('!tenant %d', wait) or wait
            elseif place == '-' and (waiting >= most or own_most > 0 and line.count(tenant) >= own_most) then
              answers[i + 1] = format('!full %d', wait)
            else
              local came = string.match(place, '^%+(%d+)$')
              if came then
                came = time[1] * 1000000 + time[2] - came * 1000
                order = format('%.0f%03d', came, i - 1)
              else
                order = place ~= '-' and place or format('%.0f%06d%03d', time[1], time[2], i - 1)
              end
              local scope = scope_keys and string.match(KEYS[scope_keys + i], '[^:]*$') or '-'
              local own_line = scope_keys and next(cooling_in(KEYS[scope_keys + i])) and scope or '-'
              local bound = session_keys and remembered(KEYS[session_keys + i], ARGV[tags + i])
              -- As garbage it would hide the waiter.
              bound = tools().is_id(bound) and bound or '~'
              line.join(lease, order, own_line, table.concat({scope, bound, cap, share, format('%.0f', ttl), format('%.0f', weight),
                cookie, channel}, ' '), vouched)
              waiting, joined[lease] = waiting + 1, i
            end
          end
          if order then
            wait = wait or math.max(tools().retry_after(now, 60000), line.estimate(waiting or line.count()) or 1)
            answers[i + 1] = format('~%s %d %d', order, wait, wake)
          end
        end
        if next(joined) then
          call('HSET', ACCOUNTS, '#queue', '1')
          -- What a tenant at its cap, or a scope, left free, or came free since, someone that has just joined may use.
          queue.hand_off(now, not late and {} or nil)
          for k = before + 1, #queue.handed do
            local lease, word = string.match(queue.handed[k], '^%d+ (%S+) (%S+) ')
            if joined[lease] then
              answers[joined[lease] + 1] = word
            end
          end
        end
      end

      -- A session whose lease was handed its slot is bound to that, as by an acquire.
      function joins.bind(i)
        local account, tag = string.match(owners[i], '^[^:]*'), ARGV[tags + i]
        local last, kept = account_of[tag], account_of[tag]
        if not last then
          last, kept = remembered(KEYS[session_keys + i], tag)
        end
        local record = last and last ~= account and call('HGET', ACCOUNTS, last)
        local flags = record and string.match(record, '%d+$')
        if flags ~= OPEN and flags ~= COOLING and account ~= kept then
          account_of[tag] = account
          unwritten = unwritten or {}
          unwritten[i] = tag
        end
      end
    end
    if asks_again then
      joins.vouch()
    end
    local over = (try == 2 or try == 1 and (asks_again or seed % SHARED_BY < count))
      and call('ZRANGEBYSCORE', LEASES, '-inf', format('%d', now), 'LIMIT', '0', REAP)
    if over and over[1] then
      local _, ended = end_leases(over, now)
      -- One without an owner was written by hand.
      if ended < #over then
        call('ZREM', LEASES, unpack(over))
      end
    end
    if try == 2 then
      tools().cut_late(now, ttl)
    end
    if asks_again then
      -- Whoever frees slots without handing them on, an older version or one that died, leaves them to this.
      queue.hand_off(now)
    end
    local handed = queue and #queue.handed or 0
    if over and over[1] or handed > said then
      owners = call('HMGET', OWNER, unpack(ARGV, 6, 5 + count))
    end
    if try > 1 then
      pages, records, counts, turns, everyone, highest, dealt = {}, nil, nil, nil, nil, nil, nil
    end
    if handed > said then
      said = handed
      chosen, accounts, given, account_of, unwritten = {nil}, {nil}, {}, session_keys and {}, nil
    end
    if caps then
      holds, takes = {}, accounts[1] and takes or {}
    end
  end
  missing, capped, late = false, join and {}, false
  for i = 1, count do
    if owners[i] then
      -- An account's id and a mark are shorter.
      if #owners[i] > 128 and string.byte(owners[i]) ~= WAITS then
        tools().garbage('owner', ARGV[5 + i], 'an account')
      end
    elseif not chosen[i] then
      local account, tag, kept
      if force then
        account = ARGV[5 + count + i]
      elseif caps and is_at_cap(i) then
        capped[i] = true
      elseif not behind then
        local shut = scope_keys and cooling_in(KEYS[scope_keys + i])
        if tried then
          shut = beside_tried(shut)
        end
        if session_keys then
          account, tag, kept = account_of_session(KEYS[session_keys + i], ARGV[tags + i], shut)
        end
        account = account or choose(shut) or dry and would_be_free(shut)
      end
      chosen[i] = account
      if not account then
        missing = true
      elseif not dry then
        if not given[account] then
          accounts[#accounts + 1] = account
        end
        given[account] = (given[account] or 0) + 1
        if caps then
          local tenant = string.sub(ARGV[5 + i], 26)
          takes[tenant] = (takes[tenant] or 0) + 1
        end
        if tag then
          account_of[tag] = account
          if account ~= kept then
            unwritten = unwritten or {}
            unwritten[i] = tag
          end
        end
      end
    end
  end
  pool = call('HMGET', ACCOUNTS, '#epoch', '#wake', '#pass', '#uncounted', '#metered', unpack(accounts))
  local epoch, next_end = pool[1], not dry and pool[2]
  if not epoch then
    return redis.error_reply('NOPOOL no accounts are synced for this pool')
  end
  -- As `digits` of the tools.
  if #epoch > 16 or not string.find(epoch, '^%d+$') then
    tools().garbage('accounts', '#epoch', 'a whole number')
  end
  -- One that is no number is put right here; one that is a day off cannot be right.
  next_end = next_end and (tonumber(next_end) or 0)
  if next_end and try < 3 and not (next_end > now and next_end <= now + 86400000) then
    tools().end_cooldowns(now, REAP)
    late, behind = true, queue and queue.unfinished
    pool = call('HMGET', ACCOUNTS, '#epoch', '#wake', '#pass', '#uncounted', '#metered', unpack(accounts))
  end
  if dry or (not missing or try > 1) and (queue and #queue.handed or 0) == said then
    break
  end
end
-- Then what the leases become, as answers and as arguments of ZADD and HSET.
local epoch, pass, uncounted, metered = pool[1], pool[3], pool[4], pool[5]
local answers = {epoch, nil}
local wait = missing and tools().retry_after(now, accounts[1] and math.min(1000, ttl) or 60000)
local waiting
if wait and join then
  waiting, wait = joins.check(wait)
end
-- This many fields of the pool come before the records.
local META = 5
-- How many leases each account has with those it gets here, also as arguments of HSET; and which of them probes. What is no
-- account's name gets none: it fails the call, or with force its lease.
local used, uses, probes = accounts[1] and call('HMGET', USED, unpack(accounts)), {nil, nil}, nil
for k = 1, #accounts do
  local account, record = accounts[k], pool[META + k]
  local flags = record and string.match(record, '^%d+ %d+ %d+ (%d+)$')
  -- A long name would make a reply that the filter does not take.
  if not flags or #account > 64 or not string.find(account, '^[%w._-]+$') then
    if not force then
      call('ZREM', FREE, account)
      tools().garbage(record and 'accounts' or 'free', account, 'an account with a record')
    end
    given[account] = nil
  else
    -- One that is missing: this is its first lease, unless the counts were lost.
    local before = tonumber(used[k] or not (force or uncounted) and 0) or tools().used(account)
    used[k] = before + given[account]
    if used[k] < math.huge then
      uses[#uses + 1], uses[#uses + 2] = account, format('%d', used[k])
    end
    if flags == COOLING and tools().wants_probe(account) then
      probes = probes or {}
      probes[account] = true
    end
  end
end
local leases, owned, expiry, of_tenants = {nil, nil}, {nil, nil}, format('%d', now + ttl), nil
for i = 1, count do
  local lease, account = ARGV[5 + i], chosen[i]
  answers[i + 1] = account or wait
  if dry then
    if account and (#account > 64 or not string.find(account, '^[%w._-]+$')) then
      tools().garbage('free', account, 'an account')
    end
  elseif account and given[account] then
    leases[#leases + 1], leases[#leases + 2] = expiry, lease
    if #lease == OF_TENANT then
      of_tenants = of_tenants or {}
      of_tenants[#of_tenants + 1] = lease
    end
    owned[#owned + 1], owned[#owned + 2] = lease, pass and account .. ':' .. pass or account
    if probes and probes[account] == true then
      answers[i + 1], probes[account] = account .. ':probe', lease
    end
  elseif account then
    answers[i + 1] = false
  end
end
-- They are taken.
if leases[1] then
  -- First to a key that may not have been read so far.
  call('ZADD', LEASES, unpack(leases))
  call('HSET', OWNER, unpack(owned))
  if uses[1] then
    call('HSET', USED, unpack(uses))
  end
  for account, lease in pairs(probes or {}) do
    call('HSET', ACCOUNTS, '#probe:' .. account, lease)
  end
  local free, raised = {nil, nil}, false
  for k = 1, #accounts do
    local account = accounts[k]
    if given[account] then
      if pass then
        redis.pcall('HINCRBY', USED, '#' .. account, format('%d', given[account]))
      end
      local record = pool[META + k]
      if metered then
        record = tools().meter(account, record, given[account], used[k], time[1] * 1000000 + time[2])
        raised = raised or record ~= pool[META + k]
      end
      refresh_free(account, record, used[k], free)
    end
  end
  if free[1] then
    call('ZADD', FREE, unpack(free))
  end
  if of_tenants then
    count_tenants(of_tenants, 1, nil, pass)
  end
  if raised then
    late = true
    tools().serve(now)
  end
end
if joins then
  joins.answer(answers, waiting, wait)
end
-- A lease that held a slot before has it still.
for i = 1, dry and 0 or count do
  if owners[i] and string.byte(owners[i]) ~= WAITS then
    local account = string.match(owners[i], '^[^:]*')
    local probing = call('HGET', ACCOUNTS, '#probe:' .. account) == ARGV[5 + i]
    answers[i + 1] = probing and account .. ':probe' or account
    if joins and session_keys then
      joins.bind(i)
    end
  elseif owners[i] and not join then
    -- It waits, and was not asked for so that it might.
    answers[i + 1] = 1000
  end
end
for i = 1, unwritten and count or 0 do
  local key, tag = KEYS[session_keys + i], unwritten[i]
  if tag then
    held[key] = with_session(held[key], tag, account_of[tag], now, life, session_bytes)
    -- The leases are taken by now: an error here must not hide that from who asked.
    redis.pcall('SET', key, held[key], 'PX', format('%d', life))
  end
end
return answers
