"""Discovery: takes what a source finds, changes the endpoints of an upstream, and keeps them while the source is away.

Rules:

1. What was found stays in use while the source is away, for `keep_for`.  A source whose answer is empty because it is
   broken reports a failure; only a source that knows better, such as an API server, may report no endpoints.
2. Endpoints that stay keep their connections, breaker, ejection and latency (`EndpointSet`).  Those that left get no
   further request; requests in flight at them are completed.
3. More than `max_endpoints` are cut, in a stable order.
4. The log has one line at the beginning of a failure and one at its end, and names at most `SHOWN` endpoints a change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import EndpointSet, Target

SHOWN: Final = 20
"""Most endpoints that one line of the log names."""
RESTART_SECONDS: Final = 5.0
"""Pause after a bug in a source, before it runs again."""


class Source(Protocol):
    """Source of endpoints."""

    async def run(self, sink: Discovery) -> None:
        """Report what is found to `sink`, until cancelled."""

    def describe(self) -> dict[str, Any]:
        """Return what the source knows beside its endpoints as JSON-ready values."""


MakeSource = Callable[[DiscoverSpec], Source]
"""Function that makes the source of a spec."""


class Discovery:
    """Updater of an endpoint set.

    The state store has it under `("discovery", upstream, kind)`.
    """

    def __init__(self, endpoints: EndpointSet, spec: DiscoverSpec, env: Env, make: MakeSource) -> None:
        self.endpoints = endpoints
        self.spec = spec
        self.env = env
        self.problem = ""
        """Reason for which the source is away; empty if it is not."""
        self._make = make
        self._source = make(spec)
        self._task: TaskHandle | None = None
        self._confirmed_at: float | None = None
        """Instant at which the source last vouched for its endpoints; None before the first time."""
        self._failed_at = 0.0
        """Instant at which the source went away."""
        self._found = 0
        """Number of endpoints that the source has, also those beyond `max_endpoints`."""
        self._last: tuple[Sequence[Target], bool] | None = None
        """Endpoints of the last report; None before the first, and once they were dropped."""
        meter, upstream = env.meter, endpoints.upstream
        self._changed = meter.counter(metrics.DISCOVERY_UPDATES, upstream=upstream, result="changed")
        self._unchanged = meter.counter(metrics.DISCOVERY_UPDATES, upstream=upstream, result="unchanged")
        self._failures = meter.counter(metrics.DISCOVERY_UPDATES, upstream=upstream, result="failed")
        env.meter.gauge(metrics.DISCOVERY_STALE, self.stale_for, upstream=upstream)

    # ----- called by the owner

    def start(self) -> None:
        """Start the source; without effect if it runs."""
        if self._task is None:
            self._task = self.env.spawn(self._run())

    def retune(self, spec: DiscoverSpec) -> None:
        """Apply new settings; the present endpoints stay until the source has found others."""
        is_running = self._task is not None
        self.retire()
        self.spec = spec
        self._last = None
        self._source = self._make(spec)
        if is_running:
            self.start()

    def retire(self) -> None:
        """Stop the source; the endpoints do not change."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._source.run(self)
            except Exception as error:  # a bug in a source must not end discovery for good
                self.env.emit(events.BUG, where=f"discovery of {self.endpoints.upstream}", error=repr(error))
                self.fail(f"a bug in the sidecar: {error!r}")
            await self.env.sleep(RESTART_SECONDS)

    # ----- called by the source

    def find(self, targets: Sequence[Target], *, spills: bool = False) -> None:
        """Take the endpoints of the source; each URL must be there once.

        With `spills`, requests of the first tier go on to the second in proportion as endpoints of the first are out.
        """
        self.confirm()
        self._found = len(targets)
        most = self.spec.most_of_subset if self.endpoints.has_subset else self.spec.most
        if len(targets) > most:
            targets = sorted(targets, key=lambda each: (not each.is_ready, each.tier, each.url))[:most]
        found = (targets, spills)
        if found == self._last:
            self._unchanged.value += 1
            return
        self._last = found
        self._changed.value += 1
        self._assign(targets, spills)

    def confirm(self) -> None:
        """Take note that the source is there and vouches for its endpoints."""
        self._confirmed_at = self.env.now()
        if self.problem:
            self.problem = ""
            self.env.emit(
                events.DISCOVERY_RESTORED,
                upstream=self.endpoints.upstream,
                source=self.spec.source,
                seconds=round(self.env.now() - self._failed_at, 3),
            )

    def fail(self, problem: str) -> None:
        """Take note that the source is away: log the first of several failures; drop the endpoints after `keep_for`."""
        now = self.env.now()
        self._failures.value += 1
        if not self.problem:
            self._failed_at = now
            self.env.emit(
                events.DISCOVERY_FAILED,
                upstream=self.endpoints.upstream,
                source=self.spec.source,
                reason=problem,
                kept=len(self.endpoints.members),
            )
        self.problem = problem
        self.drop_if_old()

    def drop_if_old(self) -> None:
        """Drop the endpoints if the source has been away for longer than `keep_for`."""
        kept_for, since = self.spec.kept_for, self._confirmed_at
        if kept_for is not None and since is not None and self.env.now() - since > kept_for:
            self._last, self._found = None, 0
            self._assign((), False)

    def _assign(self, targets: Sequence[Target], spills: bool) -> None:
        """Replace the endpoints and log those that came and went."""
        added, removed = self.endpoints.assign(targets, spills=spills)
        if added or removed:
            self.env.emit(
                events.DISCOVERY_CHANGED,
                upstream=self.endpoints.upstream,
                source=self.spec.source,
                added=sorted(added)[:SHOWN],
                removed=sorted(removed)[:SHOWN],
                **({"more": len(added) + len(removed) - SHOWN} if max(len(added), len(removed)) > SHOWN else {}),
                found=self._found,
                used=len(self.endpoints.members),
            )

    # ----- telemetry

    def stale_for(self) -> float:
        """Return the seconds since the source went away; 0 if it is there."""
        return self.env.now() - self._failed_at if self.problem else 0.0

    def describe(self) -> dict[str, Any]:
        age = None if self._confirmed_at is None else round(self.env.now() - self._confirmed_at, 3)
        return {
            "upstream": self.endpoints.upstream,
            "source": self.spec.source,
            "resolved_ago": age,
            "found": self._found,
            "used": len(self.endpoints.members),
            "problem": self.problem,
            "stale_for": round(self.stale_for(), 3),
            **self._source.describe(),
        }

    def __repr__(self) -> str:
        return f"<Discovery {self.spec.source}: {len(self.endpoints.members)} endpoints {self.problem or 'ok'}>"
