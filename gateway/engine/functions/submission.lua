-- How jobs come in.

-- The job that is waiting or running with this key of `unique` jobs.
local function unique_job(base, unique)
  local id = redis.call('GET', base .. ':unique:' .. unique)
  local state = id and load_job(base, id).state
  return state and not FINAL[state] and id
end

local function keep_unique(base, unique, id, ttl) redis.call('SET', base .. ':unique:' .. unique, id, 'PX', ttl) end

do  -- All files together may have 200 local names; those in here are of this file.

-- A larger job is not sealed: its payload would be read with each look at the queue, and be twice in the store while it
-- runs.
local MOST_SEALED = 2048

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
    queues = {}, ends = {}, queued = 0, added = 0, most_queued = tonumber(settings.max_queued or 0)}
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

-- Whether a job that ends then is one of those that may be sealed: see sealed.lua.
local function ends_in_order(intake, queue, ends)
  local last = intake.ends[queue] or tonumber(redis.call('HGET', intake.base .. ':counts', 'ends:' .. queue) or 0)
  if ends < last and unread(intake.base, queue) > 0 then return false end
  intake.ends[queue] = ends
  return true
end

-- What a job, or several that are alike, are to be; a timeout of 0 is the endpoint's. `id`: all of it, or how it begins.
-- `has_entry`: they get one at once, `seals`: and are sealed there, if their inputs fit into the bytes that are `room`.
-- Numbers become text here, once for all.
local function plan(intake, id, queue, timeout, ttl, retention, share, weight, webhooks, terms, request)
  if timeout == '0' then timeout = intake.settings.timeout_ms end
  if webhooks == '' then webhooks = intake.settings.webhook or '' end
  local ends = intake.at + ttl
  local expires = ends + (webhooks == '' and FORGET_SLACK_MS or TELL_SLACK_MS)
  local head = {string.format('%s %.0f %s %s %s %.0f', id, intake.at, timeout, ttl, retention, expires)}
  if webhooks ~= '' then head[#head + 1] = 'webhooks ' .. webhooks end
  if terms.policy then head[#head + 1] = 'policy ' .. terms.policy end
  if terms.unique then head[#head + 1] = 'unique ' .. terms.unique end
  local planned = {id = id, queue = queue, stream = queue_key(intake.base, queue), ttl = ttl, share = share,
    weight = weight, terms = terms, ends = ends, room = MOST_SEALED - #request}
  if string.find(request, '\n', 1, true) then
    planned.request = request  -- it cannot be a line of the head: such jobs are not sealed
  elseif request ~= '' then
    head[#head + 1] = 'request ' .. request
  end
  planned.head = table.concat(head, '\n')
  planned.is_numbered, planned.is_delayed = string.sub(id, -1) == '-', terms.delay and terms.delay > 0
  planned.has_entry = not planned.is_delayed and not intake.is_fair
  planned.seals = planned.is_numbered and planned.has_entry and not planned.request
    and ends_in_order(intake, queue, ends)
  return planned
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

-- A job with a hash from the start; its entry, if it has one now, says only which it is. `others`: names and values.
local function add_open(intake, planned, id, number, input, others)
  local base, key, entry = intake.base, job_key(intake.base, id), string.format('%d-0', number or 0)
  local fields, expires = unseal(planned.queue, entry, {'sealed', planned.head, 'input', input, unpack(others)})
  redis.call('HSET', key, unpack(fields, planned.has_entry and 1 or 3))
  redis.call('PEXPIREAT', key, expires)
  redis.call('ZADD', base .. ':lifetimes', planned.ends, id)
  if planned.has_entry then
    redis.call('XADD', planned.stream, entry, 'job', id)
  elseif planned.is_delayed then
    redis.call('HSET', key, 'share', planned.share, 'weight', planned.weight)
    delay(base, id, {state = 'IN_QUEUE', queue = planned.queue}, intake.at + planned.terms.delay)
  else
    fair.join(base, planned.queue, id, number, planned.share, planned.weight)
  end
end

local function id_of(planned, number) return planned.is_numbered and numbered(planned.id, number) or planned.id end

-- Puts a job into its queue. Returns its number there.
local function add(intake, planned, input, watcher)
  local number = (planned.is_numbered or not planned.is_delayed) and next_number(intake, planned.queue)
  if planned.seals and #input <= planned.room then
    redis.call('XADD', planned.stream, string.format('%d-0', number), 'sealed', planned.head, 'input', input)
  else
    local others = {}
    if planned.request then append(others, 'request', planned.request) end
    if watcher ~= '' then append(others, 'watchers', watcher) end
    add_open(intake, planned, id_of(planned, number), number, input, others)
  end
  local unique, limits = planned.terms.unique, planned.terms.limits
  if unique then keep_unique(intake.base, unique, id_of(planned, number), planned.ttl) end
  if not planned.is_delayed then
    if limits then limit_waiting(intake.base, id_of(planned, number), limits, intake.at) end
    intake.queued = intake.queued + 1
  end
  intake.added = intake.added + 1
  return number
end

local function end_intake(intake)
  for queue, ends in pairs(intake.ends) do
    redis.call('HSET', intake.base .. ':counts', 'ends:' .. queue, string.format('%.0f', ends))
  end
  hand_over(intake.base, intake.at, intake.queued, #intake.queues == 1 and intake.queues[1], intake.settings)
end

-- What a submission answers whose idempotency key is known.
local function same(base, known, fingerprint, watcher)
  local first, print = string.match(known, '^(%S+) (%S*)$')
  local job = load_job(base, first, 'watchers')
  if print ~= fingerprint then return {'CONFLICT', first} end
  if not job.state then return {'FORGOTTEN', first} end
  if not FINAL[job.state] then add_watcher(base, first, job, watcher) end
  return {'SAME', first, job.state}
end

local ARGUMENTS = 15  -- of `submit`, for each job

-- submit: fifteen arguments a job: id (or how it begins, up to its last "-"; then it ends with a number), input, queue,
-- timeout ms (0: the endpoint's), ttl ms, retention ms, request (the other fields of the request as JSON, or ''), watching
-- gateway process or '' (it needs to know the id), idempotency key or '', fingerprint of the body, share (whose job it is,
-- or ''), weight of the share (1 to 1000), addresses of its webhooks, separated by spaces, or '' for the endpoint's, its
-- terms or '', and the limit of the request (see limits.lua), '=' for that of the job before, or ''. Share and weight count
-- on fair endpoints. The terms: stamp that the settings must have ('-': any), ms for which the job is delayed, a key that
-- no two jobs that have not ended may have ('-': none), and its policy (see `policy_of`), if it has one.
-- Returns for each job the number that its id ends with, 'NEW' when it came with all of it, {'SAME', id, state} (the key was
-- used before with this body), {'CONFLICT', id} (with another body), {'FORGOTTEN', id} (with this body, for a job whose
-- time is over), {'TAKEN', id} (a job with this unique key has not ended), {'CHANGED'} (other settings), {'CLOSED', queue},
-- {'FULL', most jobs that may wait} or what `admit` returns; or 'NO_ENDPOINT'.
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
      local planned = plan(intake, id, queue, args[i + 3], ttl, args[i + 5], args[i + 10], args[i + 11], args[i + 12],
        terms, request)
      local number = add(intake, planned, args[i + 1], watcher)
      if idempotency ~= '' then
        redis.call('SET', base .. ':idempotency:' .. idempotency, id_of(planned, number) .. ' ' .. fingerprint, 'PX',
          math.max(IDEMPOTENCY_MS, ttl))
      end
      replies[#replies + 1] = planned.is_numbered and number or 'NEW'
    end
  end
  for _, limit in pairs(limits.by_name) do save_limit(base, limit, intake.at) end
  end_intake(intake)
  return replies
end

-- submit_alike: queue, timeout ms, ttl ms, retention ms, request, share, weight and terms of all the jobs, as of `submit`,
-- and how their ids begin; then the input of each. Returns for each job as `submit`, or 'NO_ENDPOINT'.
local function submit_alike(keys, args)
  local queue, timeout, ttl, retention, request, share, weight, text, beginning = unpack(args, 1, 9)
  local intake = begin_intake(keys[1], now(), #args - 9)
  if not intake then return redis.status_reply('NO_ENDPOINT') end
  if not (tonumber(timeout) and tonumber(ttl) and tonumber(retention) and fair.is_weight(weight)) then
    return redis.error_reply('ERR the times of the jobs are not numbers, or their weight is not one')
  end
  local terms, replies = terms_of(text), {}
  local refused = refusal_of_all(intake, queue, terms)
  local planned = plan(intake, beginning, queue, timeout, ttl, retention, share, weight, '', terms, request)
  for i = 10, #args do
    replies[#replies + 1] = refused or refusal_of_one(intake, terms) or add(intake, planned, args[i], '')
  end
  end_intake(intake)
  return replies
end

register('submit', submit)
register('submit_alike', submit_alike)

end
