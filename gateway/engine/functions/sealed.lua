-- Jobs that are nothing but their entry: see common.lua.
--
-- An entry is {job = id}, or a sealed job: {sealed = head, input = ..}. The head is the same for all jobs of a
-- call that are alike: "<how their ids begin> <created> <timeout> <ttl> <retention> <when their hashes would expire>", and a
-- line "<name> <value>" for each further field. The id ends with the number of the entry, so that none is written.
--
-- Nor is a sealed job among the `:lifetimes`. In each queue, a job is sealed only if its time to live ends no sooner than
-- that of all sealed before it: so upkeep finds those whose time is over in front.

-- The id of the job with a number, of how it begins.
local function numbered(beginning, number) return beginning .. string.format('%012x', number) end

-- The id of the job that an entry, as XRANGE returns it, is of.
local function id_at(item)
  if item[2][1] == 'job' then return item[2][2] end
  return numbered(string.match(item[2][2], '^%S+'), number_of(item[1]))
end

-- The fields of a sealed job's hash, names and values in one list; when it expires, and when the job's time to live ends.
-- nil when none is sealed in the entry, whose `fields` these are.
local function unseal(queue, entry, fields)
  if fields[1] ~= 'sealed' then return nil end
  local created, timeout, ttl, retention, expires, others =
    string.match(fields[2], '^%S+ (%S+) (%S+) (%S+) (%S+) (%S+)(.*)$')
  local hash = {'entry', entry, 'state', 'IN_QUEUE', 'queue', queue, 'created', created, 'timeout', timeout, 'ttl', ttl,
    'retention', retention}
  for name, value in string.gmatch(others, '\n(%S+) ([^\n]*)') do append(hash, name, value) end
  for i = 3, #fields do hash[#hash + 1] = fields[i] end
  return hash, expires, created + ttl
end

-- As `unseal`, of the job with this id. From the moment at which its entry is delivered, only its hash counts: when that
-- has expired, the job is over.
local function find_sealed(base, id)
  local digits = #id == 36 and string.match(id, '^%x+$', 25)
  if not digits then return nil end
  local number, queues = tonumber(digits, 16), queues_of(base)
  local entry = string.format('%.0f-0', number)
  for i = 2, #queues, 2 do
    local item = redis.call('XRANGE', queue_key(base, queues[i]), entry, entry)[1]
    if item and id_at(item) == id then
      if number <= number_of(group_of(base, queues[i])['last-delivered-id']) then return nil end
      return unseal(queues[i], entry, item[2])
    end
  end
end

-- Fields of a job, its state among them. One that is `sealed` has all, and is to be opened before it is changed.
local function load_job(base, id, ...)
  local job = load(job_key(base, id), 'state', ...)
  if job.state then return job end
  job.sealed, job.expires, job.ends = find_sealed(base, id)
  for i = 1, job.sealed and #job.sealed or 0, 2 do job[job.sealed[i]] = job.sealed[i + 1] end
  return job
end

-- Gives a job its hash, if it has none; one that stays for the caller, however late it is.
local function open(base, id, job)
  if not job.sealed then return end
  redis.call('HSET', job_key(base, id), unpack(job.sealed))
  redis.call('PEXPIRE', job_key(base, id), 1000)
  redis.call('PEXPIREAT', job_key(base, id), job.expires, 'GT')
  redis.call('ZADD', base .. ':lifetimes', job.ends, id)
  job.sealed = nil
end
