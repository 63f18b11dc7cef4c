-- How jobs come in.

-- The job that is waiting or running with this key of `unique` jobs.
local function unique_job(base, unique)
  local id = redis.call('GET', base .. ':unique:' .. unique)
  local state = id and redis.call('HGET', job_key(base, id), 'state')
  return state and not FINAL[state] and id
end

local function keep_unique(base, unique, id, ttl) redis.call('SET', base .. ':unique:' .. unique, id, 'PX', ttl) end

do  -- All files together may have 200 local names; those in here are of this file.

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

-- Why no job with these terms is taken; nil when they are.
local function refusal_of_all(intake, queue, terms)
  if terms.stamp and terms.stamp ~= intake.stamp then return {'CHANGED'} end
  if intake.settings.closed ~= '' and is_among(queue, intake.settings.closed) then return {'CLOSED', queue} end
end

-- Why no other job with these terms is taken just now; nil when one is.
local function refusal_of_one(intake, terms)
  if intake.waiting and intake.waiting + intake.added >= intake.most_queued then return {'FULL', intake.most_queued} end
  local other = terms.unique and unique_job(intake.base, terms.unique)
  return other and {'TAKEN', other} or nil
end

-- What a job, or several that are alike, are to be; a timeout of 0 is the endpoint's. Of `fields`, those of the hash, the
-- entry and the input are put in by `add`. Numbers become text here, once for all.
local function plan(intake, queue, timeout, ttl, retention, share, weight, webhooks, terms)
  if timeout == '0' then timeout = intake.settings.timeout_ms end
  if webhooks == '' then webhooks = intake.settings.webhook or '' end
  local fields = {'entry', '', 'input', '', 'queue', queue, 'state', 'IN_QUEUE', 'created', intake.at, 'timeout', timeout,
    'ttl', ttl, 'retention', retention}
  if webhooks ~= '' then append(fields, 'webhooks', webhooks) end
  if terms.policy then append(fields, 'policy', terms.policy) end
  if terms.unique then append(fields, 'unique', terms.unique) end
  local ends = intake.at + ttl
  local slack = webhooks == '' and FORGET_SLACK_MS or TELL_SLACK_MS
  return {queue = queue, stream = queue_key(intake.base, queue), jobs = job_key(intake.base, ''), ttl = ttl, share = share,
    weight = weight, terms = terms, fields = fields, ends = string.format('%.0f', ends),
    expires = string.format('%.0f', ends + slack)}
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

-- Puts a job into its queue.
local function add(intake, planned, id, input)
  local base, terms, fields, first = intake.base, planned.terms, planned.fields, 3
  local key = planned.jobs .. id
  if terms.unique then keep_unique(base, terms.unique, id, planned.ttl) end
  fields[4] = input
  if terms.delay and terms.delay > 0 then
    redis.call('HSET', key, 'share', planned.share, 'weight', planned.weight)
    delay(base, id, {state = 'IN_QUEUE', queue = planned.queue}, intake.at + terms.delay)
  else
    local number = next_number(intake, planned.queue)
    if intake.is_fair then
      fair.join(base, planned.queue, id, number, planned.share, planned.weight)
    else
      first, fields[2] = 1, number .. '-0'
      redis.call('XADD', planned.stream, fields[2], 'job', id)
    end
    limit_waiting(base, id, terms.limits, intake.at)
    intake.queued = intake.queued + 1
  end
  redis.call('HSET', key, unpack(fields, first))
  redis.call('PEXPIREAT', key, planned.expires)
  append(intake.lifetimes, planned.ends, id)
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
    if not refused and not known then
      refused = refusal_of_all(intake, queue, terms) or refusal_of_one(intake, terms)
    end
    if refused or known then
      replies[#replies + 1] = refused or same(base, known, fingerprint, watcher)
    else
      if idempotency ~= '' then
        redis.call('SET', base .. ':idempotency:' .. idempotency, id .. ' ' .. fingerprint, 'PX',
          math.max(IDEMPOTENCY_MS, ttl))
      end
      local planned = plan(intake, queue, args[i + 3], ttl, args[i + 5], args[i + 10], args[i + 11], args[i + 12], terms)
      if request ~= '' then append(planned.fields, 'request', request) end
      if watcher ~= '' then append(planned.fields, 'watchers', watcher) end
      add(intake, planned, id, args[i + 1])
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
  local terms, replies = terms_of(args[7]), {}
  local refused = refusal_of_all(intake, queue, terms)
  local planned = plan(intake, queue, timeout, ttl, retention, share, weight, '', terms)
  for i = 8, #args, 2 do
    local reply = refused or refusal_of_one(intake, terms)
    if not reply then add(intake, planned, args[i], args[i + 1]) end
    replies[#replies + 1] = reply or 'NEW'
  end
  end_intake(intake)
  return replies
end

register('submit', submit)
register('submit_alike', submit_alike)

end
