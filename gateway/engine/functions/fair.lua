-- The fair order of jobs that wait, over the shares of those who queued them.
--
-- Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), a job being the unit of work, with one difference: the
-- tags belong to turns, not to jobs. A share has as many turns as jobs that wait, each 1/weight behind the one before, and
-- its first turn begins its first job. A job that is cancelled, or whose time is over, takes the share's *last* turn along:
-- with tags on jobs its turn would be gone as if it had been served, and whoever cancels 10,000 jobs would wait for as
-- many of the others. The virtual time is the tag of the first turn, so nothing is kept of it. A share that comes, or
-- comes back, has its turn then, but not before the one that it had last entitles it to the next.
--
-- The alternatives: a line for each share and only the shares in order costs less, but then a job's position is a sum over
-- all shares. Tags that say when a turn ends, not when it begins, let a light share wait for a heavy one's 1000 jobs.
--
-- Of equal tags the lesser name comes first, and names begin with the number of the turn: a share that comes is before
-- those that wait. A tag is a double: one of 10^12, after so many jobs without a pause, is exact to a thousandth.

local MOST_WEIGHT = 1000

-- So many shares that waited long enough are forgotten with each turn that ends; one more can have come with it.
local FORGOTTEN_EACH_TURN = 2

local function turns_key(base, queue) return base .. ':turns:' .. queue end
local function shares_key(base, queue) return base .. ':shares:' .. queue end
local function numbers_key(base, queue) return base .. ':numbers:' .. queue end
local function line_key(base, queue, share) return base .. ':line:' .. queue .. ':' .. share end

local function name_of(number, share) return number .. ' ' .. share end

function fair.is_weight(text)
  local weight = tonumber(text)
  return weight and weight >= 1 and weight <= MOST_WEIGHT
end

-- How many jobs stand in the lines of a queue.
function fair.length(base, queue) return redis.call('ZCARD', turns_key(base, queue)) end

-- An endpoint is made fair, or is so no more.
function fair.set(base, is_fair)
  local key = base .. ':settings'
  if is_fair then
    redis.call('HSET', key, 'lines', 'last')
  elseif redis.call('HGET', key, 'lines') then
    redis.call('HSET', key, 'lines', 'first')
  end
end

-- The queues that have lines: those behind ":again" are served first anyway.
function fair.queues(queues)
  local plain = {}
  for i = 2, #queues, 2 do plain[#plain + 1] = queues[i] end
  return plain
end

-- When the lines of an endpoint are served: 'last' when it is fair, after what came into the streams before it was;
-- 'first' when it is fair no more and jobs still stand there; else false. `lines`: the setting, if that is known.
function fair.lines(base, lines)
  local key = base .. ':settings'
  if lines == nil then lines = redis.call('HGET', key, 'lines') end
  if lines ~= 'first' then return lines end
  for _, queue in ipairs(fair.queues(queues_of(base))) do
    if fair.length(base, queue) > 0 then return lines end
  end
  redis.call('HDEL', key, 'lines')
  return false
end

-- As `reserve`, for the places in the lines of a queue.
function fair.reserve(base, queue, count) return reserve(base, 'line:' .. queue, count) end

-- A job comes into its share's line. `number`: from `fair.reserve`.
function fair.join(base, queue, id, number, share, weight)
  local turns, shares = turns_key(base, queue), shares_key(base, queue)
  local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')[2]
  local tag = math.max(tonumber(first or 0), tonumber(redis.call('ZSCORE', shares, share) or 0))
  local turn = name_of(redis.call('HINCRBY', numbers_key(base, queue), share, 1), share)
  redis.call('ZADD', turns, tag, turn)
  redis.call('ZADD', shares, tag + 1 / weight, share)
  redis.call('ZADD', line_key(base, queue, share), number, id)
  redis.call('HSET', job_key(base, id), 'queue', queue, 'place', number, 'share', share, 'weight', weight)
end

-- A turn of the share is over. Forgets what means nothing any more: numbers of a share without turns, and the next turns
-- of shares that could have had them already.
local function end_turn(base, queue, share, turn)
  local turns, shares = turns_key(base, queue), shares_key(base, queue)
  redis.call('ZREM', turns, turn)
  if redis.call('EXISTS', line_key(base, queue, share)) == 0 then redis.call('HDEL', numbers_key(base, queue), share) end
  local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')[2]
  if not first then
    redis.call('UNLINK', shares)
    return
  end
  local over = redis.call('ZRANGE', shares, '-inf', first, 'BYSCORE', 'LIMIT', 0, FORGOTTEN_EACH_TURN)
  if #over > 0 then redis.call('ZREM', shares, unpack(over)) end
end

-- A job goes out of its line without being served: the others of its share move up, and the last turn goes.
function fair.leave(base, queue, share, id)
  if redis.call('ZREM', line_key(base, queue, share), id) == 0 then return end
  local turns = turns_key(base, queue)
  local turn = name_of(redis.call('HGET', numbers_key(base, queue), share), share)
  redis.call('HINCRBY', numbers_key(base, queue), share, -1)
  redis.call('ZADD', shares_key(base, queue), redis.call('ZSCORE', turns, turn), share)
  redis.call('HDEL', job_key(base, id), 'place')
  end_turn(base, queue, share, turn)
end

-- The job that is served next, its share, and the turn; nil when none waits.
function fair.first(base, queue)
  local turn = redis.call('ZRANGE', turns_key(base, queue), 0, 0)[1]
  if not turn then return nil end
  local share = string.match(turn, '^%d+ (.*)$')
  return redis.call('ZRANGE', line_key(base, queue, share), 0, 0)[1], share, turn
end

-- Takes the next job out of its line, into the stream of the queue's front. Returns that queue's name, or nil when none
-- waits.
function fair.serve(base, queue)
  while true do
    local id, share, turn = fair.first(base, queue)
    if not id then return nil end
    local job = load(job_key(base, id), 'state', 'place')
    if job.state == 'IN_QUEUE' and job.place then
      redis.call('ZREM', line_key(base, queue, share), id)
      redis.call('HDEL', job_key(base, id), 'place')
      end_turn(base, queue, share, turn)
      enqueue(base, id, front_of(queue))
      return front_of(queue)
    end
    fair.leave(base, queue, share, id)  -- its time was over, and nobody was there to notice
  end
end

-- How many of the jobs in the lines of its queue are served before this one.
function fair.rank(base, queue, share, id)
  local line = line_key(base, queue, share)
  local behind = redis.call('ZCARD', line) - redis.call('ZRANK', line, id) - 1
  local last = redis.call('HGET', numbers_key(base, queue), share)
  return redis.call('ZRANK', turns_key(base, queue), name_of(last - behind, share))
end

-- The jobs in the lines of a queue, as they will be served if no others come: `count` of them behind the first `skip`.
function fair.list(base, queue, skip, count)
  local jobs, passed = {}, {}
  for i, turn in ipairs(redis.call('ZRANGE', turns_key(base, queue), 0, skip + count - 1)) do
    local share = string.match(turn, '^%d+ (.*)$')
    local rank = passed[share] or 0
    if i > skip then append(jobs, redis.call('ZRANGE', line_key(base, queue, share), rank, rank)[1]) end
    passed[share] = rank + 1
  end
  return jobs
end
