-- Jobs and queues as Runqy's clients see and manage them.

do  -- All files together may have 200 local names; those in here are of this file.

-- Payloads that are larger, or come after so many bytes in one list, are left out of it.
local PAYLOAD_IN_LIST = 65536
local PAYLOADS_IN_LIST = 1048576
-- So many jobs stand for all when the memory of a queue is estimated.
local SAMPLES = 3

local FIELDS = {'state', 'created', 'started', 'finished', 'worker', 'attempt', 'error', 'queue', 'entry', 'place', 'tries',
  'policy', 'timeout', 'last_error', 'failed'}

-- A job's state in Runqy's words.
local function state_of(job)
  if job.state == 'IN_PROGRESS' then return 'active' end
  if job.entry or job.place then return 'pending' end
  return list_of(job)
end

-- {id, Runqy's state, queue, state, created, started, finished, worker, attempt, error, tries, policy, timeout, last
-- error, time of that, time at which it is ready, payload, output}; false stands for what there is not.
local function described(base, id, job)
  local due = job.state == 'IN_QUEUE' and redis.call('ZSCORE', base .. ':delayed', id)
  return {id, state_of(job), back_of(job.queue), job.state, job.created, job.started, job.finished, job.worker, job.attempt,
    job.error, job.tries, job.policy, job.timeout, job.last_error, job.failed, due, job.input or false,
    job.output or false}
end

-- task: job id, watching gateway process or ''. Returns as `described`; {} when there is no such job.
local function task(keys, args)
  local base, id = keys[1], args[1]
  local job = load_job(base, id, 'input', 'output', 'watchers', unpack(FIELDS))
  if not job.state then return {} end
  if not FINAL[job.state] then add_watcher(base, id, job, args[2]) end
  return described(base, id, job)
end

-- Ids of up to `count` jobs that wait in one stream, after the first `skip`.
local function waiting_in(base, queue, skip, count)
  local after = '(' .. group_of(base, queue)['last-delivered-id']
  local ids = {}
  for i, item in ipairs(redis.call('XRANGE', queue_key(base, queue), after, '+', 'COUNT', skip + count)) do
    if i > skip then ids[#ids + 1] = id_at(item) end
  end
  return ids
end

local function running_in(base, queue, skip, count)
  local ids = {}
  for i, item in ipairs(redis.call('XPENDING', queue_key(base, queue), GROUP, '-', '+', skip + count)) do
    if i > skip then ids[#ids + 1] = job_of(base, queue, item[1]) end
  end
  return ids
end

-- Calls with a function that gives ids of jobs in this state, of one queue, and how many there are: for each part of the
-- queue that can hold some.
local function each_part(base, queue, state, callback)
  for _, stream in ipairs({front_of(queue), queue}) do
    if state == 'pending' then
      callback(unread(base, stream), function(...) return waiting_in(base, stream, ...) end)
    elseif state == 'active' then
      callback(group_of(base, stream).pending, function(...) return running_in(base, stream, ...) end)
    end
  end
  if state == 'pending' then
    callback(fair.length(base, queue), function(...) return fair.list(base, queue, ...) end)
  elseif state ~= 'active' then
    local key = list_key(base, state, queue)
    callback(redis.call('ZCARD', key), function(skip, count)
      local is_over = state == 'archived' or state == 'completed'
      return redis.call(is_over and 'ZREVRANGE' or 'ZRANGE', key, skip, skip + count - 1)
    end)
  end
end

-- Ids of up to `count` jobs of the queues that are in this state, after the first `skip`: those that wait in the order in
-- which they are served, those that are over with the last one first.
local function find(base, queues, state, skip, count)
  local found = {}
  for _, queue in ipairs(queues) do
    each_part(base, queue, state, function(number, ids)
      if #found < count and skip < number then
        for _, id in ipairs(ids(skip, count - #found)) do found[#found + 1] = id end
      end
      skip = math.max(0, skip - number)
    end)
  end
  return found
end

-- tasks: Runqy's state, how many to leave out, most jobs, queues. Returns each as `described`, without output.
local function tasks(keys, args)
  local base, listed, bytes = keys[1], {}, 0
  for _, id in ipairs(find(base, {unpack(args, 4)}, args[1], tonumber(args[2]), tonumber(args[3]))) do
    local key = job_key(base, id)
    local job = load_job(base, id, unpack(FIELDS))
    if job.state then
      local size = job.sealed and #job.input or redis.call('HSTRLEN', key, 'input')
      if size <= PAYLOAD_IN_LIST and bytes + size <= PAYLOADS_IN_LIST then
        job.input = job.input or redis.call('HGET', key, 'input')
        bytes = bytes + size
      else
        job.input = nil
      end
      listed[#listed + 1] = described(base, id, job)
    end
  end
  return listed
end

local STATES = {'pending', 'active', 'scheduled', 'retry', 'archived', 'completed'}

local function memory(...) return redis.call('MEMORY', 'USAGE', ...) or 0 end

-- About how many bytes a queue takes, with `number` jobs.
local function memory_of(base, queue, number)
  local sum = memory(queue_key(base, queue)) + memory(queue_key(base, front_of(queue)))
  local sampled, bytes = 0, 0
  for _, state in ipairs(STATES) do
    for _, id in ipairs(find(base, {queue}, state, 0, SAMPLES)) do
      sampled = sampled + 1
      bytes = bytes + memory(job_key(base, id), 'SAMPLES', 0)  -- all fields: one may have it all
    end
  end
  return sampled > 0 and math.floor(sum + bytes / sampled * number) or sum
end

-- queues: Returns for each of the endpoint's queues {name, numbers of jobs by STATES, 1 when it is paused, about how many
-- bytes it takes}; {} when there is no such endpoint.
local function queues(keys)
  local base, listed = keys[1], {}
  if not exists(base) then return {} end
  local paused = redis.call('HGET', base .. ':settings', 'paused')
  for _, queue in ipairs(fair.queues(queues_of(base))) do
    local row, sum = {queue}, 0
    for _, state in ipairs(STATES) do
      local count = 0
      each_part(base, queue, state, function(number) count = count + number end)
      row[#row + 1] = count
      sum = sum + count
    end
    append(row, is_among(queue, paused) and 1 or 0, memory_of(base, queue, sum))
    listed[#listed + 1] = row
  end
  return listed
end

-- pause: '1', or '0' to go on, then queues. Returns those of them that were not so before; false when there is no such
-- endpoint.
local function pause(keys, args)
  local base = keys[1]
  if not exists(base) then return false end
  local changed = set_paused(base, {unpack(args, 2)}, args[1] == '1')
  hand_over(base, now())
  return changed
end

-- Removes a job that does not run, whatever its state. Returns whether there was one.
local function discard(base, id, at)
  local job = load_job(base, id, unpack(HELD))
  if not job.state or job.state == 'IN_PROGRESS' then return false end
  if job.sealed and not job.webhooks then  -- there is nobody to be told
    detach(base, id, job)
    redis.call('HINCRBY', base .. ':counts', 'CANCELLED', 1)
    return true
  end
  open(base, id, job)
  if not FINAL[job.state] then finalize(base, id, job, 'CANCELLED', nil, nil, at) end
  forget(base, id, at)
  return true
end

-- delete: job id. Returns 'OK', 'GONE', or 'ACTIVE' when it runs, and stays.
local function delete(keys, args)
  local state = redis.call('HGET', job_key(keys[1], args[1]), 'state')
  if state == 'IN_PROGRESS' then return redis.status_reply('ACTIVE') end
  return redis.status_reply(discard(keys[1], args[1], now()) and 'OK' or 'GONE')
end

-- run: job id. A job that waits for its time, or has ended badly, is queued now. Returns as `retry`.
local function run(keys, args)
  local base, id, at = keys[1], args[1], now()
  local job = load_held(base, id)
  if job.state ~= 'IN_QUEUE' then return retry(keys, args) end
  if job.entry or job.place then return {'STATE', job.state} end
  make_ready(base, id, job, at)
  hand_over(base, at)
  return redis.status_reply('OK')
end

-- clear: queue, most jobs. Deletes jobs of the queue, but for those that run. Returns how many; fewer than asked for
-- means that none are left.
local function clear(keys, args)
  local base, queue, most, at = keys[1], args[1], tonumber(args[2]), now()
  local function remove(id) return discard(base, id, at) end
  local removed = drain(base, {front_of(queue), queue}, most, remove)
  for _, list in ipairs(LISTS) do
    local key = list_key(base, list, queue)
    while removed < most and redis.call('EXISTS', key) == 1 do
      for _, id in ipairs(redis.call('ZRANGE', key, 0, most - removed - 1)) do
        if remove(id) then removed = removed + 1 end
        redis.call('ZREM', key, id)
      end
    end
  end
  return removed
end

register('task', task, 'allow-oom')
register('tasks', tasks, 'no-writes', 'allow-oom')
register('queues', queues, 'no-writes', 'allow-oom')
register('pause', pause, 'allow-oom')
register('delete', delete, 'allow-oom')
register('run', run)
register('clear', clear, 'allow-oom')

end
