-- The queue of a pool: leases that wait for a slot, and the hand-off of a slot that comes free to the first that can use it.
--
-- Follows ledger.lua in every script that can free a slot. It keeps this true after every script: when a waiter could take a
-- slot, no such slot is free. (One script hands on 500 at most; the next acquires do the rest, before any newcomer.)
--
-- A waiter is a lease without an account. Its entry in `leases` says until when its worker vouches for it, the one in `owner` is
--   ~<order> <line> <scope> <bound> <cap> <weight> <ttl> <random> <cookie> <channel>
--     order    when it came, µs of Redis TIME, and a number of three digits for those of one call
--     line     its scope, if that cooled somewhere when it was looked at; else -
--     scope    the hash whose cooldowns count for it; else -
--     bound    the account of its session; else ~
--     cap, weight  its tenant's: how many leases it may hold, 0: any number; its share of what comes free
--     ttl, random  of its lease, ms, and of the choice, millionths
--     cookie   its worker's number for it
--     channel  where its worker listens for grants: `<cookie> <lease id> <account id>[:probe] <epoch>`
--
-- In `queue`, by member:
--   w:<tenant or ->:<line>:<order>:<lease id>   each waiter
--   t:<line>:<tag>:<order>:<tenant or ->        a turn: of the first of each such line, unless its tenant was at its cap
-- In `tenants`, beside the counts: @<tenant> its tag, @now the tag that was served last, @pace how far apart slots were handed
-- on lately, µs, and when the last was, ms.
--
-- The next turn is that of the lowest tag (start-time fair queueing): being served costs a tenant 100,000 by its weight, and one
-- that comes back begins no lower than the tag served last. Equal tags go by who came first. So without tenants everything goes
-- by who came first. All waiters of a scope's line can use the same accounts: when its first can use none, nobody asks the rest.
--
-- Most of this comes after writes, where no error may end the script: with a key of another type nothing is handed on. Whoever
-- asks for a waiter hears of it (`check_keys`). What a hand-off seldom needs is made when it is needed (`lines`, `joiner`,
-- `mender`): see ledger.lua.

function waiters()
  if queue then
    return queue
  end
  -- `handed`: what this script has handed on, as it is said on a channel. `unfinished`: there is more to hand on.
  local self = {handed = {}, unfinished = false}
  queue = self
  local call, format, handed = redis.call, string.format, self.handed
  local ACCOUNTS, FREE, USED, LEASES, OWNER, COOLDOWN, QUEUE, TENANTS = unpack(KEYS)
  local OPEN, COOLING, BEHIND, OF_TENANT = '0', '4', 2 ^ 52, 41
  -- How many turns one call deals with; how many accounts a choice draws for, and how many are read at a time.
  local MOST, DRAWN, PAGE = 500, 128, 8
  -- How long a waiter's text may be.
  local LONGEST = 512
  local WAITER = '^~(%d+) (%S+) (%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$'

  -- A number of `tenants`; 0: it is none.
  local function number(text)
    return text and #text <= 15 and tonumber(string.match(text, '^%d+$')) or 0
  end

  local state = redis.pcall('HMGET', TENANTS, '@now', '@pace')
  -- Whether a key is of another type.
  local broken = state.err and true or false
  local served_tag, pace = number(state[1]), state[2]
  -- Whether a line may have lost its last waiter.
  local emptied = false
  -- Accounts in `free` that can't be judged: the recount, or the next acquire that meets one, names it.
  local barred

  -- A command that reads; nil: its key is of another type.
  local function read(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
      broken = true
      return nil
    end
    return reply
  end

  -- The first members between two others.
  local function members(from, to, most)
    return read('ZRANGEBYLEX', QUEUE, from, to, 'LIMIT', '0', most) or {}
  end

  local function member_of(tenant, line, order, lease)
    return 'w:' .. tenant .. ':' .. line .. ':' .. order .. ':' .. lease
  end

  local function turn_of(tenant, line, order, tag)
    return format('t:%s:%016.0f:%s:%s', line, tag, order, tenant)
  end

  -- The first of a line: its order and its lease id; and the order of the one after it, 0: whatever stands there is no waiter.
  local function first_of(tenant, line)
    local prefix = 'w:' .. tenant .. ':' .. line
    for _ = 1, MOST do
      local list = members('[' .. prefix .. ':', '(' .. prefix .. ';', '2')
      local order, lease = string.match(list[1] or '', '^(%d+):(.*)$', #prefix + 2)
      if order or not list[1] then
        return order, lease, list[2] and (string.match(list[2], '^(%d+):', #prefix + 2) or '0')
      end
      call('ZREM', QUEUE, list[1])
    end
  end

  -- Clears away what is left of a queue in which nobody waits.
  local function close()
    if emptied and not members('[w:', '(w;', '1')[1] and not broken then
      call('DEL', QUEUE)
      call('HDEL', ACCOUNTS, '#queue')
      if pace then
        -- How long nobody waits is no pace.
        pace = string.gsub(pace, '%d+$', '0')
        call('HSET', TENANTS, '@pace', pace)
      end
    end
    emptied = false
  end

  local lines_toolbox
  local function lines()
    if lines_toolbox then
      return lines_toolbox
    end
    local line_tools = {}
    lines_toolbox = line_tools

    -- The first of a tenant's waiters that stands in a line; nil: none waits.
    function line_tools.any_of(tenant)
      return members('[w:' .. tenant .. ':', '(w:' .. tenant .. ';', '1')[1]
    end

    -- The turns of all lines of a tenant; with a score before each, for ZADD.
    local function turns_of(tenant, tag, score)
      local turns, from = {}, '[w:' .. tenant .. ':'
      for _ = 1, MOST do
        local member = members(from, '(w:' .. tenant .. ';', '1')[1]
        if not member then
          break
        end
        local line, order = string.match(member, '^w:[^:]*:([^:]*):(%d+):')
        if line then
          turns[#turns + 1] = score
          turns[#turns + 1] = turn_of(tenant, line, order, tag)
          from = '[w:' .. tenant .. ':' .. line .. ';'
        else
          call('ZREM', QUEUE, member)
        end
      end
      return turns
    end

    -- Takes a tenant's turns out of the queue, or puts them in.
    function line_tools.withdraw(tenant, tag)
      local turns = turns_of(tenant, tag)
      if turns[1] then
        call('ZREM', QUEUE, unpack(turns))
      end
    end

    function line_tools.present(tenant, tag)
      local turns = turns_of(tenant, tag, '0')
      if turns[1] then
        call('ZADD', QUEUE, unpack(turns))
      end
    end

    -- The tag of a tenant that waits.
    function line_tools.tag_of(tenant)
      return number(call('HGET', TENANTS, '@' .. tenant))
    end

    -- Gives a tenant the tag with which it begins to wait, or comes back below its cap.
    function line_tools.begin(tenant)
      local tag = math.max(line_tools.tag_of(tenant), served_tag)
      call('HSET', TENANTS, '@' .. tenant, format('%.0f', tag))
      return tag
    end

    function line_tools.has_turn(tenant, line, order)
      return call('ZSCORE', QUEUE, turn_of(tenant, line, order, line_tools.tag_of(tenant)))
    end

    -- Puts a waiter into a line.
    function line_tools.stand(tenant, line, order, lease)
      local first = first_of(tenant, line)
      local other = not first and line_tools.any_of(tenant)
      call('ZADD', QUEUE, '0', member_of(tenant, line, order, lease))
      if first and first <= order then
        return
      end
      local tag, shown = nil, true
      if first then
        tag = line_tools.tag_of(tenant)
        shown = call('ZREM', QUEUE, turn_of(tenant, line, first, tag)) == 1
      elseif other then
        local other_line, other_order = string.match(other, '^w:[^:]*:([^:]*):(%d+):')
        tag = line_tools.tag_of(tenant)
        shown = other_line and line_tools.has_turn(tenant, other_line, other_order)
      else
        tag = line_tools.begin(tenant)
      end
      if shown then
        call('ZADD', QUEUE, '0', turn_of(tenant, line, order, tag))
      end
    end

    -- Takes a waiter out of its line.
    function line_tools.leave(tenant, line, order, lease)
      local _, _, following = first_of(tenant, line)
      if broken then
        return
      end
      local tag = line_tools.tag_of(tenant)
      -- Its turn is there if it is the first, or came at the same moment as that.
      local shown = call('ZREM', QUEUE, member_of(tenant, line, order, lease), turn_of(tenant, line, order, tag)) == 2
      if not following then
        emptied = true
      elseif shown then
        call('ZADD', QUEUE, '0', turn_of(tenant, line, following, tag))
      end
    end

    -- The tenant of a lease; -: none.
    function line_tools.tenant_of(lease)
      return #lease == OF_TENANT and string.find(lease, '^%.%x+$', 25) and string.sub(lease, 26) or '-'
    end

    -- How many leases a waiter's tenant may hold, 0: any number; nil: it does not wait.
    function line_tools.cap_of(lease)
      return tonumber(string.match(call('HGET', OWNER, lease) or '', '^~%d+ %S+ %S+ %S+ (%d+)'))
    end

    -- Gives a tenant its turns back that was at its cap and holds fewer leases now. Answers whether it may take another one.
    function line_tools.show_again(tenant, before, now)
      local lease = string.match(line_tools.any_of(tenant) or '', '^w:[^:]*:[^:]*:%d+:(.*)$')
      local cap = lease and line_tools.cap_of(lease)
      if not cap or cap == 0 or before < cap or now >= cap then
        return false
      end
      line_tools.withdraw(tenant, line_tools.tag_of(tenant))
      line_tools.present(tenant, line_tools.begin(tenant))
      return true
    end

    return line_tools
  end

  -- After leases have ended. `left` has lease id and owner of each that waited, `ended` how many each tenant had of those that held
  -- a slot, `held` how many it has now, `freed` their accounts.
  function self.after_end(left, ended, held, freed, now)
    if broken then
      return
    end
    for i = 1, left and #left or 0, 2 do
      local order, line = string.match(left[i + 1], '^~(%d+) (%S+) ')
      if order then
        lines().leave(lines().tenant_of(left[i]), line, order, left[i])
      end
    end
    local some = freed[1]
    for tenant, count in pairs(ended or {}) do
      if lines().show_again(tenant, held[tenant] + count, held[tenant]) then
        -- It may use what was free before.
        some, freed = true, nil
      end
    end
    if not some then
      close()
      return
    elseif not now then
      local time = call('TIME')
      now = time[1] * 1000 + math.floor(time[2] / 1000)
    end
    self.hand_off(now, freed)
  end

  -- Whether an account is not for a waiter with this scope.
  local function is_closed(account, scope, now)
    if barred and barred[account] then
      return true
    end
    local ends = scope ~= '-' and redis.pcall('ZSCORE', COOLDOWN, 'scope:' .. scope .. ':' .. account)
    return ends and (type(ends) == 'table' or tonumber(ends) > now)
  end

  -- The account for a waiter, as an acquire would choose it; nil: none that it can use is free. `page` has the first of `free`;
  -- `only` those that came free, when its line could use none of the others.
  local function choose(waiter, page, only, now)
    local scope, random = waiter.scope, waiter.random
    if waiter.bound ~= '~' then
      local score = call('ZSCORE', FREE, waiter.bound)
      if score and tonumber(score) < BEHIND and not is_closed(waiter.bound, scope, now) then
        return waiter.bound
      end
    end
    if only then
      page = {}
      for _, account in ipairs(only) do
        local score = call('ZSCORE', FREE, account)
        if score then
          page[#page + 1], page[#page + 2] = account, score
        end
      end
    end
    -- The best so far; its score once there is another one to draw against.
    local best, base_of_best, drawn, from = nil, nil, nil, 0
    while true do
      for i = 1, #page, 2 do
        local account, base = page[i], tonumber(page[i + 1])
        if best and not only and base >= (drawn or base_of_best + random) then
          return best
        elseif not is_closed(account, scope, now) then
          if not best then
            best, base_of_best = account, base
          else
            if not seeded then
              local time = call('TIME')
              math.randomseed((time[1] * 1000003 + time[2]) % 2147483647)
              seeded = true
            end
            drawn = drawn or base_of_best + random * math.random()
            local score = base + random * math.random()
            if score < drawn then
              best, drawn = account, score
            end
          end
        end
      end
      from = from + PAGE
      if only or #page < 2 * PAGE or best and from >= DRAWN then
        return best
      end
      page = call('ZRANGE', FREE, from, from + PAGE - 1, 'WITHSCORES')
    end
  end

  -- Gives an account's slot to the first of a line. Answers whether the account has no other one.
  local function grant(turn, waiter, account, now)
    -- What being served costs a tenant of weight 1.
    local TURN = 100000
    local tenant, lease = turn.tenant, waiter.lease
    local pool = call('HMGET', ACCOUNTS, account, '#pass', '#epoch', '#probe:' .. account, '#metered')
    local record, pass = pool[1], pool[2]
    local max, flags = string.match(record or '', '^(%d+) %d+ %d+ (%d+)$')
    local used = tonumber(redis.pcall('HGET', USED, account) or tools().uncounted() and 'none' or 0)
    local probes = flags == COOLING and pool[4]
    if not (used and (flags == OPEN or probes)) or used >= tonumber(max) or #account > 64
      or not string.find(account, '^[%w._-]+$') then
      barred = barred or {}
      barred[account] = true
      return false
    end
    local later = turn.tag + math.floor(TURN / math.max(waiter.weight, 1))
    local member = member_of(tenant, turn.line, turn.order, lease)
    if turn.alone then
      call('ZREM', QUEUE, turn.member, member)
    else
      lines().withdraw(tenant, turn.tag)
      call('ZREM', QUEUE, member)
    end
    call('ZADD', LEASES, format('%.0f', now + waiter.ttl), lease)
    call('HSET', OWNER, lease, pass and account .. ':' .. pass or account)
    call('HSET', USED, account, format('%.0f', used + 1))
    -- How far apart slots are handed on, after one more.
    local gap, last = string.match(pace or '', '^(%d+) (%d+)$')
    gap, last = number(gap), number(last)
    if last > 0 then
      local since = 1000 * math.min(math.max(now - last, 0), 60000)
      gap = gap > 0 and 0.9 * gap + 0.1 * since or since
    end
    served_tag, pace = math.max(turn.tag, served_tag), format('%.0f %.0f', gap, now)
    call('HSET', TENANTS, '@' .. tenant, format('%.0f', later), '@now', format('%.0f', served_tag), '@pace', pace)
    if pass then
      redis.pcall('HINCRBY', USED, '#' .. account, '1')
    end
    if tenant ~= '-' then
      count_tenants({lease}, 1, nil, pass)
    end
    if probes then
      call('HSET', ACCOUNTS, '#probe:' .. account, lease)
    end
    if pool[5] then
      local time = call('TIME')
      record = tools().meter(account, record, 1, used + 1, time[1] * 1000000 + time[2])
      max = string.match(record, '^%d+')
    end
    refresh_free(account, record, used + 1)
    if waiter.cap == 0 or waiter.held + 1 < waiter.cap then
      if not turn.alone then
        lines().present(tenant, later)
      elseif waiter.following then
        call('ZADD', QUEUE, '0', turn_of(tenant, turn.line, waiter.following, later))
      end
    end
    emptied = emptied or not waiter.following
    local said = waiter.cookie .. ' ' .. lease .. ' ' .. account .. (probes and ':probe ' or ' ') .. (pool[3] or '0')
    handed[#handed + 1] = said
    -- Who hears nothing asks at its next heartbeat.
    redis.pcall('PUBLISH', waiter.channel, said)
    return probes or used + 1 >= tonumber(max) or string.find(record, ' 0$') == nil
  end

  -- The first of a line, if it is the one that its turn is for. What is left of one that is gone is cleared away; nil then.
  local function waiter_at(turn, now)
    local tenant, line = turn.tenant, turn.line
    local order, lease, following = first_of(tenant, line)
    local owner = order and read('HGET', OWNER, lease) or ''
    local own, _, scope, bound, cap, weight, ttl, random, cookie, channel = string.match(#owner <= LONGEST and owner or '', WAITER)
    local vouched = own and tonumber(read('ZSCORE', LEASES, lease) or 0) > now
    if broken then
      return nil
    elseif order == turn.order and own == order and vouched then
      cap = tenant ~= '-' and tonumber(cap) or 0
      local held = cap > 0 and number(call('HGET', TENANTS, tenant)) or 0
      return {
        lease = lease, following = following, scope = scope, bound = bound, cap = cap, held = held, weight = tonumber(weight),
        ttl = tonumber(ttl), random = tonumber(random), cookie = cookie, channel = channel, owner = owner,
      }
    end
    call('ZREM', QUEUE, turn.member)
    if order and not (own == order and vouched) then
      call('ZREM', QUEUE, member_of(tenant, line, order, lease))
      if own == order then
        call('ZREM', LEASES, lease)
        call('HDEL', OWNER, lease)
      end
      order = first_of(tenant, line)
    end
    if order then
      call('ZADD', QUEUE, '0', turn_of(tenant, line, order, lines().tag_of(tenant)))
    end
    emptied = true
  end

  -- Whose turn it is, but for those of lines that were found unable to use what is free. `alone`: no other line has turns.
  local function next_turn(passed_over)
    local found, count, from = nil, 0, '[t:'
    for _ = 1, MOST do
      local list = members(from, '(t;', '2')
      local line, tag, order, tenant = string.match(list[1] or '', '^t:([^:]*):(%d+):(%d+):([^:]*)$')
      if line then
        count = count + 1
        if not passed_over[line] and (not found or tag .. order < found.place) then
          found = {tenant = tenant, line = line, order = order, tag = tonumber(tag), place = tag .. order, member = list[1]}
        end
        from = '[t:' .. line .. ';'
      elseif list[1] then
        call('ZREM', QUEUE, list[1])
      end
      if not list[2] then
        break
      end
    end
    if found then
      found.alone = count == 1
    end
    return found
  end

  -- Hands what is free to those who wait for it, each in its turn. `freed`: the accounts that came free, when those in lines of
  -- scopes could use none of the others before; nil: nobody knows.
  function self.hand_off(now, freed)
    local passed_over, all_taken = {}, false
    self.unfinished = false
    for round = 0, MOST do
      local page = not (broken or all_taken) and read('ZRANGE', FREE, '0', PAGE - 1, 'WITHSCORES') or {}
      local turn = page[1] and next_turn(passed_over)
      if not turn then
        -- Not only after a line's last one was served: those of an older version that are reaped leave their places.
        emptied = emptied or page[1] and not next(passed_over)
        break
      elseif round == MOST then
        -- As after a cooldown's end, the next acquire goes on with it.
        call('HSET', ACCOUNTS, '#wake', '1')
        self.unfinished = true
        return
      end
      local waiter = waiter_at(turn, now)
      if waiter and waiter.cap > 0 and waiter.held >= waiter.cap then
        lines().withdraw(turn.tenant, turn.tag)
      elseif waiter then
        local account = choose(waiter, page, turn.line ~= '-' and freed, now)
        if account then
          all_taken = grant(turn, waiter, account, now) and not page[3]
        elseif turn.line == '-' and waiter.scope ~= '-' then
          -- It stands in its scope's line from now on, so that those after it need not wait for that.
          call('ZREM', QUEUE, turn.member, member_of(turn.tenant, '-', turn.order, waiter.lease))
          if waiter.following then
            call('ZADD', QUEUE, '0', turn_of(turn.tenant, '-', waiter.following, turn.tag))
          end
          call('HSET', OWNER, waiter.lease, (string.gsub(waiter.owner, ' %- ', ' ' .. waiter.scope .. ' ', 1)))
          lines().stand(turn.tenant, waiter.scope, turn.order, waiter.lease)
        else
          passed_over[turn.line] = true
        end
      end
    end
    close()
  end

  -- For those that wait: `acquire` and the recount.
  function self.joiner()
    local join_tools = {tenant_of = lines().tenant_of}

    -- How many wait, of one tenant or of all.
    function join_tools.count(tenant)
      local from = tenant and 'w:' .. tenant or 'w'
      return call('ZLEXCOUNT', QUEUE, '[' .. from .. ':', '(' .. from .. ';')
    end

    -- Fails when a key is of another type. Answers how many wait.
    function join_tools.check_keys()
      if broken then
        call('HEXISTS', TENANTS, '')
      end
      return join_tools.count()
    end

    -- When to come back, ms, as far as one can tell: by how many wait, and how fast slots were handed on lately; nil: none was.
    function join_tools.estimate(waiting)
      local gap = number(string.match(pace or '', '^(%d+) %d+$'))
      return gap > 0 and math.min(math.max(math.ceil(waiting * gap / 1000), 1), 300000) or nil
    end

    -- The order and the line of a waiter, and the rest; nil: it is none.
    function join_tools.parts(owner)
      if #owner <= LONGEST and string.find(owner, WAITER) and string.find(owner, ' ', 1, true) == 21 then
        return string.match(owner, '^~(%d+) (%S+) (.*)$')
      end
    end

    -- Lets a lease wait, or puts it in again as it was.
    function join_tools.join(lease, order, line, rest, expiry)
      call('ZADD', LEASES, expiry, lease)
      call('HSET', OWNER, lease, '~' .. order .. ' ' .. line .. ' ' .. rest)
      lines().stand(lines().tenant_of(lease), line, order, lease)
    end

    -- Puts a waiter into the queue if it is missing there. Answers how many were.
    function join_tools.put_in(lease, owner, expiry)
      local order, line, rest = join_tools.parts(owner)
      if call('ZSCORE', QUEUE, member_of(lines().tenant_of(lease), line, order, lease)) then
        return 0
      end
      join_tools.join(lease, order, line, rest, expiry)
      call('HSET', ACCOUNTS, '#queue', '1')
      return 1
    end

    return join_tools
  end

  -- For the recount.
  function self.mender()
    local mend_tools = self.joiner()
    mend_tools.show_again = lines().show_again

    -- Whether a field of `tenants` that is no count is still needed; nil: it cannot be there.
    function mend_tools.keeps(field, value)
      local tenant = string.match(field, '^@(.*)$')
      if tenant == 'pace' then
        return string.find(value, '^%d+ %d+$') and #value <= 32 or nil
      elseif not tenant or not string.find(value, '^%d+$') or #value > 15 then
        return nil
      elseif tenant == 'now' then
        return true
      elseif tenant ~= '-' and not (#tenant == 16 and string.find(tenant, '^%x+$')) then
        return nil
      end
      return number(value) > served_tag or lines().any_of(tenant) and true or false
    end

    -- Puts in the turn of a line's first, if it is missing. Answers how many were.
    local function mend_turn(tenant, line)
      local order, lease = first_of(tenant, line)
      local cap = order and lines().cap_of(lease)
      if not cap or cap > 0 and tenant ~= '-' and number(call('HGET', TENANTS, tenant)) >= cap
        or lines().has_turn(tenant, line, order) then
        return 0
      end
      return call('ZADD', QUEUE, '0', turn_of(tenant, line, order, lines().tag_of(tenant)))
    end

    -- Takes out of the queue what is nobody's, and puts in a turn that is missing. Answers how many there were; nil: it cannot be
    -- there.
    function mend_tools.check(member, score)
      local tenant, line, order, lease = string.match(member, '^w:([^:]*):([^:]*):(%d+):(.*)$')
      local place, tag, first_order, whose = string.match(member, '^t:([^:]*):(%d+):(%d+):([^:]*)$')
      if score ~= '0' or not (tenant or place) then
        if call('ZREM', QUEUE, member) == 0 then
          return 0
        end
        return nil
      elseif place then
        if tonumber(tag) == lines().tag_of(whose) and first_of(whose, place) == first_order then
          return 0
        end
        -- Of a page that was read a moment ago: it may be gone by now.
        return call('ZREM', QUEUE, member) + mend_turn(whose, place)
      end
      local own, own_line = mend_tools.parts(call('HGET', OWNER, lease) or '')
      local gone = 0
      if own ~= order or own_line ~= line or lines().tenant_of(lease) ~= tenant then
        lines().leave(tenant, line, order, lease)
        gone = 1
      end
      return gone + mend_turn(tenant, line)
    end

    return mend_tools
  end

  return self
end

