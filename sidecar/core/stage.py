"""The whole composition algebra: a service, a layer around it, a gate before it, and how they become one pipeline.

A **service** takes an exchange and answers with an outcome; expected faults are never raised.  A **gate** only decides
and records: it is synchronous and does no I/O.  A **layer** re-runs, replaces or delays.  Runs of adjacent gates are
folded into one frame (`guard`), which is the one place that pairs every admission with its settlement.

Laws, run by `tests/contract/` over every stage:

1. A service raises only `CancelledError` or a bug.
2. Every admit that did not refuse is settled exactly once, in reverse order: also on a refusal further in, on
   cancellation and on a bug.
3. `ABANDONED` means: release, do not judge.
4. A gate never awaits and `settle` never raises; a layer never swallows `CancelledError`.
5. Where the body is still arriving, settling waits for its end, so that a permit covers the body too and a breaker
   sees a body that breaks off.  A reader that gives the body up (a retry that discards a 503, a client that leaves)
   does not unsay a bad status: such an outcome is settled as it stands, a good one as the client's leaving.

The order of stages is fixed in code (`sidecar.stages.STAGES`), as Envoy and Linkerd do it: a free order is a page of
documentation that everyone has to read and a mistake that everyone can make.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol, cast

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, CLIENT_CLOSED, Failure, Outcome, failed

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]
"""A request in, an outcome out."""
Layer = Callable[[Service], Service]
"""Wraps a service: may run it no, one or several times."""


class Gate(Protocol):
    """Decides before the inner service and records after it."""

    def admit(self, x: Exchange) -> object:
        """Let a request through or refuse it: an `Outcome` refuses, anything else is the ticket that `settle` gets
        back."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Record how an admitted request ended.  Called exactly once for each ticket."""


Stage = Gate | Layer


def final(outcome: Outcome, broken: Failure | None) -> Outcome:
    """The outcome now that its body has ended."""
    if broken is None or (broken is CLIENT_CLOSED and outcome.status >= 400):
        return outcome
    return failed(broken)


class Guarded:
    """Gates before an inner service.

    A class and not a closure, as all that is on the request's path and gets compiled: a compiled closure and what it
    closes over hold on to each other, so the pipelines that a reload replaces would wait for the garbage collector.
    """

    __slots__ = ("_admits", "_inner", "_settles")

    def __init__(self, gates: Sequence[Gate], inner: Service) -> None:
        self._admits = tuple(gate.admit for gate in gates)
        self._settles = tuple(gate.settle for gate in gates)
        self._inner = inner

    async def call(self, x: Exchange) -> Outcome:
        """Admit outermost first, settle innermost first, and exactly what was admitted, whatever happens."""
        tickets: list[object] = []
        outcome = ABANDONED  # what settle sees on cancellation, or if a bug escapes
        try:
            for admit in self._admits:
                ticket = admit(x)
                if ticket.__class__ is Outcome:  # isinstance, at a third of its cost
                    outcome = ticket
                    return outcome
                tickets.append(ticket)
            outcome = await self._inner(x)
            return outcome
        finally:
            if (stream := outcome.stream) is None:
                self._settle(x, tickets, outcome)
            else:
                stream.on_close(partial(self._ended, x, tickets, outcome))

    def _settle(self, x: Exchange, tickets: list[object], outcome: Outcome) -> None:
        settles = self._settles
        for index in range(len(tickets) - 1, -1, -1):
            settles[index](x, tickets[index], outcome)

    def _ended(self, x: Exchange, tickets: list[object], outcome: Outcome, broken: Failure | None) -> None:
        self._settle(x, tickets, final(outcome, broken))


def guard(gates: Sequence[Gate], inner: Service) -> Service:
    """The service with these gates before it, outermost first."""
    return Guarded(gates, inner).call


def stack(stages: Sequence[Stage], terminal: Service) -> Service:
    """Compose stages, outermost first, around the terminal service."""
    service = terminal
    for is_gate, run in groupby(reversed(stages), key=lambda stage: hasattr(stage, "admit")):
        if is_gate:
            service = guard(cast("list[Gate]", list(run)[::-1]), service)
        else:
            for layer in run:
                service = cast("Layer", layer)(service)
    return service
