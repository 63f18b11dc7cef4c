#!lua name=@library@

-- Every transition of a job's life. Each function is atomic, is called with one endpoint's base key as
-- KEYS[1] ("runlane:{<endpoint>}") and touches only keys that begin with it, so that one call stays on one
-- node of a cluster and inside the key pattern of a worker's ACL user.
--
-- The rules
--   * A job is IN_QUEUE, then IN_PROGRESS, then in one final state. Only `retry` leaves a final state.
--   * Each begin is an attempt with a number of its own. `emit`, `progress`, `finish` and `lose` carry that number;
--     with any other than the newest they change nothing and answer STALE.
--   * A job that is queued has one entry in one queue stream; `entry` in its hash names it. An entry that the
--     hash does not name is a leftover, and whoever meets it drops it.
--   * An attempt's lease is its entry's place in the pending-entries list, renewed by resetting its idle time.
--   * Whoever queues a job hands it over in the same step when a worker waits: the job is begun for the worker and sent
--     to its channel. A worker that does not listen gets nothing; what got lost on its way is put back when the worker
--     subscribes again (`join`), or with its lease.
--   * Time is the store's, in ms.
--
-- The keys behind the base
--   :settings          hash    the endpoint's settings; it exists exactly as long as the endpoint
--   :queue:<queue>     stream  entries {job = id}, ids <number>-0, group "workers", consumer = worker id
--   :counts            hash    counters: numbers given to entries, jobs by outcome, cursors of upkeep
--   :job:<id>          hash    the job; expires
--   :chunks:<id>       stream  its chunks, ids <position>-0, field "chunk"; expires with the job
--   :lifetimes         zset    every job, by the time at which it is forgotten
--   :timeouts          zset    jobs in progress, by the end of their execution timeout
--   :delayed           zset    jobs that wait for a later retry, by the time they become ready
--   :workers           zset    workers, by the time at which they count as gone
--   :waiting           zset    workers that could run more than they have, in the order in which they get jobs
--   :worker:<id>       hash    what a worker says of itself, how many jobs it was given, how many more it takes; expires
--   :idempotency:<k>   string  "<job id> <fingerprint of the body>"; expires
-- The channels
--   :gateway:<process> to one gateway process, about jobs that it watches: JSON header, newline, payload
--   :worker:<id>       to one worker: "stop <job id> <attempt> <state>", or "job <job id> <attempt> <timeout ms>
--                      <size of the request>", newline, request, input; with the size -1 and nothing behind it when the
--                      job is too large for a message: `fetch` it

-- Queues in the order in which they are served. The ":again" queues are the fronts of the plain ones: a stream
-- takes new entries at its end only, so a job that goes back to the front goes into a queue served before.
local QUEUES = {'normal:again', 'normal', 'low:again', 'low'}
local GROUP = 'workers'

local FINAL = {COMPLETED = true, FAILED = true, CANCELLED = true, TIMED_OUT = true}
local RETRYABLE = {FAILED = true, TIMED_OUT = true}

-- A wake-up carries its payload up to this many bytes; beyond, it says only that there is something to read.
local PAYLOAD_IN_WAKEUP = 65536
local PAUSE_MS = 2000
local IDEMPOTENCY_MS = 24 * 3600 * 1000
-- The hash of a job outlives the moment at which upkeep is to forget it, so that upkeep finds it.
local FORGET_SLACK_MS = 60 * 1000

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function queue_key(base, queue) return base .. ':queue:' .. queue end
local function job_key(base, id) return base .. ':job:' .. id end
local function chunks_key(base, id) return base .. ':chunks:' .. id end

local function load(key, ...)
  local values = redis.call('HMGET', key, ...)
  local job = {}
  for i, name in ipairs({...}) do job[name] = values[i] end
  return job
end

-- Pairs of a flat reply (XINFO, HGETALL) as a table.
local function pairs_of(flat)
  local table = {}
  for i = 1, #flat, 2 do table[flat[i]] = flat[i + 1] end
  return table
end

-- Whether the endpoint is there, and not being removed.
local function exists(base)
  local settings = load(base .. ':settings', 'version', 'removed')
  return settings.version and not settings.removed
end

local function setting(base, name, default)
  return tonumber(redis.call('HGET', base .. ':settings', name) or default)
end

local function group_of(base, queue)
  return pairs_of(redis.call('XINFO', 'GROUPS', queue_key(base, queue))[1])
end

local function number_of(entry) return tonumber(string.match(entry, '^(%d+)')) end

-- Jobs in this queue that no worker has taken.
local function unread(base, queue)
  return redis.call('XLEN', queue_key(base, queue)) - group_of(base, queue).pending
end

-- Wakes the gateway processes that watch the job.
local function wake(base, watchers, header, payload)
  if not watchers then return end
  local message = cjson.encode(header) .. '\n' .. (payload or '')
  for process in string.gmatch(watchers, '%S+') do
    redis.call('SPUBLISH', base .. ':gateway:' .. process, message)
  end
end

local function stop_worker(base, id, job, state)
  if not job.worker then return end
  redis.call('SPUBLISH', base .. ':worker:' .. job.worker, 'stop ' .. id .. ' ' .. job.attempt .. ' ' .. state)
end

local function drop_entry(base, queue, entry)
  redis.call('XACK', queue_key(base, queue), GROUP, entry)
  redis.call('XDEL', queue_key(base, queue), entry)
end

-- Takes the job out of whatever holds it: a queue, a lease, the delayed jobs.
local function detach(base, id, job)
  if job.entry then
    drop_entry(base, job.queue, job.entry)
  else
    redis.call('ZREM', base .. ':delayed', id)
  end
  if job.state == 'IN_PROGRESS' then redis.call('ZREM', base .. ':timeouts', id) end
end

local function keep_until(base, id, at)
  redis.call('ZADD', base .. ':lifetimes', at, id)
  redis.call('PEXPIREAT', job_key(base, id), at + FORGET_SLACK_MS)
  redis.call('PEXPIREAT', chunks_key(base, id), at + FORGET_SLACK_MS)
end

-- Takes numbers for entries; returns the first. Taken before they are used, so that no number is ever used twice.
local function reserve(base, queue, count)
  return redis.call('HINCRBY', base .. ':counts', 'entries:' .. queue, count) - count + 1
end

local function enqueue(base, id, queue)
  local entry = reserve(base, queue, 1) .. '-0'
  redis.call('XADD', queue_key(base, queue), entry, 'job', id)
  redis.call('HSET', job_key(base, id), 'queue', queue, 'entry', entry)
end

local function front_of(queue)
  if string.find(queue, ':again', 1, true) then return queue end
  return queue .. ':again'
end

local function back_of(queue) return (string.gsub(queue, ':again$', '')) end

-- What `finalize` and `requeue` need to know of a job.
local HELD = {'state', 'queue', 'entry', 'attempt', 'tries', 'worker', 'created', 'started', 'timeout', 'retention',
  'watchers', 'chunks'}

local function load_held(base, id) return load(job_key(base, id), unpack(HELD)) end

-- The one way into a final state. `field` ('output', 'error' or nil) gets `value`.
local function finalize(base, id, job, state, field, value, at)
  local key = job_key(base, id)
  detach(base, id, job)
  redis.call('HSET', key, 'state', state, 'finished', at)
  if field then redis.call('HSET', key, field, value) end
  redis.call('HDEL', key, 'entry', 'progress', 'watchers')
  if not RETRYABLE[state] then redis.call('HDEL', key, 'input', 'request') end
  keep_until(base, id, at + job.retention)
  redis.call('HINCRBY', base .. ':counts', state, 1)
  if not job.watchers then return end
  local fits = not field or #value <= PAYLOAD_IN_WAKEUP
  wake(base, job.watchers, {
    kind = 'final', job = id, state = state, created = tonumber(job.created), finished = at,
    started = job.started and tonumber(job.started) or nil, worker = job.worker or nil, position = tonumber(job.chunks or 0),
    field = field, whole = fits,
  }, fits and value or '')
end

-- Back into the queue, to be begun again, at the front or after `delay` ms.
local function requeue(base, id, job, delay, at)
  detach(base, id, job)
  local key = job_key(base, id)
  redis.call('HSET', key, 'state', 'IN_QUEUE')
  redis.call('HDEL', key, 'entry', 'started', 'worker', 'progress')
  if delay > 0 then
    redis.call('ZADD', base .. ':delayed', at + delay, id)
  else
    enqueue(base, id, front_of(job.queue))
  end
end

-- An attempt ended without a result. The job is tried again, or FAILED at the endpoint's limit.
local function lost(base, id, job, reason, at)
  local limit = setting(base, 'attempts', 3)
  if tonumber(job.tries) >= limit then
    local text = reason .. ' (attempt ' .. job.tries .. ' of ' .. limit .. ')'
    finalize(base, id, job, 'FAILED', 'error', text, at)
  else
    requeue(base, id, job, setting(base, 'retry_delay_ms', 0), at)
    redis.call('HINCRBY', base .. ':counts', 'retried', 1)
  end
end

-- A pending entry whose worker is given up: lost when it was begun, else just put back.
local function recover(base, queue, entry, reason, at)
  local found = redis.call('XRANGE', queue_key(base, queue), entry, entry)
  local id = found[1] and found[1][2][2]
  local job = id and load_held(base, id)
  if not job or not job.state or job.entry ~= entry or job.queue ~= queue then
    drop_entry(base, queue, entry)
  elseif job.state == 'IN_PROGRESS' then
    stop_worker(base, id, job, 'LOST')
    lost(base, id, job, reason, at)
  else
    requeue(base, id, job, 0, at)
  end
end

-- The newest attempt of a running job, or nil and the state that was found.
local function current(base, id, attempt, ...)
  local job = load(job_key(base, id), 'state', 'attempt', ...)
  if job.state == 'IN_PROGRESS' and job.attempt == attempt then return job end
  return nil, job.state or 'GONE'
end

local function add_watcher(base, id, watchers, process)
  if process == '' then return end
  watchers = watchers or ''
  if string.find(' ' .. watchers .. ' ', ' ' .. process .. ' ', 1, true) then return end
  redis.call('HSET', job_key(base, id), 'watchers', watchers == '' and process or watchers .. ' ' .. process)
end

local hand_over

-- submit: ten arguments a job: id, input, queue, timeout ms (0: the endpoint's), ttl ms, retention ms, request (the other fields of the
-- request as JSON, or ''), watching gateway process or '', idempotency key or '', fingerprint of the body.
-- Returns for each job {'NEW'}, {'SAME', id, state} (the key was used before with this body), {'CONFLICT', id}
-- (with another body) or {'FORGOTTEN', id} (with this body, for a job whose time is over); or 'NO_ENDPOINT'.
local function submit(keys, args)
  local base, at = keys[1], now()
  local settings = load(base .. ':settings', 'version', 'timeout_ms', 'removed')
  if not settings.version or settings.removed then return redis.status_reply('NO_ENDPOINT') end
  local numbers, replies = {}, {}
  for i = 1, #args, 10 do
    local id, input, queue, timeout, ttl, retention = args[i], args[i + 1], args[i + 2], args[i + 3],
      tonumber(args[i + 4]), args[i + 5]
    local request, watcher, idempotency, fingerprint = args[i + 6], args[i + 7], args[i + 8], args[i + 9]
    if timeout == '0' then timeout = settings.timeout_ms end
    local known
    if idempotency ~= '' then
      local key = base .. ':idempotency:' .. idempotency
      known = redis.call('GET', key)
      if not known then
        redis.call('SET', key, id .. ' ' .. fingerprint, 'PX', math.max(IDEMPOTENCY_MS, ttl))
      end
    end
    if known then
      local first, print = string.match(known, '^(%S+) (%S+)$')
      local job = load(job_key(base, first), 'state', 'watchers')
      if print ~= fingerprint then
        replies[#replies + 1] = {'CONFLICT', first}
      elseif not job.state then
        replies[#replies + 1] = {'FORGOTTEN', first}
      else
        if not FINAL[job.state] then add_watcher(base, first, job.watchers, watcher) end
        replies[#replies + 1] = {'SAME', first, job.state}
      end
    else
      local number = numbers[queue] or reserve(base, queue, #args / 10)
      numbers[queue] = number + 1
      local entry, key = number .. '-0', job_key(base, id)
      redis.call('XADD', queue_key(base, queue), entry, 'job', id)
      redis.call('HSET', key, 'state', 'IN_QUEUE', 'input', input, 'queue', queue, 'entry', entry, 'created', at,
        'timeout', timeout, 'ttl', ttl, 'retention', retention)
      if request ~= '' then redis.call('HSET', key, 'request', request) end
      if watcher ~= '' then redis.call('HSET', key, 'watchers', watcher) end
      redis.call('ZADD', base .. ':lifetimes', at + ttl, id)
      redis.call('PEXPIREAT', key, at + ttl + FORGET_SLACK_MS)
      replies[#replies + 1] = {'NEW'}
    end
  end
  hand_over(base, at)
  return replies
end

-- Begins the attempt of a taken entry. Returns what the worker needs, or nil when the entry is a leftover.
local function begin(base, queue, entry, id, worker, at)
  local key = job_key(base, id)
  local job = load(key, 'state', 'queue', 'entry', 'attempt', 'tries', 'timeout', 'input', 'request', 'chunks',
    'watchers')
  if job.state ~= 'IN_QUEUE' or job.entry ~= entry or job.queue ~= queue then
    drop_entry(base, queue, entry)
    return nil
  end
  local attempt = (job.attempt or 0) + 1
  redis.call('HSET', key, 'state', 'IN_PROGRESS', 'attempt', attempt, 'tries', (job.tries or 0) + 1, 'started', at,
    'worker', worker)
  redis.call('ZADD', base .. ':timeouts', at + job.timeout, id)
  if attempt > 1 then
    -- Positions go on, so that a reader's position never means two chunks; what the last attempt wrote goes.
    redis.call('UNLINK', chunks_key(base, id))
    redis.call('HSET', key, 'restarted', job.chunks or 0, 'stored', 0)
    if job.chunks then
      wake(base, job.watchers, {kind = 'restart', job = id, position = tonumber(job.chunks)})
    end
  end
  return {id, attempt, tonumber(job.timeout), job.input, job.request or ''}
end

-- Begins the next job for a worker, in the order of the queues; nil when none is left.
local function begin_next(base, worker, at)
  for _, queue in ipairs(QUEUES) do
    repeat
      local read = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', 1, 'STREAMS', queue_key(base, queue), '>')
      if read then
        local item = read[1][2][1]
        local job = begin(base, queue, item[1], item[2][2], worker, at)
        if job then return job end
      end
    until not read
  end
end

-- Puts a job back that was begun for a worker and never reached it; that was no try.
local function put_back(base, queue, entry, id, at)
  local job = load_held(base, id)
  if job.state ~= 'IN_PROGRESS' or job.queue ~= queue or job.entry ~= entry then
    return drop_entry(base, queue, entry)
  end
  redis.call('HINCRBY', job_key(base, id), 'tries', -1)
  requeue(base, id, job, 0, at)
end

local function listens(base, worker)
  return redis.call('PUBSUB', 'SHARDNUMSUB', base .. ':worker:' .. worker)[2] > 0
end

-- Sends a begun job to its worker.
local function send(base, worker, job)
  local id, attempt, timeout, input, request = unpack(job)
  local fits = #input + #request <= PAYLOAD_IN_WAKEUP
  local epoch = redis.call('HGET', base .. ':worker:' .. worker, 'epoch') or '0'
  local head = table.concat({'job', epoch, id, attempt, timeout, fits and #request or -1}, ' ')
  redis.call('SPUBLISH', base .. ':worker:' .. worker, head .. '\n' .. (fits and request .. input or ''))
end

-- Sets fields of what is known of a worker; `renew` lets them live on.
local function note(base, worker, ...)
  local key = base .. ':worker:' .. worker
  redis.call('HSET', key, ...)
  redis.call('PEXPIRE', key, 60000, 'NX')
end

local function wait_for_more(base, worker, free)
  note(base, worker, 'free', free)
  redis.call('ZADD', base .. ':waiting', redis.call('HINCRBY', base .. ':counts', 'turns', 1), worker)
end

-- Gives queued jobs to waiting workers, in turn, until one of the two has run out. Every function that queues ends so.
function hand_over(base, at)
  local waiting = base .. ':waiting'
  local worker = redis.call('ZRANGE', waiting, 0, 0)[1]
  while worker do
    if listens(base, worker) then
      local job = begin_next(base, worker, at)
      if not job then return end
      send(base, worker, job)
      redis.call('ZREM', waiting, worker)
      local key = base .. ':worker:' .. worker
      redis.call('HINCRBY', key, 'given', 1)
      local free = (redis.call('HGET', key, 'free') or 1) - 1
      if free > 0 then wait_for_more(base, worker, free) end
    else
      redis.call('ZREM', waiting, worker)
    end
    worker = redis.call('ZRANGE', waiting, 0, 0)[1]
  end
end

-- take: worker, capacity, jobs that it has got since it joined (by replies of `take` and by messages).
-- Begins as many jobs as the worker can run; what is left of its capacity waits for jobs to come. Jobs on their way to
-- the worker count against the capacity. Returns a list of {id, attempt, timeout ms, input, request}.
local function take(keys, args)
  local base, worker, at = keys[1], args[1], now()
  local key = base .. ':worker:' .. worker
  local given = tonumber(redis.call('HGET', key, 'given') or 0)
  local capacity = args[2] - (given - (args[3] or given))
  local jobs = {}
  while #jobs < capacity do
    local job = begin_next(base, worker, at)
    if not job then break end
    jobs[#jobs + 1] = job
  end
  redis.call('ZREM', base .. ':waiting', worker)
  if #jobs > 0 then note(base, worker, 'given', given + #jobs) end
  if #jobs < capacity then wait_for_more(base, worker, capacity - #jobs) end
  return jobs
end

-- fetch: job id, attempt. Returns {input, request} of a job that was too large for a message, or {'STALE', state}.
local function fetch(keys, args)
  local job, state = current(keys[1], args[1], args[2], 'input', 'request')
  if not job then return {'STALE', state} end
  return {job.input, job.request or ''}
end

-- Every entry that the worker holds, in steps: calls with queue, entry, job id or nil.
local function each_held(base, worker, callback)
  for _, queue in ipairs(QUEUES) do
    local after = '-'
    repeat
      local pending = redis.call('XPENDING', queue_key(base, queue), GROUP, after, '+', 100, worker)
      for _, item in ipairs(pending) do
        local found = redis.call('XRANGE', queue_key(base, queue), item[1], item[1])
        callback(queue, item[1], found[1] and found[1][2][2])
        after = '(' .. item[1]
      end
    until #pending < 100
  end
end

-- join: worker, then ids of the jobs that it has. Called when its subscription stands, after whatever may have been
-- lost: what was given to it and never arrived goes back. Returns the epoch; messages with another one are old.
local function join(keys, args)
  local base, worker, at = keys[1], args[1], now()
  local key, has = base .. ':worker:' .. worker, {}
  for i = 2, #args do has[args[i]] = true end
  redis.call('ZREM', base .. ':waiting', worker)
  each_held(base, worker, function(queue, entry, id)
    if not id then
      drop_entry(base, queue, entry)
    elseif not has[id] then
      put_back(base, queue, entry, id, at)
    end
  end)
  local epoch = (redis.call('HGET', key, 'epoch') or 0) + 1
  note(base, worker, 'given', 0, 'epoch', epoch)
  hand_over(base, at)
  return epoch
end

-- emit: job id, attempt, number of the first chunk within the attempt (from 1), chunks.
-- Chunks that the job has already are skipped, so a call may be repeated. Returns 'OK' or {'STALE', state}.
local function emit(keys, args)
  local base, id, first = keys[1], args[1], tonumber(args[3])
  local job, state = current(base, id, args[2], 'chunks', 'restarted', 'stored', 'watchers')
  if not job then return {'STALE', state} end
  local key, stream = job_key(base, id), chunks_key(base, id)
  local last, before = tonumber(job.chunks or 0), tonumber(job.restarted or 0) + first - 1
  if before > last then return redis.error_reply('GAP chunks before number ' .. first .. ' are missing') end
  local stored, sizes, payload = tonumber(job.stored or 0), {}, {}
  for i = last - before + 4, #args do
    redis.call('XADD', stream, (before + i - 3) .. '-0', 'chunk', args[i])
    stored = stored + #args[i]
    sizes[#sizes + 1] = #args[i]
    payload[#payload + 1] = args[i]
  end
  if #sizes == 0 then return redis.status_reply('OK') end
  if last == tonumber(job.restarted or 0) then
    redis.call('PEXPIREAT', stream, redis.call('PEXPIRETIME', key))
  end
  local limit = stored > 1048576 and setting(base, 'stream_bytes', 33554432) or stored
  while stored > limit do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', stream, oldest[1])
    stored = stored - #oldest[2][2]
  end
  redis.call('HSET', key, 'chunks', last + #sizes, 'stored', stored)
  local whole = table.concat(payload)
  local fits = #whole <= PAYLOAD_IN_WAKEUP
  wake(base, job.watchers, {kind = 'chunks', job = id, first = last + 1, sizes = sizes, whole = fits},
    fits and whole or '')
  return redis.status_reply('OK')
end

-- progress: job id, attempt, JSON. Returns 'OK' or {'STALE', state}.
local function progress(keys, args)
  local job, state = current(keys[1], args[1], args[2])
  if not job then return {'STALE', state} end
  redis.call('HSET', job_key(keys[1], args[1]), 'progress', args[3])
  return redis.status_reply('OK')
end

-- finish: job id, attempt, state, field ('output', 'error' or ''), value.
-- Returns 'OK', also when this attempt has finished the job before, or {'STALE', state}.
local function finish(keys, args)
  local base, id, attempt, state = keys[1], args[1], args[2], args[3]
  if state ~= 'COMPLETED' and state ~= 'FAILED' then return redis.error_reply('ERR a worker cannot say ' .. state) end
  local key = job_key(base, id)
  local job = load_held(base, id)
  if job.state ~= 'IN_PROGRESS' or job.attempt ~= attempt then
    if redis.call('HGET', key, 'committed') == attempt then return redis.status_reply('OK') end
    return {'STALE', job.state or 'GONE'}
  end
  redis.call('HSET', key, 'committed', attempt)
  finalize(base, id, job, state, args[4] ~= '' and args[4] or nil, args[5], now())
  return redis.status_reply('OK')
end

-- lose: job id, attempt, reason. The worker gives the attempt up. Returns 'OK' or {'STALE', state}.
local function lose(keys, args)
  local job = load_held(keys[1], args[1])
  if job.state ~= 'IN_PROGRESS' or job.attempt ~= args[2] then return {'STALE', job.state or 'GONE'} end
  local at = now()
  lost(keys[1], args[1], job, args[3], at)
  hand_over(keys[1], at)
  return redis.status_reply('OK')
end

-- renew: worker, ms after which it counts as gone, its concurrency, its state, its description (JSON, or '' when it
-- did not change), then (job id, attempt) pairs. Life sign and leases at once.
-- Returns (job id, attempt, state found) for each job that the worker no longer holds.
local function renew(keys, args)
  local base, worker, gone, at = keys[1], args[1], tonumber(args[2]), now()
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local key, lapsed = base .. ':worker:' .. worker, {}
  redis.call('ZADD', base .. ':workers', at + gone, worker)
  redis.call('HSET', key, 'seen', at, 'concurrency', args[3], 'state', args[4])
  if args[5] ~= '' then redis.call('HSET', key, 'description', args[5]) end
  redis.call('PEXPIRE', key, gone * 10)
  for i = 6, #args, 2 do
    local job, state = current(base, args[i], args[i + 1], 'worker', 'queue', 'entry')
    if job and job.worker == worker then
      redis.call('XCLAIM', queue_key(base, job.queue), GROUP, worker, 0, job.entry, 'JUSTID')
    else
      lapsed[#lapsed + 1] = args[i]
      lapsed[#lapsed + 1] = args[i + 1]
      lapsed[#lapsed + 1] = state or 'LOST'
    end
  end
  return lapsed
end

-- leave: worker. It takes no more: what it still holds goes back, and it is forgotten. Returns the number of jobs.
local function leave(keys, args)
  local base, worker, at, held = keys[1], args[1], now(), 0
  redis.call('ZREM', base .. ':waiting', worker)
  each_held(base, worker, function(queue, entry)
    recover(base, queue, entry, 'worker ' .. worker .. ' left before the job ended', at)
    held = held + 1
  end)
  for _, queue in ipairs(QUEUES) do redis.call('XGROUP', 'DELCONSUMER', queue_key(base, queue), GROUP, worker) end
  redis.call('ZREM', base .. ':workers', worker)
  redis.call('UNLINK', base .. ':worker:' .. worker)
  hand_over(base, at)
  return held
end

-- Workers that are alive by what they do: {initializing, idle, running, unhealthy}.
local function count_workers(base, at)
  local busy, counted = {}, {initializing = 0, idle = 0, running = 0, unhealthy = 0}
  local alive = redis.call('ZRANGE', base .. ':workers', at, '+inf', 'BYSCORE')
  if #alive == 0 then return counted end
  for _, queue in ipairs(QUEUES) do
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', queue_key(base, queue), GROUP)) do
      consumer = pairs_of(consumer)
      if consumer.pending > 0 then busy[consumer.name] = true end
    end
  end
  for _, worker in ipairs(alive) do
    local state = redis.call('HGET', base .. ':worker:' .. worker, 'state') or 'initializing'
    if state == 'ready' then state = busy[worker] and 'running' or 'idle' end
    if counted[state] then counted[state] = counted[state] + 1 end
  end
  return counted
end

-- How many jobs will be served before this one; cancelled jobs among them count until they are passed.
local function position_of(base, job)
  if not job.entry then return -1 end
  local before = 0
  for _, queue in ipairs(QUEUES) do
    if queue == job.queue then
      local passed = number_of(group_of(base, queue)['last-delivered-id'])
      return before + math.min(number_of(job.entry) - passed - 1, unread(base, queue) - 1)
    end
    before = before + unread(base, queue)
  end
end

local SHOWN = {'state', 'created', 'started', 'finished', 'worker', 'attempt', 'chunks', 'output', 'error', 'progress',
  'queue', 'entry', 'watchers'}

-- What a client may know of a job: {state, created, started, finished, worker, attempt, chunks, output, error,
-- progress} and, when it is queued, {position (-1: waits for its retry), initializing, idle, running, unhealthy
-- workers}. {} when there is no such job.
local function describe(base, id, job, at)
  if not job.state then return {} end
  local reply = {}
  for i = 1, 10 do reply[i] = job[SHOWN[i]] end
  if job.state == 'IN_QUEUE' then
    local workers = count_workers(base, at)
    reply[11] = position_of(base, job)
    reply[12], reply[13], reply[14], reply[15] = workers.initializing, workers.idle, workers.running, workers.unhealthy
  end
  return reply
end

-- status: job id, watching gateway process or ''. Returns as `describe`. Subscribe before calling with a process:
-- the look and the watch are one step, so nothing can happen in between.
local function status(keys, args)
  local job = load(job_key(keys[1], args[1]), unpack(SHOWN))
  if job.state and not FINAL[job.state] then add_watcher(keys[1], args[1], job.watchers, args[2]) end
  return describe(keys[1], args[1], job, now())
end

-- unwatch: job id, gateway process.
local function unwatch(keys, args)
  local key = job_key(keys[1], args[1])
  local watchers = redis.call('HGET', key, 'watchers')
  if not watchers then return 0 end
  local rest = {}
  for process in string.gmatch(watchers, '%S+') do
    if process ~= args[2] then rest[#rest + 1] = process end
  end
  if #rest == 0 then return redis.call('HDEL', key, 'watchers') end
  return redis.call('HSET', key, 'watchers', table.concat(rest, ' '))
end

local function chunks_after(base, id, position, count)
  local items = redis.call('XRANGE', chunks_key(base, id), '(' .. position .. '-0', '+', 'COUNT', count)
  local chunks = {}
  for i, item in ipairs(items) do chunks[i] = item[2][2] end
  return chunks, items[1] and number_of(items[1][1]) or position + 1
end

-- read: job id, position already read, most chunks to return, watching gateway process or ''.
-- Returns {status as `describe`, restarted (the position at which the newest attempt began), position of the first
-- chunk, chunks}; {} when there is no such job.
local function read(keys, args)
  local base, id = keys[1], args[1]
  local described = status(keys, {id, args[4]})
  if #described == 0 then return {} end
  local restarted = tonumber(redis.call('HGET', job_key(base, id), 'restarted') or 0)
  local chunks, first = chunks_after(base, id, math.max(tonumber(args[2]), restarted), args[3])
  return {described, restarted, first, chunks}
end

-- poll: job id, watching gateway process. Hands out, once, the chunks that no poll has had, and moves the mark.
-- Returns {status as `describe`, 1 when a new attempt began since the last poll, chunks}; {} for no such job.
local function poll(keys, args)
  local base, id = keys[1], args[1]
  local described = status(keys, {id, args[2]})
  if #described == 0 then return {} end
  local key = job_key(base, id)
  local marks = load(key, 'mark', 'restarted')
  local mark, restarted = tonumber(marks.mark or 0), tonumber(marks.restarted or 0)
  local chunks, first = chunks_after(base, id, math.max(mark, restarted), FINAL[described[1]] and 1e9 or 1000)
  if #chunks > 0 then redis.call('HSET', key, 'mark', first + #chunks - 1) end
  return {described, (mark > 0 and mark <= restarted and #chunks > 0) and 1 or 0, chunks}
end

-- cancel: job id. Returns the job as `describe`, whatever its state was; {} when there is no such job.
local function cancel(keys, args)
  local base, id, at = keys[1], args[1], now()
  local job = load_held(base, id)
  if job.state and not FINAL[job.state] then
    stop_worker(base, id, job, 'CANCELLED')
    finalize(base, id, job, 'CANCELLED', nil, nil, at)
  end
  return status(keys, {id, ''})
end

-- retry: job id. Returns 'OK', 'GONE', or {'STATE', state} when the job is in a state that cannot be retried.
local function retry(keys, args)
  local base, id, at = keys[1], args[1], now()
  local key = job_key(base, id)
  local job = load(key, 'state', 'queue', 'ttl', 'chunks')
  if not job.state then return redis.status_reply('GONE') end
  if not RETRYABLE[job.state] then return {'STATE', job.state} end
  redis.call('HSET', key, 'state', 'IN_QUEUE', 'tries', 0, 'created', at, 'mark', job.chunks or 0)
  redis.call('HDEL', key, 'output', 'error', 'started', 'finished', 'worker')
  redis.call('UNLINK', chunks_key(base, id))
  keep_until(base, id, at + job.ttl)
  enqueue(base, id, back_of(job.queue))
  redis.call('HINCRBY', base .. ':counts', 'retried', 1)
  hand_over(base, at)
  return redis.status_reply('OK')
end

-- touch: job id, ms from now until the job is forgotten. Returns 1, or 0 when there is no such job.
local function touch(keys, args)
  local base, id, at = keys[1], args[1], now()
  if redis.call('EXISTS', job_key(base, id)) == 0 then return 0 end
  keep_until(base, id, at + args[2])
  return 1
end

-- purge: most jobs to remove in this call. Removes waiting jobs, none in progress; each becomes CANCELLED.
-- Returns the number removed; fewer than asked for means that none are left.
local function purge(keys, args)
  local base, most, at, removed = keys[1], tonumber(args[1]), now(), 0
  local function remove(id)
    local job = id and load_held(base, id)
    if not job or job.state ~= 'IN_QUEUE' then return false end
    finalize(base, id, job, 'CANCELLED', nil, nil, at)
    removed = removed + 1
    return true
  end
  for _, queue in ipairs(QUEUES) do
    local after = '(' .. group_of(base, queue)['last-delivered-id']
    while removed < most do
      local items = redis.call('XRANGE', queue_key(base, queue), after, '+', 'COUNT', most - removed)
      if #items == 0 then break end
      for _, item in ipairs(items) do
        if not remove(item[2][2]) then drop_entry(base, queue, item[1]) end
      end
    end
  end
  if removed < most then
    for _, id in ipairs(redis.call('ZRANGE', base .. ':delayed', 0, most - removed - 1)) do
      if not remove(id) then redis.call('ZREM', base .. ':delayed', id) end
    end
  end
  return removed
end

-- health: returns {completed, failed, in progress, in queue, retried, initializing, idle, running, unhealthy}, or {}
-- when there is no such endpoint. FAILED and TIMED_OUT both count as failed.
local function health(keys)
  local base = keys[1]
  if not exists(base) then return {} end
  local counts = load(base .. ':counts', 'COMPLETED', 'FAILED', 'TIMED_OUT', 'retried')
  local waiting, pending = redis.call('ZCARD', base .. ':delayed'), 0
  for _, queue in ipairs(QUEUES) do
    local taken = group_of(base, queue).pending
    waiting = waiting + redis.call('XLEN', queue_key(base, queue)) - taken
    pending = pending + taken
  end
  local workers = count_workers(base, now())
  return {tonumber(counts.COMPLETED or 0), (counts.FAILED or 0) + (counts.TIMED_OUT or 0), pending, waiting,
    tonumber(counts.retried or 0), workers.initializing, workers.idle, workers.running, workers.unhealthy}
end

-- list: upper bound of the time at which jobs are forgotten ('+inf' to begin), jobs of just that time already seen,
-- most jobs to look at. The job that is forgotten last comes first.
-- Returns {id, that time, state, created, started, finished, worker, attempt} for each.
local function list(keys, args)
  local base, jobs = keys[1], {}
  local found = redis.call('ZRANGE', base .. ':lifetimes', args[1], '-inf', 'BYSCORE', 'REV', 'LIMIT', args[2], args[3],
    'WITHSCORES')
  for i = 1, #found, 2 do
    local job = redis.call('HMGET', job_key(base, found[i]), 'state', 'created', 'started', 'finished', 'worker',
      'attempt')
    jobs[#jobs + 1] = {found[i], found[i + 1], unpack(job)}
  end
  return jobs
end

-- Time over for a job: it is gone, whatever its state.
local function forget(base, id, at)
  local job = load_held(base, id)
  if job.state and not FINAL[job.state] then
    stop_worker(base, id, job, 'GONE')
    detach(base, id, job)
    wake(base, job.watchers, {kind = 'gone', job = id})
  end
  redis.call('UNLINK', job_key(base, id), chunks_key(base, id))
  redis.call('ZREM', base .. ':lifetimes', id)
end

local function recover_leases(base, most, at)
  local lease, recovered = setting(base, 'lease_ms', 30000), 0
  for _, queue in ipairs(QUEUES) do
    local mark = 'cursor:' .. queue
    local cursor = redis.call('HGET', base .. ':counts', mark) or '0-0'
    local reply = redis.call('XAUTOCLAIM', queue_key(base, queue), GROUP, 'upkeep', lease, cursor, 'COUNT', most,
      'JUSTID')
    redis.call('HSET', base .. ':counts', mark, reply[1])
    for _, entry in ipairs(reply[2]) do
      recover(base, queue, entry, 'the worker gave no sign of life for ' .. lease .. ' ms', at)
      recovered = recovered + 1
    end
  end
  return recovered
end

-- Whether workers are still to be given time to renew.
local function settling(base, settle, at)
  if settle == 0 then return false end
  local counts = base .. ':counts'
  local marks = load(counts, 'tended', 'settled')
  redis.call('HSET', counts, 'tended', at)
  if marks.tended and at - marks.tended <= PAUSE_MS then return at < tonumber(marks.settled or 0) end
  redis.call('HSET', counts, 'settled', at + settle)
  return true
end

-- Workers that have been silent so long that all their leases have been recovered.
local function forget_workers(base, most, at)
  local silent = at - setting(base, 'lease_ms', 30000) - 1000
  local workers = redis.call('ZRANGE', base .. ':workers', '-inf', silent, 'BYSCORE', 'LIMIT', 0, most)
  for _, worker in ipairs(workers) do leave({base}, {worker}) end
  return workers
end

-- upkeep: most items of each kind to handle in this call, ms for which leases are left alone after a pause (0: none).
-- When upkeep has not run for a while, nor could workers renew, be it that the store was down, frozen or not to be
-- reached, or that all gateways were gone: they get that time before leases are taken from them.
-- Returns {leases recovered, jobs timed out, delayed jobs made ready, jobs forgotten, ids of workers forgotten}.
local function upkeep(keys, args)
  local base, most, at = keys[1], tonumber(args[1]), now()
  if not exists(base) then return {0, 0, 0, 0, {}} end
  local function due(name)
    return redis.call('ZRANGE', base .. name, '-inf', at, 'BYSCORE', 'LIMIT', 0, most)
  end
  local late = due(':timeouts')
  for _, id in ipairs(late) do
    local job = load_held(base, id)
    if job.state == 'IN_PROGRESS' then
      stop_worker(base, id, job, 'TIMED_OUT')
      local text = 'the job ran longer than its executionTimeout of ' .. job.timeout .. ' ms'
      finalize(base, id, job, 'TIMED_OUT', 'error', text, at)
    else
      redis.call('ZREM', base .. ':timeouts', id)
    end
  end
  local ready = due(':delayed')
  for _, id in ipairs(ready) do
    redis.call('ZREM', base .. ':delayed', id)
    local job = load_held(base, id)
    if job.state == 'IN_QUEUE' and not job.entry then enqueue(base, id, front_of(job.queue)) end
  end
  local over = due(':lifetimes')
  for _, id in ipairs(over) do forget(base, id, at) end
  local recovered = not settling(base, tonumber(args[2]), at) and recover_leases(base, most, at) or 0
  local gone = forget_workers(base, most, at)
  hand_over(base, at)
  return {recovered, #late, #ready, #over, gone}
end

-- configure: version that must be the present one ('' to create), then field, value pairs of the settings.
-- Returns 'OK', 'EXISTS' or 'CHANGED' (created or changed by someone else meanwhile), or 'NO_ENDPOINT'.
local function configure(keys, args)
  local base = keys[1]
  local settings = base .. ':settings'
  local version = redis.call('HGET', settings, 'version')
  if args[1] == '' and version then return redis.status_reply('EXISTS') end
  if args[1] ~= '' and not version then return redis.status_reply('NO_ENDPOINT') end
  if args[1] ~= '' and version ~= args[1] then return redis.status_reply('CHANGED') end
  if not version then
    for _, queue in ipairs(QUEUES) do
      redis.call('XGROUP', 'CREATE', queue_key(base, queue), GROUP, '0', 'MKSTREAM')
    end
  end
  redis.call('HSET', settings, 'version', (version or 0) + 1, unpack(args, 2))
  return redis.status_reply('OK')
end

-- remove: most jobs to cancel in this call. Deletes the endpoint in steps: first it is marked, so that nothing new comes
-- in, then its jobs go, then the rest. Returns 1 when all is done, 0 to be called again, -1 when there is none.
local function remove(keys, args)
  local base, most, at = keys[1], tonumber(args[1]), now()
  if redis.call('EXISTS', base .. ':settings') == 0 then return -1 end
  redis.call('HSET', base .. ':settings', 'removed', 1)
  if purge(keys, args) == most then return 0 end
  for _, queue in ipairs(QUEUES) do
    local pending = redis.call('XPENDING', queue_key(base, queue), GROUP, '-', '+', most)
    for _, item in ipairs(pending) do
      local found = redis.call('XRANGE', queue_key(base, queue), item[1], item[1])
      if found[1] then cancel(keys, {found[1][2][2]}) end
      drop_entry(base, queue, item[1])
    end
    if #pending == most then return 0 end
  end
  local ids = redis.call('ZRANGE', base .. ':lifetimes', 0, most - 1)
  for _, id in ipairs(ids) do forget(base, id, at) end
  if #ids == most then return 0 end
  for _, worker in ipairs(redis.call('ZRANGE', base .. ':workers', 0, -1)) do leave(keys, {worker}) end
  for _, queue in ipairs(QUEUES) do
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', queue_key(base, queue), GROUP)) do
      redis.call('UNLINK', base .. ':worker:' .. pairs_of(consumer).name)
    end
    redis.call('UNLINK', queue_key(base, queue))
  end
  redis.call('UNLINK', base .. ':settings', base .. ':counts', base .. ':lifetimes', base .. ':timeouts', base .. ':delayed',
    base .. ':workers', base .. ':waiting')
  return 1
end

local function register(name, callback, ...)
  redis.register_function{function_name = '@library@_' .. name, callback = callback, flags = {...}}
end

register('submit', submit)
register('take', take)
register('fetch', fetch)
register('join', join)
register('emit', emit)
register('progress', progress)
register('retry', retry)
register('configure', configure)
-- What frees memory or ends work goes on when the store is out of memory.
register('finish', finish, 'allow-oom')
register('lose', lose, 'allow-oom')
register('renew', renew, 'allow-oom')
register('leave', leave, 'allow-oom')
register('status', status, 'allow-oom')
register('unwatch', unwatch, 'allow-oom')
register('read', read, 'allow-oom')
register('poll', poll, 'allow-oom')
register('cancel', cancel, 'allow-oom')
register('touch', touch, 'allow-oom')
register('purge', purge, 'allow-oom')
register('upkeep', upkeep, 'allow-oom')
register('remove', remove, 'allow-oom')
register('health', health, 'no-writes', 'allow-oom')
register('list', list, 'no-writes', 'allow-oom')
