-- The states of a job, and how it comes from one into another.

-- Wakes the gateway processes that watch the job.
local function wake(base, watchers, header, payload)
  if not watchers then return end
  local message = cjson.encode(header) .. '\n' .. (payload or '')
  for process in string.gmatch(watchers, '%S+') do
    redis.call('SPUBLISH', base .. ':gateway:' .. process, message)
  end
end

-- A worker that comes over HTTP hears of it in its next poll, or in the one that waits in the process `gateway`.
local function keep_stop(base, worker, gateway, id, attempt, state)
  local key = base .. ':stopped:' .. worker
  if redis.call('HLEN', key) >= MOST_STOPS then return end  -- it never asks
  redis.call('HSET', key, id, attempt .. ' ' .. state)
  redis.call('PEXPIRE', key, STOP_MS, 'NX')
  wake(base, gateway, {kind = 'stop', job = id, worker = worker})
end

-- Tells the gateway processes that hold polls of the worker.
local function wake_polls(base, worker, kind)
  local known = load(base .. ':worker:' .. worker, 'gateway', 'stops_at')
  for process in pairs({[known.gateway or ''] = true, [known.stops_at or ''] = true}) do
    wake(base, process, {kind = kind, worker = worker})
  end
end

local function stop_worker(base, id, job, state)
  if not job.worker then return end
  local worker = load(base .. ':worker:' .. job.worker, 'link', 'stops_at')
  if worker.link == 'http' then
    keep_stop(base, job.worker, worker.stops_at, id, job.attempt, state)
  else
    redis.call('SPUBLISH', base .. ':stops:' .. job.worker, id .. ' ' .. job.attempt .. ' ' .. state)
  end
end

local function drop_entry(base, queue, entry)
  redis.call('XACK', queue_key(base, queue), GROUP, entry)
  redis.call('XDEL', queue_key(base, queue), entry)
end

-- How a job is tried, if not as the endpoint's settings say: `tries` at most, the n-th failure followed by n^4 times
-- `backoff` ms, `pending` ms in the queue at most (0: no limit), kept for `retention` ms when it has not ended well, its
-- output only if `keeps_output`.
local function policy_of(job)
  if not job.policy then return nil end
  local tries, backoff, pending, retention, keeps = string.match(job.policy, '^(%d+) (%d+) (%d+) (%d+) (%d)$')
  return {tries = tonumber(tries), backoff = tonumber(backoff), pending = tonumber(pending),
    retention = tonumber(retention), keeps_output = keeps == '1'}
end

local function back_of(queue) return (string.gsub(queue, ':again$', '')) end

local LISTS = {'scheduled', 'retry', 'archived', 'completed'}

-- Where a job is listed that no queue holds.
local function list_key(base, list, queue) return base .. ':' .. list .. ':' .. back_of(queue) end

local function list_of(job)
  if job.state == 'IN_QUEUE' then return job.tries and tonumber(job.tries) > 0 and 'retry' or 'scheduled' end
  return job.state == 'COMPLETED' and 'completed' or 'archived'
end

-- Has a job wait until `at`; out of every queue.
local function delay(base, id, job, at)
  redis.call('ZADD', base .. ':delayed', at, id)
  redis.call('ZADD', list_key(base, list_of(job), job.queue), at, id)
end

local function end_delay(base, id, job)
  redis.call('ZREM', base .. ':delayed', id)
  redis.call('ZREM', list_key(base, list_of(job), job.queue), id)
end

-- Takes the job out of whatever holds it: a queue, a line, a lease, the delayed jobs.
local function detach(base, id, job)
  if job.entry then
    drop_entry(base, job.queue, job.entry)
  elseif job.place then
    fair.leave(base, job.queue, load(job_key(base, id), 'share').share, id)
  else
    end_delay(base, id, job)
  end
  if job.state == 'IN_PROGRESS' or job.policy then redis.call('ZREM', base .. ':timeouts', id) end
end

-- `slack`: as above, FORGET_SLACK_MS unless it is given.
local function keep_until(base, id, at, chunks, slack)
  slack = slack or FORGET_SLACK_MS
  redis.call('ZADD', base .. ':lifetimes', at, id)
  redis.call('PEXPIREAT', job_key(base, id), at + slack)
  if chunks then redis.call('PEXPIREAT', chunks_key(base, id), at + slack) end
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

-- A job waits in a queue from now on. `policy`: as `policy_of`.
local function limit_waiting(base, id, policy, at)
  if policy and policy.pending > 0 then redis.call('ZADD', base .. ':timeouts', at + policy.pending, id) end
end

-- What every transition needs to know of a job, besides its state. What only some do, they load themselves.
local HELD = {'queue', 'entry', 'attempt', 'tries', 'worker', 'retention', 'watchers', 'chunks', 'place', 'webhooks',
  'policy'}

-- For whoever changes the job: it is open then.
local function load_held(base, id)
  local job = load_job(base, id, unpack(HELD))
  open(base, id, job)
  return job
end

-- Makes the deliveries of a job that has just ended: see webhooks.lua.
local announce

-- The one way into a final state. `field` ('output', 'error' or nil) gets `value`; `committed` is the attempt whose
-- result this is, if any.
local function finalize(base, id, job, state, field, value, at, committed)
  local key, policy = job_key(base, id), policy_of(job)
  detach(base, id, job)
  job.state = state
  local fields, over = {'state', state, 'finished', at}, {'entry', 'progress', 'watchers'}
  if field then append(fields, field, value) end
  if committed then append(fields, 'committed', committed) end
  if not RETRYABLE[state] and not policy then append(over, 'input', 'request') end
  redis.call('HSET', key, unpack(fields))
  redis.call('HDEL', key, unpack(over))
  redis.call('ZADD', list_key(base, list_of(job), job.queue), at, id)
  keep_until(base, id, at + (policy and state ~= 'COMPLETED' and policy.retention or job.retention), job.chunks)
  redis.call('HINCRBY', base .. ':counts', state, 1)
  if job.webhooks then announce(base, id, job, at) end
  local is_dropped = field == 'output' and policy and not policy.keeps_output
  if is_dropped then redis.call('HDEL', key, 'output') end
  if not job.watchers then return end
  load_into(job, key, 'created', 'started')
  local fits = not field or is_dropped or #value <= PAYLOAD_IN_WAKEUP
  wake(base, job.watchers, {
    kind = 'final', job = id, state = state, created = tonumber(job.created), finished = at,
    started = job.started and tonumber(job.started) or nil, worker = job.worker or nil, position = tonumber(job.chunks or 0),
    field = field, whole = fits,
  }, fits and value or '')
end

-- Back into the queue, to be begun again, at the front or after `pause` ms.
local function requeue(base, id, job, pause, at)
  detach(base, id, job)
  local key = job_key(base, id)
  job.state = 'IN_QUEUE'
  redis.call('HSET', key, 'state', 'IN_QUEUE')
  redis.call('HDEL', key, 'entry', 'started', 'worker', 'progress')
  if pause > 0 then
    delay(base, id, job, at + pause)
  else
    enqueue(base, id, front_of(job.queue))
    limit_waiting(base, id, policy_of(job), at)
  end
end

-- A delayed job's time has come.
local function make_ready(base, id, job, at)
  end_delay(base, id, job)
  redis.call('HSET', job_key(base, id), 'ready', at)
  limit_waiting(base, id, policy_of(job), at)
  if list_of(job) == 'retry' then
    enqueue(base, id, front_of(job.queue))
  elseif fair.lines(base) == 'last' then
    load_into(job, job_key(base, id), 'share', 'weight')
    fair.join(base, job.queue, id, fair.reserve(base, job.queue, 1), job.share or '', job.weight or 1)
  else
    enqueue(base, id, job.queue)
  end
end

-- An attempt ended without a result, and the job may be tried again, after `pause` ms or what its policy or its endpoint
-- says; at the limit it ends as `state`. `committed`: as of `finalize`.
local function try_again(base, id, job, state, reason, at, pause, committed)
  local policy, tries = policy_of(job), tonumber(job.tries)
  local limit = policy and policy.tries or setting(base, 'attempts', 3)
  if tries >= limit then return finalize(base, id, job, state, 'error', reason, at, committed) end
  redis.call('HSET', job_key(base, id), 'last_error', reason, 'failed', at)
  if not pause then
    pause = policy and math.min(tries ^ 4 * policy.backoff, MOST_BACKOFF_MS) or setting(base, 'retry_delay_ms', 0)
  end
  requeue(base, id, job, pause, at)
  redis.call('HINCRBY', base .. ':counts', 'retried', 1)
end

-- An attempt was lost with its worker.
local function lost(base, id, job, reason, at)
  local policy = policy_of(job)
  local limit = policy and policy.tries or setting(base, 'attempts', 3)
  local text = tonumber(job.tries) >= limit and reason .. ' (attempt ' .. job.tries .. ' of ' .. limit .. ')' or reason
  try_again(base, id, job, 'FAILED', text, at, policy and 0)
end

-- A pending entry whose worker is given up: lost when it was begun, else just put back.
local function recover(base, queue, entry, reason, at)
  local found = redis.call('XRANGE', queue_key(base, queue), entry, entry)
  local id = found[1] and id_at(found[1])
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

-- Whether a word on this attempt is on the newest one. RunPod's workers do not know attempts: '@<worker>' stands for the
-- one that the worker has.
local function is_newest(job, attempt)
  return job.attempt == attempt or (job.worker and '@' .. job.worker == attempt)
end

-- The newest attempt of a running job, or nil and the state that was found.
local function current(base, id, attempt, ...)
  local job = load_job(base, id, 'attempt', 'worker', ...)
  if job.state == 'IN_PROGRESS' and is_newest(job, attempt) then return job end
  return nil, job.state or 'GONE'
end

local function add_watcher(base, id, job, process)
  if process == '' then return end
  open(base, id, job)
  local watchers = job.watchers or ''
  if string.find(' ' .. watchers .. ' ', ' ' .. process .. ' ', 1, true) then return end
  redis.call('HSET', job_key(base, id), 'watchers', watchers == '' and process or watchers .. ' ' .. process)
end
