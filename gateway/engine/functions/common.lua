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
--   * On a fair endpoint it stands in the line of its share instead, and its hash has a `place` and no `entry`, until its
--     turn comes: then it goes through the ":again" stream, and all behind is as ever. Jobs that go back to the front have
--     had their turn.
--   * An attempt's lease is its entry's place in the pending-entries list, renewed by resetting its idle time. A worker's
--     sign of life renews all that it was given, also what is still on its way through a busy process.
--   * Whoever queues a job hands it over in the same step when a worker waits: the job is begun for the worker and sent
--     to its channel. A worker that does not listen gets nothing; what got lost on its way is put back when the worker
--     subscribes again (`join`), or with its lease.
--   * A job may have a policy of its own, which it was queued with and which no change of the endpoint's settings reaches.
--   * Time is the store's, in ms.
--
-- The keys behind the base
--   :settings          hash    the endpoint's settings; it exists exactly as long as the endpoint. `lines`: as `fair.lines`;
--                              `queues`: the plain ones, in the order in which they are served; `closed`: those of them that
--                              take nothing and serve nothing, and `paused`: that serve nothing, for now
--   :queue:<queue>     stream  entries {job = id}, ids <number>-0, group "workers", consumer = worker id
--   :line:<q>:<share>  zset    fair endpoints: jobs of one share that wait, in their order; <q> is a queue without ":again"
--   :turns:<q>         zset    turns of the shares, "<number> <share>", as many as jobs wait, by their tags: the order
--   :numbers:<q>       hash    share to the number of its last turn; of shares with jobs that wait
--   :shares:<q>        zset    shares, by the tag that their next turn would have; of those for which that is to come
--   :counts            hash    counters: numbers given to entries, jobs by outcome, cursors of upkeep
--   :job:<id>          hash    the job; expires
--   :chunks:<id>       stream  its chunks, ids <position>-0, field "chunk"; expires with the job
--   :lifetimes         zset    every job, by the time at which it is forgotten
--   :timeouts          zset    jobs in progress, by the end of their execution timeout; and jobs that wait, by the time until
--                              which their policy lets them
--   :delayed           zset    jobs that wait for a later (first or next) try, by the time they become ready
--   :scheduled:<q>     zset    those of them that wait for their first try; <q> as above
--   :retry:<q>         zset    those that wait for the next
--   :completed:<q>     zset    jobs that are COMPLETED, by their end
--   :archived:<q>      zset    jobs that have ended in another way, by their end
--   :workers           zset    workers, by the time at which they count as gone
--   :waiting           zset    workers that could run more than they have, in the order in which they get jobs
--   :worker:<id>       hash    what a worker says of itself, how many jobs it was given, how many more it takes; expires
--   :log:<id>          stream  what a worker printed last: see logs.lua; expires
--   :departed          stream  workers that left or were lost not long ago; expires
--   :stopped:<id>      hash    what a worker that comes over HTTP is to stop and has not been told: job id to "<attempt>
--                              <state>"; expires
--   :idempotency:<k>   string  "<job id> <fingerprint of the body>"; expires
--   :unique:<k>        string  id of the job that was the last with this key; expires
--   :limit:<name>      string  how much of a limit is used: see limits.lua; expires
--   :webhooks          zset    receivers that deliveries wait for, by the time at which the first of these is due, and ''
--                              for the log (see webhooks.lua); expires
--   :webhooks:<origin> zset    deliveries that wait for a receiver, by the time at which they are due; expires
--   :webhook:<id>      hash    a delivery; expires
--   :event:<id>        hash    a job as it was at its end, for a delivery; expires
--   :deliveries        zset    all deliveries, by the time at which they were scheduled; expires
--   :ended             zset    those that were delivered or have failed, by the time of that; expires
-- The channels
--   :gateway:<process> to one gateway process, about jobs that it watches, and to the workers whose polls it holds: JSON
--                      header, newline, payload
--   :worker:<id>       to the process that runs a worker's handler: "<epoch> <job id> <attempt> <timeout ms> <size of the
--                      request>", newline, request, input; with the size -1 and nothing behind it when the job is too
--                      large for a message: `fetch` it
--   :stops:<id>        to the process beside it, which gives the signs of life: "<job id> <attempt> <state>"

-- The queues of an endpoint that has no others, in the order in which they are served. The ":again" queues are the
-- fronts of the plain ones: a stream takes new entries at its end only, so a job that goes back to the front goes into a
-- queue served before.
local USUAL = {'normal:again', 'normal', 'low:again', 'low'}
local GROUP = 'workers'

local fair = {}  -- fair.lua

local FINAL = {COMPLETED = true, FAILED = true, CANCELLED = true, TIMED_OUT = true}
local RETRYABLE = {FAILED = true, TIMED_OUT = true}

-- A wake-up carries its payload up to this many bytes; beyond, it says only that there is something to read.
local PAYLOAD_IN_WAKEUP = 65536
-- Upkeep that was away for longer has missed something.
local PAUSE_MS = 2000
local IDEMPOTENCY_MS = 24 * 3600 * 1000
-- So long a worker is told that a job is to be stopped, should it not ask.
local STOP_MS = 3600 * 1000
local MOST_STOPS = 1000
local MOST_BACKOFF_MS = 24 * 3600 * 1000
-- The hash of a job outlives the moment at which upkeep is to forget it, so that upkeep finds it.
local FORGET_SLACK_MS = 60 * 1000
-- By so much when an address is to be told that its time to live was over, which upkeep alone does.
local TELL_SLACK_MS = 24 * 3600 * 1000

-- The functions by their names, for those that call another.
local FUNCTIONS = {}

-- With 'allow-oom': what frees memory or ends work, which goes on when the store is out of memory.
local function register(name, callback, ...)
  FUNCTIONS[name] = callback
  redis.register_function{function_name = '@library@_' .. name, callback = callback, flags = {...}}
end

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

local function append(list, first, second)
  list[#list + 1] = first
  list[#list + 1] = second
end

-- Whether the endpoint is there, and not being removed.
local function exists(base)
  local settings = load(base .. ':settings', 'version', 'removed')
  return settings.version and not settings.removed
end

local function setting(base, name, default)
  return tonumber(redis.call('HGET', base .. ':settings', name) or default)
end

-- The queues of an endpoint, in the order in which they are served. `names`: the setting, if that is known.
local function queues_of(base, names)
  names = names or redis.call('HGET', base .. ':settings', 'queues')
  if not names or names == 'normal low' then return USUAL end
  local queues = {}
  for name in string.gmatch(names, '%S+') do append(queues, name .. ':again', name) end
  return queues
end

-- Whether a name is in a list of names, which are separated by spaces.
local function is_among(name, names)
  return names and string.find(' ' .. names .. ' ', ' ' .. name .. ' ', 1, true)
end

-- Has jobs of these queues begin no more, or again. Returns those of them that were not so before.
local function set_paused(base, queues, is_paused)
  local key, changed, left = base .. ':settings', {}, {}
  local paused = redis.call('HGET', key, 'paused') or ''
  for _, queue in ipairs(queues) do
    if (is_among(queue, paused) ~= nil) ~= is_paused then changed[#changed + 1] = queue end
  end
  if #changed == 0 then return changed end
  local named = table.concat(changed, ' ')
  for queue in string.gmatch(paused, '%S+') do
    if not is_among(queue, named) then left[#left + 1] = queue end
  end
  if is_paused then left[#left + 1] = named end
  redis.call('HSET', key, 'paused', table.concat(left, ' '))
  return changed
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
    fair.leave(base, job.queue, job.share, id)
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

-- What `finalize` and `requeue` need to know of a job.
local HELD = {'state', 'queue', 'entry', 'attempt', 'tries', 'worker', 'created', 'started', 'timeout', 'retention',
  'watchers', 'chunks', 'place', 'share', 'weight', 'webhooks', 'deliveries', 'policy'}

local function load_held(base, id) return load(job_key(base, id), unpack(HELD)) end

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

-- Whether a word on this attempt is on the newest one. RunPod's workers do not know attempts: '@<worker>' stands for the
-- one that the worker has.
local function is_newest(job, attempt)
  return job.attempt == attempt or (job.worker and '@' .. job.worker == attempt)
end

-- The newest attempt of a running job, or nil and the state that was found.
local function current(base, id, attempt, ...)
  local job = load(job_key(base, id), 'state', 'attempt', 'worker', ...)
  if job.state == 'IN_PROGRESS' and is_newest(job, attempt) then return job end
  return nil, job.state or 'GONE'
end

local function add_watcher(base, id, watchers, process)
  if process == '' then return end
  watchers = watchers or ''
  if string.find(' ' .. watchers .. ' ', ' ' .. process .. ' ', 1, true) then return end
  redis.call('HSET', job_key(base, id), 'watchers', watchers == '' and process or watchers .. ' ' .. process)
end
