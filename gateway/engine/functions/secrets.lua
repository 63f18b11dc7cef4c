-- The secrets that webhooks are signed with. KEYS[1] is a key of its own for each tenant: a hash, from a secret's id to
-- "<made at> <expires at, 0: never> <secret>".

do  -- see webhooks.lua

local MOST_SECRETS = 5

-- Those in force, the newest first: {id, made at, expires at, secret} of each. The others are forgotten.
local function secrets_in_force(key, at)
  local found = {}
  for id, value in pairs(pairs_of(redis.call('HGETALL', key))) do
    local made, expires, secret = string.match(value, '^(%d+) (%d+) (%S+)$')
    if expires ~= '0' and tonumber(expires) <= at then
      redis.call('HDEL', key, id)
    else
      found[#found + 1] = {id, tonumber(made), tonumber(expires), secret}
    end
  end
  table.sort(found, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  return found
end

local function put_secret(key, id, made, expires, secret)
  redis.call('HSET', key, id, string.format('%.0f %.0f %s', made, expires, secret))
end

-- webhook_secrets: id and secret to begin with when there is none. Returns {id, made at, expires at (0: never), secret} of
-- each in force, the newest first.
local function webhook_secrets(keys, args)
  local at = now()
  local found = secrets_in_force(keys[1], at)
  if #found > 0 then return found end
  put_secret(keys[1], args[1], at, 0, args[2])
  return secrets_in_force(keys[1], at)
end

-- rotate_webhook_secret: id, secret, ms for which the others stay in force. Returns as `webhook_secrets`; false when too
-- many would be in force.
local function rotate_webhook_secret(keys, args)
  local at, overlap = now(), tonumber(args[3])
  local found = secrets_in_force(keys[1], at)
  if overlap > 0 and #found >= MOST_SECRETS then return false end
  for _, secret in ipairs(found) do
    local expires = secret[3] == 0 and at + overlap or math.min(secret[3], at + overlap)
    put_secret(keys[1], secret[1], secret[2], expires, secret[4])
  end
  put_secret(keys[1], args[1], at, 0, args[2])
  return secrets_in_force(keys[1], at)
end

register('webhook_secrets', webhook_secrets, 'allow-oom')
register('rotate_webhook_secret', rotate_webhook_secret)

end
