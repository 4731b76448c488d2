-- Says that a replica is alive and counts those that are. It writes, so it also tells whether the server can.
--
-- KEYS[1]  sorted set of replicas by the time (milliseconds) they were last heard of
-- KEYS[2]  name of the data, given by whoever finds none: who knows another has seen the data go
-- KEYS[3]  notes of the replicas, see notes.lua
-- ARGV[1]  eight bytes that name this replica
-- ARGV[2]  milliseconds after which one that is not heard of is gone
-- ARGV[3]  a new name
-- Reply: number of replicas, the store's time in milliseconds, name of the data, version of the notes if there are any
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local life = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - life))
-- The clock stepped back: who was heard of in what is now the future is heard of again soon, or is gone.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now + life), '+inf')
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
local name = redis.call('GET', KEYS[2])
if not name then name = ARGV[3] end
redis.call('SET', KEYS[2], name, 'PX', '86400000')
local notes = redis.pcall('HGET', KEYS[3], '')
if type(notes) == 'table' then notes = false end
return { redis.call('ZCARD', KEYS[1]), string.format('%.0f', now), name, notes }
