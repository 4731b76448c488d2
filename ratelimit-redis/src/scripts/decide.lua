-- Decides a batch of requests in one step: one TIME, one read of all keys, the decisions in order, then one
-- write for each key that changed. Later requests of a batch see what earlier ones were charged.
--
-- KEYS     the different keys of the batch, at most 255, all of one hash slot
-- ARGV[1]  format (struct library) of ARGV[2]
-- ARGV[2]  numbers, packed:
--   for each key     capacity, ceiling (most that debits may bring it to), shape:
--                      0   token bucket; capacity, ceiling and amounts are microseconds to refill
--                      1   fixed window of a calendar; its boundaries follow below
--                      2   permits
--                    > 2   fixed window of so many microseconds, aligned to the epoch, whole weeks to Monday
--                    < 0   sliding window of eleven cells of so many microseconds
--   more             0, or 1 and then:
--     calendars      their number, and for each: key, four boundaries one after the other (microseconds)
--     sequence       number of this batch, greater than that of every batch before by this replica
--     expiry         microseconds after which permits lapse that are not renewed
--   the requests     each is one of
--     m >= 1         m takes, all or nothing: key, amount
--     255            a lease, see below: key, unit, least, rate, horizon, share, patience
--     0              a number m, and m times: operation, key, amount, mark, mark
--                      operations: 1 take, 2 peek, 3 debit, 4 refund, 5 refund by receipt, 6 reset,
--                      7 hold so many permits; 8 take and 9 peek of a limit that never vetoes; 10 hold the
--                      same number of permits for longer; 11 refund by receipt if nothing was charged after it;
--                      12 rescale a bucket from one that fills in so many microseconds (0: keep the time to
--                      recovery).
--                      Marks of a receipt: bucket: time of the charge and level after it; fixed window: its
--                      end; sliding window: number of the cell and its length.
-- ARGV[3]  with permits: eight bytes that name this replica
--
-- Reply: packed doubles. The store's time (microseconds), then for each charge, in order:
--   level    >= 0: this limit admits, and so much is used, now that the request was decided
--            <  0: it refuses, and -1-level is used; minus infinity: what lies at the key is not ours
--   and for every shape but the bucket a second number: fixed window: its end; permits: held by this replica;
--   sliding window: 256 * number of the current cell + 16 * i + j, where the newest count leaves with the
--   beginning of cell number + i, and enough to admit with that of number + j
-- and for a lease:
--   granted  units, and the level with them; or 0 and what is missing; or minus infinity, as above, and 0
--   and for windows a third number, as above
-- and at the end the numbers of keys that turned out to hold foreign data only when they were to be written.
-- A reply of nothing but the time: the boundaries of a calendar don't cover it; nothing was done.
--
-- Values. Bucket: TAT as whole microseconds and a fraction, and the time to which the key's expiry surely
-- reaches. Fixed window: its end, count. Sliding window: cell length, number of the current cell, the time to
-- which the expiry reaches, eleven counts. Permits: hash of replica -> count, sequence, expiry.
-- While the expiry reaches far enough, values are changed in place (SETRANGE keeps it), which is cheaper.
--
-- Leases. A lease of g units is one take of g units; how many is a matter of taste, written as lease/grant.rs has
-- it, line by line, with the reasons.
--   unit      what one unit takes: microseconds of a bucket, 1 of a window
--   least     units for the request that waits for the answer; 1 when none does
--   rate      units a microsecond that the replica is asked for
--   horizon   microseconds the lease should last
--   share     most of what is there that it may take
--   patience  part of its wish below which it would rather wait; 0: give what is there
-- What is missing is the wait in microseconds on a bucket, the units that have to leave in a window.
--
-- Exactness: all numbers are integers or multiples of 2^-20 below 2^53 (wire.rs sees to it), so doubles add and
-- compare them exactly. The time itself is never multiplied, nor a fraction added to it.
-- A level further ahead than its ceiling (the clock stepped back, or a quota shrank) is cut, and a refusal
-- stores the cut. A second is allowed for, as in ratelimit_core::algorithm.

local call, from, to, floor = redis.call, struct.unpack, struct.pack, math.floor
local FOREIGN, HELD_UP = math.huge, 1000000
local MINUTE, WEEK, MONDAY = 60000000, 604800000000, 345600000000
local LEASE, PATIENT = 255, 4000000

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local keys, count = KEYS, #KEYS
local stored = call('MGET', unpack(keys))
local A = { from(ARGV[1], ARGV[2]) }

local next_number, last = 3 * count + 1, #A - 1
local bounds, sequence, expiry
if A[next_number] == 1 then
  bounds = {}
  local calendars = A[next_number + 1]
  next_number = next_number + 2
  for _ = 1, calendars do
    local b = { A[next_number + 1], A[next_number + 2], A[next_number + 3], A[next_number + 4] }
    if now < b[1] or now >= b[3] then return to('<d', now) end
    bounds[A[next_number]] = b
    next_number = next_number + 5
  end
  sequence, expiry = A[next_number], A[next_number + 1]
  next_number = next_number + 1
end
next_number = next_number + 1

-- For each key: how much is used, and was when it was read.
local used, old = {}, {}
-- Time to which the expiry of a stored value reaches.
local reach = {}
-- Windows and permits; most batches have none.
local ends, stored_end, rings, own, said, lapsed = {}, {}, {}, {}, {}, nil
-- Keys that were cut, and keys to be written although their level is as it was.
local cut, dirty = {}, {}
-- Levels before they were cut.
local uncut = {}

-- End of the fixed window of key i, and of the one that a minute ahead lies in.
local function window(i)
  local period = A[3 * i]
  if period == 1 then
    local b = bounds[i]
    local start, stop, after = b[1], b[2], b[3]
    if now >= stop then start, stop, after = b[2], b[3], b[4] end
    local ahead = stop - start
    if ahead > MINUTE then ahead = MINUTE end
    if now + ahead < stop then after = stop end
    return stop, after
  end
  local origin = period % WEEK == 0 and MONDAY or 0
  local ahead = now + (period < MINUTE and period or MINUTE)
  return now - (now - origin) % period + period, ahead - (ahead - origin) % period + period
end

local function read_window(i, value)
  local stop, held = from('<dd', value)
  if held ~= held then return FOREIGN end
  if not (stop > now) then return 0 end
  local mine, soon = window(i)
  -- A small step back keeps the later window; one further away is cut to this one.
  local effective = stop
  if stop < mine or (stop > mine and stop > soon) then effective = mine end
  ends[i], stored_end[i] = effective, stop
  if effective ~= stop and held > 0 then cut[i] = true end
  return held
end

-- Ring: 1 length of a cell, 2 number of the current one, 3 reach, 4 to 14 counts, oldest first.
local function read_ring(i, value)
  local length = -A[3 * i]
  local ring = { from('<dddI4I4I4I4I4I4I4I4I4I4I4', value) }
  local gather = false
  if ring[1] ~= length then
    local passed = floor(now / ring[1]) - ring[2]
    if passed > 11 then passed = 11 end
    for q = 4, 3 + passed do ring[q] = 0 end
    gather = true
  elseif ring[2] > floor((now + HELD_UP) / length) then
    gather = true
  end
  local index = floor(now / length)
  if gather then
    -- What still counts, counts as if it were new.
    local sum = 0
    for q = 4, 14 do
      sum = sum + ring[q]
      ring[q] = 0
    end
    ring[1], ring[2], ring[14] = length, index, sum < 4294967295 and sum or 4294967295
    cut[i] = true
  else
    local passed = index - ring[2]
    if passed > 10 then
      for q = 4, 14 do ring[q] = 0 end
      ring[2] = index
    elseif passed > 0 then
      for q = 4, 14 - passed do ring[q] = ring[q + passed] end
      for q = 15 - passed, 14 do ring[q] = 0 end
      ring[2] = index
    end
  end
  rings[i], reach[i] = ring, ring[3]
  local sum = 0
  for q = 4, 14 do sum = sum + ring[q] end
  return sum
end

local function read_permits(i)
  own[i] = 0
  local fields = redis.pcall('HGETALL', keys[i])
  if fields.err then return FOREIGN end
  stored[i] = #fields > 0
  local sum = 0
  for f = 1, #fields, 2 do
    local replica, value = fields[f], fields[f + 1]
    if #replica ~= 8 or #value ~= 20 then return FOREIGN end
    local held, when, stop = from('<I4dd', value)
    if replica == ARGV[3] then
      -- A message that was overtaken by a later one must not count.
      if sequence <= when then return FOREIGN end
      if stop > now then own[i] = held else held = 0 end
    elseif not (stop > now) then
      held = 0
      lapsed = lapsed or {}
      lapsed[#lapsed + 1] = { i, replica }
      dirty[i] = true
    elseif stop > now + expiry + HELD_UP then
      -- The clock stepped back: who is gone must not hold permits for as long as that.
      call('HSET', keys[i], replica, to('<I4dd', held, when, now + expiry))
    end
    sum = sum + held
  end
  return sum
end

for i = 1, count do
  local value, shape, level = stored[i], A[3 * i], 0
  if shape == 2 then
    level = read_permits(i)
  elseif value then
    if shape == 0 then
      if #value == 24 then
        local whole, fraction
        whole, fraction, reach[i] = from('<ddd', value)
        level = whole - now + fraction
        if level < 0 then
          level = 0
        elseif level > A[3 * i - 1] + HELD_UP then
          uncut[i] = level
          level = A[3 * i - 1]
          cut[i] = true
        elseif level ~= level then
          level = FOREIGN
        end
      else
        level = FOREIGN
      end
    elseif shape > 0 then
      level = #value == 16 and read_window(i, value) or FOREIGN
    else
      level = #value == 68 and read_ring(i, value) or FOREIGN
    end
  end
  used[i], old[i] = level, level
end

local function ring_of(i)
  local ring = rings[i]
  if not ring then
    local length = -A[3 * i]
    ring = { length, floor(now / length), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
    rings[i] = ring
  end
  return ring
end

-- The second number of the reply: about what is used, and what has to leave before `over` more is free.
local function about(i, over)
  local shape = A[3 * i]
  if shape == 2 then return own[i] + used[i] - old[i] end
  if shape > 0 then
    local stop = ends[i]
    if not stop then
      stop = window(i)
      ends[i] = stop
    end
    return stop
  end
  local ring = ring_of(i)
  local newest, leaving = 0, 0
  if ring[14] + used[i] - old[i] > 0 then
    newest = 11
  else
    for q = 13, 4, -1 do
      if ring[q] > 0 then
        newest = q - 3
        break
      end
    end
  end
  if over > 0 then
    local sum = 0
    leaving = 11
    for q = 4, 13 do
      sum = sum + ring[q]
      if sum >= over then
        leaving = q - 3
        break
      end
    end
  end
  return ring[2] * 256 + newest * 16 + leaving
end

local out, o = { now }, 1

local function admitted(i)
  o = o + 1
  out[o] = used[i]
  if A[3 * i] ~= 0 then
    o = o + 1
    out[o] = about(i, 0)
  end
end

local function refused(i, amount)
  local capacity, level = A[3 * i - 2], used[i]
  if cut[i] and amount <= capacity then dirty[i] = true end
  o = o + 1
  out[o] = -1 - level
  if A[3 * i] ~= 0 then
    o = o + 1
    out[o] = level == FOREIGN and 0 or about(i, level + amount - capacity)
  end
end

-- Makes what was charged in this batch part of the ring, so that its cells can be changed one by one.
local function settled_ring(i)
  local ring, charged = ring_of(i), used[i] - old[i]
  if charged ~= 0 then
    ring[14] = ring[14] + charged
    old[i], dirty[i] = used[i], true
  end
  return ring
end

local function give_back(i, amount, by_receipt, mark, mark2)
  local level, shape = used[i], A[3 * i]
  if level == FOREIGN then return end
  if shape == 0 then
    if by_receipt then
      -- What lies before now on the time line has come back by itself.
      local ahead = mark - now + mark2
      if ahead < 0 then ahead = 0 end
      if ahead < amount then amount = ahead end
    end
    used[i] = level > amount and level - amount or 0
    if cut[i] then dirty[i] = true end
  elseif shape == 2 then
    local others = old[i] - own[i]
    used[i] = level - amount > others and level - amount or others
  elseif shape > 0 then
    if level > 0 and (not by_receipt or mark == ends[i]) then
      used[i] = level > amount and level - amount or 0
      if cut[i] then dirty[i] = true end
    end
  else
    local ring = settled_ring(i)
    local newest, oldest = 14, 4
    if by_receipt then
      newest = 14 - (ring[2] - mark)
      oldest = newest
      -- No such cell any more, or it was never one of this ring's.
      if mark2 ~= ring[1] or newest < 4 or newest > 14 or newest % 1 ~= 0 then newest, oldest = 0, 1 end
    end
    for q = newest, oldest, -1 do
      local given = ring[q] < amount and ring[q] or amount
      ring[q] = ring[q] - given
      amount = amount - given
      level = level - given
    end
    if level ~= used[i] then
      used[i], old[i], dirty[i] = level, level, true
    end
  end
end

local function forget(i)
  if used[i] == FOREIGN then return end
  if stored[i] then call('DEL', keys[i]) end
  stored[i], reach[i], rings[i], stored_end[i], ends[i] = false, nil, nil, nil, nil
  used[i], old[i], own[i], cut[i], dirty[i] = 0, 0, 0, nil, nil
end

local function always(operation, i, amount, mark, mark2)
  if operation == 3 then
    local level, ceiling = used[i], A[3 * i - 1]
    local after = level + amount
    -- Never less than it was.
    if after > ceiling then after = ceiling > level and ceiling or level end
    used[i] = after
    if cut[i] or rings[i] then dirty[i] = true end
  elseif operation == 6 then
    forget(i)
  elseif operation == 12 then
    local level = used[i]
    if A[3 * i] == 0 and level > 0 and level ~= FOREIGN then
      if uncut[i] and level == old[i] then level = uncut[i] end
      -- Two roundings are less than a microsecond, and it never comes out as less than the share that was used.
      if amount > 0 then level = floor(level / amount * A[3 * i - 2]) + 1 end
      local ceiling = A[3 * i - 1]
      used[i], dirty[i] = level > ceiling and ceiling or level, true
    end
  elseif operation == 7 or operation == 10 then
    if used[i] ~= FOREIGN then
      if operation == 7 then used[i] = old[i] - own[i] + amount end
      said[i], dirty[i] = true, true
    end
  else
    -- Behind what was charged last lies nobody's lease.
    if operation == 11 and mark - now + mark2 ~= used[i] then return end
    give_back(i, amount, operation ~= 4, mark, mark2)
  end
end

-- A request of operations of any kind. Those that can be refused are decided together, first.
local function general(first, number)
  local ok = true
  for p = first, first + 5 * number - 5, 5 do
    local operation, i = A[p], A[p + 1]
    if not stored[i] and A[3 * i] ~= 2 and used[i] == 0 and call('EXISTS', keys[i]) == 1 then
      used[i], old[i] = FOREIGN, FOREIGN
    end
    if operation < 3 and not (used[i] + A[p + 2] <= A[3 * i - 2]) then ok = false end
  end
  local answers = {}
  for p = first, first + 5 * number - 5, 5 do
    local operation, i, amount = A[p], A[p + 1], A[p + 2]
    if operation < 3 or operation == 8 or operation == 9 then
      local before = o
      if used[i] + amount <= A[3 * i - 2] then
        if ok and (operation == 1 or operation == 8) then used[i] = used[i] + amount end
        admitted(i)
      else
        refused(i, amount)
      end
      answers[p] = { out[before + 1], out[before + 2] }
      o = before
    end
  end
  for p = first, first + 5 * number - 5, 5 do
    local operation, i = A[p], A[p + 1]
    local answer = answers[p]
    if answer then
      o = o + 1
      out[o] = answer[1]
      if A[3 * i] ~= 0 then
        o = o + 1
        out[o] = answer[2]
      end
    else
      if ok then always(operation, i, A[p + 2], A[p + 3], A[p + 4]) end
      if used[i] == FOREIGN then refused(i, 0) else admitted(i) end
    end
  end
end

-- How much of a key goes to a replica, and 0; or 0 and what is missing. `lapses`: microseconds until what is
-- granted in a window lapses.
local function grant(used, cap, unit, lapses, least, rate, horizon, share, patience)
  -- The slots of an emptier bucket lie further ahead, so a longer lease strands nothing.
  local lasts
  if lapses then lasts = math.min(horizon, lapses) else lasts = math.max(horizon, used / 2) end
  local want = math.max(rate * lasts, least)
  if not lapses then
    -- A key that stays exhausted is given out in batches of what comes back in four seconds at most.
    local batch = math.min(want, math.min(lasts, PATIENT) / unit)
    least = math.max(least, math.ceil(patience * batch))
  end
  local there = cap - used
  if there < least * unit then return 0, least * unit - there end
  local most = want * unit
  -- On a nearly full bucket slots lapse whatever the demand: there the lease covers time.
  if not lapses and horizon - used > most then most = horizon - used end
  local granted = math.floor(math.min(most, math.max(least * unit, there * share)) / unit)
  -- The division rounds, the multiplication does not.
  if granted * unit > there then granted = granted - 1 end
  return math.max(granted, least), 0
end

local function lease(p)
  local i, unit = A[p], A[p + 1]
  local level, shape = used[i], A[3 * i]
  local lapses
  if level == FOREIGN then
    out[o + 1], out[o + 2], o = -FOREIGN, 0, o + 2
    if shape ~= 0 then
      o = o + 1
      out[o] = 0
    end
    return
  end
  if shape > 0 then
    lapses = about(i, 0) - now
  elseif shape < 0 then
    -- What is charged to a cell may be spent while it is the current one.
    lapses = (ring_of(i)[2] + 1) * -shape - now
  end
  local least = A[p + 2]
  local units, missing =
    grant(level, A[3 * i - 2], unit, lapses, least, A[p + 3], A[p + 4], A[p + 5], A[p + 6])
  if units > 0 then
    level = level + units * unit
    used[i] = level
    out[o + 1], out[o + 2], o = units, level, o + 2
  else
    if cut[i] and least * unit <= A[3 * i - 2] then dirty[i] = true end
    out[o + 1], out[o + 2], o = 0, missing, o + 2
  end
  if shape ~= 0 then
    o = o + 1
    out[o] = about(i, missing)
  end
end

while next_number <= last do
  local m = A[next_number]
  if m == 1 then
    local i, amount = A[next_number + 1], A[next_number + 2]
    local level = used[i] + amount
    if level <= A[3 * i - 2] then
      used[i] = level
      o = o + 1
      out[o] = level
      if A[3 * i] ~= 0 then
        o = o + 1
        out[o] = about(i, 0)
      end
    else
      refused(i, amount)
    end
    next_number = next_number + 3
  elseif m == LEASE then
    lease(next_number + 1)
    next_number = next_number + 8
  elseif m > 1 then
    local stop, ok = next_number + 2 * m, true
    for p = next_number + 1, stop, 2 do
      local i = A[p]
      if not (used[i] + A[p + 1] <= A[3 * i - 2]) then ok = false end
    end
    for p = next_number + 1, stop, 2 do
      local i = A[p]
      local level = used[i] + A[p + 1]
      if ok then
        used[i] = level
        admitted(i)
      elseif level <= A[3 * i - 2] then
        admitted(i)
      else
        refused(i, A[p + 1])
      end
    end
    next_number = stop + 1
  else
    local number = A[next_number + 1]
    general(next_number + 2, number)
    next_number = next_number + 2 + 5 * number
  end
end

-- A value for a key that had none. Something of another type may lie there, which MGET does not show.
local function create(i, value, milliseconds)
  local ttl = string.format('%d', milliseconds)
  if stored[i] then
    call('SET', keys[i], value, 'PX', ttl)
  elseif not call('SET', keys[i], value, 'PX', ttl, 'NX') then
    o = o + 1
    out[o] = i
  end
end

local function write_permits(i, level)
  if lapsed then
    for _, field in ipairs(lapsed) do
      if field[1] == i then call('HDEL', keys[i], field[2]) end
    end
  end
  local held = own[i] + level - old[i]
  -- A count of zero that was said on purpose stays for a while, so that what was overtaken is recognised.
  if held > 0 or said[i] then
    call('HSET', keys[i], ARGV[3], to('<I4dd', held, sequence, now + expiry))
    call('PEXPIRE', keys[i], string.format('%d', expiry / 1000))
  elseif own[i] > 0 then
    call('HDEL', keys[i], ARGV[3])
  end
end

for i = 1, count do
  local level = used[i]
  if (level ~= old[i] or dirty[i]) and level ~= FOREIGN then
    local shape = A[3 * i]
    if shape == 0 then
      local fraction = level % 1
      local ahead = level - fraction
      local whole = now + ahead
      local reaches = reach[i]
      if reaches and whole < reaches then
        call('SETRANGE', keys[i], '0', to('<dd', whole, fraction))
      else
        -- For twice as long as it takes to recover, and a second.
        create(i, to('<ddd', whole, fraction, now + 2 * ahead + 999000), ahead / 500 + 1000)
      end
    elseif shape == 2 then
      write_permits(i, level)
    elseif shape > 0 then
      local stop = ends[i]
      if stop == stored_end[i] then
        call('SETRANGE', keys[i], '8', to('<d', level))
      else
        create(i, to('<dd', stop, level), (stop - now) / 1000 + 1)
      end
    else
      local ring = ring_of(i)
      local length = ring[1]
      local newest = ring[14] + level - old[i]
      local stop, reaches = (ring[2] + 11) * length, reach[i]
      local in_place = reaches and stop < reaches
      if not in_place then reaches = stop + 11 * length end
      local value = to('<dddI4I4I4I4I4I4I4I4I4I4I4', length, ring[2], reaches, ring[4], ring[5], ring[6],
        ring[7], ring[8], ring[9], ring[10], ring[11], ring[12], ring[13], newest)
      if in_place then
        call('SETRANGE', keys[i], '0', value)
      else
        create(i, value, (reaches - now) / 1000 + 1)
      end
    end
  end
end

return to('<' .. string.rep('d', o), unpack(out, 1, o))
