"""Script in Redis that grants leases of rates, with the arithmetic of `RateLessor` and `StoreClock`, in microseconds.

One call serves many keys of many limits.  Keys: the clock, the set of processes, and one for each ask.  Arguments:
microseconds since the last exchange of this process (below 0 for the first), its name, the epoch that it knows, an
epoch for a new store, and for each ask interval, depth, lease, debt, least, firm, want, back, stamp and owed.

- The counts of a store that was emptied are lost.  A process that knows another epoch says so, and keys that are not
  known then had an empty bucket at that instant.
- A deletion comes first: a full Redis allows that, and then all that follows.  Keys expire once they say nothing.
- Values are msgpack: the base, then period, last grant and seconds of each recent period.  A value that is none counts
  as missing and is replaced: else the limits of all keys would fail with the one.
"""

from __future__ import annotations

from typing import Final

LEASES: Final = """
redis.call('del', KEYS[1] .. ':none')
local time = redis.call('time')
local wall = time[1] * 1000000 + time[2]
local clock = redis.call('hmget', KEYS[1], 'now', 'seen', 'epoch', 'lost')
local now, epoch, lost = tonumber(clock[1]), clock[3], tonumber(clock[4])
if now then
  local passed, elapsed = wall - tonumber(clock[2]), tonumber(ARGV[1])
  if elapsed >= 0 and passed > elapsed then passed = elapsed end
  if passed > 0 then now = now + passed end
else
  now, epoch, lost = wall, ARGV[4], -1
end
if ARGV[3] ~= '' and ARGV[3] ~= epoch then lost = now end
local function text(number) return string.format('%.17g', number) end
redis.call('hset', KEYS[1], 'now', text(now), 'seen', text(wall), 'epoch', epoch, 'lost', text(lost))
redis.call('zadd', KEYS[2], text(now), ARGV[2])
redis.call('zremrangebyscore', KEYS[2], '-inf', text(now - 3000000))
redis.call('pexpire', KEYS[2], 10000)
local answer = {text(now), epoch, redis.call('zcard', KEYS[2])}
local tolerance, memory, width, periods = 0.001, 200000, 25000, 8
for index = 3, #KEYS do
  local at = 4 + (index - 3) * 10
  local interval, depth, lease = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local debt = tonumber(ARGV[at + 4])
  local least, firm, want = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local back, stamp, owed = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9]), tonumber(ARGV[at + 10])
  local found = redis.pcall('get', KEYS[index])
  local state = found and select(2, pcall(cmsgpack.unpack, found))
  if type(state) ~= 'table' or #state % 3 ~= 1 then
    state = {math.max(now, lost >= 0 and lost + depth or now)}
  end
  local function fold()
    local tat = state[1]
    for place = 2, #state, 3 do tat = math.max(tat, state[place + 1]) + state[place + 2] end
    return tat
  end
  local conforming = now + depth + tolerance
  local furthest = conforming + lease / 2
  if fold() > furthest + debt then state = {furthest + debt} end
  local period = math.floor(now / width)
  while state[2] and state[2] < period - periods do
    state[1] = math.max(state[1], state[3]) + state[4]
    for _ = 1, 3 do table.remove(state, 2) end
  end
  if back > 0 and now >= stamp and now - stamp <= memory then
    local number, kept = math.floor(stamp / width), {state[1]}
    for place = 2, #state, 3 do
      local granted = state[place + 2]
      if state[place] == number then granted = granted - math.min(back * interval, granted) end
      if granted > tolerance then
        kept[#kept + 1], kept[#kept + 2], kept[#kept + 3] = state[place], state[place + 1], granted
      end
    end
    state = kept
  end
  local function grant(seconds)
    local size = #state
    if size > 1 and state[size - 2] == period then
      state[size - 1], state[size] = now, state[size] + seconds
    else
      state[size + 1], state[size + 2], state[size + 3] = period, now, seconds
    end
  end
  if owed > 0 then
    grant(owed * interval)
    if fold() > furthest + debt then state = {furthest + debt} end
  end
  local tokens, start, wait = 0, 0, 0
  if want > 0 then
    start = math.max(fold(), now)
    local available = math.max(0, (conforming - start) / interval)
    tokens = math.min(firm, available)
    if want > firm then tokens = math.max(tokens, math.min(want, (furthest - start) / interval / 2)) end
    if tokens < want then tokens = math.floor(tokens) end
    if tokens < least then tokens = 0 end
    if tokens < firm then
      wait = math.max(0, start - conforming + (tokens + math.max(least, 1)) * interval)
    end
    if tokens > 0 then grant(tokens * interval) end
  end
  local tat = fold()
  if tat > now then
    redis.call('set', KEYS[index], cmsgpack.pack(state), 'px', math.ceil((tat - now) / 1000) + 1000)
  elseif found then
    redis.call('del', KEYS[index])
  end
  answer[#answer + 1] = text(tokens)
  answer[#answer + 1] = text(tokens > 0 and start - now or 0)
  answer[#answer + 1] = text(wait)
end
return answer
"""
"""Text of the script.  It returns the instant, the epoch, the number of processes, and tokens, start and wait of each
ask."""
