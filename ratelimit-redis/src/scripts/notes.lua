-- What replicas tell each other besides counters: notes, and which keys begin anew.
--
-- KEYS[1]  hash of notes: name -> stamp (16 digits, microseconds) and text, which is empty where one was taken back;
--          under the empty name the version of it all, another one after each change. It never lapses: notes are
--          what people said, and nobody could count them anew
-- KEYS[2]  list of keys that begin anew, the latest first: stamp and what tells the key apart. The last 1000 of the
--          last minute
-- ARGV[1]  operation
-- ARGV[2]  a new version
--   read
--   write    name, text, least stamp, and the stamp that the note must have, or nothing
--   merge    name, stamp and text, again and again: those that are later than what is there
--   reset    what tells a key apart
-- Reply: to read the store's time, the version, the notes, the list; to write the stamp, or nothing if the note had
-- another one; else 1.
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local notes, operation = KEYS[1], ARGV[1]
local DAY = 86400000000

if operation == 'read' then
  local all = call('HGETALL', notes)
  return { string.format('%.0f', now), call('HGET', notes, ''), all, call('LRANGE', KEYS[2], '0', '-1') }
end

local function stamp_of(value)
  return string.sub(value, 1, 16)
end

local result = 1
if operation == 'write' then
  local name, text, wanted = ARGV[3], ARGV[4], ARGV[6]
  local there = call('HGET', notes, name)
  if wanted ~= '' and (not there or stamp_of(there) ~= wanted) then return false end
  local stamp = math.max(now, tonumber(ARGV[5]))
  if there then stamp = math.max(stamp, tonumber(stamp_of(there)) + 1) end
  result = string.format('%016.0f', stamp)
  call('HSET', notes, name, result .. text)
  if text == '' then
    -- What was taken back longer ago, everybody knows.
    local all = call('HGETALL', notes)
    for f = 1, #all, 2 do
      local value = all[f + 1]
      if all[f] ~= '' and #value == 16 and tonumber(value) + DAY < now then call('HDEL', notes, all[f]) end
    end
  end
elseif operation == 'merge' then
  for n = 3, #ARGV, 2 do
    local there = call('HGET', notes, ARGV[n])
    if not there or stamp_of(there) < stamp_of(ARGV[n + 1]) then call('HSET', notes, ARGV[n], ARGV[n + 1]) end
  end
else
  call('LPUSH', KEYS[2], string.format('%016.0f', now) .. ARGV[3])
  call('LTRIM', KEYS[2], '0', '999')
  call('PEXPIRE', KEYS[2], '60000')
end
call('HSET', notes, '', ARGV[2])
return result
