-- Gives leases of rate limits, as `allocator::leases::Counter::ask` does. One shard of a gateway: all keys have one hash
-- tag. Numbers are doubles, exact to 2^53; the caller sends none that is larger. Everything here may be lost: replicas say
-- again what they hold.
--
-- KEYS  1 life     since when this shard is known (unix ms): one that is young gives nothing, until replicas have told
--       2 members  zset: replica -> when it spoke last; of one shard only
--       3 tight    zset: limit -> until when somebody waits for it
--       4..        hash for each ask: s (window), t (tight until), a:ACCOUNT -> "seq held used seen"
-- ARGV  1 replica, or nothing; then FIELDS for each ask
-- Gives {{now, life, young, members, tight...}, answer...}; see `leases.rs`.

local WINDOW_MS = 60000
local PLACES_MS = 15000
local SILENT_MS = 3000
local TIGHT_MS = 500
local AMPLE = 5
local YOUNG_MS = 500
local MEMBER_MS = 5000
local KEEP_MS = 3600000
local MOST_TIGHT = 128
local FIELDS = 14

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(number) return string.format('%.0f', number) end

local life = tonumber(redis.call('GET', KEYS[1]) or '')
if not life then
  life = now
  redis.call('SET', KEYS[1], text(life), 'PX', KEEP_MS)
else
  redis.call('PEXPIRE', KEYS[1], KEEP_MS)
end
local young = now >= life and now - life < YOUNG_MS

local members = 0
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[2], text(now), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - MEMBER_MS))
  redis.call('PEXPIRE', KEYS[2], KEEP_MS)
  members = redis.call('ZCARD', KEYS[2])
end

local function whole(number, divisor) return (number - math.fmod(number, divisor)) / divisor end

local function is_ample(room, most) return room > whole(most, AMPLE) end

local function grant(unused, most, room, needed, burn, replicas)
  if room <= 0 or needed <= 0 then return 0 end
  local generous = burn
  if is_ample(room, most) then generous = whole(room + unused, replicas * 2) end
  return math.min(math.max(generous - unused, needed), room)
end

local function ask(key, from)
  local a = function(at) return ARGV[from + at] end
  local n = function(at) return tonumber(ARGV[from + at]) end
  local limit, account, at_once, most, seq = a(1), a(2), a(3) == '1', n(4), n(5)
  local asked_window, is_open, age, held, beside, used = n(6), a(7) == '1', n(8), n(9), n(10), n(11)
  local wanted, least, burn = n(12), n(13), n(14)

  local began, tight, accounts = nil, 0, {}
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    local field, value = flat[at], flat[at + 1]
    if field == 's' then began = tonumber(value)
    elseif field == 't' then tight = tonumber(value)
    else
      local w = {}
      for word in string.gmatch(value, '%S+') do w[#w + 1] = tonumber(word) end
      accounts[string.sub(field, 3)] = { seq = w[1], held = w[2], used = w[3], seen = w[4] }
    end
  end

  local window, ends_in
  if at_once then
    for name, one in pairs(accounts) do
      if now >= one.seen + PLACES_MS then
        accounts[name] = nil
        redis.call('HDEL', key, 'a:' .. name)
      end
    end
    window, ends_in = 1, PLACES_MS
  else
    if not began or now >= began + WINDOW_MS or began > now + WINDOW_MS then
      if began then redis.call('DEL', key) end
      began, tight, accounts = now, 0, {}
      if is_open then began = now - math.min(math.max(age, 0), WINDOW_MS - 1) end
    end
    window, ends_in = began, began + WINDOW_MS - now
  end

  local own = accounts[account]
  local is_new = not own or own.seq < seq
  if is_new then
    local still = at_once or asked_window == window or is_open
    own = { seq = seq, held = still and held + beside or beside, used = still and used or beside, seen = now }
    accounts[account] = own
  end
  local elsewhere, idle, others, replicas = 0, 0, 0, 0
  for name, one in pairs(accounts) do
    replicas = replicas + 1
    if name ~= account then
      local its = one.used
      if now >= one.seen + SILENT_MS then its = math.max(one.held, one.used) end
      elsewhere = elsewhere + its
      others = others + one.held
      idle = idle + math.max(one.held - its, 0)
    end
  end
  local room = most - others - own.held

  if tight > 0 and is_ample(room, most) then
    tight = 0
    redis.call('HDEL', key, 't')
    redis.call('ZREM', KEYS[3], limit)
  end
  local given = 0
  if is_new and not young then
    if tight > now then
      if least > 0 then given = math.max(math.min(wanted, room), 0) end
    else
      given = grant(math.max(own.held - own.used, 0), most, room, wanted, burn, replicas)
    end
    if given < least then given = 0 end
  end
  local recalls = is_new and least > 0 and given < wanted and idle > 0
  if recalls then
    tight = now + TIGHT_MS
    redis.call('HSET', key, 't', text(tight))
    redis.call('ZADD', KEYS[3], text(tight), limit)
    redis.call('PEXPIRE', KEYS[3], KEEP_MS)
  end
  own.held = own.held + given
  redis.call('HSET', key, 's', text(window), 'a:' .. account,
    table.concat({ text(own.seq), text(own.held), text(own.used), text(own.seen) }, ' '))
  redis.call('PEXPIRE', key, text(at_once and PLACES_MS or ends_in))
  return { text(window), text(own.held), text(room - given), text(elsewhere), text(idle), text(ends_in), recalls and '1' or '0' }
end

local answers = {}
for at = 4, #KEYS do answers[#answers + 1] = ask(KEYS[at], 1 + (at - 4) * FIELDS) end

redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now))
local header = { text(now), text(life), young and '1' or '0', text(members) }
for _, limit in ipairs(redis.call('ZRANGE', KEYS[3], 0, MOST_TIGHT - 1)) do header[#header + 1] = limit end
table.insert(answers, 1, header)
return answers
