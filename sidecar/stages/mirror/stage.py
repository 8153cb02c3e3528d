"""Stage `mirror`: sends copies of requests to another upstream.

Rules:

1. A copy is an inner exchange (`sidecar.engine.inner`) with a deadline of its own.  It has no client: neither its
   failure nor its latency reaches the request, which goes on at once.
2. Only a request whose body is whole and short is copied, and one with an unsafe method only if the policy says so.
3. Under pressure copies go first: above `max_in_flight` there is none, and to the limits of its upstream a copy is
   sheddable.
4. For a comparison, the response of the route's own upstream is recorded as it passes.  One that breaks off is not
   compared, and one that is longer than `compare.max_body` without its body.
5. Long bodies are compared over several turns of the loop: in one turn, `SLICE` of work and one step of it.
   A copy is in flight until it has been compared.  If the route's own response takes longer to end, by `timeout`, it is
   not compared.
6. A difference is noise if it also occurs between two responses of the route's own upstream (Twitter's Diffy).  It is
   then counted no more, for as long as the policies are in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.body import COMPLETE, Body
from sidecar.core.env import BuildContext, TimerHandle
from sidecar.core.exchange import NEVER, SAFE_METHODS, SHEDDABLE, Exchange
from sidecar.core.outcome import ABANDONED, ANSWER_TOO_LARGE, Outcome
from sidecar.core.stage import Stage
from sidecar.engine.inner import InnerExchange
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.mirror.differences import Comparison
from sidecar.stages.mirror.spec import CompareSpec, Spec

RESULTS: Final = ("sent", "failed", "same", "different", "dropped", "skipped")
"""Results of a request that is due for a copy."""
MAX_NAMES: Final = 200
"""Most differences that are counted by name."""
OTHERS: Final = "(others)"
"""Name under which all further ones are counted."""
SLICE: Final = 64 * 1024
"""Work of comparing in one turn of the loop, as `Comparison.steps` tells it."""


class Mirror:
    """State of the block that survives a reload: copies in flight, and the differences found."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.in_flight = 0
        self.compared = 0
        self.found: dict[str, int] = {}
        """Number of comparisons with a difference, by its name."""
        self.noise: set[str] = set()
        """Names of differences that also occur between two responses of the route's own upstream."""

    def retune(self, spec: Spec) -> None:
        """Apply new settings; differences are counted anew."""
        self.spec = spec
        self.compared = 0
        self.found.clear()
        self.noise.clear()

    def note(self, names: list[str]) -> list[str]:
        """Count the differences of one comparison; return those that are no noise and have not occurred before."""
        self.compared += 1
        new: list[str] = []
        for name in names:
            if name in self.noise:
                continue
            if name not in self.found and len(self.found) >= MAX_NAMES:
                name = OTHERS
            if name not in self.found:
                new.append(name)
            self.found[name] = self.found.get(name, 0) + 1
        return new

    def describe(self) -> dict[str, Any]:
        """Return settings and differences, the most frequent first, JSON-ready."""
        counted = [(count, name) for name, count in self.found.items() if name not in self.noise]
        return {
            "upstream": self.spec.upstream,
            "share": self.spec.share,
            "mode": self.spec.mode,
            "in_flight": self.in_flight,
            "compared": self.compared,
            "differences": {name: count for count, name in sorted(counted, reverse=True)},
            "noise": sorted(self.noise),
        }


class Copy:
    """Copy of one request, and what its response is compared with."""

    __slots__ = (
        "_has_ended", "_has_place", "_stream", "_timer", "again", "copied", "original", "stage", "waits_for", "x",
    )  # fmt: skip

    def __init__(self, stage: MirrorStage, x: Exchange, waits_for: int) -> None:
        self.stage = stage
        self.x = x
        self.waits_for = waits_for
        """Number of responses that are still to come."""
        self.original: Outcome | None = None
        """Response of the route's own upstream; None before it, and if there is none."""
        self._stream: Body | None = None
        """Body of that response if it was still arriving."""
        self.copied: Outcome | None = None
        self.again: Outcome | None = None
        """Second response of the route's own upstream; None without one."""
        self._has_place = True
        """True while it counts as a copy in flight: until its response has ended, or the comparison."""
        self._has_ended = False
        """True once the response of the route's own upstream has ended."""
        self._timer: TimerHandle | None = None
        """Timer that gives the comparison up; None unless it waits for that end alone."""

    def end(self, role: str, inner: InnerExchange) -> None:
        """Take the response to the copy, or to the second request."""
        stage = self.stage
        if role == "copied":
            self.copied = inner.value
            failure = None if inner.value is None else inner.value.failure
            if failure is ANSWER_TOO_LARGE:
                stage.count("skipped")
            elif failure is not None:
                stage.count("failed")
            elif stage.comparison is None:
                stage.count("sent")
            if inner.error is not None:
                stage.report(inner)
            if failure is not None or stage.comparison is None:
                self.release()
            elif not self._has_ended:
                self._timer = stage.start_timer(self.give_up)
        else:
            stage.state.in_flight -= 1
            self.again = inner.value
        self.advance()

    def release(self) -> None:
        """Hold nothing more, and count no more as a copy in flight."""
        if self._has_place:
            self._has_place = False
            self.stage.state.in_flight -= 1
            if self._stream is not None:
                self._stream.stop_recording()

    def give_up(self) -> None:
        """Compare nothing, since the response of the route's own upstream takes too long to end."""
        self._timer = self.copied = None
        self.stage.count("skipped")
        self.release()

    def take(self, outcome: Outcome, limit: int) -> None:
        """Keep the response of the route's own upstream as it is; stages further out may change the outcome.

        A body of at most `limit` bytes that is still arriving is recorded.
        """
        if outcome.failure is not None or not self._has_place:
            return
        parsed = None if outcome.parsed is None else list(outcome.parsed)
        self.original = Outcome(outcome.status, parsed, outcome.body, outcome.raw if parsed is None else None)
        self._stream = outcome.stream
        if outcome.stream is not None:
            outcome.stream.record(limit)

    def end_original(self, outcome: Outcome) -> None:
        """Take the end of that response."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        original, stream = self.original, self._stream
        if original is None or outcome is ABANDONED or (stream is not None and stream.state != COMPLETE):
            self.original = None
        elif stream is not None:
            body = stream.recorded()
            if body is None:
                original.stream = stream  # too long, so that it is not compared
            else:
                original.body = body

    def advance(self) -> None:
        """Compare the responses once all have come."""
        self.waits_for -= 1
        if not self.waits_for:
            self.stage.compare(self)


class MirrorStage:
    """Mirror of one route."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self._env = ctx.env
        self._draw = ctx.env.rng.random
        self._spec = spec
        self._target: Pipeline = ctx.resources("upstream", spec.upstream)
        compared: CompareSpec | None = spec.compare
        self.comparison = None if compared is None else Comparison(compared.headers, compared.ignore, compared.max_body)
        """Comparison of responses; None to discard them."""
        self._own: Pipeline | None = None
        """The route's own upstream, to learn noise; None to learn none."""
        if compared is not None and compared.noise:
            self._own = ctx.resources("upstream", ctx.upstream)
        self._limit = 0 if compared is None else compared.max_body
        self.state: Mirror = ctx.obtain(("mirror", ctx.route), spec, partial(Mirror, spec))
        self._labels = {"route": ctx.route, "upstream": spec.upstream}
        meter = ctx.env.meter
        self._counters = {result: meter.counter(metrics.MIRRORED, result=result, **self._labels) for result in RESULTS}
        self._observed = meter.counter(metrics.WOULD_REFUSE, policy="mirror", route=ctx.route)

    def count(self, result: str) -> None:
        """Count one of the `RESULTS`."""
        self._counters[result].value += 1

    def report(self, inner: InnerExchange) -> None:
        """Log a bug that the request has met."""
        self._env.emit(events.BUG, request=repr(inner.x), error=inner.error)

    def admit(self, x: Exchange) -> Copy | None:
        spec = self._spec
        if (not spec.writes and x.method not in SAFE_METHODS) or self._draw() >= spec.share:
            return None
        if x.stream is not None or x.upgrade is not None or len(x.body) > spec.max_body:
            self.count("skipped")
            return None
        if not spec.is_enforced:
            self._observed.value += 1
            return None
        state = self.state
        if state.in_flight >= spec.max_in_flight:
            self.count("dropped")
            return None
        asks_again = self._own is not None and x.method in SAFE_METHODS and state.in_flight + 1 < spec.max_in_flight
        copy = Copy(self, x, 1 + (self.comparison is not None) + asks_again)
        self._send(copy, "copied", x, self._target)
        if asks_again and self._own is not None:
            self._send(copy, "again", x, self._own)
        return None if self.comparison is None else copy

    def _send(self, copy: Copy, role: str, x: Exchange, target: Pipeline) -> None:
        """Send a request once more."""
        now = self._env.now()
        twin = x.fork(0, "mirror")
        twin.is_inner = True
        twin.attempts = []
        twin.interim = None
        twin.trace = None
        twin.criticality = SHEDDABLE
        twin.arrived = now
        twin.deadline = now + self._spec.timeout
        twin.caller_deadline = NEVER
        self.state.in_flight += 1
        discards = self.comparison is None
        InnerExchange(target, twin, self._limit, partial(copy.end, role), discards=discards).start()

    def answer(self, x: Exchange, ticket: Copy | None, outcome: Outcome) -> Outcome:
        if ticket is not None:
            ticket.take(outcome, self._limit)
        return outcome

    def settle(self, x: Exchange, ticket: Copy | None, outcome: Outcome) -> None:
        if ticket is not None:
            ticket.end_original(outcome)
            ticket.advance()

    def start_timer(self, give_up: Callable[[], None]) -> TimerHandle:
        """Start the timer of a comparison that waits for the end of the route's own response."""
        return self._env.call_later(self._spec.timeout, give_up)

    def compare(self, copy: Copy) -> None:
        """Compare the responses of one request."""
        comparison, old, new = self.comparison, copy.original, copy.copied
        if comparison is None or old is None or new is None or new.failure is not None:
            copy.release()
            return
        noise: list[str] = []
        names: list[str] = []
        work = comparison.steps(old, new, names)
        if copy.again is not None and copy.again.failure is None:
            work = chain(comparison.steps(old, copy.again, noise), work)
        self._work(copy, work, noise, names)

    def _work(self, copy: Copy, work: Iterator[int], noise: list[str], names: list[str]) -> None:
        """Do one slice of a comparison, and the rest of it in later turns of the loop."""
        done = 0
        try:
            for step in work:
                done += step
                if done >= SLICE:
                    self._env.call_later(0, self._work, copy, work, noise, names)
                    return
        except Exception as error:
            copy.release()
            self._env.emit(events.BUG, where="the comparison of a mirror", error=error)
            return
        copy.release()
        self.state.noise.update(noise[: MAX_NAMES - len(self.state.noise)])
        fresh = self.state.note(names)
        is_different = any(name not in self.state.noise for name in names)
        self.count("different" if is_different else "same")
        if fresh:
            self._env.emit(
                events.MIRROR_DIFFERENT,
                request_id=copy.x.request_id.decode("latin-1"),
                differences=fresh,
                **self._labels,
            )

    def __repr__(self) -> str:
        return f"<MirrorStage to {self._spec.upstream}, {self._spec.share:.0%}>"


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return MirrorStage(spec, ctx)
