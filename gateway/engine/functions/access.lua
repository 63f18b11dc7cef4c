-- Who is let in. These functions are called with KEYS[1] "runlane:{/access}".
--
-- The keys behind it
--   :key:<digest>        string  a key of a client or worker, as JSON, by its SHA-256; expires with the key, and nothing
--                                else says when that is
--   :ended:<digest>      string  stays for a while when a key has expired or was revoked: whoever has it does not guess
--   :keys:<tenant>       hash    the digests of a tenant's keys by their ids
--   :workers:<key id>    set     the workers that came with a key, each "<endpoint> <worker>"; they go when it does
--   :came                hash    the id of the key that each of these workers came with
--   :expiring            zset    those whose keys expire, by that time
--   :made                string  how many keys were ever made
--   :failures:<address>  list    the times of the last failed logins from an address; expires
--   :failing             zset    addresses with failed logins, by the last of them; expires
--   :blocked             zset    addresses that are blocked, by the time at which they are not; expires
--   :news                stream  what every gateway process has to know at once: {blocked = address, ms = for how long} or
--                                {revoked = digest}

do  -- see webhooks.lua

local MOST_KEYS = 10000
local MOST_FAILING = 100000
local MOST_NEWS = 10000
local ENDED_MS = 24 * 3600 * 1000

local function tell(base, ...)
  redis.call('XADD', base .. ':news', 'MAXLEN', '~', MOST_NEWS, '*', ...)
end

-- {key as JSON, the time at which it expires (0: never)}, or nil when there is none with this digest.
local function key_of(base, digest)
  local key = digest and redis.call('GET', base .. ':key:' .. digest)
  return key and {key, math.max(0, redis.call('PEXPIRETIME', base .. ':key:' .. digest))}
end

local function end_at(base, digest, at)
  redis.call('PEXPIREAT', base .. ':key:' .. digest, at)
  redis.call('SET', base .. ':ended:' .. digest, 1, 'PXAT', at + ENDED_MS)
end

-- A tenant's keys, as `key_of`. Forgets those that have expired.
local function keys_of(base, tenant)
  local index, found = base .. ':keys:' .. tenant, {}
  local digests = redis.call('HGETALL', index)
  for i = 1, #digests, 2 do
    local key = key_of(base, digests[i + 1])
    if key then
      found[#found + 1] = key
    else
      redis.call('HDEL', index, digests[i])
    end
  end
  return found
end

-- key_add: tenant, key's id, digest, key as JSON, ms until it expires (0: never).
-- Returns the key as `key_of`, or 'FULL' when the tenant has too many.
local function key_add(keys, args)
  local base, tenant, id, digest, ms = keys[1], args[1], args[2], args[3], tonumber(args[5])
  local index = base .. ':keys:' .. tenant
  if redis.call('HLEN', index) >= MOST_KEYS and #keys_of(base, tenant) >= MOST_KEYS then
    return redis.status_reply('FULL')
  end
  redis.call('SET', base .. ':key:' .. digest, args[4])
  if ms > 0 then end_at(base, digest, now() + ms) end
  redis.call('HSET', index, id, digest)
  redis.call('INCR', base .. ':made')
  return key_of(base, digest)
end

-- key_made. Returns how many keys were ever made.
local function key_made(keys) return tonumber(redis.call('GET', keys[1] .. ':made') or 0) end

-- key_list: tenant. Returns its keys, as `key_of`.
local function key_list(keys, args) return keys_of(keys[1], args[1]) end

-- key_get: tenant, key's id. Returns it as `key_of`.
local function key_get(keys, args)
  return key_of(keys[1], redis.call('HGET', keys[1] .. ':keys:' .. args[1], args[2]))
end

-- key_expire: tenant, key's id, ms from now. The key ends then, unless it ends sooner. Returns it as `key_of`.
local function key_expire(keys, args)
  local base, at = keys[1], now() + args[3]
  local digest = redis.call('HGET', base .. ':keys:' .. args[1], args[2])
  local key = key_of(base, digest)
  if not key or (key[2] > 0 and key[2] <= at) then return key end
  end_at(base, digest, at)
  for _, worker in ipairs(redis.call('SMEMBERS', base .. ':workers:' .. args[2])) do
    redis.call('ZADD', base .. ':expiring', at, worker)
  end
  return {key[1], at}
end

-- key_revoke: tenant, key's id. The key is good for nothing from now on. Returns it as `key_of`.
local function key_revoke(keys, args)
  local base, index = keys[1], keys[1] .. ':keys:' .. args[1]
  local digest = redis.call('HGET', index, args[2])
  if not digest then return false end
  local key = key_of(base, digest)
  redis.call('UNLINK', base .. ':key:' .. digest)
  redis.call('SET', base .. ':ended:' .. digest, 1, 'PX', ENDED_MS)
  redis.call('HDEL', index, args[2])
  tell(base, 'revoked', digest)
  return key
end

-- worker_went: "<endpoint> <worker>".
local function worker_went(keys, args)
  local base, worker = keys[1], args[1]
  local key = redis.call('HGET', base .. ':came', worker)
  if not key then return 0 end
  redis.call('SREM', base .. ':workers:' .. key, worker)
  redis.call('HDEL', base .. ':came', worker)
  redis.call('ZREM', base .. ':expiring', worker)
  return 1
end

-- worker_came: digest of its key, the key's id, "<endpoint> <worker>". Returns 1, or 0 when the key is good no more.
local function worker_came(keys, args)
  local base, worker = keys[1], args[3]
  local key = key_of(base, args[1])
  if not key then return 0 end
  worker_went(keys, {worker})
  redis.call('SADD', base .. ':workers:' .. args[2], worker)
  redis.call('HSET', base .. ':came', worker, args[2])
  if key[2] > 0 then redis.call('ZADD', base .. ':expiring', key[2], worker) end
  return 1
end

-- workers_of: key's id, most. Returns some of the workers that came with it.
local function workers_of(keys, args) return redis.call('SRANDMEMBER', keys[1] .. ':workers:' .. args[1], args[2]) end

-- workers_due: most. Returns workers whose keys have expired.
local function workers_due(keys, args)
  return redis.call('ZRANGE', keys[1] .. ':expiring', '-inf', now(), 'BYSCORE', 'LIMIT', 0, args[1])
end

-- The ms for which an address is blocked, since it has failed `most` times within `window` ms; nil when it is not.
local function blocked_for(base, address, most, window, at)
  local key = base .. ':failures:' .. address
  local oldest = redis.call('LINDEX', key, 0)
  while oldest and tonumber(oldest) <= at - window do
    redis.call('LPOP', key)
    oldest = redis.call('LINDEX', key, 0)
  end
  return oldest and redis.call('LLEN', key) >= most and oldest + window - at or nil
end

local function note_failure(base, address, most, window, at)
  local key, failing, blocked = base .. ':failures:' .. address, base .. ':failing', base .. ':blocked'
  redis.call('RPUSH', key, at)
  redis.call('PEXPIRE', key, window)
  redis.call('ZADD', failing, at, address)
  redis.call('PEXPIRE', failing, window)
  if redis.call('ZCARD', failing) > MOST_FAILING then
    redis.call('UNLINK', base .. ':failures:' .. redis.call('ZPOPMIN', failing)[1])
  end
  local ms = blocked_for(base, address, most, window, at)
  if not ms then return nil end
  redis.call('ZREMRANGEBYSCORE', blocked, '-inf', at)
  redis.call('ZADD', blocked, at + ms, address)
  redis.call('PEXPIRE', blocked, window)
  tell(base, 'blocked', address, 'ms', ms)
  return ms
end

-- login: digest of the key that was presented ('' for none), address ('' when failures do not count), most failures,
-- the ms within which they count, and 1 when good keys pass from a blocked address.
-- A key that has ended is wrong, and no failure. Returns {'KEY', key as JSON, the time at which it expires (0: never)},
-- {'WRONG', ms for which the address is blocked from now on (0: not)} or {'BLOCKED', ms}.
local function login(keys, args)
  local base, at, digest, address = keys[1], now(), args[1], args[2]
  local most, window = tonumber(args[3]), tonumber(args[4])
  local ms = address ~= '' and blocked_for(base, address, most, window, at)
  if ms and args[5] ~= '1' then return {'BLOCKED', ms} end
  local key = digest ~= '' and key_of(base, digest)
  if key then return {'KEY', unpack(key)} end
  if ms then return {'BLOCKED', ms} end
  if redis.call('EXISTS', base .. ':ended:' .. digest) == 1 then return {'WRONG', 0} end
  return {'WRONG', address ~= '' and note_failure(base, address, most, window, at) or 0}
end

-- blocked: most addresses. Returns {id of the last news, {address, ms for which it is blocked, …}}, of the addresses
-- that are blocked longest.
local function blocked(keys, args)
  local base, at, found = keys[1], now(), {}
  local last = redis.call('XREVRANGE', base .. ':news', '+', '-', 'COUNT', 1)[1]
  local pairs = redis.call('ZRANGE', base .. ':blocked', '+inf', '(' .. at, 'BYSCORE', 'REV', 'LIMIT', 0, args[1],
    'WITHSCORES')
  for i = 1, #pairs, 2 do append(found, pairs[i], pairs[i + 1] - at) end
  return {last and last[1] or '0-0', found}
end

register('key_add', key_add)
register('key_made', key_made, 'no-writes', 'allow-oom')
register('key_list', key_list, 'allow-oom')
register('key_get', key_get, 'no-writes', 'allow-oom')
register('key_expire', key_expire, 'allow-oom')
register('key_revoke', key_revoke, 'allow-oom')
register('worker_came', worker_came)
register('worker_went', worker_went, 'allow-oom')
register('workers_of', workers_of, 'no-writes', 'allow-oom')
register('workers_due', workers_due, 'no-writes', 'allow-oom')
register('login', login, 'allow-oom')
register('blocked', blocked, 'no-writes', 'allow-oom')

end
