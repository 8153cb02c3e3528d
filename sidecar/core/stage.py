"""Composition of stages: a service, a layer around it, a gate before it, and the pipeline that they make.

A **service** turns an exchange into an outcome.  A **gate** decides and records, without waiting.  A **layer** re-runs,
replaces or delays.  Adjacent gates share one frame (`guard`), which pairs each admission with its settlement.
Laws, which `tests/contract/` runs over every stage:

1. A service raises `CancelledError` or a bug, nothing else.
2. Each admission is settled exactly once, in reverse order, also after a refusal further in, a cancellation or a bug.
3. `ABANDONED` means: release, do not judge.
4. A gate never awaits, and `settle` never raises.  A layer never swallows `CancelledError`.
5. While a body is still arriving, settling waits for its end: a permit covers the body, and a breaker sees a body that
   breaks off.  If the reader gives the body up, a bad status still counts; a good one counts as the client's leaving.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol, cast

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, Failure, Outcome, failed

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]
"""Function that turns a request into an outcome."""
Layer = Callable[[Service], Service]
"""Function that wraps a service, which it may run once, several times or not at all."""


class Gate(Protocol):
    """Stage that decides before the inner service and records after it."""

    def admit(self, x: Exchange) -> object:
        """Return an `Outcome` to refuse the request, or anything else as the ticket for `settle`."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Record how an admitted request has ended.  Called exactly once for each ticket."""


Stage = Gate | Layer
"""Built form of one policy."""


def final(outcome: Outcome, broken: Failure | None) -> Outcome:
    """Return the outcome to judge once its body has ended; `broken` is None for a whole body.

    A client that does not take the whole of an error changes nothing about the error.
    """
    if broken is None or (broken.origin == "client" and outcome.status >= 400):
        return outcome
    return failed(broken, outcome.refusal, outcome.whole_cause)


class Guarded:
    """Gates before an inner service.

    A class, like all that is compiled: a compiled closure and its variables refer to each other, so pipelines that a
    reload replaces would stay until the garbage collector runs.
    """

    __slots__ = ("_admits", "_inner", "_settles")

    def __init__(self, gates: Sequence[Gate], inner: Service) -> None:
        self._admits = tuple(gate.admit for gate in gates)
        self._settles = tuple(gate.settle for gate in gates)
        self._inner = inner

    async def call(self, x: Exchange) -> Outcome:
        """Admit outermost first, run the inner service, and settle what was admitted innermost first."""
        tickets: list[object] = []
        outcome = ABANDONED  # settled with this on cancellation and on a bug
        try:
            for admit in self._admits:
                ticket = admit(x)
                if ticket.__class__ is Outcome:  # cheaper than isinstance
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
        judged = final(outcome, broken)
        self._settle(x, tickets, judged)
        if judged is not outcome:
            outcome.refusal = judged.refusal  # the log of the answer says what its stages found


def guard(gates: Sequence[Gate], inner: Service) -> Service:
    """Return the service with gates before it, outermost first."""
    return Guarded(gates, inner).call


def stack(stages: Sequence[Stage], terminal: Service) -> Service:
    """Return the pipeline of the stages, outermost first, around the terminal service."""
    service = terminal
    for is_gate, run in groupby(reversed(stages), key=lambda stage: hasattr(stage, "admit")):
        if is_gate:
            service = guard(cast("list[Gate]", list(run)[::-1]), service)
        else:
            for layer in run:
                service = cast("Layer", layer)(service)
    return service
