-- Vaults: values that the gateways have encrypted, and what nobody needs to hide. KEYS[1] is a key of its own for each
-- tenant, "runlane:vaults:{<tenant>}": a hash, from a vault's name to "<made at> <changed at> <description>". Behind it is
--   :<vault>  hash  from an entry's name to "<made at> <changed at> <sealed value>"; it exists as long as the vault has any

do  -- see webhooks.lua

local MOST_VAULTS, MOST_ENTRIES, MOST_BYTES = 500, 500, 1024 * 1024

local function entries_key(base, vault) return base .. ':' .. vault end

-- No format with %s: that ends at the first zero byte.
local function put(key, field, made, changed, rest)
  redis.call('HSET', key, field, string.format('%s %.0f ', made, changed) .. rest)
end

local function changed(base, vault, row, at)
  local made, rest = string.match(row, '^(%d+) %d+ (.*)$')
  put(base, vault, made, at, rest)
end

local function size_of(key)
  local size = 0
  for _, row in ipairs(redis.call('HVALS', key)) do size = size + #row end
  return size
end

-- vault_create: vault, description. Returns OK, EXISTS, or FULL when the tenant has too many.
local function vault_create(keys, args)
  local base, vault, at = keys[1], args[1], now()
  if redis.call('HEXISTS', base, vault) == 1 then return redis.status_reply('EXISTS') end
  if redis.call('HLEN', base) >= MOST_VAULTS then return redis.status_reply('FULL') end
  put(base, vault, string.format('%.0f', at), at, args[2])
  return redis.status_reply('OK')
end

-- vault_delete: vault. Returns 1, or 0 when there is none.
local function vault_delete(keys, args)
  redis.call('UNLINK', entries_key(keys[1], args[1]))
  return redis.call('HDEL', keys[1], args[1])
end

-- vault_list. Returns {vault, row, number of its entries} of each.
local function vault_list(keys)
  local found, rows = {}, redis.call('HGETALL', keys[1])
  for i = 1, #rows, 2 do
    found[#found + 1] = {rows[i], rows[i + 1], redis.call('HLEN', entries_key(keys[1], rows[i]))}
  end
  return found
end

-- vault_read: vault. Returns {its row, {entry, row, …}}, or false when there is none.
local function vault_read(keys, args)
  local row = redis.call('HGET', keys[1], args[1])
  return row and {row, redis.call('HGETALL', entries_key(keys[1], args[1]))}
end

-- vault_set: vault, entry, sealed value. Returns OK, NO_VAULT, or FULL when it would have too many entries or bytes.
local function vault_set(keys, args)
  local base, vault, entry, sealed, at = keys[1], args[1], args[2], args[3], now()
  local row, key = redis.call('HGET', base, vault), entries_key(base, vault)
  if not row then return redis.status_reply('NO_VAULT') end
  local before = redis.call('HGET', key, entry)
  if not before and redis.call('HLEN', key) >= MOST_ENTRIES then return redis.status_reply('FULL') end
  if size_of(key) - #(before or '') + #sealed > MOST_BYTES then return redis.status_reply('FULL') end
  put(key, entry, before and string.match(before, '^%d+') or string.format('%.0f', at), at, sealed)
  changed(base, vault, row, at)
  return redis.status_reply('OK')
end

-- vault_unset: vault, entry. Returns OK, NO_VAULT or NO_ENTRY.
local function vault_unset(keys, args)
  local base, vault, entry = keys[1], args[1], args[2]
  local row = redis.call('HGET', base, vault)
  if not row then return redis.status_reply('NO_VAULT') end
  if redis.call('HDEL', entries_key(base, vault), entry) == 0 then return redis.status_reply('NO_ENTRY') end
  changed(base, vault, row, now())
  return redis.status_reply('OK')
end

-- vault_replace: vault, then of each entry: its name, its row as it was read, the row in its place. Those that have changed
-- since they were read stay as they are. Returns how many were replaced.
local function vault_replace(keys, args)
  local key, replaced = entries_key(keys[1], args[1]), 0
  for i = 2, #args, 3 do
    if redis.call('HGET', key, args[i]) == args[i + 1] then
      redis.call('HSET', key, args[i], args[i + 2])
      replaced = replaced + 1
    end
  end
  return replaced
end

register('vault_create', vault_create)
register('vault_delete', vault_delete, 'allow-oom')
register('vault_list', vault_list, 'no-writes', 'allow-oom')
register('vault_read', vault_read, 'no-writes', 'allow-oom')
register('vault_set', vault_set)
register('vault_unset', vault_unset, 'allow-oom')
register('vault_replace', vault_replace)

end
