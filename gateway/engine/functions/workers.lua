-- Signs of life, and leaving.

-- Those that have gone not long ago can be seen for a while.
local MOST_DEPARTED = 100
local DEPARTED_MS = 600 * 1000

-- renew: worker, ms after which it counts as gone, its concurrency, its state, its description (JSON, or '' when it
-- did not change), then (job id, attempt) pairs: what it runs. Renews the leases of all that it was given.
-- Returns (job id, attempt, state found) for each of the pairs that the worker no longer holds, but for those that it
-- has finished itself.
local function renew(keys, args)
  local base, worker, gone, at = keys[1], args[1], tonumber(args[2]), now()
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local key, lapsed = base .. ':worker:' .. worker, {}
  redis.call('ZADD', base .. ':workers', at + gone, worker)
  redis.call('HSET', key, 'seen', at, 'concurrency', args[3], 'state', args[4])
  if args[5] ~= '' then
    redis.call('HSET', key, 'description', args[5])
    if not redis.call('HGET', key, 'came') then redis.call('HSET', key, 'came', at) end
  end
  redis.call('PEXPIRE', key, gone * 10)
  each_held(base, worker, function(queue, entries)
    local claim = {'XCLAIM', queue_key(base, queue), GROUP, worker, 0}
    for _, entry in ipairs(entries) do claim[#claim + 1] = entry end
    claim[#claim + 1] = 'JUSTID'
    redis.call(unpack(claim))
  end)
  for i = 6, #args, 2 do
    local job, state = current(base, args[i], args[i + 1], 'worker')
    local is_lost = not job or job.worker ~= worker
    local said = is_lost and load(job_key(base, args[i]), 'committed', 'gave_up')
    if is_lost and said.committed ~= args[i + 1] and said.gave_up ~= args[i + 1] then
      lapsed[#lapsed + 1] = args[i]
      lapsed[#lapsed + 1] = args[i + 1]
      lapsed[#lapsed + 1] = state or 'LOST'
    end
  end
  return lapsed
end

-- Notes that a worker has gone. `state`: 'stopped', or 'lost' when it gave no sign of life.
local function note_departure(base, worker, state, at)
  local fields = {'worker', worker, 'state', state, 'left', at}
  for name, value in pairs(load(base .. ':worker:' .. worker, 'seen', 'concurrency', 'link', 'description', 'came',
    'queues')) do
    if value then append(fields, name, value) end
  end
  redis.call('XADD', base .. ':departed', 'MAXLEN', MOST_DEPARTED, '*', unpack(fields))
  redis.call('PEXPIRE', base .. ':departed', DEPARTED_MS)
end

-- leave: worker, 'lost' when it was silent for too long. It takes no more: what it still holds goes back, and it is
-- forgotten. Returns the number of jobs.
local function leave(keys, args)
  local base, worker, at, held = keys[1], args[1], now(), 0
  if redis.call('EXISTS', base .. ':settings') == 0 then return 0 end
  redis.call('ZREM', base .. ':waiting', worker)
  each_held(base, worker, function(queue, entries)
    for _, entry in ipairs(entries) do recover(base, queue, entry, 'worker ' .. worker .. ' left before the job ended', at) end
    held = held + #entries
  end)
  for _, queue in ipairs(queues_of(base)) do redis.call('XGROUP', 'DELCONSUMER', queue_key(base, queue), GROUP, worker) end
  if redis.call('ZREM', base .. ':workers', worker) == 1 then
    note_departure(base, worker, args[2] or 'stopped', at)
  end
  wake_polls(base, worker, 'look')
  redis.call('UNLINK', base .. ':worker:' .. worker, base .. ':stopped:' .. worker)
  hand_over(base, at)
  return held
end

register('renew', renew, 'allow-oom')
register('leave', leave, 'allow-oom')
