-- Workers that come over HTTP: a gateway process holds their polls and is the one that jobs are sent to.

do  -- see webhooks.lua

-- So many attempts in a row that were lost with their worker are a crash loop.
local CRASH_LOOP = 3

-- With so much, the answer to a poll is full.
local BYTES_PER_POLL = 4 * 1048576

-- A sign of life: the worker counts as alive for `ms` more. Its first one makes it known.
local function greet(base, worker, ms, at)
  local key = base .. ':worker:' .. worker
  redis.call('ZADD', base .. ':workers', 'GT', at + ms, worker)
  redis.call('HSET', key, 'seen', at, 'link', 'http')
  if redis.call('HSETNX', key, 'state', 'initializing') == 1 then redis.call('HSETNX', key, 'came', at) end
  redis.call('PEXPIRE', key, ms * 10)
end

-- The worker has no job, so whatever was begun for it is lost.
local function lose_all(base, worker, at)
  local crashed = false
  local reason = 'worker ' .. worker .. ' came back without the job: its process ended, or two workers share this id'
  each_held(base, worker, function(queue, entries)
    for _, entry in ipairs(entries) do recover(base, queue, entry, reason, at) end
    crashed = true
  end)
  if not crashed then return end
  redis.call('HINCRBY', base .. ':worker:' .. worker, 'crashes', 1)
  hand_over(base, at)
end

-- Calls with each job, and its attempt, that was sent in answer to this poll, if it is the worker's newest.
local function each_sent(base, worker, poll, callback)
  local known = load(base .. ':worker:' .. worker, 'poll', 'sent')
  if known.poll ~= poll then return end
  for id, attempt in string.gmatch(known.sent or '', '(%S+) (%S+)') do callback(id, attempt) end
end

-- What was sent in answer to this poll, once more, should the message or the reply have been lost.
local function sent_before(base, worker, poll)
  local jobs = {}
  each_sent(base, worker, poll, function(id, attempt)
    local job = current(base, id, attempt, 'timeout', 'input', 'request')
    if job then jobs[#jobs + 1] = {id, tonumber(attempt), tonumber(job.timeout), job.input, job.request or ''} end
  end)
  return jobs
end

-- RunPod's SDK asks for a last job while it ends, and waits for the answers to its polls before it does.
local QUIET_MS = 1500

-- For so many ms more the worker, which said that it is about to end, gets no job.
local function quiet_for(base, worker, at)
  return tonumber(redis.call('HGET', base .. ':worker:' .. worker, 'quiet') or 0) - at
end

-- park: worker, most jobs, gateway process, poll, ms for which the worker counts as alive, ms for which the poll is held,
-- '1' when the worker has no job (else ''), its state ('' when it says that elsewhere), '1' when this poll looks again,
-- the queues that it takes jobs of, as of `take`.
-- Begins jobs for a poll, as `take` does. When there are none, one that comes is sent to the process. When it looks again,
-- since a message may have been lost, it gets what was sent already; and nothing when the worker has a newer poll. For a
-- worker that is about to end, it returns the ms after which the poll is to end without a job.
local function park(keys, args)
  local base, worker, most, process, poll, at = keys[1], args[1], tonumber(args[2]), args[3], args[4], now()
  local alive, held, state, again = tonumber(args[5]), tonumber(args[6]), args[8], args[9] == '1'
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local key, quiet = base .. ':worker:' .. worker, quiet_for(base, worker, at)
  if quiet > 0 then return quiet end
  local newest = again and redis.call('HGET', key, 'poll')
  if newest and newest ~= poll then return {} end
  local jobs, size, sent = again and sent_before(base, worker, poll) or {}, 0, {}
  if #jobs == 0 then
    if args[7] == '1' then lose_all(base, worker, at) end
    local order = part_of(order_of(base), args[10])
    while #jobs < most and size < BYTES_PER_POLL do
      local job = begin_next(base, worker, at, order)
      if not job then break end
      jobs[#jobs + 1] = job
      size = size + job.size
    end
  end
  for i, job in ipairs(jobs) do sent[i] = job[1] .. ' ' .. job[2] end
  local free = #jobs == 0 and 1 or 0
  greet(base, worker, alive + free * held, at)
  redis.call('HSET', key, 'gateway', process, 'poll', poll, 'free', free, 'alive', alive, 'sent', table.concat(sent, ' '),
    'queues', args[10] or '')
  if state ~= '' then
    local crashes = tonumber(redis.call('HGET', key, 'crashes') or 0)
    redis.call('HSET', key, 'state', crashes >= CRASH_LOOP and 'crashing' or state)
    redis.call('HDEL', key, 'trouble')
  end
  wait_for(base, worker, free)
  return jobs
end

-- refuse: job id, attempt. The job was begun for a worker and never reached it: it goes back, and that was no try.
-- Returns 'OK' or {'STALE', state}.
local function refuse(keys, args)
  local base, id, at = keys[1], args[1], now()
  local job = load_held(base, id)
  if job.state ~= 'IN_PROGRESS' or job.attempt ~= args[2] then return {'STALE', job.state or 'GONE'} end
  put_back(base, job.queue, job.entry, id, {}, at)
  hand_over(base, at)
  return redis.status_reply('OK')
end

-- unpark: worker, poll, ms for which the worker counts as alive from now on, '1' to put back what was sent to the poll,
-- since it will not arrive (else ''). The poll takes no more. Returns 1 when a job was sent to it and not put back, so that
-- the message is on its way, else 0.
local function unpark(keys, args)
  local base, worker, at = keys[1], args[1], now()
  local key = base .. ':worker:' .. worker
  local known = load(key, 'poll', 'sent')
  if known.poll ~= args[2] then return 0 end
  if args[4] == '1' then
    each_sent(base, worker, args[2], function(id, attempt) refuse({base}, {id, attempt}) end)
    known.sent = ''
  end
  redis.call('HDEL', key, 'poll', 'sent')
  redis.call('HSET', key, 'free', 0)
  redis.call('ZREM', base .. ':waiting', worker)
  redis.call('ZADD', base .. ':workers', 'XX', at + args[3], worker)
  return (known.sent or '') ~= '' and 1 or 0
end

-- return: worker, number of this call, then (job id, attempt) pairs of what it has. Whatever else it was given goes back,
-- and that was no try. A call with a lower number than one before was held up on its way, and does nothing.
local function return_others(keys, args)
  local base, worker, number, at = keys[1], args[1], tonumber(args[2]), now()
  if number < tonumber(redis.call('HGET', base .. ':worker:' .. worker, 'returned') or 0) then
    return redis.status_reply('OK')
  end
  note(base, worker, true, 'returned', args[2])
  take_back(base, worker, args, 3, at)  -- of which there may be more than `unpack` can take
  hand_over(base, at)
  return redis.status_reply('OK')
end

-- chunk: job id, worker, id of this post, chunks. As `emit`, from a worker that does not number its chunks: nothing is
-- added when a post is repeated by the gateway, or by the worker after an answer that it did not get (`unheard`).
local function chunk(keys, args)
  local base, id, worker, post = keys[1], args[1], args[2], args[3]
  local key = job_key(base, id)
  local job = load(key, 'chunks', 'restarted', 'post', 'unheard')
  if job.post == post then return redis.status_reply('OK') end
  if job.unheard then
    redis.call('HDEL', key, 'unheard')
    if job.unheard == redis.sha1hex(table.concat(args, ' ', 4)) then return redis.status_reply('OK') end
  end
  local first = (job.chunks or 0) - (job.restarted or 0) + 1
  local said = {id, '@' .. worker, first}
  for i = 4, #args do said[i] = args[i] end  -- which may be more than `unpack` can take
  local reply = emit(keys, said)
  if reply.ok then redis.call('HSET', key, 'post', post) end
  return reply
end

-- unheard: job id, worker, SHA-1 of the chunks with a space between them. The worker did not get the answer to its post,
-- and will repeat it.
local function unheard(keys, args)
  local job = current(keys[1], args[1], '@' .. args[2])
  if not job then return 0 end
  return redis.call('HSET', job_key(keys[1], args[1]), 'unheard', args[3])
end

-- The worker is about to end: its polls end, and for a while it gets no job.
local function retire(base, worker, at)
  redis.call('ZREM', base .. ':waiting', worker)
  note(base, worker, true, 'free', 0, 'quiet', at + QUIET_MS)
  wake_polls(base, worker, 'quit')
end

-- done: worker, '1' when it is about to end (else ''), then as `finish`. A worker that brings a result has not crashed.
local function done(keys, args)
  local base, worker = keys[1], args[1]
  if current(base, args[3], args[4]) then  -- else it is said once more
    redis.call('HDEL', base .. ':worker:' .. worker, 'crashes', 'trouble')
    if args[2] == '1' then retire(base, worker, now()) end
  end
  return finish(keys, {unpack(args, 3)})
end

-- ping: worker, ms for which it counts as alive, state ('' when it says none), trouble (why it is unhealthy), its
-- description (JSON or ''), then ids of the jobs that it runs. Renews their leases; those that it no longer holds are to
-- be stopped.
local function ping(keys, args)
  local base, worker, at = keys[1], args[1], now()
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local key = base .. ':worker:' .. worker
  greet(base, worker, tonumber(args[2]), at)
  if args[3] ~= '' then redis.call('HSET', key, 'state', args[3], 'trouble', args[4]) end
  if args[5] ~= '' then redis.call('HSET', key, 'description', args[5]) end
  for i = 6, #args do
    local id = args[i]
    local job = load(job_key(base, id), 'state', 'attempt', 'worker', 'queue', 'entry', 'committed', 'gave_up')
    local has_given_up = not job.worker and job.gave_up and job.gave_up == job.attempt
    if job.worker == worker and job.state == 'IN_PROGRESS' then
      redis.call('XCLAIM', queue_key(base, job.queue), GROUP, worker, 0, job.entry, 'JUSTID')
    elseif not has_given_up and (job.worker ~= worker or not job.committed) then  -- else it has just ended it
      local process = redis.call('HGET', key, 'stops_at')
      keep_stop(base, worker, process, id, job.attempt or 0, job.state or 'GONE')
    end
  end
  return redis.status_reply('OK')
end

-- stops: worker, gateway process that waits for more when there are none ('' when it does not).
-- Returns (job id, attempt, state) of the jobs that the worker is to stop and has not been told of; or, when there are
-- none and it is about to end, the ms after which the poll is to end.
local function stops(keys, args)
  local base, worker, found = keys[1], args[1], {}
  local key = base .. ':stopped:' .. worker
  local kept = redis.call('HGETALL', key)
  for i = 1, #kept, 2 do
    local job = load(job_key(base, kept[i]), 'state', 'worker')
    if job.state ~= 'IN_PROGRESS' or job.worker ~= worker then  -- else it has been given the job again
      local attempt, state = string.match(kept[i + 1], '^(%S+) (%S+)$')
      for _, value in ipairs({kept[i], tonumber(attempt), state}) do found[#found + 1] = value end
    end
  end
  redis.call('UNLINK', key)
  if #found > 0 or args[2] == '' then return found end
  local quiet = quiet_for(base, worker, now())
  if quiet > 0 then return quiet end
  note(base, worker, true, 'stops_at', args[2], 'link', 'http')
  return found
end

register('park', park)
register('unpark', unpark, 'allow-oom')
register('refuse', refuse, 'allow-oom')
register('return', return_others)
register('chunk', chunk)
register('unheard', unheard, 'allow-oom')
register('done', done, 'allow-oom')
register('ping', ping, 'allow-oom')
register('stops', stops, 'allow-oom')

end
