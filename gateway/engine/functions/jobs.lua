-- What clients and workers do to a job.

-- Jobs that wait in a queue; never fewer than there are, and exact when `limit` is reached.
local function count_waiting(base, limit, lines, queues)
  local most = redis.call('ZCARD', base .. ':delayed')
  if lines then
    for _, queue in ipairs(fair.queues(queues)) do most = most + fair.length(base, queue) end
  end
  local exact = most
  for _, queue in ipairs(queues) do most = most + redis.call('XLEN', queue_key(base, queue)) end
  if most < limit then return most end
  for _, queue in ipairs(queues) do exact = exact + unread(base, queue) end
  return exact
end

-- What tells the settings from those of before, and of another endpoint of the same name.
local function stamp_of(settings) return settings.version .. '.' .. (settings.created or '0') end

-- The terms of a submission: 'stamp delay unique policy' (see `submit`). `limits`: the policy as `policy_of`.
local NO_TERMS = {}

local function terms_of(text)
  if text == '' then return NO_TERMS end
  local stamp, delayed, unique, policy = string.match(text, '^(%S+) (%d+) (%S+) ?(.*)$')
  local terms = {stamp = stamp ~= '-' and stamp, delay = tonumber(delayed), unique = unique ~= '-' and unique,
    policy = policy ~= '' and policy}
  terms.limits = policy_of(terms)
  return terms
end

-- The job that is waiting or running with this key of `unique` jobs.
local function unique_job(base, unique)
  local id = redis.call('GET', base .. ':unique:' .. unique)
  local state = id and redis.call('HGET', job_key(base, id), 'state')
  return state and not FINAL[state] and id
end

-- What the submissions of one call have in common; nil when there is no such endpoint. `most`: jobs that may come.
local function begin_intake(base, at, most)
  local settings = load(base .. ':settings', 'version', 'timeout_ms', 'removed', 'lines', 'max_queued', 'webhook', 'created',
    'queues', 'closed', 'paused', 'starvation_ms')
  if not settings.version or settings.removed then return nil end
  local intake = {base = base, at = at, settings = settings, most = most, stamp = stamp_of(settings), numbers = {},
    queues = {}, lifetimes = {}, queued = 0, added = 0, most_queued = tonumber(settings.max_queued or 0)}
  intake.is_fair = settings.lines == 'last'
  if intake.most_queued > 0 then
    local queues = queues_of(base, settings.queues)
    intake.waiting = count_waiting(base, intake.most_queued - most, settings.lines, queues)
  end
  return intake
end

-- Why a job with these terms is not taken; nil when it is.
local function refusal_of(intake, queue, terms)
  if terms.stamp and terms.stamp ~= intake.stamp then return {'CHANGED'} end
  if is_among(queue, intake.settings.closed) then return {'CLOSED', queue} end
  if intake.waiting and intake.waiting + intake.added >= intake.most_queued then return {'FULL', intake.most_queued} end
  local other = terms.unique and unique_job(intake.base, terms.unique)
  return other and {'TAKEN', other} or nil
end

-- The fields of a new job; its input and its entry are put in by `add`. A timeout of 0 is the endpoint's.
local function fields_of(intake, queue, timeout, ttl, retention, webhooks, terms)
  if timeout == '0' then timeout = intake.settings.timeout_ms end
  local fields = {'entry', '', 'input', '', 'queue', queue, 'state', 'IN_QUEUE', 'created', intake.at, 'timeout', timeout,
    'ttl', ttl, 'retention', retention}
  if webhooks ~= '' then append(fields, 'webhooks', webhooks) end
  if terms.policy then append(fields, 'policy', terms.policy) end
  return fields
end

-- Takes a number for a job in its queue. As many are reserved as could be needed: one too many is only a gap.
local function next_number(intake, queue)
  local number = intake.numbers[queue]
  if not number then
    intake.queues[#intake.queues + 1] = queue
    number = (intake.is_fair and fair.reserve or reserve)(intake.base, queue, intake.most)
  end
  intake.numbers[queue] = number + 1
  return number
end

-- Puts a job into its queue. `slack`: as of `keep_until`.
local function add(intake, id, input, queue, ttl, share, weight, fields, terms, slack)
  local base, at, key, first = intake.base, intake.at, job_key(intake.base, id), 3
  if terms.unique then redis.call('SET', base .. ':unique:' .. terms.unique, id, 'PX', ttl) end
  fields[4] = input
  if terms.delay and terms.delay > 0 then
    redis.call('HSET', key, 'share', share, 'weight', weight)
    delay(base, id, {state = 'IN_QUEUE', queue = queue}, at + terms.delay)
  else
    local number = next_number(intake, queue)
    if intake.is_fair then
      fair.join(base, queue, id, number, share, weight)
    else
      first, fields[2] = 1, number .. '-0'
      redis.call('XADD', queue_key(base, queue), fields[2], 'job', id)
    end
    limit_waiting(base, id, terms.limits, at)
    intake.queued = intake.queued + 1
  end
  redis.call('HSET', key, unpack(fields, first))
  redis.call('PEXPIREAT', key, at + ttl + slack)
  append(intake.lifetimes, at + ttl, id)
  intake.added = intake.added + 1
end

local function end_intake(intake)
  local base, lifetimes = intake.base, intake.lifetimes
  for i = 1, #lifetimes, 1000 do
    redis.call('ZADD', base .. ':lifetimes', unpack(lifetimes, i, math.min(i + 999, #lifetimes)))
  end
  hand_over(base, intake.at, intake.queued, #intake.queues == 1 and intake.queues[1], intake.settings)
end

-- What a submission answers whose idempotency key is known.
local function same(base, known, fingerprint, watcher)
  local first, print = string.match(known, '^(%S+) (%S*)$')
  local job = load(job_key(base, first), 'state', 'watchers')
  if print ~= fingerprint then return {'CONFLICT', first} end
  if not job.state then return {'FORGOTTEN', first} end
  if not FINAL[job.state] then add_watcher(base, first, job.watchers, watcher) end
  return {'SAME', first, job.state}
end

local ARGUMENTS = 15  -- of `submit`, for each job

-- submit: fifteen arguments a job: id, input, queue, timeout ms (0: the endpoint's), ttl ms, retention ms, request (the
-- other fields of the request as JSON, or ''), watching gateway process or '', idempotency key or '', fingerprint of the
-- body, share (whose job it is, or ''), weight of the share (1 to 1000), addresses of its webhooks, separated by spaces,
-- or '' for the endpoint's, its terms or '', and the limit of the request (see limits.lua), '=' for that of the job before,
-- or ''. Share and weight count on fair endpoints. The terms: stamp that the settings must have ('-': any), ms for which
-- the job is delayed, a key that no two jobs that have not ended may have ('-': none), and its policy (see `policy_of`), if
-- it has one.
-- Returns for each job 'NEW', {'SAME', id, state} (the key was used before with this body), {'CONFLICT', id}
-- (with another body), {'FORGOTTEN', id} (with this body, for a job whose time is over), {'TAKEN', id} (a job with this
-- unique key has not ended), {'CHANGED'} (other settings), {'CLOSED', queue}, {'FULL', most jobs that may wait} or what
-- `admit` returns; or 'NO_ENDPOINT'.
local function submit(keys, args)
  local base = keys[1]
  local intake = begin_intake(base, now(), #args / ARGUMENTS)
  if not intake then return redis.status_reply('NO_ENDPOINT') end
  for i = 1, #args, ARGUMENTS do
    if not (tonumber(args[i + 3]) and tonumber(args[i + 4]) and tonumber(args[i + 5])) then
      return redis.error_reply('ERR the times of job ' .. args[i] .. ' are not numbers')
    end
    if intake.is_fair and not fair.is_weight(args[i + 11]) then
      return redis.error_reply('ERR the weight of job ' .. args[i] .. ' is not one')
    end
  end
  local replies, limits = {}, {by_name = {}}
  for i = 1, #args, ARGUMENTS do
    local id, queue, ttl, request, watcher = args[i], args[i + 2], args[i + 4], args[i + 6], args[i + 7]
    local idempotency, fingerprint, terms = args[i + 8], args[i + 9], terms_of(args[i + 13])
    local refused = admit_one_of(base, limits, args[i + 14], intake.at)
    local known = not refused and idempotency ~= '' and redis.call('GET', base .. ':idempotency:' .. idempotency)
    if not refused and not known then refused = refusal_of(intake, queue, terms) end
    if refused or known then
      replies[#replies + 1] = refused or same(base, known, fingerprint, watcher)
    else
      if idempotency ~= '' then
        redis.call('SET', base .. ':idempotency:' .. idempotency, id .. ' ' .. fingerprint, 'PX',
          math.max(IDEMPOTENCY_MS, ttl))
      end
      local webhooks = args[i + 12] ~= '' and args[i + 12] or intake.settings.webhook or ''
      local fields = fields_of(intake, queue, args[i + 3], ttl, args[i + 5], webhooks, terms)
      if request ~= '' then append(fields, 'request', request) end
      if watcher ~= '' then append(fields, 'watchers', watcher) end
      add(intake, id, args[i + 1], queue, ttl, args[i + 10], args[i + 11], fields, terms,
        webhooks == '' and FORGET_SLACK_MS or TELL_SLACK_MS)
      replies[#replies + 1] = 'NEW'
    end
  end
  for _, limit in pairs(limits.by_name) do save_limit(base, limit, intake.at) end
  end_intake(intake)
  return replies
end

-- submit_alike: queue, timeout ms, ttl ms, retention ms, share, weight and terms of all the jobs, as of `submit`; then the
-- id and the input of each. Returns for each job as `submit`, or 'NO_ENDPOINT'.
local function submit_alike(keys, args)
  local queue, timeout, ttl, retention, share, weight = unpack(args, 1, 6)
  local intake = begin_intake(keys[1], now(), (#args - 7) / 2)
  if not intake then return redis.status_reply('NO_ENDPOINT') end
  if not (tonumber(timeout) and tonumber(ttl) and tonumber(retention) and fair.is_weight(weight)) then
    return redis.error_reply('ERR the times of the jobs are not numbers, or their weight is not one')
  end
  local webhooks, terms, replies = intake.settings.webhook or '', terms_of(args[7]), {}
  local fields = fields_of(intake, queue, timeout, ttl, retention, webhooks, terms)
  local slack = webhooks == '' and FORGET_SLACK_MS or TELL_SLACK_MS
  for i = 8, #args, 2 do
    local refused = refusal_of(intake, queue, terms)
    if not refused then add(intake, args[i], args[i + 1], queue, ttl, share, weight, fields, terms, slack) end
    replies[#replies + 1] = refused or 'NEW'
  end
  end_intake(intake)
  return replies
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

-- retry: job id. Returns 'OK', 'GONE', or {'STATE', state} when the job is in a state that cannot be retried.
local function retry(keys, args)
  local base, id, at = keys[1], args[1], now()
  local key = job_key(base, id)
  local job = load(key, 'state', 'queue', 'ttl', 'chunks', 'share', 'weight', 'webhooks', 'policy')
  if not job.state then return redis.status_reply('GONE') end
  if not RETRYABLE[job.state] and not (job.state == 'CANCELLED' and job.policy) then return {'STATE', job.state} end
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
  local job = load(job_key(base, id), 'state', 'webhooks')
  if not job.state then return 0 end
  keep_until(base, id, at + args[2], true, job.webhooks and not FINAL[job.state] and TELL_SLACK_MS or nil)
  return 1
end

-- purge: most jobs to remove in this call. Removes waiting jobs, none in progress; each becomes CANCELLED.
-- Returns the number removed; fewer than asked for means that none are left, -1 that there is no such endpoint.
local function purge(keys, args)
  local base, most, at, removed = keys[1], tonumber(args[1]), now(), 0
  if redis.call('EXISTS', base .. ':settings') == 0 then return -1 end
  local function remove(id)
    local job = id and load_held(base, id)
    if not job or job.state ~= 'IN_QUEUE' then return false end
    finalize(base, id, job, 'CANCELLED', nil, nil, at)
    removed = removed + 1
    return true
  end
  local queues = queues_of(base)
  for _, queue in ipairs(queues) do
    local after = '(' .. group_of(base, queue)['last-delivered-id']
    while removed < most do
      local items = redis.call('XRANGE', queue_key(base, queue), after, '+', 'COUNT', most - removed)
      if #items == 0 then break end
      for _, item in ipairs(items) do
        if not remove(item[2][2]) then drop_entry(base, queue, item[1]) end
      end
    end
  end
  for _, queue in ipairs(fair.lines(base) and fair.queues(queues) or {}) do
    while removed < most do
      local id, share = fair.first(base, queue)
      if not id then break end
      if not remove(id) then fair.leave(base, queue, share, id) end
    end
  end
  if removed < most then
    for _, id in ipairs(redis.call('ZRANGE', base .. ':delayed', 0, most - removed - 1)) do
      if not remove(id) then redis.call('ZREM', base .. ':delayed', id) end
    end
  end
  return removed
end

register('submit', submit)
register('submit_alike', submit_alike)
register('emit', emit)
register('progress', progress)
register('finish', finish, 'allow-oom')
register('lose', lose, 'allow-oom')
register('cancel', cancel, 'allow-oom')
register('retry', retry)
register('touch', touch, 'allow-oom')
register('purge', purge, 'allow-oom')
