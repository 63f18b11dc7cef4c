-- Which workers there are, and which there were a moment ago.

do  -- All files together may have 200 local names; those in here are of this file.

-- So many of the jobs that a worker has are named.
local MOST_NAMED = 10

local function jobs_of(base, worker)
  local jobs = {}
  each_held(base, worker, function(queue, entries)
    for i = 1, math.min(#entries, MOST_NAMED - #jobs) do jobs[#jobs + 1] = job_of(base, queue, entries[i]) end
  end)
  return jobs
end

-- What is known of a worker: {id, state, jobs in hand, last sign of life, ms since then, concurrency, link, trouble,
-- description, when it came, figures of its machine, when those came, ids of some of its jobs, the queues that it takes
-- jobs of ('' for all)}
local function shown(id, state, held, jobs, known, at)
  return {id, state, held, tonumber(known.seen) or false, known.seen and at - known.seen, known.concurrency or false,
    known.link or false, known.trouble or false, known.description or false, tonumber(known.came) or false,
    known.metrics or false, tonumber(known.measured) or false, jobs,
    known.queues or ''}
end

-- One of those that have not been forgotten. `gone`: the time from which on it counts as gone.
local function show_known(base, id, gone, held, at)
  local known = load(base .. ':worker:' .. id, 'state', 'seen', 'concurrency', 'link', 'trouble', 'description', 'came',
    'metrics', 'measured', 'queues')
  local state = tonumber(gone) < at and 'lost' or state_seen(known.state, held[id])
  return shown(id, state, held[id] or 0, held[id] and jobs_of(base, id) or {}, known, at)
end

-- Those that have gone not long ago and did not come back, as `shown`, the last one first.
local function departed(base, at)
  local found, met = {}, {}
  for _, entry in ipairs(redis.call('XREVRANGE', base .. ':departed', '+', '-')) do
    local known = pairs_of(entry[2])
    local id = known.worker
    if not met[id] and at - known.left < DEPARTED_MS and not redis.call('ZSCORE', base .. ':workers', id) then
      found[#found + 1] = shown(id, known.state, 0, {}, known, at)
    end
    met[id] = true
  end
  return found
end

-- workers: how many to leave out, most workers, '1' for those as well that are gone (else ''). The one comes first that
-- was heard of last. Returns a list of workers as `shown`.
local function workers(keys, args)
  local base, skip, most, at, listed = keys[1], tonumber(args[1]), tonumber(args[2]), now(), {}
  if not exists(base) then return false end
  local least = args[3] == '1' and '-inf' or at
  local found = redis.call('ZRANGE', base .. ':workers', '+inf', least, 'BYSCORE', 'REV', 'LIMIT', skip, most, 'WITHSCORES')
  local held = #found > 0 and jobs_in_hand(base)
  for i = 1, #found, 2 do listed[#listed + 1] = show_known(base, found[i], found[i + 1], held, at) end
  if args[3] ~= '1' or #listed == most then return listed end
  local gone, before = departed(base, at), math.max(0, skip - redis.call('ZCARD', base .. ':workers'))
  for i = before + 1, math.min(#gone, before + most - #listed) do listed[#listed + 1] = gone[i] end
  return listed
end

-- worker: id. Returns it as `shown`, or false when it was gone for long or was never there.
local function worker(keys, args)
  local base, id, at = keys[1], args[1], now()
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local gone = redis.call('ZSCORE', base .. ':workers', id)
  if gone then return show_known(base, id, gone, jobs_in_hand(base), at) end
  for _, each in ipairs(departed(base, at)) do
    if each[1] == id then return each end
  end
  return false
end

register('workers', workers, 'no-writes', 'allow-oom')
register('worker', worker, 'no-writes', 'allow-oom')

end
