"""Stage: the interface of a policy at run time.

A pipeline (`sidecar.engine.pipeline`) calls each stage up to three times for a request:

    admit(x)                    request on its way in: admit it, answer it here, or wait
    answer(x, ticket, outcome)  head of the response: pass it on, replace it, or wait; optional
    settle(x, ticket, outcome)  end of the response: record, release; optional

`admit` returns an `Outcome` to answer the request or a `Wait` to wait.  Anything else is its ticket, which the other
two get.  A stage that may run the stages behind it again has an attribute `inner`, set by the pipeline.  Laws, which
`tests/contract/` checks for every stage:

1. Every fault of an upstream or a policy is an outcome.  Exceptions are `CancelledError` or bugs.
2. Each ticket is settled exactly once, innermost first, also after a refusal further in, a cancellation or a bug.
   `answer` is called at most once, before `settle`, and not for an abandoned exchange.
3. On `ABANDONED`, a stage releases what it holds and records nothing.
4. The three calls do no I/O, and `settle` never raises.  A coroutine never suppresses `CancelledError`, and bounds its
   waiting time.
5. While a body is still arriving, settling waits for its end, so a permit covers the body.  If the reader cancels the
   body, a bad status still counts; otherwise the failure of the body is the outcome.
6. A stage with `adds_lines` has tickets that are bytes or None, no `settle`, and an `answer` that does nothing but
   append the lines of the ticket to those of the outcome (`append_lines`).  The pipeline may do that itself.
7. Each run of `inner` has tickets of its own, settled with the outcome of that run.  A breaker thus records a 503 that
   a retry replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Failure, Outcome, failed
from sidecar.core.promise import Promise

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]
"""Function that returns the outcome of a request, such as a pipeline."""


class Stage(Protocol):
    """Policy at run time.  A stage may also have the methods `answer` and `settle` (see above)."""

    def admit(self, x: Exchange) -> object:
        """Return an `Outcome` to answer the request, a `Wait` for an outcome or a ticket, or a ticket to admit it."""


class Observer(Protocol):
    """Stage that has no ticket and decides nothing: it only gets the outcomes of the requests that come to it."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Record the outcome of a request; its ticket is another stage's."""


class OutcomeCounter:
    """Observer that counts outcomes, except those that the client has caused."""

    __slots__ = ("bad", "good")

    def __init__(self) -> None:
        self.good = 0
        """Responses with a verdict below 500; the pipeline itself may count them."""
        self.bad = 0
        """Failures, and responses with another verdict."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Count the outcome of a request."""
        failure = outcome.failure
        if failure is None and outcome.verdict < 500:
            self.good += 1
        elif failure is None or failure.origin != "client":
            self.bad += 1

    def clear(self) -> None:
        """Set the counts back to 0."""
        self.good = self.bad = 0


class Gate(Stage, Protocol):
    """Stage that admits or refuses requests and records their outcomes."""

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Record the outcome of an admitted request."""


async def unbound(_: Exchange) -> Outcome:
    """Raise an error: placeholder for `inner` of a stage that is in no pipeline."""
    raise RuntimeError("the stage is in no pipeline yet")


class Wait:
    """Request of a stage to wait for a coroutine or a promise, which brings what the call itself would have returned.

    A promise costs no frame.  It must be pending, and its `on_cancel` releases what the stage holds.
    """

    __slots__ = ("awaited",)

    def __init__(self, awaited: Coroutine[Any, Any, Any] | Promise[Any]) -> None:
        self.awaited = awaited

    def close(self) -> None:
        """Release what nobody will wait for."""
        if isinstance(self.awaited, Promise):
            self.awaited.cancel()
        else:
            self.awaited.close()


def outcome_to_settle(outcome: Outcome, broken: Failure | None) -> Outcome:
    """Return the outcome to settle once its body has ended; `broken` is the body's failure, None if it is complete.

    An error status remains the outcome if the client does not read its body to the end.  Trailers can bring a verdict.
    """
    if broken is None:
        if outcome.stream is not None and outcome.stream.verdict:
            outcome.verdict = outcome.stream.verdict
        return outcome
    if broken.origin == "client" and outcome.status >= 400:
        return outcome
    return failed(broken, outcome.refusal, outcome.whole_cause)
