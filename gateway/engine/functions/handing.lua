-- How jobs come to workers: taken by those that ask, handed over to those that wait.

-- Entries that are read in one step.
local MOST_AT_ONCE = 200

-- Begins the attempt of a taken entry. What belongs into the sorted sets of these names goes into `lifetimes` and
-- `timeouts`, for the caller to add: one command for all is cheaper. Returns what the worker needs, or nil when the entry
-- is a leftover: {id, attempt, timeout ms, input, request, size = bytes of the two}. Without the input when the job is too
-- large for a message, and is to be fetched.
local function begin(base, queue, item, worker, at, lifetimes, timeouts)
  local entry, id = item[1], id_at(item)
  local key = job_key(base, id)
  local fields, expires, ends = unseal(queue, entry, item[2])
  local job
  if fields and redis.call('EXISTS', key) == 0 then
    job = tonumber(expires) > at and pairs_of(fields) or {}
  else
    fields, ends = {}, nil
    job = load(key, 'state', 'queue', 'entry', 'attempt', 'tries', 'timeout', 'input', 'request', 'chunks', 'watchers')
  end
  if job.state ~= 'IN_QUEUE' or job.entry ~= entry or job.queue ~= queue then
    drop_entry(base, queue, entry)
    return nil
  end
  local attempt = (job.attempt or 0) + 1
  append(fields, 'state', 'IN_PROGRESS')
  append(fields, 'attempt', attempt)
  append(fields, 'tries', (job.tries or 0) + 1)
  append(fields, 'started', at)
  append(fields, 'worker', worker)
  redis.call('HSET', key, unpack(fields))
  if ends then
    redis.call('PEXPIREAT', key, expires)
    append(lifetimes, ends, id)
  end
  append(timeouts, at + job.timeout, id)
  if attempt > 1 then
    -- Positions go on, so that a reader's position never means two chunks; what the last attempt wrote goes.
    redis.call('UNLINK', chunks_key(base, id))
    redis.call('HSET', key, 'restarted', job.chunks or 0, 'stored', 0)
    redis.call('HDEL', key, 'post', 'unheard')
    if job.chunks then
      wake(base, job.watchers, {kind = 'restart', job = id, position = tonumber(job.chunks)})
    end
  end
  local input, request = job.input, job.request or ''
  local size = #input + #request
  if size > PAYLOAD_IN_WAKEUP then input, request = false, '' end
  return {id, attempt, tonumber(job.timeout), input, request, size = size}
end

-- Begins the next jobs in a stream, `most` of them; none when none is left.
local function begin_some_from(base, queue, worker, at, most)
  local jobs, lifetimes, timeouts, read = {}, {}, {}, nil
  repeat
    read = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', most - #jobs, 'STREAMS', queue_key(base, queue), '>')
    for _, item in ipairs(read and read[1][2] or {}) do
      jobs[#jobs + 1] = begin(base, queue, item, worker, at, lifetimes, timeouts)
    end
  until not read or #jobs == most
  if #lifetimes > 0 then redis.call('ZADD', base .. ':lifetimes', unpack(lifetimes)) end
  if #timeouts > 0 then redis.call('ZADD', base .. ':timeouts', unpack(timeouts)) end
  return jobs
end

-- Begins the next job in a stream; nil when none is left.
local function begin_from(base, queue, worker, at) return begin_some_from(base, queue, worker, at, 1)[1] end

-- Begins the job whose turn it is; nil when none stands in line. The front is empty, so the job is alone in it.
local function begin_in_turn(base, queue, worker, at)
  local front = fair.serve(base, queue)
  return front and begin_from(base, front, worker, at)
end

-- The order in which an endpoint's jobs begin: the `queues` that are served now, when their `lines` are (as
-- `fair.lines`), and after how many ms a job is served before those of higher priority (`starvation`; 0: never).
-- `settings`: if they are known.
local ORDERED_BY = {'lines', 'queues', 'closed', 'paused', 'starvation_ms'}

local function order_of(base, settings)
  settings = settings or load(base .. ':settings', unpack(ORDERED_BY))
  local queues = queues_of(base, settings.queues or false)
  if settings.closed and settings.closed ~= '' or settings.paused then
    local served = {}
    for _, queue in ipairs(queues) do
      local name = back_of(queue)
      if not is_among(name, settings.closed) and not is_among(name, settings.paused) then served[#served + 1] = queue end
    end
    queues = served
  end
  return {queues = queues, lines = fair.lines(base, settings.lines), starvation = tonumber(settings.starvation_ms or 0)}
end

-- The part of an order that a worker takes. `names`: of its queues, separated by spaces; all when there are none.
local function part_of(order, names)
  if not names or names == '' then return order end
  local queues = {}
  for _, queue in ipairs(order.queues) do
    if is_among(back_of(queue), names) then queues[#queues + 1] = queue end
  end
  return {queues = queues, lines = order.lines, starvation = order.starvation}
end

local function begin_one(base, queue, worker, at, lines)
  return lines == 'first' and begin_in_turn(base, queue, worker, at) or begin_from(base, queue, worker, at)
    or lines == 'last' and begin_in_turn(base, queue, worker, at)
end

-- The job that is served next of those in a queue, as far as that can be seen; nil when none waits.
local function first_in(base, queue, lines)
  local after = '(' .. group_of(base, queue)['last-delivered-id']
  local found = redis.call('XRANGE', queue_key(base, queue), after, '+', 'COUNT', 1)[1]
  if found then return id_at(found) end
  return lines and fair.first(base, queue) or nil
end

-- The queue whose first job has waited the longest, if that is too long.
local function starving(base, order, at)
  local since, found = at - order.starvation, nil
  for _, queue in ipairs(order.queues) do
    local id = first_in(base, queue, order.lines)
    local job = id and load_job(base, id, 'ready', 'created')
    local waits = job and tonumber(job.ready or job.created)
    if waits and waits < since then since, found = waits, queue end
  end
  return found
end

-- Begins the next job for a worker; nil when none is left. `only`: the queue in which there can be one, if that is known.
local function begin_next(base, worker, at, order, only)
  local first = order.starvation > 0 and starving(base, order, at)
  local job = first and begin_one(base, first, worker, at, order.lines)
  if job then return job end
  for _, queue in ipairs(order.queues) do
    job = (not only or queue == only) and begin_one(base, queue, worker, at, order.lines)
    if job then return job end
  end
end

-- Begins the next jobs for a worker, `most` of them at most; none when none is left. Where one job alone decides which is
-- next, it is one.
local function begin_some(base, worker, at, order, most)
  if not order.lines and order.starvation == 0 then
    for _, queue in ipairs(order.queues) do
      local jobs = begin_some_from(base, queue, worker, at, most)
      if #jobs > 0 then return jobs end
    end
  end
  return {begin_next(base, worker, at, order)}
end

-- Puts a job back that was begun for a worker and never reached it; that was no try. `has`: the attempts of jobs, by
-- their ids, that did.
local function put_back(base, queue, entry, id, has, at)
  local job = load_held(base, id)
  if job.state ~= 'IN_PROGRESS' or job.queue ~= queue or job.entry ~= entry then
    return drop_entry(base, queue, entry)
  end
  if has[id] == job.attempt then return end
  redis.call('HINCRBY', job_key(base, id), 'tries', -1)
  requeue(base, id, job, 0, at)
end

-- The channel to whoever takes jobs for a worker: itself, or the gateway process that holds its poll.
local function channel_of(base, worker, gateway)
  return base .. (gateway and ':gateway:' .. gateway or ':worker:' .. worker)
end

local function listens(channel) return redis.call('PUBSUB', 'SHARDNUMSUB', channel)[2] > 0 end

-- Sends a begun job to its worker: by itself, or as the answer to the poll that a gateway process holds.
local function send(channel, known, job)
  local id, attempt, timeout, input, request = unpack(job)
  local size = input and #request or -1
  local head = table.concat({known.epoch or '0', id, attempt, timeout, size}, ' ')
  if known.gateway then
    head = cjson.encode({kind = 'job', job = id, attempt = attempt, poll = known.poll, size = size})
  end
  redis.call('SPUBLISH', channel, head .. '\n' .. (size < 0 and '' or request .. input))
end

-- Sets fields of what is known of a worker. They end with its signs of life: `renew` lets them live on.
local function note(base, worker, is_new, ...)
  local key = base .. ':worker:' .. worker
  redis.call('HSET', key, ...)
  if is_new then redis.call('PEXPIRE', key, 60000, 'NX') end
end

-- Sets how many more jobs a worker takes, and puts it behind the others that wait.
local function wait_for(base, worker, free)
  if free > 0 then
    redis.call('ZADD', base .. ':waiting', redis.call('HINCRBY', base .. ':counts', 'turns', 1), worker)
  else
    redis.call('ZREM', base .. ':waiting', worker)
  end
end

-- Sends jobs that were begun for a worker, and notes what it has. `free`: how many more it takes.
local function give(base, worker, channel, known, jobs, free, at)
  for _, job in ipairs(jobs) do send(channel, known, job) end
  note(base, worker, not known.given, 'given', (known.given or 0) + #jobs, 'free', free)
  if known.gateway then
    redis.call('HSET', base .. ':worker:' .. worker, 'sent', jobs[1][1] .. ' ' .. jobs[1][2])
    redis.call('ZADD', base .. ':workers', at + (known.alive or 30000), worker)
  end
  wait_for(base, worker, free)
end

-- Gives queued jobs to waiting workers, in turn, until one of the two has run out. Every function that queues ends so.
-- `most`, `only`: how many jobs there are to give, and in which queue, if that is known: after each function, there are
-- none or nobody waits. Then each gets its share at once. `settings`: as of `order_of`.
local function hand_over(base, at, most, only, settings)
  local left, order, passed, in_vain, share = most or math.huge, nil, 0, {}, 1
  if left > 1 and most then share = math.ceil(left / math.max(1, redis.call('ZCARD', base .. ':waiting'))) end
  while left > 0 do
    local worker = redis.call('ZRANGE', base .. ':waiting', passed, passed)[1]
    if not worker then return end
    local known = load(base .. ':worker:' .. worker, 'epoch', 'given', 'free', 'gateway', 'poll', 'alive', 'queues')
    local channel = channel_of(base, worker, known.gateway)
    if not listens(channel) then
      redis.call('ZREM', base .. ':waiting', worker)
    else
      local queues, free, jobs = known.queues or '', math.max(1, tonumber(known.free or 1)), {}
      order = order or order_of(base, settings)
      local part = part_of(order, queues)
      while not in_vain[queues] and #jobs < math.min(free, share, left) do
        local job = begin_next(base, worker, at, part, only)
        if not job then in_vain[queues] = true else jobs[#jobs + 1] = job end
      end
      if #jobs > 0 then
        give(base, worker, channel, known, jobs, free - #jobs, at)
        left = left - #jobs
      end
      if in_vain[queues] then
        if queues == '' then return end
        passed = passed + (#jobs == 0 and 1 or 0)  -- the next one may take what this one does not
      end
    end
  end
end

-- take: worker, capacity, jobs that it has got since it joined (by replies of `take` and by messages), the queues that it
-- takes jobs of, separated by spaces; '' for all.
-- Begins as many jobs as the worker can run; what is left of its capacity waits for jobs to come. Jobs on their way to
-- the worker count against the capacity. Returns a list of jobs as `begin`, so that a reply stays short enough for others
-- to wait behind it.
local function take(keys, args)
  local base, worker, at = keys[1], args[1], now()
  local key = base .. ':worker:' .. worker
  local known = redis.call('HGET', key, 'given')
  local given = tonumber(known or 0)
  local capacity = args[2] - math.max(0, given - (args[3] or given))
  local jobs, order = {}, part_of(order_of(base), args[4])
  while #jobs < capacity do
    local begun = begin_some(base, worker, at, order, math.min(capacity - #jobs, MOST_AT_ONCE))
    if #begun == 0 then break end
    for _, job in ipairs(begun) do jobs[#jobs + 1] = job end
  end
  local free = math.max(0, capacity - #jobs)
  note(base, worker, not known, 'given', given + #jobs, 'free', free, 'queues', args[4] or '')
  wait_for(base, worker, free)
  return jobs
end

-- fetch: job id, attempt. Returns {input, request} of a job that was too large to be sent, or {'STALE', state}.
local function fetch(keys, args)
  local job, state = current(keys[1], args[1], args[2], 'input', 'request')
  if not job then return {'STALE', state} end
  return {job.input, job.request or ''}
end

-- Every entry that the worker holds, in steps: calls with a queue and a list of entries.
local function each_held(base, worker, callback)
  for _, queue in ipairs(queues_of(base)) do
    local after = '-'
    repeat
      local entries = {}
      for i, item in ipairs(redis.call('XPENDING', queue_key(base, queue), GROUP, after, '+', 100, worker)) do
        entries[i] = item[1]
      end
      if #entries > 0 then
        callback(queue, entries)
        after = '(' .. entries[#entries]
      end
    until #entries < 100
  end
end

-- The job that an entry is of; nil when the entry is gone.
local function job_of(base, queue, entry)
  local found = redis.call('XRANGE', queue_key(base, queue), entry, entry)[1]
  return found and id_at(found)
end

-- What was given to a worker and never arrived goes back. `pairs`: from the one at `first` on, (job id, attempt) of what
-- it has.
local function take_back(base, worker, pairs, first, at)
  local has = {}
  for i = first, #pairs, 2 do has[pairs[i]] = pairs[i + 1] end
  redis.call('ZREM', base .. ':waiting', worker)
  each_held(base, worker, function(queue, entries)
    for _, entry in ipairs(entries) do
      local id = job_of(base, queue, entry)
      if id then
        put_back(base, queue, entry, id, has, at)
      else
        drop_entry(base, queue, entry)
      end
    end
  end)
end

-- join: worker, then (job id, attempt) pairs of what it has. Called when its subscription stands, after whatever may
-- have been lost. Returns the epoch; messages with another one are old, or, with '0', sent after the worker was
-- forgotten.
local function join(keys, args)
  local base, worker, at = keys[1], args[1], now()
  take_back(base, worker, args, 2, at)
  redis.call('HDEL', base .. ':worker:' .. worker, 'link', 'gateway', 'poll', 'sent')
  local epoch = (redis.call('HGET', base .. ':worker:' .. worker, 'epoch') or 0) + 1
  note(base, worker, epoch == 1, 'given', 0, 'epoch', epoch)
  hand_over(base, at)
  return epoch
end

register('take', take)
register('fetch', fetch, 'no-writes')
register('join', join)
