-- What workers tell besides their signs of life: the figures of their machines, and what they print.
--
--   * A worker numbers the lines that it prints. Lines that it tells again, since it did not hear of it, are left out.
--   * A log keeps its newest lines. It lives on for a while when its worker is gone.

-- Takes the logs of the workers that are gone away.
local forget_logs

do  -- All files together may have 200 local names; those in here are of this file.

local MOST_LINES = 500
local MOST_BYTES = 1048576
local LOG_MS = 6 * 3600 * 1000

local function log_key(base, worker) return base .. ':log:' .. worker end

function forget_logs(base)
  for _, entry in ipairs(redis.call('XRANGE', base .. ':departed', '-', '+')) do
    redis.call('UNLINK', log_key(base, pairs_of(entry[2]).worker))
  end
end

local function size_of(entries)
  local size = 0
  for _, entry in ipairs(entries) do size = size + #entry[2][6] end
  return size
end

-- Drops the oldest lines of a log of so many bytes, as long as there are too many; returns how many bytes are left.
local function trim(log, bytes)
  local excess = redis.call('XLEN', log) - MOST_LINES
  while excess > 0 or bytes > MOST_BYTES do
    local oldest, ids = redis.call('XRANGE', log, '-', '+', 'COUNT', math.max(1, math.min(excess, 100))), {}
    if #oldest == 0 then return 0 end
    for i, entry in ipairs(oldest) do ids[i] = entry[1] end
    redis.call('XDEL', log, unpack(ids))
    excess, bytes = excess - #oldest, bytes - size_of(oldest)
  end
  return bytes
end

-- tell: worker, figures (JSON, or '' when there are no new ones), a word for this process of the worker, the number of
-- the first line among all that the process has printed, then (age in ms, 'stdout' or 'stderr', text) of each line.
local function tell(keys, args)
  local base, worker, at = keys[1], args[1], now()
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local log, known = log_key(base, worker), load(base .. ':worker:' .. worker, 'seen', 'log_of', 'log_to', 'log_bytes')
  if args[2] ~= '' then note(base, worker, not known.seen, 'metrics', args[2], 'measured', at) end
  local last = tonumber(args[4]) - 1
  local told = known.log_of == args[3] and math.max(0, known.log_to - last) or 0
  local bytes = tonumber(known.log_bytes or size_of(redis.call('XRANGE', log, '-', '+')))
  for i = 5 + 3 * told, #args - 2, 3 do
    redis.call('XADD', log, '*', 'at', at - args[i], 'stream', args[i + 1], 'text', args[i + 2])
    bytes = bytes + #args[i + 2]
  end
  if #args > 4 then
    last = last + math.max(told, (#args - 4) / 3)
    note(base, worker, not known.seen, 'log_of', args[3], 'log_to', last, 'log_bytes', trim(log, bytes))
  end
  redis.call('PEXPIRE', log, LOG_MS)
  return redis.status_reply('OK')
end

-- log: worker, id of the entry after which to begin ('' for the oldest), most lines, of which the newest are returned.
-- Returns (id, time, 'stdout' or 'stderr', text) of each, in one list; nothing but false when the worker is not known.
local function log_lines(keys, args)
  local base, worker, lines = keys[1], args[1], {}
  if not exists(base) then return redis.error_reply('NOGROUP the endpoint is gone') end
  local log = log_key(base, worker)
  local found = redis.call('XREVRANGE', log, '+', args[2] == '' and '-' or '(' .. args[2], 'COUNT', args[3])
  if #found == 0 and redis.call('EXISTS', log, base .. ':worker:' .. worker) == 0 then return false end
  for i = #found, 1, -1 do
    local entry = pairs_of(found[i][2])
    append(lines, found[i][1], entry.at)
    append(lines, entry.stream, entry.text)
  end
  return lines
end

register('tell', tell)
register('log', log_lines, 'no-writes', 'allow-oom')

end
