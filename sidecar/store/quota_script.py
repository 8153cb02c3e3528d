"""Quotas in Redis: a script with the arithmetic of `sidecar.leases.quota`.

One call serves many keys of many quotas.  Keys: the set of processes, the epoch, and for each ask the hash of a quota
and window, whose fields are the keys and whose values are the used units.  Arguments: the name of this process, the key
that all keys beyond a table share, an epoch for a new store, and for each ask key, quota, milliseconds to keep the
window, most keys, firm, want, back, owed, known and the epoch that the process knows for the key.

- A key that is gone from a window had been counted, if the process knows a count (`known`).  So an emptied Redis learns
  again what the processes still know: the most that one of them does, as each finds another epoch than it knows.
- A deletion comes first: a full Redis allows that, and then all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.env import NameResolver
from sidecar.leases.quota import SKEW, QuotaGrant
from sidecar.leases.rate import OVERFLOW
from sidecar.store.redis import RedisScript
from sidecar.store.shared_quotas import MEMBER_FOR, Order
from sidecar.store.spec import RedisSpec

PREFIX: Final = "sidecar:quotas:"
LONGEST: Final = 100 * 86_400.0
"""Longest time that a window is kept, in seconds."""
QUOTAS: Final = f"""
redis.call('del', KEYS[1] .. ':none')
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('zadd', KEYS[1], now, ARGV[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now - {MEMBER_FOR * 1000:.0f})
redis.call('pexpire', KEYS[1], {MEMBER_FOR * 2000:.0f})
local function text(number) return string.format('%.17g', number) end
local epoch = redis.call('get', KEYS[2])
if not epoch then
  epoch = ARGV[3]
  redis.call('set', KEYS[2], epoch)
end
local answer = {{redis.call('zcard', KEYS[1]), epoch}}
for index = 3, #KEYS do
  local at, window = 3 + (index - 3) * 10, KEYS[index]
  local key, most, keep, keys = ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], tonumber(ARGV[at + 4])
  local firm, want, back = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local owed, known, heard = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9]), ARGV[at + 10]
  local used = tonumber(redis.call('hget', window, key) or nil)
  local is_overflow = key == ARGV[2]
  if not used then
    if not is_overflow and redis.call('hlen', window) >= keys then
      key, is_overflow, known = ARGV[2], true, 0
      used = tonumber(redis.call('hget', window, key) or nil)
    end
    used = used or known
  elseif heard ~= '' and heard ~= epoch then
    used = math.max(used, known)
  end
  used = math.max(0, used - back) + owed
  local left = math.max(0, most - used)
  local granted = math.min(firm, left)
  if want > firm and left > firm then
    granted = math.max(granted, math.min(want, firm + math.floor((left - firm) / 8)))
  end
  used = used + granted
  redis.call('hset', window, key, text(used))
  redis.call('pexpire', window, keep)
  answer[#answer + 1] = text(granted)
  answer[#answer + 1] = text(math.max(0, most - used))
  answer[#answer + 1] = is_overflow and '1' or '0'
end
return answer
"""
"""Text of the script.  It returns the number of processes, the epoch, and for each ask the units that are granted and
left, and 1 if the key has no count of its own."""


class RedisLedger:
    """Quotas in one Redis."""

    def __init__(self, spec: RedisSpec, names: NameResolver | None, wall: Callable[[], float]) -> None:
        """Connect when the script runs for the first time."""
        self.epoch = ""
        self._wall = wall
        self._script = RedisScript(spec, QUOTAS, names)

    async def exchange(self, me: str, orders: Sequence[Order]) -> tuple[int, list[QuotaGrant]]:
        """Return the number of processes, and the answer to each order.  Raises an error of redis-py, or `OSError`."""
        wall = self._wall()
        keys = [f"{PREFIX}processes", f"{PREFIX}epoch"]
        arguments: list[str | bytes] = [me, OVERFLOW, f"{me}:{wall:.6f}"]
        for quota, most, max_keys, ends, ask in orders:
            keys.append(f"{PREFIX}{quota}:{ask.start:.0f}")
            keep = min(max(0.0, ends - wall) + SKEW, LONGEST)
            numbers = (ask.firm, ask.want, ask.back, ask.owed, ask.known)
            arguments += [ask.key.encode("utf-8", "surrogatepass"), f"{most:.17g}", f"{keep * 1000:.0f}", str(max_keys)]
            arguments += [f"{number:.17g}" for number in numbers] + [ask.epoch]
        found = await self._script.run(keys, arguments)
        answers = [float(each) for each in found[2:]]
        grants = [
            QuotaGrant(units, left, shared > 0)
            for units, left, shared in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
        ]
        if (epoch := found[1].decode()) != self.epoch:  # all leases hold one and the same text
            self.epoch = epoch
        return int(found[0]), grants

    async def disconnect(self) -> None:
        """Close all connections, so that the next call looks the address up anew."""
        await self._script.disconnect()

    async def close(self) -> None:
        """Close all connections for good."""
        await self._script.close()
