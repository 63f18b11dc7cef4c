-- What clients see of jobs and endpoints.

-- How many jobs each worker has that has some.
local function jobs_in_hand(base)
  local held = {}
  for _, queue in ipairs(queues_of(base)) do
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', queue_key(base, queue), GROUP)) do
      consumer = pairs_of(consumer)
      if consumer.pending > 0 then held[consumer.name] = (held[consumer.name] or 0) + consumer.pending end
    end
  end
  return held
end

-- What a worker is seen to do, by what it says of itself and what it has.
local function state_seen(said, held)
  if said == 'ready' then return held and 'running' or 'idle' end
  return said or 'initializing'
end

local WORKER_STATES = {'initializing', 'idle', 'running', 'unhealthy', 'crashing'}

-- With so many workers, counting them is put off for so long.
local MANY_WORKERS = 100
local CENSUS_MS = 1000

-- Workers that are alive, by what they do: a number for each of WORKER_STATES.
local function count_workers(base, at)
  local counts, places = {}, {}
  for i, state in ipairs(WORKER_STATES) do counts[i], places[state] = 0, i end
  local number = redis.call('ZCARD', base .. ':workers')
  if number == 0 then return counts end
  if number > MANY_WORKERS then
    local census = cjson.decode(redis.call('HGET', base .. ':counts', 'census') or '{}')
    if at - (census.at or 0) < CENSUS_MS then return census.counts end
  end
  local held = jobs_in_hand(base)
  for _, worker in ipairs(redis.call('ZRANGE', base .. ':workers', at, '+inf', 'BYSCORE')) do
    local place = places[state_seen(redis.call('HGET', base .. ':worker:' .. worker, 'state'), held[worker])]
    if place then counts[place] = counts[place] + 1 end
  end
  if number > MANY_WORKERS then
    redis.call('HSET', base .. ':counts', 'census', cjson.encode({at = at, counts = counts}))
  end
  return counts
end

-- How many jobs will be served before this one; cancelled jobs among them count until they are passed.
local function position_of(base, id, job)
  if not job.entry and not job.place then return -1 end
  local before, lines = 0, fair.lines(base)
  for _, queue in ipairs(queues_of(base)) do
    local here = queue == job.queue
    if here and job.place then
      return before + (lines == 'last' and unread(base, queue) or 0) + fair.rank(base, queue, job.share, id)
    end
    if lines == 'first' then before = before + fair.length(base, queue) end
    if here then
      local passed = number_of(group_of(base, queue)['last-delivered-id'])
      return before + math.min(number_of(job.entry) - passed - 1, unread(base, queue) - 1)
    end
    before = before + unread(base, queue)
    if lines == 'last' then before = before + fair.length(base, queue) end
  end
end

local NEEDED = {'state', 'created', 'started', 'finished', 'worker', 'attempt', 'chunks', 'queue', 'entry', 'watchers',
  'place', 'share'}
local SHOWN = {'state', 'created', 'started', 'finished', 'worker', 'attempt', 'chunks', 'output', 'error', 'progress',
  'queue', 'entry', 'watchers', 'place', 'share'}

-- What a client may know of a job: {state, created, started, finished, worker, attempt, chunks, output, error,
-- progress} and, when it is queued, {position (-1: waits for its first or next try), numbers of workers as
-- `count_workers`, 1 when its queue is not served now}. {} when there is no such job.
local function describe(base, id, job, at)
  if not job.state then return {} end
  local reply = {}
  for i = 1, 10 do reply[i] = job[SHOWN[i]] or false end
  if job.state == 'IN_QUEUE' then
    reply[11] = position_of(base, id, job)
    for _, count in ipairs(count_workers(base, at)) do reply[#reply + 1] = count end
    local settings, name = load(base .. ':settings', 'closed', 'paused'), back_of(job.queue)
    reply[#reply + 1] = (is_among(name, settings.closed) or is_among(name, settings.paused)) and 1 or 0
  end
  return reply
end

-- status: job id, watching gateway process or ''. Returns as `describe`. Subscribe before calling with a process:
-- the look and the watch are one step, so nothing can happen in between.
local function status(keys, args, fields)
  local job = load_job(keys[1], args[1], unpack(fields or SHOWN))
  if job.state and not FINAL[job.state] then add_watcher(keys[1], args[1], job, args[2]) end
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

-- At least one chunk, if there is any, and no more than `count` or than `bytes` hold.
local function chunks_after(base, id, position, count, bytes)
  local chunks, first, size = {}, nil, 0
  repeat
    local step = math.min(count - #chunks, 16)
    local after = string.format('(%.0f-0', position)  -- Lua itself writes a number of 15 digits as 1e+15
    local items = redis.call('XRANGE', chunks_key(base, id), after, '+', 'COUNT', step)
    for _, item in ipairs(items) do
      size = size + #item[2][2]
      if first and size > bytes then return chunks, first end
      position = number_of(item[1])
      first = first or position
      chunks[#chunks + 1] = item[2][2]
    end
  until #items < step or #chunks >= count
  return chunks, first or position + 1
end

-- read: job id, position already read, most chunks to return, most bytes of them, watching gateway process or ''.
-- Returns {status as `describe` but without output, error and progress, which a reader of many pages would get with each,
-- restarted (the position at which the newest attempt began), position of the first chunk, chunks}; {} when there is no
-- such job.
local function read(keys, args)
  local base, id = keys[1], args[1]
  local described = status(keys, {id, args[5]}, NEEDED)
  if #described == 0 then return {} end
  local restarted = tonumber(redis.call('HGET', job_key(base, id), 'restarted') or 0)
  local chunks, first = chunks_after(base, id, math.max(tonumber(args[2]), restarted), tonumber(args[3]),
    tonumber(args[4]))
  return {described, restarted, first, chunks}
end

-- poll: job id, gateway process. Hands out, once, the chunks that no poll has had, and moves the mark. When there are
-- none and the job goes on, the process watches the job from then on.
-- Returns {status as in `read`, 1 when a new attempt began since the last poll, chunks}; {} for no such job.
local function poll(keys, args)
  local base, id = keys[1], args[1]
  local described = status(keys, {id, ''}, NEEDED)
  if #described == 0 then return {} end
  local key = job_key(base, id)
  local marks = load_job(base, id, 'mark', 'restarted', 'watchers')
  local mark, restarted = tonumber(marks.mark or 0), tonumber(marks.restarted or 0)
  local chunks, first = chunks_after(base, id, math.max(mark, restarted), FINAL[described[1]] and 1e9 or 1000,
    math.huge)
  if #chunks > 0 then
    redis.call('HSET', key, 'mark', first + #chunks - 1)
  elseif not FINAL[described[1]] then
    add_watcher(base, id, marks, args[2])
  end
  return {described, (mark > 0 and mark <= restarted and #chunks > 0) and 1 or 0, chunks}
end

-- health: returns {completed, failed, in progress, in queue, retried, numbers of workers as `count_workers`}, or {} when
-- there is no such endpoint. FAILED and TIMED_OUT both count as failed.
local function health(keys)
  local base = keys[1]
  if not exists(base) then return {} end
  local counts = load(base .. ':counts', 'COMPLETED', 'FAILED', 'TIMED_OUT', 'retried')
  local waiting, pending = redis.call('ZCARD', base .. ':delayed'), 0
  local queues = queues_of(base)
  for _, queue in ipairs(queues) do
    local taken = group_of(base, queue).pending
    waiting = waiting + redis.call('XLEN', queue_key(base, queue)) - taken
    pending = pending + taken
  end
  if fair.lines(base) then
    for _, queue in ipairs(fair.queues(queues)) do waiting = waiting + fair.length(base, queue) end
  end
  return {tonumber(counts.COMPLETED or 0), (counts.FAILED or 0) + (counts.TIMED_OUT or 0), pending, waiting,
    tonumber(counts.retried or 0), unpack(count_workers(base, now()))}
end

-- Of entries, which come with their payloads, no more are read for one list.
local ENTRIES_IN_LIST = 1000
-- A larger number is no queue's, but a time.
local MOST_PLACE = 1000000
local LISTED = {'state', 'created', 'started', 'finished', 'worker', 'attempt'}

local function listed(base, id, bound, seen, job)
  local row = {id, bound, seen}
  for _, name in ipairs(LISTED) do row[#row + 1] = job[name] or false end
  return row
end

-- list: a place to go on from, in two numbers ('0' and '0' to begin, '+inf' and '0' to leave sealed jobs out), most jobs.
-- Sealed jobs come first, queue by queue, the newest first; then the others, the one that is forgotten last first.
-- A place is the number of a queue and an entry there; or the time at which a job is forgotten, and how many of just that
-- time were seen.
-- Returns {{id, place (two) to go on from after it, state, created, started, finished, worker, attempt} for each, place
-- (two) to go on from; '' and 0 at the end}.
local function list(keys, args)
  local base, bound, seen, most = keys[1], args[1], tonumber(args[2]), tonumber(args[3])
  local rows, queues, place, read = {}, fair.queues(queues_of(base)), math.max(1, tonumber(bound)), 0
  if place <= MOST_PLACE then bound = '+inf' end  -- behind the last queue
  while place <= #queues do
    local before, key = seen > 0 and string.format('(%.0f-0', seen) or '+', queue_key(base, queues[place])
    local after = '(' .. group_of(base, queues[place])['last-delivered-id']
    local count = math.min(most - #rows, ENTRIES_IN_LIST)
    local items = redis.call('XREVRANGE', key, before, after, 'COUNT', count)
    for _, item in ipairs(items) do
      local id = id_at(item)
      local job = load_job(base, id, unpack(LISTED))
      seen = number_of(item[1])
      if job.sealed then rows[#rows + 1] = listed(base, id, place, seen, job) end
    end
    read = read + #items
    if #items < count then
      place, seen = place + 1, 0
    elseif #rows == most or read >= ENTRIES_IN_LIST then
      return {rows, place, seen}
    end
  end
  if bound == '+inf' then seen = 0 end
  local left = most - #rows
  local found = redis.call('ZRANGE', base .. ':lifetimes', bound, '-inf', 'BYSCORE', 'REV', 'LIMIT', seen, left,
    'WITHSCORES')
  for i = 1, #found, 2 do
    local id, ends = found[i], found[i + 1]
    bound, seen = ends, ends == bound and seen + 1 or 1
    rows[#rows + 1] = listed(base, id, bound, seen, load_job(base, id, unpack(LISTED)))
  end
  if #found < 2 * left then return {rows, '', 0} end
  return {rows, bound, seen}
end

register('status', status, 'allow-oom')
register('unwatch', unwatch, 'allow-oom')
register('read', read, 'allow-oom')
register('poll', poll, 'allow-oom')
register('health', health, 'allow-oom')
register('list', list, 'no-writes', 'allow-oom')
