"""Stage: the one shape of a policy at run time.

A stage meets a request three times, by plain calls:

    admit(x)                    on the way in: let it pass, answer it here, or ask for time
    answer(x, ticket, outcome)  its head has come: pass it on, replace it, or ask for time; optional
    settle(x, ticket, outcome)  its body has ended: record, release; optional

What `admit` returns is the ticket for the other two, unless it is an `Outcome`, which answers the request, or a `Wait`.
`sidecar.engine.pipeline` runs the stages of a route.  A stage that may run those behind it again has an attribute
`inner`, which the pipeline sets to them.  Laws, which `tests/contract/` runs over every stage:

1. Whatever an upstream or a policy does wrong is an outcome.  What is raised is `CancelledError` or a bug.
2. Each ticket is settled exactly once, innermost first, also after a refusal further in, a cancellation or a bug.
   `answer` comes before, and at most once; not at all if the exchange is abandoned.
3. `ABANDONED` means: release, do not judge.
4. The three calls do no I/O, and `settle` never raises.  A coroutine never swallows `CancelledError`, and bounds the
   time for which it waits.
5. While a body is still arriving, settling waits for its end: a permit covers the body, and a breaker sees a body that
   breaks off.  If the reader gives the body up, a bad status still counts; a good one counts as the client's leaving.
6. Each run of `inner` has tickets of its own, which are settled with the outcome of that run: a breaker hears of a 503
   that a retry throws away.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Failure, Outcome, failed

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]
"""Function that turns a request into an outcome; a pipeline is one."""


class Stage(Protocol):
    """Built form of one policy.  It may also have `answer` and `settle`, with the arguments that are given above."""

    def admit(self, x: Exchange) -> object:
        """Return an `Outcome` to answer the request, a `Wait` that will return one or a ticket, or a ticket."""


class Gate(Stage, Protocol):
    """Stage that decides on the way in and records at the end."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Record how an admitted request has ended."""


async def unbound(_: Exchange) -> Outcome:
    """Stand for `inner` until a pipeline has the stage."""
    raise RuntimeError("the stage is in no pipeline yet")


class Wait:
    """Time that a stage asks for: the coroutine returns what the call would have returned."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine


def final(outcome: Outcome, broken: Failure | None) -> Outcome:
    """Return the outcome to judge once its body has ended; `broken` is None for a whole body.

    A client that does not take the whole of an error changes nothing about the error.
    """
    if broken is None or (broken.origin == "client" and outcome.status >= 400):
        return outcome
    return failed(broken, outcome.refusal, outcome.whole_cause)
