-- What decide.lua does, for the commonest batch: requests that take from token buckets, no bucket twice. Each key is
-- read, decided and written in one go, at two thirds of the price. The values are decide.lua's, and so is every
-- answer; lua_is_rust.rs judges both by the same traces.
--
-- KEYS     the keys of the first request, of the second and so on, all different, all of one hash slot
-- ARGV[1]  format (struct library) of ARGV[2]
-- ARGV[2]  numbers, packed. For each request how many takes it is, all or nothing, and for each of these:
--            capacity, ceiling (most that debits may have brought it to), amount; microseconds to refill
--
-- Reply: packed doubles. The store's time (microseconds), then for each take, in order:
--   level    >= 0: this limit admits, and so much is used, now that the request was decided
--            <  0: it refuses, and -1-level is used; minus infinity: what lies at the key is not ours
-- and at the end the numbers of keys that turned out to hold foreign data only when they were to be written.
--
-- Values, exactness and what is cut: see decide.lua.

local call, from, to = redis.call, struct.unpack, struct.pack
local FOREIGN, HELD_UP = math.huge, 1000000

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local keys, count = KEYS, #KEYS
local stored = call('MGET', unpack(keys))
local A = { from(ARGV[1], ARGV[2]) }
-- The levels of the reply, by key; it begins as long as it will be.
local out, foreign = { unpack(stored) }, 0

-- How much of key i is used, the time to which its expiry reaches, and whether the level was cut.
local function read(i, ceiling)
  local value = stored[i]
  if not value then return 0, 0 end
  if #value ~= 24 then return FOREIGN, 0 end
  local whole, fraction, reaches = from('<ddd', value)
  local level = whole - now + fraction
  if level < 0 then return 0, reaches end
  if level > ceiling + HELD_UP then return ceiling, reaches, true end
  if level ~= level then return FOREIGN, 0 end
  return level, reaches
end

-- What a fresh value looked like last: those of one limit look alike.
local last_level, last_value, last_expiry

local function write(i, level, reaches)
  local fraction = level % 1
  local ahead = level - fraction
  local whole = now + ahead
  if whole < reaches then
    call('SETRANGE', keys[i], '0', to('<dd', whole, fraction))
    return
  end
  if level ~= last_level then
    -- For twice as long as it takes to recover, and a second.
    local milliseconds = ahead / 500 + 1000
    last_level, last_value = level, to('<ddd', whole, fraction, now + 2 * ahead + 999000)
    last_expiry = string.format('%d', milliseconds)
  end
  if stored[i] then
    call('SET', keys[i], last_value, 'PX', last_expiry)
  elseif not call('SET', keys[i], last_value, 'PX', last_expiry, 'NX') then
    -- Something of another type lies there, which MGET does not show.
    foreign = foreign + 1
    out[count + foreign] = i
  end
end

-- Of requests with several takes.
local reach, cut = {}, {}

local p, i = 1, 1
while i <= count do
  local number = A[p]
  if number == 1 then
    local capacity, amount = A[p + 1], A[p + 3]
    local level, reaches, is_cut = read(i, A[p + 2])
    local after = level + amount
    if after <= capacity then
      out[i] = after
      write(i, after, reaches)
    else
      out[i] = -1 - level
      -- A refusal stores the cut.
      if is_cut and amount <= capacity then write(i, level, reaches) end
    end
    i, p = i + 1, p + 4
  else
    local stop, ok, j = p + 3 * number, true, i
    for q = p + 1, stop, 3 do
      out[j], reach[j], cut[j] = read(j, A[q + 1])
      if not (out[j] + A[q + 2] <= A[q]) then ok = false end
      j = j + 1
    end
    for q = p + 1, stop, 3 do
      local capacity, level, amount = A[q], out[i], A[q + 2]
      if ok then
        out[i] = level + amount
        write(i, level + amount, reach[i])
      elseif not (level + amount <= capacity) then
        out[i] = -1 - level
        if cut[i] and amount <= capacity then write(i, level, reach[i]) end
      end
      i = i + 1
    end
    p = stop + 1
  end
end

return to('<d' .. string.rep('d', count + foreign), now, unpack(out))
