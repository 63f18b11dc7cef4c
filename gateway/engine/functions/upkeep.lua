-- What time does, though nobody asks for it.

-- A job that is gone has no final state, but whoever hears of it by a webhook alone would wait for ever.
local function tell_gone(base, id, job, at)
  open(base, id, job)
  redis.call('HSET', job_key(base, id), 'state', 'TIMED_OUT', 'finished', at, 'error',
    'the job had not ended when its time to live was over')
  announce(base, id, job, at)
end

-- A job has run, or waited, for longer than it may.
local function time_out(base, id, at)
  local job = load_held(base, id)
  local policy = policy_of(job)
  if job.state == 'IN_PROGRESS' then
    stop_worker(base, id, job, 'TIMED_OUT')
    local text = 'the job ran longer than its executionTimeout of ' .. load(job_key(base, id), 'timeout').timeout .. ' ms'
    if policy then return try_again(base, id, job, 'TIMED_OUT', text, at) end
    finalize(base, id, job, 'TIMED_OUT', 'error', text, at)
  elseif job.state == 'IN_QUEUE' and policy then
    local text = 'the job waited longer than its pending_timeout of ' .. policy.pending .. ' ms'
    finalize(base, id, job, 'FAILED', 'error', text, at)
  else
    redis.call('ZREM', base .. ':timeouts', id)
  end
end

-- Those of the queues in which there is something, in their order: an endpoint that has nothing to do is to cost little.
local function filled(base, queues)
  local found = {}
  for _, queue in ipairs(queues) do
    if redis.call('XLEN', queue_key(base, queue)) > 0 then found[#found + 1] = queue end
  end
  return found
end

-- Takes a job off whichever list it is on.
local function unlist(base, id)
  for _, queue in ipairs(fair.queues(queues_of(base))) do
    for _, list in ipairs(LISTS) do redis.call('ZREM', list_key(base, list, queue), id) end
  end
end

-- Time over for a job: it is gone, whatever its state.
local function forget(base, id, at)
  local job = load_job(base, id, unpack(HELD))
  if job.state and not FINAL[job.state] then
    stop_worker(base, id, job, 'GONE')
    detach(base, id, job)
    wake(base, job.watchers, {kind = 'gone', job = id})
    if job.webhooks then tell_gone(base, id, job, at) end
  elseif job.state then
    redis.call('ZREM', list_key(base, list_of(job), job.queue), id)
  else
    unlist(base, id)  -- its hash expired while upkeep was away
  end
  redis.call('UNLINK', job_key(base, id), chunks_key(base, id))
  redis.call('ZREM', base .. ':lifetimes', id)
end

-- Forgets sealed jobs whose time is over: those in front are first. Returns how many, and behind which entry to go on.
local function forget_sealed_in(base, queue, after, most, at)
  local forgotten, left, count = 0, most, 1
  while left > 0 do
    local items = redis.call('XRANGE', queue_key(base, queue), '(' .. after, '+', 'COUNT', count)
    for _, item in ipairs(items) do
      local _, _, ends = unseal(queue, item[1], item[2])
      if ends and ends > at then return forgotten end
      local id = id_at(item)
      if ends and redis.call('EXISTS', job_key(base, id)) == 0 then
        forget(base, id, at)
        forgotten = forgotten + 1
      end
      after = item[1]
    end
    if #items < count then return forgotten end
    left, count = left - count, math.max(1, left - count)
  end
  return forgotten, after
end

-- As above, in all of these queues, looking at `most` jobs in each.
local function forget_sealed(base, queues, most, at)
  local counts, sum = base .. ':counts', 0
  for _, queue in ipairs(queues) do
    if front_of(queue) ~= queue then
      local mark, after = 'late:' .. queue, group_of(base, queue)['last-delivered-id']
      local reached = redis.call('HGET', counts, mark)
      if reached and number_of(reached) > number_of(after) then after = reached end
      local forgotten, stopped = forget_sealed_in(base, queue, after, most, at)
      sum = sum + forgotten
      if stopped then redis.call('HSET', counts, mark, stopped) elseif reached then redis.call('HDEL', counts, mark) end
    end
  end
  return sum
end

local function recover_leases(base, queues, lease, most, at)
  local recovered = 0
  for _, queue in ipairs(queues) do
    local mark = 'cursor:' .. queue
    local cursor = redis.call('HGET', base .. ':counts', mark) or '0-0'
    local reply = redis.call('XAUTOCLAIM', queue_key(base, queue), GROUP, 'upkeep', lease, cursor, 'COUNT', most,
      'JUSTID')
    if reply[1] ~= cursor then redis.call('HSET', base .. ':counts', mark, reply[1]) end
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
  local away = marks.tended and at - marks.tended
  if not away or away >= SIGN_MS or away < 0 then redis.call('HSET', counts, 'tended', at) end
  if away and away <= PAUSE_MS + SIGN_MS then return at < tonumber(marks.settled or 0) end
  redis.call('HSET', counts, 'settled', at + settle)
  return true
end

-- Workers that have been silent so long that all their leases have been recovered.
local function forget_workers(base, lease, most, at)
  local silent = at - lease - 1000
  local workers = redis.call('ZRANGE', base .. ':workers', '-inf', silent, 'BYSCORE', 'LIMIT', 0, most)
  for _, worker in ipairs(workers) do leave({base}, {worker, 'lost'}) end
  return workers
end

-- upkeep: most items of each kind to handle in this call, ms for which leases and workers are left alone after a pause
-- (0: none). When upkeep has not run for a while, nor could workers renew, be it that the store was down, frozen or not
-- to be reached, or that all gateways were gone: they get that time before leases are taken from them, or they are
-- forgotten with all that they hold.
-- Returns {leases recovered, jobs whose time to run or to wait was over, delayed jobs made ready, jobs forgotten, ids of workers forgotten, receivers
-- for which webhooks are due, the log among them}.
local function upkeep(keys, args)
  local base, most, at = keys[1], tonumber(args[1]), now()
  local settings = load(base .. ':settings', 'version', 'removed', 'queues', 'lease_ms')
  if not settings.version or settings.removed then return {0, 0, 0, 0, {}, 0} end
  local function due(name)
    return redis.call('ZRANGE', base .. name, '-inf', at, 'BYSCORE', 'LIMIT', 0, most)
  end
  local late = due(':timeouts')
  for _, id in ipairs(late) do time_out(base, id, at) end
  local ready = due(':delayed')
  for _, id in ipairs(ready) do
    local job = load_held(base, id)
    if job.state == 'IN_QUEUE' and not job.entry and not job.place then
      make_ready(base, id, job, at)
    else
      redis.call('ZREM', base .. ':delayed', id)
    end
  end
  local over = due(':lifetimes')
  for _, id in ipairs(over) do forget(base, id, at) end
  local queues, lease = filled(base, queues_of(base, settings.queues or false)), tonumber(settings.lease_ms or 30000)
  local forgotten = #over + forget_sealed(base, queues, most, at)
  local recovered, gone = 0, {}
  if not settling(base, tonumber(args[2]), at) then
    recovered, gone = recover_leases(base, queues, lease, most, at), forget_workers(base, lease, most, at)
  end
  hand_over(base, at)
  return {recovered, #late, #ready, forgotten, gone, redis.call('ZCOUNT', base .. ':webhooks', '-inf', at)}
end

-- turn: KEYS[1] is a key of its own; gateway process, ms. Whether it is this process that does upkeep for that long.
-- A function, since a plain SET is refused when the store is out of memory, which only upkeep would change.
local function turn(keys, args)
  local holder = redis.call('GET', keys[1])
  if holder and holder ~= args[1] then return 0 end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

register('upkeep', upkeep, 'allow-oom')
register('turn', turn, 'allow-oom')
