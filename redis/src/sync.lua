-- Decides about reports of one replica, as `allocator::Budget::sync` does. One shard of a gateway: all keys have one
-- hash tag. Idempotent: reports are totals. Numbers are doubles, exact to 2^53; the caller sends none that is larger.
--
-- KEYS  1 life     hash: inc (the server that it is valid on), epoch (unix ms), begun, doubt (1: what is here may be old),
--                 left (1: the books are being taken away, and nothing more is granted)
--       2 members  hash: replica -> "last seen" "epoch of which it has told everything"
--       3 tight    zset: budget -> until when somebody waits for allowance of it
--       4 changed  zset: budget -> when its totals changed last
--       5 kept     zset: budget -> until when it has books, unix s
--       6..        hash for each report's budget: q (sequence), g (gone before), t (tight until), u (1: see `resolve`),
--                  b:N books, a:N:REPLICA accounts, c:N claims, r:N:REPLICA what was refused (apart: nothing is decided by it)
-- ARGV  1 replica, or nothing; 2 epoch of which it has told everything; then FIELDS for each report
-- Gives {header, answer...}; see `decode.rs`.

local KEEP_AFTER = 86400
local KEEP_KEY = 172800
local TIGHT_MS = 2000
local BURN_MS = 10000
local MOST_CLOSED = 64
local AMPLE = 5
-- In doubt, replicas have so long to tell what they know, and those that are silent so much longer.
local DOUBT_MS = 5000
local DOUBT_MOST_MS = 30000
-- A replica that is silent so long is gone. Safe at any length.
local GONE_MS = 90000
-- Who spoke in this time shares what is left.
local ACTIVE_MS = 10000
local FORGET_MEMBER_MS = 3600000
local FIELDS = 27

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local now_s = math.floor(now / 1000)
local inc = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
if not inc then return redis.error_reply('TOLLGATE the server does not tell its master_replid') end

local function text(number) return string.format('%.0f', number) end
local function words(line)
  local all = {}
  for word in string.gmatch(line, '%S+') do all[#all + 1] = word end
  return all
end

-- The shard: is what it says still all that was said?
local life = redis.call('HMGET', KEYS[1], 'inc', 'epoch', 'begun', 'doubt', 'left')
local left = life[5] == '1'
local epoch, begun, doubt = tonumber(life[2]) or 0, tonumber(life[3]) or 0, life[4] == '1'
local lost = 0
local function begin_doubt()
  lost = 1
  epoch = math.max(epoch + 1, now)
  begun, doubt = now, true
  redis.call('HSET', KEYS[1], 'inc', inc, 'epoch', text(epoch), 'begun', text(begun), 'doubt', '1')
end
if life[1] ~= inc then begin_doubt() end
-- A clock that was set back must not prolong it.
if begun > now then begun = now end

local me = ARGV[1]
-- One that has ended, and speaks through the next process of its folder: nothing more of it is to be waited for.
local has_ended = #KEYS > 5 and redis.call('HEXISTS', KEYS[2], me) == 0
for at = 6, #KEYS do
  if ARGV[2 + (at - 6) * FIELDS + 12] ~= '1' then has_ended = false end
end
if me ~= '' and not has_ended then redis.call('HSET', KEYS[2], me, text(now) .. ' ' .. ARGV[2]) end
local seen_at = {}
local replicas, all_told = 0, true
local members = redis.call('HGETALL', KEYS[2])
for at = 1, #members, 2 do
  local said = words(members[at + 1])
  local seen = tonumber(said[1])
  seen_at[members[at]] = seen
  if now - seen > FORGET_MEMBER_MS then
    redis.call('HDEL', KEYS[2], members[at])
  else
    if now - seen <= ACTIVE_MS then replicas = replicas + 1 end
    if tonumber(said[2]) ~= epoch then all_told = false end
  end
end
if replicas < 1 then replicas = 1 end
local function is_gone(replica) return now - math.max(seen_at[replica] or 0, begun) > GONE_MS end
if doubt and now - begun >= DOUBT_MS and (all_told or now - begun >= DOUBT_MOST_MS) then
  doubt = false
  redis.call('HSET', KEYS[1], 'doubt', '0')
end

local function charged(account) return math.max(account.granted - account.returned, account.used) end
local function whole(number, divisor) return (number - math.fmod(number, divisor)) / divisor end

-- number * 10000 / divisor, without leaving what doubles have.
local function times_burn(number, divisor)
  local first, rest = whole(number, divisor), math.fmod(number, divisor)
  local second, rest2 = whole(rest * 100, divisor), math.fmod(rest * 100, divisor)
  return first * BURN_MS + second * 100 + whole(rest2 * 100, divisor)
end

local function grant(limit, room, needed, burn)
  if room <= 0 or needed <= 0 then return 0 end
  local generous = burn
  if room > whole(limit, AMPLE) then generous = whole(room, replicas * 2) end
  return math.min(math.max(generous, needed), room)
end

local function read_budget(key)
  local budget = { books = {}, claims = {}, seq = 0, tight = 0, gone = nil, unresolved = false }
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    local field, value = flat[at], flat[at + 1]
    local kind, number, replica = string.match(field, '^(%a):(%d+):?(.*)$')
    if kind == 'b' then
      local unit, period, starts, ends, counts, closed, token = string.match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (.*)$')
      local books = budget.books[number] or { accounts = {} }
      budget.books[number] = books
      books.number, books.unit, books.kind, books.starts, books.ends, books.counts = number, unit, period, starts, ends, counts
      books.closed, books.token, books.known = tonumber(closed), token, true
    elseif kind == 'a' then
      local w = words(value)
      local books = budget.books[number] or { accounts = {} }
      budget.books[number] = books
      books.accounts[replica] = { granted = tonumber(w[1]), returned = tonumber(w[2]), used = tonumber(w[3]),
        closed = w[4] == '1', held = tonumber(w[5]), seen = tonumber(w[6]), was = tonumber(w[7]) }
    elseif kind == 'c' then
      local seq, elsewhere, who = string.match(value, '^(%S+) (%S+) (.*)$')
      budget.claims[number] = { seq = tonumber(seq), elsewhere = tonumber(elsewhere), replica = who }
    elseif field == 'q' then budget.seq = tonumber(value)
    elseif field == 'g' then budget.gone = tonumber(value)
    elseif field == 't' then budget.tight = tonumber(value)
    elseif field == 'u' then budget.unresolved = value == '1'
    end
  end
  return budget
end

local function counts(terms, earlier, current)
  if earlier.unit ~= terms.unit or earlier.token ~= terms.token or earlier.kind ~= current.kind then return false end
  if terms.period == 'L' then return true end
  if terms.period == 'R' then
    return tonumber(earlier.ends) + terms.seconds > math.max(now_s, tonumber(current.starts))
  end
  return tonumber(earlier.starts) < tonumber(current.ends) and tonumber(earlier.ends) > tonumber(current.starts)
end

-- Of all accounts that count in the period of `current`, but the one of `without` there. `as_was`: when the doubt began.
local function elsewhere(budget, terms, current, without, as_was)
  local used, all = 0, 0
  for _, books in pairs(budget.books) do
    if counts(terms, books, current) then
      used, all = used + books.closed, all + books.closed
      for replica, account in pairs(books.accounts) do
        if books ~= current or replica ~= without then
          local net = as_was and account.was or charged(account)
          used = used + (account.closed and net or account.used)
          all = all + net
        end
      end
    end
  end
  return used, all
end

-- After a doubt: of the youngest view of the whole that anybody had, what no account explains was charged for replicas that
-- nothing is known of any more. It stays charged.
local function resolve(key, budget, terms, dirty)
  local claims = {}
  for number, claim in pairs(budget.claims) do claims[#claims + 1] = { of = budget.books[number], claim = claim } end
  table.sort(claims, function(one, other) return tonumber(one.of.starts) < tonumber(other.of.starts) end)
  for _, one in ipairs(claims) do
    local of = one.of
    local as_was = { unit = of.unit, token = of.token, period = terms.period, seconds = terms.seconds }
    local _, explained = elsewhere(budget, as_was, of, one.claim.replica, true)
    if one.claim.elsewhere > explained then
      of.closed = of.closed + one.claim.elsewhere - explained
      of.fresh = true
    end
    redis.call('HDEL', key, 'c:' .. of.number)
  end
  for _, of in pairs(budget.books) do
    for replica, account in pairs(of.accounts) do
      if account.was then
        account.was = nil
        dirty[#dirty + 1] = { of, replica }
      end
    end
  end
  redis.call('HSET', key, 'u', '0')
end

local function forget_account(key, number, replica)
  redis.call('HDEL', key, 'a:' .. number .. ':' .. replica, 'r:' .. number .. ':' .. replica)
end

local function sync(key, from)
  local a = function(at) return ARGV[from + at] end
  local id, unit, token = a(1), a(2), a(3)
  local kind, starts, ends, counts_until = a(4), a(5), a(6), a(7)
  local returned, used, held, wanted, last = tonumber(a(8)), tonumber(a(9)), tonumber(a(10)), tonumber(a(11)), a(12) == '1'
  -- What the replica remembers of earlier answers.
  local seen_granted, seen_epoch, seen_seq = tonumber(a(13)), tonumber(a(14)), tonumber(a(15))
  local claim_seq, claim_elsewhere, was = tonumber(a(16)), tonumber(a(17)), tonumber(a(18))
  local terms = { known = a(19) == '1', limit = tonumber(a(20)), hard = a(21) == '1', period = a(22), seconds = tonumber(a(23)),
    unit = a(25), token = a(26) }
  local may_open = a(24) == '1'
  local refused = tonumber(a(27))

  local budget = read_budget(key)
  if not doubt and seen_seq > budget.seq then begin_doubt() end

  -- Books that stopped to count a day ago are gone, and never open again.
  for number, books in pairs(budget.books) do
    if not books.known or tonumber(books.counts) + KEEP_AFTER < now_s then
      if books.known then
        budget.gone = math.max(budget.gone or -1e15, tonumber(books.starts) + 1)
        redis.call('HSET', key, 'g', text(budget.gone))
      end
      for replica, _ in pairs(books.accounts) do forget_account(key, number, replica) end
      redis.call('HDEL', key, 'b:' .. number, 'c:' .. number)
      budget.books[number], budget.claims[number] = nil, nil
    end
  end

  local books = nil
  local free = 0
  for number, one in pairs(budget.books) do
    free = math.max(free, tonumber(number))
    if one.unit == unit and one.token == token and one.kind == kind and one.starts == starts and one.ends == ends then books = one end
  end
  if not books and terms.known and may_open and (not budget.gone or tonumber(starts) >= budget.gone) then
    books = { number = text(free + 1), unit = unit, token = token, kind = kind, starts = starts, ends = ends, counts = counts_until,
      closed = 0, accounts = {}, known = true, fresh = true }
    budget.books[books.number] = books
  end
  if not books then return { '0', '0', '0', '0', '0', '1', '0', text(budget.seq), '0', '0' } end

  local dirty = {}
  local account = books.accounts[me]
  if not account then
    account = { granted = 0, returned = 0, used = 0, closed = false, held = 0, seen = 0 }
    books.accounts[me] = account
  end
  dirty[#dirty + 1] = { books, me }

  -- Not told of since the server changed: what the replica was granted it has.
  local late = 0
  if seen_epoch ~= epoch and seen_granted > account.granted then
    account.granted = seen_granted
    late = 1
  end
  if doubt then
    if not budget.unresolved then
      budget.unresolved = true
      redis.call('HSET', key, 'u', '1')
    end
    if seen_epoch ~= epoch then
      account.was = was
      local claim = budget.claims[books.number]
      if claim_seq > 0 and (not claim or claim_seq >= claim.seq) then
        redis.call('HSET', key, 'c:' .. books.number, text(claim_seq) .. ' ' .. text(claim_elsewhere) .. ' ' .. me)
      end
    end
    -- So that answers from here on are younger than any that were lost.
    budget.seq = math.max(budget.seq, seen_seq)
  elseif budget.unresolved then
    resolve(key, budget, terms, dirty)
  end

  local gone = {}
  if not doubt then
    for _, one in pairs(budget.books) do
      for replica, other in pairs(one.accounts) do
        if replica ~= me and not other.closed and is_gone(replica) then
          other.closed = true
          dirty[#dirty + 1] = { one, replica }
          gone[replica] = true
        end
      end
    end
  end

  -- Takes over what is told.
  local since = math.max(now - account.seen, 1000)
  local burn = times_burn(math.max(used - account.used, 0), since)
  local was_closed, before = account.closed, charged(account)
  local before_used, before_returned = account.used, account.returned
  account.used = math.max(account.used, used)
  account.returned = math.max(account.returned, math.min(returned, account.granted))
  if last then
    account.closed = true
    account.returned = math.max(account.returned, account.granted - account.used)
  end
  account.held = last and 0 or held
  account.seen = now
  local adjusted = was_closed and before - charged(account) or 0

  local used_elsewhere, charged_elsewhere = elsewhere(budget, terms, books, me)
  local denied = 0
  if terms.known and not account.closed and terms.hard then
    local room = terms.limit - charged_elsewhere - charged(account)
    local needed = wanted - account.granted
    if doubt or left then
      if needed > 0 then denied = 1 end
    else
      local given
      if budget.tight > now then
        given = math.max(math.min(needed, room), 0)
      else
        given = grant(terms.limit, room, needed, burn)
      end
      account.granted = account.granted + given
      if given < needed then
        budget.tight = now + TIGHT_MS
        redis.call('HSET', key, 't', text(budget.tight))
        redis.call('ZADD', KEYS[3], text(budget.tight), id)
      end
    end
  end
  budget.seq = budget.seq + 1
  local answer = { text(account.granted), text(used_elsewhere), text(charged_elsewhere), now < budget.tight and '1' or '0',
    account.closed and '1' or '0', terms.known and '0' or '1', text(adjusted), text(budget.seq), text(denied), text(late) }
  for replica, _ in pairs(gone) do answer[#answer + 1] = replica end

  -- Closed accounts that are too many are added up.
  local number_closed = {}
  for replica, one in pairs(books.accounts) do
    if one.closed then number_closed[#number_closed + 1] = replica end
  end
  if #number_closed > MOST_CLOSED then
    table.sort(number_closed)
    for at = 1, #number_closed - MOST_CLOSED do
      local replica = number_closed[at]
      books.closed = books.closed + charged(books.accounts[replica])
      books.accounts[replica], books.fresh = nil, true
      forget_account(key, books.number, replica)
    end
  end

  local write = { 'q', text(budget.seq) }
  for _, one in pairs(budget.books) do
    if one.fresh then
      write[#write + 1] = 'b:' .. one.number
      write[#write + 1] = table.concat({ one.unit, one.kind, one.starts, one.ends, one.counts, text(one.closed), one.token }, ' ')
    end
  end
  for _, pair in ipairs(dirty) do
    local of, replica = pair[1], pair[2]
    local one = of.accounts[replica]
    if one then
      write[#write + 1] = 'a:' .. of.number .. ':' .. replica
      write[#write + 1] = table.concat({ text(one.granted), text(one.returned), text(one.used), one.closed and '1' or '0',
        text(one.held), text(one.seen), one.was and text(one.was) or nil }, ' ')
    end
  end
  if refused > 0 and not account.closed then
    write[#write + 1] = 'r:' .. books.number .. ':' .. me
    write[#write + 1] = text(refused)
  else
    redis.call('HDEL', key, 'r:' .. books.number .. ':' .. me)
  end
  redis.call('HSET', key, unpack(write))
  redis.call('ZADD', KEYS[4], text(now), id)
  local until_s = now_s
  for _, one in pairs(budget.books) do until_s = math.max(until_s, tonumber(one.counts)) end
  until_s = until_s + KEEP_KEY
  redis.call('ZADD', KEYS[5], text(until_s), id)
  if books.fresh then
    if until_s < 1e11 then
      redis.call('EXPIREAT', key, text(until_s))
    else
      redis.call('PERSIST', key)
    end
  end
  return answer
end

local answers = {}
for at = 6, #KEYS do
  answers[#answers + 1] = sync(KEYS[at], 2 + (at - 6) * FIELDS)
end

redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. text(now))
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. text(now - FORGET_MEMBER_MS))
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. text(now_s))
local header = { text(now), text(epoch), doubt and '1' or '0', text(replicas), text(lost) }
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], text(now), '+inf', 'LIMIT', 0, 256)) do
  header[#header + 1] = id
end
table.insert(answers, 1, header)
return answers
