-- The lease operation, to become part of the batch script: how much of a key's quota goes to a replica that asks
-- for some. A transcription, line by line, of lease/grant.rs, whose comments give the reasons; both compute in
-- doubles in the same order and give the same answer to the bit.
--
-- Arguments
--   used, cap, unit   the key: microseconds to full recovery and T on a token bucket; units counted, the limit
--                     and 1 in a window
--   lapses            of a window: microseconds until what is granted now lapses: to the end of the fixed window,
--                     or of the sliding window's current cell; nil or false for a token bucket
--   least             units for the request that waits for the answer; 1 when none does
--   rate              units a microsecond that the replica is asked for
--   horizon           microseconds the lease should last
--   share             most of what is there that it may take
--   patience          part of its wish below which it would rather wait; 0: give what is there
-- Returns the units granted, and 0; the caller adds granted * unit to what is used, which fits. Or 0 and what is
-- missing: on a token bucket the wait in microseconds, to be rounded up; in a window the units that have to leave.
--
-- Exact is only that granted * unit <= cap - used: multiples of 2^-20 below 2^53 of them, which doubles subtract,
-- multiply and compare without rounding. Everything else decides how large a grant is, and cannot admit too much.
--
-- In the batch script the operation is (key, least, rate, horizon, share, patience) and the reply two numbers:
-- granted and the level after it, or 0 and what is missing; windows add what else their outcome needs, and the
-- time at which the grant lapses.

local PATIENT = 4000000

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
