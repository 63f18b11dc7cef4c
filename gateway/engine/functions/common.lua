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
--   * A job to which nothing has happened yet can be its entry alone, *sealed*: there is all that its hash would have, and
--     its id ends with the entry's number, so that it is found. Whoever is the first to change it opens it: makes its hash.
--     From then on only the hash counts. So a job costs one write on its way in, and one on its way to a worker.
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
--   :queue:<queue>     stream  entries {job = id} and sealed jobs (see sealed.lua), ids <number>-0, group "workers",
--                              consumer = worker id
--   :line:<q>:<share>  zset    fair endpoints: jobs of one share that wait, in their order; <q> is a queue without ":again"
--   :turns:<q>         zset    turns of the shares, "<number> <share>", as many as jobs wait, by their tags: the order
--   :numbers:<q>       hash    share to the number of its last turn; of shares with jobs that wait
--   :shares:<q>        zset    shares, by the tag that their next turn would have; of those for which that is to come
--   :counts            hash    counters: numbers given to entries, jobs by outcome, cursors of upkeep, and the latest end of a
--                              sealed job's time to live, `ends:<q>`
--   :job:<id>          hash    the job, unless it is sealed; expires
--   :chunks:<id>       stream  its chunks, ids <position>-0, field "chunk"; expires with the job
--   :lifetimes         zset    every job that is not sealed, by the time at which it is forgotten
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
-- It notes no more often that it was there.
local SIGN_MS = 500
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

-- Loads fields of a hash into a table. Each costs the store half as much as a short command.
local function load_into(job, key, ...)
  local values = redis.call('HMGET', key, ...)
  for i, name in ipairs({...}) do job[name] = values[i] end
  return job
end

local function load(key, ...) return load_into({}, key, ...) end

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
