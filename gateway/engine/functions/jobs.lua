-- What clients and workers do to a job.

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

-- finish: job id, attempt, state, field ('output', 'error' or ''), value. The state RETRY: the attempt failed with this
-- error, and the job may be tried again.
-- Returns 'OK', also when this attempt has said so before, or {'STALE', state}.
local function finish(keys, args)
  local base, id, attempt, state = keys[1], args[1], args[2], args[3]
  if state ~= 'COMPLETED' and state ~= 'FAILED' and state ~= 'RETRY' then
    return redis.error_reply('ERR a worker cannot say ' .. state)
  end
  local key = job_key(base, id)
  local job = load_held(base, id)
  if job.state ~= 'IN_PROGRESS' or not is_newest(job, attempt) then
    local said = load(key, 'committed', 'gave_up')
    if said.committed and is_newest({attempt = said.committed, worker = job.worker}, attempt) then
      return redis.status_reply('OK')
    end
    if state == 'RETRY' and said.gave_up == attempt and job.attempt == attempt then return redis.status_reply('OK') end
    return {'STALE', job.state or 'GONE'}
  end
  local at = now()
  if state == 'RETRY' then
    redis.call('HSET', key, 'gave_up', job.attempt)
    try_again(base, id, job, 'FAILED', args[5], at, nil, job.attempt)
    hand_over(base, at)
  else
    finalize(base, id, job, state, args[4] ~= '' and args[4] or nil, args[5], at, job.attempt)
  end
  return redis.status_reply('OK')
end

-- lose: job id, attempt, reason. The worker gives the attempt up. Returns 'OK' or {'STALE', state}.
local function lose(keys, args)
  local job = load_held(keys[1], args[1])
  if job.state ~= 'IN_PROGRESS' or not is_newest(job, args[2]) then return {'STALE', job.state or 'GONE'} end
  local at = now()
  lost(keys[1], args[1], job, args[3], at)
  hand_over(keys[1], at)
  return redis.status_reply('OK')
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

-- retry: job id. Returns 'OK', 'GONE', {'STATE', state} when the job is in a state that cannot be retried, or {'TAKEN', id}
-- when another one with its unique key has not ended.
local function retry(keys, args)
  local base, id, at = keys[1], args[1], now()
  local key = job_key(base, id)
  local job = load_job(base, id, 'queue', 'ttl', 'chunks', 'share', 'weight', 'webhooks', 'policy', 'unique')
  if not job.state then return redis.status_reply('GONE') end
  if not RETRYABLE[job.state] and not (job.state == 'CANCELLED' and job.policy) then return {'STATE', job.state} end
  local other = job.unique and unique_job(base, job.unique)
  if other then return {'TAKEN', other} end
  if job.unique then keep_unique(base, job.unique, id, job.ttl) end
  redis.call('ZREM', list_key(base, list_of(job), job.queue), id)
  redis.call('HSET', key, 'state', 'IN_QUEUE', 'tries', 0, 'created', at, 'mark', job.chunks or 0)
  redis.call('HDEL', key, 'output', 'error', 'started', 'finished', 'worker', 'ready', 'last_error', 'failed')
  redis.call('UNLINK', chunks_key(base, id))
  keep_until(base, id, at + job.ttl, nil, job.webhooks and TELL_SLACK_MS)
  local queue, lines = back_of(job.queue), fair.lines(base)
  if lines == 'last' then
    fair.join(base, queue, id, fair.reserve(base, queue, 1), job.share or '', job.weight or 1)
  else
    enqueue(base, id, queue)
  end
  limit_waiting(base, id, policy_of(job), at)
  redis.call('HINCRBY', base .. ':counts', 'retried', 1)
  hand_over(base, at)
  return redis.status_reply('OK')
end

-- touch: job id, ms from now until the job is forgotten. Returns 1, or 0 when there is no such job.
local function touch(keys, args)
  local base, id, at = keys[1], args[1], now()
  local job = load_job(base, id, 'webhooks')
  if not job.state then return 0 end
  open(base, id, job)
  local kept = redis.call('PEXPIRETIME', job_key(base, id))
  keep_until(base, id, at + args[2], true, job.webhooks and not FINAL[job.state] and TELL_SLACK_MS or nil)
  if not FINAL[job.state] then
    -- While its entry is there, its hash is, too: else it would be a sealed job again. Upkeep ends it at its time.
    for _, key in ipairs({job_key(base, id), chunks_key(base, id)}) do redis.call('PEXPIREAT', key, kept, 'GT') end
  end
  return 1
end

-- Takes up to `most` jobs that wait out of these queues, with a function that says whether there was one of that id.
-- Returns how many.
local function drain(base, queues, most, remove)
  local removed = 0
  for _, queue in ipairs(queues) do
    local after = '(' .. group_of(base, queue)['last-delivered-id']
    while removed < most do
      local items = redis.call('XRANGE', queue_key(base, queue), after, '+', 'COUNT', most - removed)
      if #items == 0 then break end
      for _, item in ipairs(items) do
        if remove(id_at(item)) then removed = removed + 1 else drop_entry(base, queue, item[1]) end
      end
    end
  end
  for _, queue in ipairs(fair.queues(queues)) do
    while removed < most do
      local id, share = fair.first(base, queue)
      if not id then break end
      if remove(id) then removed = removed + 1 else fair.leave(base, queue, share, id) end
    end
  end
  return removed
end

-- purge: most jobs to remove in this call. Removes waiting jobs, none in progress; each becomes CANCELLED.
-- Returns the number removed; fewer than asked for means that none are left, -1 that there is no such endpoint.
local function purge(keys, args)
  local base, most, at = keys[1], tonumber(args[1]), now()
  if redis.call('EXISTS', base .. ':settings') == 0 then return -1 end
  local function remove(id)
    local job = load_held(base, id)
    if job.state ~= 'IN_QUEUE' then return false end
    finalize(base, id, job, 'CANCELLED', nil, nil, at)
    return true
  end
  local removed = drain(base, queues_of(base), most, remove)
  if removed < most then
    for _, id in ipairs(redis.call('ZRANGE', base .. ':delayed', 0, most - removed - 1)) do
      if remove(id) then removed = removed + 1 else redis.call('ZREM', base .. ':delayed', id) end
    end
  end
  return removed
end

register('emit', emit)
register('progress', progress)
register('finish', finish, 'allow-oom')
register('lose', lose, 'allow-oom')
register('cancel', cancel, 'allow-oom')
register('retry', retry)
register('touch', touch, 'allow-oom')
register('purge', purge, 'allow-oom')
