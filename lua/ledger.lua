-- What every ledger script shares; put before each of them when they are loaded.
--
-- KEYS, all under one hash tag, the same six first in every script:
--   1 accounts  HASH  account id -> "max base load flags"; #revision, #digest, #epoch
--   2 free      ZSET  account id -> score, only accounts that can take a lease now
--   3 used      HASH  account id -> number of live leases
--   4 leases    ZSET  lease id -> expiry, ms of Redis TIME
--   5 owner     HASH  lease id -> account id
--   6 cooldown  ZSET  account id -> until, ms of Redis TIME
--
-- An account's record: max = its slots; base = the priority's part of the score; load = what a full account adds;
-- flags = why it takes no lease, added up (0: it does). Scores are whole numbers, 1,000,000 to the unit.
local ACCOUNTS, FREE, USED, LEASES, OWNER, COOLDOWN = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DISABLED, DRAINED, COOLING, REMOVED = 1, 2, 4, 8
-- How many expired leases, and ended cooldowns, one call may clear away.
local REAP = 8

local function refuse(text)
  error({err = text})
end

local function whole(text, name, low, high)
  local value = tonumber(text)
  if not value or value ~= math.floor(value) or value < low or value > high then
    refuse(string.format('BADARG %s: not a whole number in %.0f..%.0f', name, low, high))
  end
  return value
end

local function lease_id(text)
  if not text or #text > 64 or not string.find(text, '^[%w._-]+$') then
    refuse('BADARG lease: not [A-Za-z0-9._-]{1,64}')
  end
  return text
end

-- Taken once in a script: before Redis 7.2 it moves while the script runs.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ms(value)
  return string.format('%.0f', value)
end

local function parse(record)
  local max, base, load, flags = string.match(record, '^(%d+) (%d+) (%d+) (%d+)$')
  return tonumber(max), tonumber(base), tonumber(load), tonumber(flags)
end

-- Puts the account into `free`, or takes it out: the one place that decides it.
local function place(account, max, base, load, flags, used)
  if flags == 0 and used < max then
    redis.call('ZADD', FREE, base + math.floor(load * used / max), account)
  else
    redis.call('ZREM', FREE, account)
  end
end

-- Counts one lease of the account up (1) or down (-1) and keeps `free` true.
-- `record` may be nil: the account is unknown, only its count is kept.
local function count(account, record, by)
  local used = redis.call('HINCRBY', USED, account, by)
  if not record then
    if used <= 0 then
      redis.call('HDEL', USED, account)
    end
    return
  end
  local max, base, load, flags = parse(record)
  if flags >= REMOVED and used <= 0 then
    redis.call('HDEL', ACCOUNTS, account)
    redis.call('HDEL', USED, account)
    return
  end
  place(account, max, base, load, flags, used)
end

local function take(lease, account, record, expires_ms)
  count(account, record, 1)
  redis.call('HSET', OWNER, lease, account)
  redis.call('ZADD', LEASES, ms(expires_ms), lease)
end

-- Ends a lease, whoever asks. Answers whether there was one.
local function drop(lease)
  local account = redis.call('HGET', OWNER, lease)
  if not account then
    return false
  end
  local record = redis.call('HGET', ACCOUNTS, account)
  redis.call('ZREM', LEASES, lease)
  redis.call('HDEL', OWNER, lease)
  count(account, record, -1)
  return true
end

-- Sets or clears one flag of an account.
local function flag(account, bit_value, on)
  local record = redis.call('HGET', ACCOUNTS, account)
  if not record then
    return
  end
  local max, base, load, flags = parse(record)
  local has = math.floor(flags / bit_value) % 2 == 1
  if has ~= on then
    flags = flags + (on and bit_value or -bit_value)
    redis.call('HSET', ACCOUNTS, account, string.format('%d %.0f %.0f %d', max, base, load, flags))
  end
  place(account, max, base, load, flags, tonumber(redis.call('HGET', USED, account) or 0))
end

-- Clears away at most REAP expired leases and ended cooldowns.
local function reap(now)
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', ms(now), 'LIMIT', 0, REAP)) do
    drop(lease)
  end
  for _, account in ipairs(redis.call('ZRANGEBYSCORE', COOLDOWN, '-inf', ms(now), 'LIMIT', 0, REAP)) do
    redis.call('ZREM', COOLDOWN, account)
    flag(account, COOLING, false)
  end
end

