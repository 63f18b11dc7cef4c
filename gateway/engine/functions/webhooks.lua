-- Webhooks: the ends of jobs, told to the addresses that the jobs name.
--
--   * A job's end makes a delivery for each of its addresses in the same step (`announce`), with the job as it is then. So
--     a delivery exists if and only if the job has ended, and a `retry` of the job does not change what is told.
--   * A delivery is pending, then delivered or failed. A gateway process that delivers it has claimed it for a while; when
--     that is over, another one may. Each claim has a number, and only the newest may say that it failed.
--   * Deliveries wait in a queue for each receiver, so that none has to be passed over for another receiver's sake. The
--     log, which has to be trimmed, stands among the receivers as one without a name.

-- Takes all deliveries of an endpoint away, some at a time. Returns whether that was all.
local forget_deliveries

do  -- All files together may have 200 local names; those in here are of this file.

local LOG = ''

-- For so long a delivery is tried; for so long, from its end on, it is in the log.
local TRY_MS = 24 * 3600 * 1000
local LOG_MS = 24 * 3600 * 1000
local MOST_ENDED = 10000
-- Keys outlive that, so that upkeep finds them.
local SPARE_MS = 24 * 3600 * 1000
local MOST_ATTEMPTS = 5

-- So much is kept of an endpoint's ended jobs for their deliveries. What ends when it is used up is told for as long as
-- the job itself is kept: a receiver that is dead for a day must not fill the store.
local MOST_EVENT_BYTES = 268435456
local BYTES_BESIDES = 1000

local function delivery_key(base, id) return base .. ':webhook:' .. id end
local function event_key(base, id) return base .. ':event:' .. id end

-- "https://example.com:8443" of an address on it.
local function receiver_of(url) return string.match(url, '^%a+://[^/?#]+') or url end

-- Sets when a receiver's first delivery is due, after its queue has changed.
local function refresh(base, receiver)
  local first = redis.call('ZRANGE', base .. ':webhooks:' .. receiver, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', base .. ':webhooks', first[2], receiver)
  else
    redis.call('ZREM', base .. ':webhooks', receiver)
  end
end

local function put_off(base, id, receiver, due)
  redis.call('ZADD', base .. ':webhooks:' .. receiver, due, id)
  refresh(base, receiver)
end

local function size_of(base, job)
  local key = job_key(base, job)
  return redis.call('HSTRLEN', key, 'output') + redis.call('HSTRLEN', key, 'error')
end

-- Keeps the job as it is for a delivery, if there is room.
local function keep_event(base, id, job)
  local key, counts = job_key(base, job), base .. ':counts'
  local size = size_of(base, job) + BYTES_BESIDES
  if redis.call('HINCRBY', counts, 'event_bytes', size) <= MOST_EVENT_BYTES then
    redis.call('COPY', key, event_key(base, id))
    redis.call('HDEL', event_key(base, id), 'input', 'request', 'progress')
  else
    redis.call('HINCRBY', counts, 'event_bytes', -size)
    size = 0
  end
  redis.call('HSET', delivery_key(base, id), 'size', size)
end

local function drop_event(base, id)
  local size = redis.call('HGET', delivery_key(base, id), 'size') or '0'
  redis.call('UNLINK', event_key(base, id))
  if size == '0' then return end
  redis.call('HINCRBY', base .. ':counts', 'event_bytes', '-' .. size)
  redis.call('HSET', delivery_key(base, id), 'size', 0)
end

-- From now on the delivery waits to be tried.
local function schedule(base, id, receiver, at)
  local ends = at + TRY_MS
  redis.call('HSET', delivery_key(base, id), 'state', 'pending', 'tries', 0, 'due', at, 'ends', ends)
  redis.call('ZADD', base .. ':deliveries', at, id)
  put_off(base, id, receiver, at)
  for _, key in ipairs({delivery_key(base, id), event_key(base, id), base .. ':deliveries', base .. ':webhooks',
    base .. ':webhooks:' .. receiver}) do
    redis.call('PEXPIREAT', key, ends + LOG_MS + SPARE_MS)
  end
end

-- Of an endpoint that is being removed nothing is told: its log goes with it.
announce = function(base, id, job, at)
  if not exists(base) then return end
  if redis.call('EXISTS', base .. ':deliveries') == 0 then redis.call('HDEL', base .. ':counts', 'event_bytes') end
  local urls, before = {}, tonumber(redis.call('HGET', job_key(base, id), 'deliveries') or 0)
  for url in string.gmatch(job.webhooks, '%S+') do urls[#urls + 1] = url end
  redis.call('HSET', job_key(base, id), 'deliveries', before + #urls)
  for i, url in ipairs(urls) do
    local delivery, receiver = 'msg_' .. id .. '_' .. (before + i), receiver_of(url)
    redis.call('HSET', delivery_key(base, delivery), 'job', id, 'url', url, 'receiver', receiver, 'created', at,
      'last', before + #urls)
    keep_event(base, delivery, id)
    schedule(base, delivery, receiver, at)
  end
end

-- Where the job of a delivery is as it was at its end; nil when it is nowhere. `known` has 'job', 'size' and 'last'.
local function event_of(base, id, known)
  if known.size ~= '0' then return event_key(base, id) end
  local job = load(job_key(base, known.job), 'state', 'deliveries')
  if job.state and FINAL[job.state] and job.deliveries == known.last then return job_key(base, known.job) end
end

local function forget_delivery(base, id)
  drop_event(base, id)
  redis.call('UNLINK', delivery_key(base, id))
  redis.call('ZREM', base .. ':deliveries', id)
  redis.call('ZREM', base .. ':ended', id)
end

-- Forgets deliveries that ended long ago, and those that are too many; some at a time.
local function trim_log(base, at)
  local ended, most = base .. ':ended', 100
  for _, id in ipairs(redis.call('ZRANGE', ended, '-inf', at - LOG_MS, 'BYSCORE', 'LIMIT', 0, most)) do
    forget_delivery(base, id)
  end
  local over = math.min(redis.call('ZCARD', ended) - MOST_ENDED, most)
  for _, id in ipairs(over > 0 and redis.call('ZRANGE', ended, 0, over - 1) or {}) do forget_delivery(base, id) end
  local oldest = redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES')
  if oldest[1] then
    redis.call('ZADD', base .. ':webhooks', oldest[2] + LOG_MS, LOG)
  else
    redis.call('ZREM', base .. ':webhooks', LOG)
  end
end

forget_deliveries = function(base, most)
  local receivers = redis.call('ZRANGE', base .. ':webhooks', 0, most - 1)
  for _, receiver in ipairs(receivers) do
    redis.call('UNLINK', base .. ':webhooks:' .. receiver)
    redis.call('ZREM', base .. ':webhooks', receiver)
  end
  if #receivers == most then return false end
  local ids = redis.call('ZRANGE', base .. ':deliveries', 0, most - 1)
  for _, id in ipairs(ids) do forget_delivery(base, id) end
  return #ids < most
end

local function claim_one(base, id, receiver, lease, at)
  local key, queue = delivery_key(base, id), base .. ':webhooks:' .. receiver
  local known = load(key, 'job', 'url', 'tries', 'size')
  if not known.url then
    redis.call('ZREM', queue, id)  -- its time is over, though nobody tried it
    return nil
  end
  local number = redis.call('HINCRBY', key, 'claims', 1)
  redis.call('HSET', key, 'leased', at + lease)
  redis.call('ZADD', queue, at + lease, id)
  local size = tonumber(known.size)
  if size == 0 then size = size_of(base, known.job) end
  return {id, known.job, known.url, receiver, number, tonumber(known.tries), size, at}
end

-- claim_webhooks: ms for which they are claimed, most in all, most for each receiver, most for those in trouble together,
-- then (receiver, most for it, 1 when it is in trouble) for those that may have fewer. Trims the log, when that is due.
-- Returns {1 when others are due (else 0), {id, job id, URL, receiver, number of the claim, failed tries, bytes of the
-- job, now} for each}.
local function claim_webhooks(keys, args)
  local base, at, lease, most, each, failing = keys[1], now(), args[1], tonumber(args[2]), tonumber(args[3]),
    tonumber(args[4])
  local allowed, in_trouble, claimed, left = {}, {}, {}, 0
  for i = 5, #args, 3 do
    allowed[args[i]], in_trouble[args[i]] = tonumber(args[i + 1]), args[i + 2] == '1'
  end
  -- The receivers that may have none are among the arguments; each of the others has something.
  local due = redis.call('ZRANGE', base .. ':webhooks', '-inf', at, 'BYSCORE', 'LIMIT', 0, most + #args)
  for _, receiver in ipairs(due) do
    local count = math.min(allowed[receiver] or each, most - #claimed, in_trouble[receiver] and failing or most)
    if receiver == LOG then
      trim_log(base, at)
    elseif count <= 0 then
      left = 1
    else
      local queue = base .. ':webhooks:' .. receiver
      local ids = redis.call('ZRANGE', queue, '-inf', at, 'BYSCORE', 'LIMIT', 0, count)
      for _, id in ipairs(ids) do claimed[#claimed + 1] = claim_one(base, id, receiver, lease, at) end
      if in_trouble[receiver] then failing = failing - #ids end
      refresh(base, receiver)
      if #ids == count then left = 1 end
    end
  end
  return {left, claimed}
end

-- A pending delivery that this claim is the newest of; or nil.
local function claimed_by(base, id, claim, ...)
  local known = load(delivery_key(base, id), 'state', 'claims', 'receiver', ...)
  if known.state == 'pending' and known.claims == claim then return known end
end

-- release_webhook: delivery, number of the claim, ms. It was not tried; from then on another claim may have it.
local function release_webhook(keys, args)
  local base, id, at = keys[1], args[1], now()
  local known = claimed_by(base, id, args[2])
  if not known then return 0 end
  redis.call('HSET', delivery_key(base, id), 'due', at + args[3])
  redis.call('HDEL', delivery_key(base, id), 'leased')
  put_off(base, id, known.receiver, at + args[3])
  return 1
end

local function end_delivery(base, id, receiver, state, at)
  local key = delivery_key(base, id)
  redis.call('HSET', key, 'state', state)
  redis.call('HDEL', key, 'due', 'leased')
  redis.call('ZREM', base .. ':webhooks:' .. receiver, id)
  refresh(base, receiver)
  if state == 'delivered' then drop_event(base, id) end
  redis.call('ZADD', base .. ':ended', at, id)
  trim_log(base, at)
  for _, name in ipairs({key, event_key(base, id), base .. ':ended', base .. ':webhooks'}) do
    redis.call('PEXPIREAT', name, at + LOG_MS + SPARE_MS)
  end
end

local function note_attempt(base, id, attempts, attempt)
  attempts = cjson.decode(attempts or '[]')
  attempts[#attempts + 1] = attempt
  while #attempts > MOST_ATTEMPTS do table.remove(attempts, 1) end
  redis.call('HSET', delivery_key(base, id), 'attempts', cjson.encode(attempts))
end

-- Whether what is to be told is still there at a later time.
local function is_kept_until(base, id, known, due)
  local key = event_of(base, id, known)
  return key and redis.call('PEXPIRETIME', key) - FORGET_SLACK_MS > due
end

-- settle_webhook: delivery, number of the claim, 'delivered', 'again' or 'failed', ms that it took, the HTTP status or in
-- one word what went wrong, ms until the next try. Returns the delivery's state, or 'STALE'.
local function settle_webhook(keys, args)
  local base, id, state, at = keys[1], args[1], args[3], now()
  local known = claimed_by(base, id, args[2], 'tries', 'ends', 'attempts', 'job', 'size', 'last')
  if not known and state == 'delivered' then  -- it has been, whoever claimed it since
    known = load(delivery_key(base, id), 'state', 'receiver', 'attempts')
    if known.state ~= 'pending' then known = nil end
  end
  if not known then return redis.status_reply('STALE') end
  note_attempt(base, id, known.attempts, {at - args[4], args[5], tonumber(args[4])})
  if state == 'again' then
    local due = at + args[6]
    if due <= tonumber(known.ends) and is_kept_until(base, id, known, due) then
      redis.call('HSET', delivery_key(base, id), 'tries', known.tries + 1, 'due', due)
      redis.call('HDEL', delivery_key(base, id), 'leased')
      put_off(base, id, known.receiver, due)
      return redis.status_reply('pending')
    end
    state = 'failed'
  end
  end_delivery(base, id, known.receiver, state, at)
  return redis.status_reply(state)
end

-- webhook_event: delivery. Returns its job as it was at its end, as `describe`; {} when that is kept no longer.
local function webhook_event(keys, args)
  local base, id, at = keys[1], args[1], now()
  local known = load(delivery_key(base, id), 'job', 'size', 'last')
  local key = known.job and event_of(base, id, known)
  return key and describe(base, known.job, load(key, unpack(SHOWN)), at) or {}
end

-- retry_webhook: delivery. It is due now, be it pending, delivered or failed; one that is just being tried stays as it is.
-- Returns 'OK', 'GONE' when there is no such delivery, or 'NO_JOB' when its job is kept no longer as it was at its end.
local function retry_webhook(keys, args)
  local base, id, at = keys[1], args[1], now()
  local known = load(delivery_key(base, id), 'state', 'receiver', 'leased', 'job', 'size', 'last')
  if not known.state then return redis.status_reply('GONE') end
  if known.state == 'pending' then
    if tonumber(known.leased or 0) <= at then
      redis.call('HSET', delivery_key(base, id), 'due', at)
      put_off(base, id, known.receiver, at)
    end
    return redis.status_reply('OK')
  end
  if not event_of(base, id, known) then return redis.status_reply('NO_JOB') end
  if known.size == '0' then keep_event(base, id, known.job) end
  redis.call('ZREM', base .. ':ended', id)
  schedule(base, id, known.receiver, at)
  return redis.status_reply('OK')
end

local LOGGED = {'job', 'url', 'state', 'created', 'due', 'attempts'}

-- webhook: delivery. Returns {job id, URL, state, created, next try at, last attempts as JSON}: see `settle_webhook`.
local function webhook(keys, args) return redis.call('HMGET', delivery_key(keys[1], args[1]), unpack(LOGGED)) end

-- webhooks: upper bound of the time at which they were last scheduled ('+inf' to begin), deliveries of just that time
-- already seen, most deliveries to look at. The newest comes first. Returns {id, that time, as `webhook`} for each;
-- false when there is no such endpoint.
local function webhooks(keys, args)
  local base, found = keys[1], {}
  if not exists(base) then return false end
  local rows = redis.call('ZRANGE', base .. ':deliveries', args[1], '-inf', 'BYSCORE', 'REV', 'LIMIT', args[2], args[3],
    'WITHSCORES')
  for i = 1, #rows, 2 do
    append(found, rows[i], rows[i + 1])
    found[#found + 1] = webhook(keys, {rows[i]})
  end
  return found
end

register('claim_webhooks', claim_webhooks, 'allow-oom')
register('release_webhook', release_webhook, 'allow-oom')
register('settle_webhook', settle_webhook, 'allow-oom')
register('webhook_event', webhook_event, 'no-writes', 'allow-oom')
register('retry_webhook', retry_webhook)
register('webhook', webhook, 'no-writes', 'allow-oom')
register('webhooks', webhooks, 'no-writes', 'allow-oom')

end
