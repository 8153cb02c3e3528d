"""Arms of a route: their shares at this instant, the arm of each request, and the return to the stable arm.

Rules:

1. Arm 0 is the stable one, the others are candidates.  A request without a candidate goes to the stable arm.
2. A key is hashed to a point between 0 and 1, with the route's name, so that the users who meet the candidate of one
   route are no others than those of another route by more than chance.  Candidates have the first points, so a key that
   meets one does so as long as shares only grow.
3. If nothing but chance decides on the only candidate, the number of requests until its next one is drawn, so that most
   requests need no draw.  It has a geometric distribution, as if each request were drawn.
4. A candidate that was taken back has no share until the settings of the rollout change.  Then shares and evidence
   start anew, as they do with each start of the process.
5. Each worker has evidence on its own requests.  The first that takes a candidate back tells all others.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from json import loads
from math import log, log1p
from typing import Any, Final, NamedTuple
from zlib import crc32

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.stage import OutcomeCounter
from sidecar.rollout.evidence import ALPHA, Evidence
from sidecar.rollout.spec import RampSpec, ReturnSpec, StickySpec

STABLE: Final = 0
"""Index of the stable arm."""
POINTS: Final = 2.0**32
LOW_32_BITS: Final = 2**32 - 1
ENDLESS: Final = 2**60
"""Requests before the next one of a candidate without a share."""
MAX_MEASURED: Final = 50
"""Most arms of one route, those that reloads have removed included, whose share is a metric."""
MAX_TOKEN: Final = 8192
"""Longest bearer token, in bytes, whose subject is read."""


class Settings(NamedTuple):
    """Settings of a rollout."""

    names: tuple[str, ...]
    """Names of the arms, the stable one first."""
    shares: tuple[float, ...]
    """Shares of the candidates at the start."""
    sticky: StickySpec | None
    when: str | None
    """Condition on the requests that may meet a candidate."""
    ramp: RampSpec | None
    return_when: ReturnSpec | None
    policies: Any = None
    """Policies of the candidates; evidence on others says nothing about these."""
    group: str = ""
    """Name that is hashed with each key, so that a key meets the candidates of all routes of a group; empty for that of
    the route."""
    routes: int = 1
    """Number of routes of the group, which share the probability of a false return."""


class Returned(NamedTuple):
    """Return of a candidate."""

    reason: str
    at: float
    """Unix time."""


class Arms:
    """Arms of one route.  The state store has it under `("rollout", route)`."""

    __slots__ = (
        "_condition", "_counters", "_digest", "_draw", "_env", "_evidence", "_is_drawn", "_key", "_measured", "_meter",
        "_now", "_returned", "_returns", "_route", "_salt", "_settings", "_since", "_tell", "_told", "is_ramping",
        "passing", "shares",
    )  # fmt: skip

    def __init__(self, route: str, settings: Settings, env: Env) -> None:
        self._route = route
        self._env = env
        self._now = env.now
        self._draw = env.rng.random
        meter = env.meter
        self._returns = meter.counter(metrics.ROLLOUT_RETURNS, route=route)
        self._meter = meter
        self._measured: set[str] = set()
        self._counters: list[OutcomeCounter] = []
        self._told: dict[str, Any] = {}
        """Latest return of each candidate that another worker has told."""
        self._tell: Callable[[str, Any], None] | None = None
        """Tells other workers a return; None without any."""
        self._begin(settings)
        if env.workers is not None:
            self._tell = env.workers.subscribe(f"rollout:{route}", self.adopt)

    def _begin(self, settings: Settings) -> None:
        from sidecar.expression import condition, facts  # only if a rollout is configured

        self._settings = settings
        self._salt = crc32((settings.group or self._route).encode()) | 1
        for name in settings.names:
            if name not in self._measured and len(self._measured) < MAX_MEASURED:
                self._measured.add(name)
                self._meter.gauge(metrics.ROLLOUT_SHARE, partial(self.share_of, name), route=self._route, arm=name)
        self._since = now = self._now()
        self.shares = list(settings.shares)
        """Shares of the candidates."""
        self.is_ramping = settings.ramp is not None
        self._returned: dict[int, Returned] = {}
        rule = settings.return_when
        for counter in self._counters:
            counter.clear()
        alpha = ALPHA / settings.routes
        self._evidence = [Evidence(rule or ReturnSpec(breaker=False), now, alpha) for _ in settings.shares]
        self._key = None if settings.sticky is None else key_reader(settings.sticky)
        self._condition = None if settings.when is None else condition.Condition(settings.when, facts.MATCH)
        self._is_drawn = len(self.shares) == 1 and not (settings.ramp or settings.sticky or settings.when)
        """True if nothing but chance decides on the only candidate."""
        self.passing = self._draw_passing() if self._is_drawn else 0
        """Requests that go to the stable arm before one is chosen again; `choose` counts them."""
        self._digest = "" if self._env.workers is None else blake2b(repr(settings).encode(), digest_size=16).hexdigest()
        """Digest of the settings, which is the same in all workers; empty if there is one process."""
        for name, told in self._told.items():
            self.adopt(name, told)

    def retune(self, settings: Settings) -> None:
        """Apply new settings: shares and evidence start anew."""
        self._begin(settings)

    def adopt(self, name: str, told: dict[str, Any]) -> None:
        """Take a candidate back, as another worker has done under the same settings."""
        self._told[name] = told
        if told["settings"] == self._digest and name in self._settings.names:
            self._take_back(self._settings.names.index(name), Returned(told["reason"], float(told["at"])))

    def retire(self) -> None:
        """Hear no more of other workers."""
        if self._env.workers is not None:
            self._env.workers.leave(f"rollout:{self._route}", self.adopt)

    def choose(self, x: Exchange) -> int:
        """Return the index of the arm of a request."""
        if self.passing:
            self.passing -= 1
            return STABLE
        if self._is_drawn:
            self.passing = self._draw_passing()
            return 1
        if self._condition is not None and not self._condition.holds(x):
            return STABLE
        if self.is_ramping:
            self._grow(self._now())
        key = None if self._key is None else self._key(x)
        # A CRC that starts with the salt would shift all points alike (it is linear), so two routes would have the same
        # users or none in common.
        point = self._draw() if key is None else (crc32(key) * self._salt & LOW_32_BITS) / POINTS
        for number, share in enumerate(self.shares, 1):
            if point < share:
                return number
            point -= share
        return STABLE

    def _draw_passing(self) -> int:
        """Return the number of requests before the next one of the only candidate."""
        share, draw = self.shares[0], self._draw  # a method call is slow where the attribute holds a function
        if share <= 0:
            return ENDLESS
        return 0 if share >= 1 else int(log(1.0 - draw()) / log1p(-share))

    def _grow(self, now: float) -> None:
        """Set the share of a candidate on its ramp."""
        ramp = self._settings.ramp
        if ramp is None or self._returned:
            return
        first, passed = self._settings.shares[0], (now - self._since) / ramp.over
        self.shares[0] = first + (ramp.to - first) * min(1.0, passed)
        self.is_ramping = passed < 1

    def note(self, arm: int, is_bad: bool, seconds: float, is_refused: bool) -> None:
        """Record the outcome of a request (`Evidence.note_candidate`); take a candidate back that is worse."""
        now = self._now()
        if arm == STABLE:
            for number, each in enumerate(self._evidence, 1):
                if reason := each.note_stable(is_bad, seconds, is_refused, now):
                    self._return(number, reason)
        elif reason := self._evidence[arm - 1].note_candidate(is_bad, seconds, is_refused, now):
            self._return(arm, reason)

    def counter(self, arm: int) -> OutcomeCounter:
        """Return the stage of an arm that is compared with no other: it counts from each change of the settings on."""
        while len(self._counters) <= arm:
            self._counters.append(OutcomeCounter())
        return self._counters[arm]

    def _return(self, arm: int, reason: str) -> None:
        """Take the share of a candidate away, and tell all workers."""
        if arm in self._returned:
            return
        evidence = self._evidence[arm - 1]
        returned = Returned(reason, self._env.wall())
        share = self.shares[arm - 1]
        self._take_back(arm, returned)
        if self._tell is not None:
            tell = self._tell  # a method call is slow where the attribute holds a function
            tell(self._settings.names[arm], {"settings": self._digest, "reason": reason, "at": returned.at})
        self._returns.value += 1
        self._env.emit(
            events.ROLLOUT_RETURNED,
            route=self._route,
            candidate=self._settings.names[arm],
            reason=reason,
            share=round(share, 4),
            **{f"{name}_{what}": count for name in ("stable", "candidate")
               for what, count in getattr(evidence, name).describe().items()},
        )  # fmt: skip

    def _take_back(self, arm: int, returned: Returned) -> None:
        """Take the share of a candidate away."""
        if arm > STABLE:
            self._returned[arm] = returned
            self.shares[arm - 1] = 0.0
            self.is_ramping = False
            if self._is_drawn:
                self.passing = self._draw_passing()

    def share(self, arm: int) -> float:
        """Return the present share of an arm."""
        if self.is_ramping:
            self._grow(self._now())
        return max(0.0, 1 - sum(self.shares, 0.0)) if arm == STABLE else self.shares[arm - 1]

    def share_of(self, name: str) -> float:
        """Return the present share of the arm with a name; 0 for one that a reload has removed."""
        names = self._settings.names
        return self.share(names.index(name)) if name in names else 0.0

    def describe(self) -> dict[str, Any]:
        """Return shares, evidence and returns, JSON-ready."""
        names = self._settings.names
        candidates = []
        for number, each in enumerate(self._evidence, 1):
            returned = self._returned.get(number)
            candidates.append({
                "name": names[number],
                "share": round(self.share(number), 4),
                "returned": None if returned is None else {"reason": returned.reason, "at": round(returned.at, 3)},
                **each.describe(),
                **self._describe_counts(number),
            })  # fmt: skip
        return {"route": self._route, "stable": names[STABLE], "candidates": candidates}

    def _describe_counts(self, number: int) -> dict[str, Any]:
        """Return the counts of the stable arm and a candidate that are not compared; empty for others."""
        if self._settings.return_when is not None:
            return {}
        arms = {"stable": self.counter(STABLE), "candidate": self.counter(number)}
        return {name: {"requests": each.good + each.bad, "errors": each.bad} for name, each in arms.items()}

    def __repr__(self) -> str:
        return f"<Arms of {self._route}: {', '.join(f'{share:.1%}' for share in self.shares)}>"


def key_reader(spec: StickySpec) -> Any:
    """Return a function that returns the key of a request, None if it has none."""
    if spec.caller:
        return read_caller
    if spec.header is not None:
        name = spec.header.lower().encode()
        return lambda x: x.header(name) or None
    prefix = f"{spec.cookie}=".encode()
    return lambda x: read_cookie(x.header(b"cookie") or b"", prefix)


def read_cookie(field: bytes, prefix: bytes) -> bytes | None:
    """Return the value of the first cookie that begins with `NAME=`; None without a value."""
    for pair in field.split(b";"):
        pair = pair.strip()
        if pair.startswith(prefix):
            return pair[len(prefix) :] or None
    return None


def read_caller(x: Exchange) -> bytes | None:
    """Return the subject of a bearer token that is a JWT, else the credentials as they are; None without any."""
    found = x.header(b"authorization")
    if not found:
        return None
    kind, _, token = found.partition(b" ")
    parts = token.split(b".")
    if kind.lower() == b"bearer" and len(parts) == 3 and len(token) <= MAX_TOKEN:
        try:
            subject = loads(urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))).get("sub")
        except (ValueError, AttributeError, RecursionError):
            return found
        if isinstance(subject, str) and subject:
            return subject.encode("utf-8", "replace")
    return found
