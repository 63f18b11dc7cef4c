-- Making and removing endpoints.

-- Whether a job of the queue is known, so that it may be queued there again.
local function is_used(base, queue)
  if redis.call('XLEN', queue_key(base, queue)) + redis.call('XLEN', queue_key(base, front_of(queue))) > 0 then return true end
  if fair.length(base, queue) > 0 then return true end
  for _, list in ipairs(LISTS) do
    if redis.call('EXISTS', list_key(base, list, queue)) > 0 then return true end
  end
  return false
end

local function drop_queue(base, queue)
  for _, stream in ipairs({queue, front_of(queue)}) do
    redis.call('UNLINK', queue_key(base, stream))
    redis.call('HDEL', base .. ':counts', 'entries:' .. stream, 'entries:line:' .. stream, 'cursor:' .. stream, 'late:' .. stream,
      'ends:' .. stream)
  end
  set_paused(base, {queue}, false)
end

-- Makes the queues that are new; those that are no longer named are served last, for as long as they are used. Returns
-- the names of all.
local function arrange(base, before, names)
  for _, queue in ipairs(queues_of(base, names)) do
    if redis.call('EXISTS', queue_key(base, queue)) == 0 then
      redis.call('XGROUP', 'CREATE', queue_key(base, queue), GROUP, '0', 'MKSTREAM')
    end
  end
  for queue in string.gmatch(before or '', '%S+') do
    if not is_among(queue, names) then
      if is_used(base, queue) then
        names = names .. ' ' .. queue
      else
        drop_queue(base, queue)
      end
    end
  end
  return names
end

-- configure: version that must be the present one ('' to create), then field, value pairs of the settings.
-- Returns 'OK', 'EXISTS' or 'CHANGED' (created or changed by someone else meanwhile), or 'NO_ENDPOINT'.
local function configure(keys, args)
  local base = keys[1]
  local settings = base .. ':settings'
  local present = load(settings, 'version', 'queues')
  local version = present.version
  if args[1] == '' and version then return redis.status_reply('EXISTS') end
  if args[1] ~= '' and not version then return redis.status_reply('NO_ENDPOINT') end
  if args[1] ~= '' and version ~= args[1] then return redis.status_reply('CHANGED') end
  if not version then redis.call('HSET', base .. ':counts', 'tended', now()) end  -- nobody has missed anything yet
  redis.call('HSET', settings, 'version', (version or 0) + 1, 'queues', 'normal low', unpack(args, 2))
  redis.call('HSET', settings, 'queues', arrange(base, present.queues, redis.call('HGET', settings, 'queues')))
  for i = 2, #args, 2 do
    if args[i] == 'fair' then fair.set(base, args[i + 1] == '1') end
  end
  hand_over(base, now())
  return redis.status_reply('OK')
end

-- settings: returns the names and values of the settings, in one list; empty when there is no such endpoint.
local function settings(keys)
  if not exists(keys[1]) then return {} end
  return redis.call('HGETALL', keys[1] .. ':settings')
end

-- remove: most jobs to cancel in this call. Deletes the endpoint in steps: first it is marked, so that nothing new comes
-- in, then its jobs go, then the rest. Returns 1 when all is done, 0 to be called again, -1 when there is none.
local function remove(keys, args)
  local base, most, at = keys[1], tonumber(args[1]), now()
  if redis.call('EXISTS', base .. ':settings') == 0 then return -1 end
  redis.call('HSET', base .. ':settings', 'removed', 1)
  if purge(keys, args) == most then return 0 end
  local queues = queues_of(base)
  for _, queue in ipairs(queues) do
    local pending = redis.call('XPENDING', queue_key(base, queue), GROUP, '-', '+', most)
    for _, item in ipairs(pending) do
      local found = redis.call('XRANGE', queue_key(base, queue), item[1], item[1])
      if found[1] then cancel(keys, {id_at(found[1])}) end
      drop_entry(base, queue, item[1])
    end
    if #pending == most then return 0 end
  end
  local ids = redis.call('ZRANGE', base .. ':lifetimes', 0, most - 1)
  for _, id in ipairs(ids) do forget(base, id, at) end
  if #ids == most then return 0 end
  if not forget_deliveries(base, most) then return 0 end
  for _, worker in ipairs(redis.call('ZRANGE', base .. ':workers', 0, -1)) do leave(keys, {worker}) end
  forget_logs(base)
  for _, queue in ipairs(queues) do
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', queue_key(base, queue), GROUP)) do
      redis.call('UNLINK', base .. ':worker:' .. pairs_of(consumer).name)
    end
    redis.call('UNLINK', queue_key(base, queue))
  end
  redis.call('UNLINK', base .. ':settings', base .. ':counts', base .. ':lifetimes', base .. ':timeouts', base .. ':delayed',
    base .. ':workers', base .. ':waiting', base .. ':departed')
  return 1
end

register('configure', configure)
register('settings', settings, 'no-writes', 'allow-oom')
register('remove', remove, 'allow-oom')
