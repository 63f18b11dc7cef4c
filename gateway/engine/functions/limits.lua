-- How many requests of a key to an endpoint there may be: per period, and at once.
--
-- A limit comes as one text: "<name> <requests> <at once> <requests per worker> <process> <its requests at once>"; of the
-- numbers 0 is no limit. What is known stands at `:limit:<name>`: "<full> <process>=<requests>@<time> …".
--   * `full` is the time at which the bucket of tokens would be full again; each request moves it on by the time in which
--     one token comes. One number is the whole bucket, and it fills by the store's clock.
--   * Each gateway process says how many requests it has at once whenever one comes, and while many go on. What it said
--     counts no more when it is silent: nothing has to be taken back of a process that is gone.

local PERIOD_MS = 10000
local SILENCE_MS = 3000
local WORKERS_MS = 1000

local function load_limit(base, text)
  local name, requests, at_once, per_worker, process, count = string.match(text,
    '^(%S+) (%d+) (%d+) (%d+) (%S+) (%d+)$')
  local limit = {name = name, requests = tonumber(requests), at_once = tonumber(at_once),
    per_worker = tonumber(per_worker), process = process, count = tonumber(count)}
  local known = redis.call('GET', base .. ':limit:' .. name)
  local full, said = string.match(known or '0', '^(%S+)(.*)$')
  limit.full, limit.said = tonumber(full), said
  return limit
end

-- Calls with what each of the other processes said, and how many requests that are.
local function each_other(limit, at, callback)
  local own = ' ' .. limit.process .. '='
  if limit.said == '' or string.find(limit.said, own, 1, true) == 1 and not string.find(limit.said, ' ', 2, true) then
    return  -- there is no other
  end
  for said, process, count, seen in string.gmatch(limit.said, '(%s(%S+)=(%d+)@(%d+))') do
    if process ~= limit.process and at - seen < SILENCE_MS then callback(said, tonumber(count)) end
  end
end

local function save_limit(base, limit, at)
  local text = string.format('%.3f', limit.full)
  each_other(limit, at, function(said) text = text .. said end)
  if limit.count > 0 then text = text .. ' ' .. limit.process .. '=' .. limit.count .. '@' .. at end
  redis.call('SET', base .. ':limit:' .. limit.name, text, 'PX', PERIOD_MS)
end

-- Workers that have loaded their handler. Counted when a limit is reached, and not again for a while.
local function ready_workers(base, at)
  if not exists(base) then return 0 end  -- and nothing is to be left behind of what is not there
  local known, counted = string.match(redis.call('HGET', base .. ':counts', 'ready') or '', '^(%d+)@(%d+)$')
  if known and at - counted < WORKERS_MS then return tonumber(known) end
  local counts = count_workers(base, at)
  local ready = counts[2] + counts[3]
  redis.call('HSET', base .. ':counts', 'ready', ready .. '@' .. at)
  return ready
end

-- What a limit is for so many workers.
local function scaled(base, limit, at)
  if limit.per_worker == 0 then return 1 end
  return math.max(1, ready_workers(base, at) * limit.per_worker / limit.requests)
end

-- As `admit`, but for requests at once alone.
local function crowded(base, limit, at)
  if limit.at_once == 0 then return nil end
  if not limit.others then
    limit.others = 0
    each_other(limit, at, function(_, count) limit.others = limit.others + count end)
  end
  local sum, most = limit.count + limit.others, limit.at_once
  if sum > most then most = math.floor(most * scaled(base, limit, at)) end
  return sum > most and {'LIMITED', 'at_once', most, 1000} or nil
end

-- Lets a request in, or returns {'LIMITED', 'rate' or 'at_once', the limit, ms until it is worth another try}.
local function admit(base, limit, at)
  local refused = crowded(base, limit, at)
  if refused or limit.requests == 0 then return refused end
  local begins, requests = math.max(limit.full, at), limit.requests
  if begins + PERIOD_MS / requests - at > PERIOD_MS then requests = requests * scaled(base, limit, at) end
  local full = begins + PERIOD_MS / requests
  if full - at > PERIOD_MS + 0.001 then
    return {'LIMITED', 'rate', math.floor(requests), math.ceil(full - at - PERIOD_MS)}
  end
  limit.full = full
end

-- As `admit`, for one of several requests that come together. `limits`: those loaded, by their names, and the last of
-- them, which '=' stands for; to be saved.
local function admit_one_of(base, limits, text, at)
  if text == '' then return nil end
  if text == '=' then
    limits.last.count = limits.last.count + 1
    return admit(base, limits.last, at)
  end
  local name, count = string.match(text, '^(%S+) .- (%d+)$')
  local limit = limits.by_name[name]
  if not limit then
    limit = load_limit(base, text)
    limits.by_name[name] = limit
  end
  limits.last, limit.count = limit, tonumber(count)
  return admit(base, limit, at)
end

-- limited: limit, function, its arguments. Calls the function if the limit lets it.
local function limited(keys, args)
  local at = now()
  local limit = load_limit(keys[1], args[1])
  local refused = admit(keys[1], limit, at)
  if refused then return redis.error_reply(table.concat(refused, ' ')) end
  save_limit(keys[1], limit, at)
  local rest = {}
  for i = 3, #args do rest[i - 2] = args[i] end
  return FUNCTIONS[args[2]](keys, rest)
end

-- at_once: limits. A gateway process says how many requests go on. Fails as `limited` when one has too many.
local function at_once(keys, args)
  local at, refused = now(), nil
  for _, text in ipairs(args) do
    local limit = load_limit(keys[1], text)
    save_limit(keys[1], limit, at)
    refused = refused or crowded(keys[1], limit, at)
  end
  return refused and redis.error_reply(table.concat(refused, ' ')) or redis.status_reply('OK')
end

register('limited', limited, 'allow-oom')
register('at_once', at_once, 'allow-oom')
