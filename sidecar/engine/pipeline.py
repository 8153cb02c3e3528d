"""Pipeline: the stages of a route in their order, and the `Call` that takes one request through them.

A call runs inside the callbacks of the sockets.  It loops over `admit`, then sends the request to the upstream.  In the
callback that receives the head of the response, it loops over `answer` and `settle` from the innermost stage outwards.
For a stage that returns a `Wait`, it starts a `Run` and continues when the run has ended.  Rules:

1. A call lists the tickets that are neither settled nor bound to a body, to settle them after a cancellation, a bug or
   a superseding outcome.  While an outcome passes without a stop, the list is not shortened: it is cleared at the end.
2. Before `answer` is called, the tickets of the stages behind are settled with the outcome that `answer` gets, or bound
   to its body.  A stage that replaces the outcome (retry, fallback) cancels that body, which settles them.
3. A call ends once: with an outcome, with `CancelledError` or with a bug.  It then calls `done`.
4. An outcome whose body has ended passes in `take`, until a stage replaces it or waits.  All others pass in `_go_on`.

`docs/design/engine.md` says why there is one path, without nested coroutines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

from sidecar.core.body import COMPLETE
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, Failure, Outcome, append_lines
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Observer, OutcomeCounter, Service, Stage, Wait, outcome_to_settle, unbound

Answer = Callable[..., Any] | None
Settle = Callable[..., None] | None
ALL: Final = -1
"""Number of tickets that stands for one of each stage."""


class InFlight(Protocol):
    """Request in flight at the end of a pipeline."""

    def cancel(self) -> None:
        """Cancel the request; its outcome is not delivered."""


class Terminal(Protocol):
    """End of a pipeline, such as an upstream."""

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Return the outcome if it is known at once.  Otherwise return the request in flight, and pass its outcome to
        `call.take` later."""


class Step:
    """Stage on the way of an outcome outwards."""

    __slots__ = ("answer", "counter", "index", "is_observer", "settle")

    def __init__(
        self, index: int, answer: Answer, settle: Settle, counter: OutcomeCounter | None, is_observer: bool
    ) -> None:
        self.index = index
        """Index of the stage's ticket; for an observer, that of the ticket outside of it."""
        self.answer = answer
        """Method of the stage; None if it has none."""
        self.settle = settle
        """Method of the stage; None if it has none, or only counts outcomes."""
        self.counter = counter
        """The stage itself, if it only counts outcomes; else None."""
        self.is_observer = is_observer
        """True for a stage without a ticket."""


class Pipeline:
    """Stages of a route and the terminal behind them.

    Awaiting `pipeline(x)` returns the outcome.  A `Call` does the same without a coroutine.
    """

    __slots__ = (
        "_calls", "admits", "answered", "begin_last", "can_be_superseded", "lines_at", "outward", "passed", "settles",
    )  # fmt: skip

    def __init__(self, stages: Sequence[Stage | Observer], terminal: Terminal | Service) -> None:
        """Take the stages, outermost first.  A stage with an `inner` must not be in another pipeline."""
        end = terminal if hasattr(terminal, "begin") else Awaited(terminal)
        self.begin_last = cast("Terminal", end).begin
        self.can_be_superseded = any(getattr(stage, "supersedes", False) for stage in stages)
        names = ("admit", "answer", "settle", "adds_lines")
        self._link(
            [
                (*(getattr(stage, name, None) for name in names), stage if isinstance(stage, OutcomeCounter) else None)
                for stage in stages
            ]
        )
        for index, stage in enumerate(stages):
            if hasattr(stage, "inner"):
                cast("Any", stage).inner = Pipeline(stages[index + 1 :], end)

    def _link(self, calls: list[Any]) -> None:
        """Take `admit`, `answer`, `settle` and `adds_lines` of each stage, outermost first; None for what it lacks.

        The fifth of each is the stage itself if it only counts outcomes, else None.
        """
        self._calls = calls
        admits: list[Callable[..., Any]] = []
        settles: list[Settle] = []
        steps: list[Step] = []
        self.lines_at: int | None = None
        """Index of the ticket whose lines a call itself appends to an outcome that all stages get, because no stage
        further out has an `answer`; None without one."""
        is_answered = False
        for admit, answer, settle, adds_lines, counter in calls:
            is_observer = admit is None and bool(admits)
            if not is_observer:
                admits.append(_admit if admit is None else admit)
                settles.append(settle)
            index = len(admits) - 1
            if adds_lines and settle is None and not is_answered:
                self.lines_at = index
            is_answered = is_answered or answer is not None
            if counter is not None:
                steps.insert(0, Step(index, None, None, counter, is_observer))
            elif answer is not None or settle is not None:
                steps.insert(0, Step(index, answer, settle, None, is_observer))
        self.admits = tuple(admits)
        self.settles: tuple[Settle, ...] = tuple(settles)
        counts = range(len(admits) + 1)
        self.passed: tuple[tuple[Step, ...], ...]
        self.passed = tuple([tuple([step for step in steps if step.index < count]) for count in counts])
        """Steps of an outcome outwards, by the number of stages that have admitted the request."""
        self.answered: tuple[tuple[Step, ...], ...]
        self.answered = tuple([_without_observers(found, index) for index, found in enumerate(self.passed[1:])])
        """Steps of an outcome outwards, by the index of the stage that answers, or has answered, it."""
        self.outward: tuple[Step, ...]
        self.outward = tuple([step for step in steps if step.index != self.lines_at or step.is_observer])
        """Steps of an outcome that all stages get, without the stage at `lines_at`."""

    def within(self, stage: Stage) -> Pipeline:
        """Return a pipeline of the same stages with one more outside of them, which has no `inner`."""
        outer = Pipeline([stage], unbound)
        outer.begin_last = self.begin_last
        outer.can_be_superseded = self.can_be_superseded
        outer._link(outer._calls + self._calls)
        return outer

    async def __call__(self, x: Exchange) -> Outcome:
        """Run a request through the stages and return its outcome."""
        promise: Promise[Call] = Promise()
        call = Call(self, x, promise.resolve)
        promise.on_cancel = call.cancel
        call.start()
        await promise
        promise.on_cancel = None
        if call.error is not None:
            raise call.error
        assert call.value is not None
        return call.value


class Call:
    """Execution of one pipeline for one request."""

    __slots__ = (
        "_at", "_begun", "_done", "_given", "_is_cancelled", "_is_inward", "_pipeline", "_run", "_superseded",
        "_superseded_at", "_tickets", "error", "value", "x",
    )  # fmt: skip

    def __init__(self, pipeline: Pipeline, x: Exchange, done: Callable[[Any], None] | None) -> None:
        """Call `done(call)` at the end, possibly within `start`; None to call `ended` of a subclass."""
        self.x = x
        self.value: Outcome | None = None
        """Outcome; None until the end, and after an error."""
        self.error: BaseException | None = None
        """`CancelledError` or a bug; None until the end, and after an outcome."""
        self._pipeline = pipeline
        self._done: Callable[[Any], None] | None = done
        self._tickets: list[object] = []
        """Tickets that are neither settled nor bound to a body, outermost first."""
        self._begun: InFlight | None = None
        """Request in flight at the terminal; None without one."""
        self._run: Run[Any] | Promise[Any] | None = None
        """Run or promise of the stage that waits; None if none does."""
        self._superseded: Run[Any] | Promise[Any] | None = None
        """Cancelled run or promise whose result is ignored; None without one."""
        self._superseded_at = 0
        """Index of the stage that waited for the superseded run; negative if it waited in `answer`."""
        self._at = 0
        """Index of the stage that waits."""
        self._is_inward = True
        """True if that stage waits in `admit`, False if it waits in `answer`."""
        self._given: Outcome | None = None
        """Outcome that the stage got in `answer`; None if it waits in `admit`."""
        self._is_cancelled = False
        """True once the call was cancelled."""

    def take_error(self, error: BaseException) -> None:
        """End with the error of the request in flight at the terminal: a bug or `CancelledError`."""
        self._begun = None
        self._break_down(error)

    def cancel(self) -> None:
        """Cancel the call and settle its tickets as abandoned.  Without effect once the call has ended."""
        begun, run = self._begun, self._run
        if begun is not None:
            self._begun = None
            begun.cancel()
            self._break_down(asyncio.CancelledError())
        else:
            self._is_cancelled = True
            if run is not None:
                run.cancel()

    def supersede(self, ticket: object, outcome: Outcome) -> None:
        """Cancel what runs in the stages behind the one with this ticket, and call its `answer` with `outcome`."""
        index = next(index for index, each in enumerate(self._tickets) if each is ticket)
        begun, run, given = self._begun, self._run, self._given
        self._begun = self._run = self._given = None
        if begun is not None:
            begun.cancel()
        if run is not None:
            self._superseded, self._superseded_at = run, self._at if self._is_inward else -1
            run.cancel()
        if given is not None:
            given.discard()
        self._abandon(index + 1)
        self._go_on(outcome, self._pipeline.answered[index], False)

    def discard(self) -> None:
        """Discard the outcome, which the caller does not need."""
        if self.value is not None:
            self.value.discard()

    # ----- the way in

    def start(self) -> None:
        """Call `admit` of the stages that have no ticket yet, then begin the request at the terminal."""
        pipeline, x, tickets = self._pipeline, self.x, self._tickets
        if pipeline.can_be_superseded:
            x.call = self
        try:
            for admit in pipeline.admits[len(tickets) :] if tickets else pipeline.admits:
                found = admit(x)
                if found is not None:
                    kind = type(found)  # cheaper than isinstance, and far cheaper than `__class__`
                    if kind is Outcome:
                        outcome = cast("Outcome", found)
                        break
                    if kind is Wait:
                        self._wait(len(tickets), cast("Wait", found), True, None)
                        return
                tickets.append(found)
            else:
                begun: Any = pipeline.begin_last(x, self)
                if type(begun) is not Outcome:
                    self._begun = begun
                    if self._is_cancelled:
                        self.cancel()
                    return
                outcome = begun
        except BaseException as error:
            self._break_down(error)
            return
        self.take(outcome, len(tickets))

    # ----- the way out

    def take(self, outcome: Outcome, admitted: int = ALL) -> None:
        """Accept an outcome: call `answer` and `settle` of the stages that have admitted the request, innermost first.

        The terminal passes the outcome of the request in flight, which all stages get.
        """
        self._begun = None
        pipeline, x, tickets = self._pipeline, self.x, self._tickets
        body = outcome.stream
        if body is not None:
            if body.state != COMPLETE:
                self._go_on(outcome, pipeline.passed[admitted], False)
                return
            if body.verdict:
                outcome.verdict = body.verdict  # as `outcome_to_settle`, for a body that has ended well
        steps, lines_at = pipeline.outward, pipeline.lines_at
        if admitted != ALL:
            steps, lines_at = pipeline.passed[admitted], None
        index, answer = 0, None
        try:
            for step in steps:
                answer, settle = step.answer, step.settle
                if answer is not None:
                    index = step.index
                    found = answer(x, tickets[index], outcome)
                    if found is not outcome or outcome.stream is not body:
                        del tickets[index + 1 :]
                        if type(found) is Wait:
                            self._wait(index, found, False, outcome)
                        else:
                            self._go_on(found, pipeline.answered[index], True)
                        return
                    answer = None
                if settle is not None:
                    index = step.index
                    settle(x, tickets[index], outcome)
                elif step.counter is not None:
                    counter = step.counter
                    if outcome.failure is None and outcome.verdict < 500:
                        counter.good += 1  # inlined `settle`
                    else:
                        counter.settle(x, None, outcome)
            if lines_at is not None:
                lines = cast("bytes | None", tickets[lines_at])
                if lines is not None:  # inlined `append_lines`
                    if outcome.parsed is None:
                        outcome.raw = outcome.raw + lines  # mypyc compiles `+=` as if these were any objects
                    else:
                        append_lines(outcome, lines)
        except BaseException as error:
            del tickets[index + (answer is not None) :]
            outcome.discard()
            self._break_down(error)
            return
        tickets.clear()
        self.value = outcome
        if pipeline.can_be_superseded:  # inlined `_end`
            x.call = None
        done, self._done = self._done, None
        if done is None:
            self.ended()
        else:
            done(self)

    def _go_on(self, outcome: Outcome, steps: tuple[Step, ...], has_answered: bool) -> None:
        """Take an outcome outwards through `steps`; `has_answered` is True if the first of them has answered it."""
        x, tickets = self.x, self._tickets
        bound: list[tuple[Callable[..., None], object]] = []
        try:
            for step in steps:
                index, answer = step.index, step.answer
                settle = step.settle if step.counter is None else step.counter.settle
                if answer is not None and not has_answered:
                    if bound:
                        self._bind(outcome, bound, index + 1)
                        bound = []
                    found = answer(x, tickets[index], outcome)
                    if type(found) is Wait:
                        del tickets[index + 1 :]
                        self._wait(index, found, False, outcome)
                        return
                    outcome = found
                has_answered = False
                body = outcome.stream
                if body is not None and body.state != COMPLETE:
                    if settle is not None:
                        bound.append((settle, tickets[index]))
                    continue
                if body is not None and body.verdict:
                    outcome.verdict = body.verdict
                ticket = tickets[index]
                if not step.is_observer:
                    del tickets[index:]
                if settle is not None:
                    settle(x, ticket, outcome)
            if bound:
                self._bind(outcome, bound, 0)
        except BaseException as error:
            outcome.discard()
            self._break_down(error)
            return
        tickets.clear()
        self.value = outcome
        self._end()

    def _bind(self, outcome: Outcome, bound: list[tuple[Callable[..., None], object]], first: int) -> None:
        """Arrange that the stages of `bound`, whose tickets begin at `first`, are settled at the end of the body."""
        del self._tickets[first:]
        assert outcome.stream is not None
        outcome.stream.on_close(partial(self._settle_bound, bound, outcome))

    def _settle_bound(
        self, bound: list[tuple[Callable[..., None], object]], outcome: Outcome, broken: Failure | None
    ) -> None:
        """Settle stages at the end of a body; `broken` is the body's failure, None if it is complete."""
        judged = outcome_to_settle(outcome, broken)
        for settle, ticket in bound:
            settle(self.x, ticket, judged)
        if judged is not outcome:
            outcome.refusal = judged.refusal  # the access log reports what a stage found in `settle`

    # ----- stages that wait

    def _wait(self, index: int, wait: Wait, is_inward: bool, given: Outcome | None) -> None:
        """Wait for what a stage waits for; `given` is the outcome that the stage got in `answer`."""
        self._at = index
        self._is_inward = is_inward
        self._given = given
        awaited = wait.awaited
        if isinstance(awaited, Promise):
            self._run = awaited
            awaited.set_waiter(self._promised)
            if self._is_cancelled:
                awaited.cancel()
            return
        run = Run(awaited, self._waited)
        if not run.has_ended:  # else `_waited` has continued the call, which may be waiting for another run
            self._run = run
            if self._is_cancelled:
                run.cancel()

    def _promised(self, promise: Promise[Any]) -> None:
        """Continue with the value of a promise that a stage waited for."""
        if promise.cancelled():
            self._resume(promise, None, asyncio.CancelledError())
        else:
            self._resume(promise, promise.result(), None)

    def _waited(self, run: Run[Any]) -> None:
        """Continue with the result of a stage that waited for a coroutine."""
        self._resume(run, run.value, run.error)

    def _resume(self, awaited: Run[Any] | Promise[Any], found: object, error: BaseException | None) -> None:
        """Continue with the result of a stage that waited."""
        if awaited is self._superseded:
            self._superseded = None
            if error is None:
                self._refuse_found(found, self._superseded_at)
            return
        given, self._given = self._given, None
        self._run = None
        if error is None and self._is_cancelled:  # the run ended before the cancellation reached it
            self._refuse_found(found, self._at if self._is_inward else -1)
            error = asyncio.CancelledError()
        if error is not None:
            if given is not None:
                given.discard()
            self._break_down(error)
        elif not self._is_inward:
            self._go_on(cast("Outcome", found), self._pipeline.answered[self._at], True)
        elif type(found) is Outcome:
            self.take(found, self._at)
        else:
            self._tickets.append(found)
            self.start()

    def _refuse_found(self, found: object, index: int) -> None:
        """Release a result that comes too late to be used: discard an outcome, settle a ticket as abandoned.

        `index` is that of the stage which waited in `admit`, negative if it waited in `answer`.
        """
        if isinstance(found, Outcome):
            found.discard()
        elif index >= 0 and (settle := self._pipeline.settles[index]) is not None:
            settle(self.x, found, ABANDONED)

    # ----- the end

    def _abandon(self, first: int) -> None:
        """Settle the tickets from `first` inwards as abandoned."""
        tickets, settles = self._tickets, self._pipeline.settles
        while len(tickets) > first:
            ticket = tickets.pop()
            settle = settles[len(tickets)]
            if settle is not None:
                settle(self.x, ticket, ABANDONED)

    def _break_down(self, error: BaseException) -> None:
        """Settle all tickets as abandoned, and end the call with an error."""
        try:
            self._abandon(0)
        finally:
            self.error = error
            self._end()
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def _end(self) -> None:
        """Report the end of the call, once."""
        if self._pipeline.can_be_superseded:
            self.x.call = None
        done, self._done = self._done, None
        if done is None:
            self.ended()
        else:
            done(self)

    def ended(self) -> None:
        """Take the end of the call, in a subclass without a `done`."""

    def __repr__(self) -> str:
        return f"<Call {self.x!r} {len(self._tickets)} tickets>"


def _admit(x: Exchange) -> None:
    """Admit a request to the outermost stage, an observer."""


def _without_observers(steps: tuple[Step, ...], index: int) -> tuple[Step, ...]:
    """Return the steps without those of the observers inside the stage at `index`."""
    return tuple([step for step in steps if step.index < index or not step.is_observer])


class Awaited:
    """Terminal that runs a service, such as one of a test."""

    __slots__ = ("_service",)

    def __init__(self, service: Service) -> None:
        self._service = service

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Start the service; return its outcome, or the request in flight if it waits."""
        awaiting = Awaiting()
        run = Run(self._service(x), awaiting.end)
        if not run.has_ended:
            awaiting.run, awaiting.call = run, call
            return awaiting
        if run.error is not None:
            raise run.error
        assert run.value is not None
        return run.value


class Awaiting:
    """Request in flight in a service."""

    __slots__ = ("call", "run")

    def __init__(self) -> None:
        self.call: Call | None = None
        """Call that waits for the outcome; None once it has the outcome or was cancelled."""
        self.run: Run[Outcome] | None = None
        """Run of the service; None if the service returns without waiting."""

    def end(self, run: Run[Outcome]) -> None:
        """Pass the result of the run to the call, or discard it if the call was cancelled."""
        call, self.call = self.call, None
        if call is None:
            if self.run is not None and run.value is not None:
                run.value.discard()
        elif run.error is not None:
            call.take_error(run.error)
        else:
            call.take(cast("Outcome", run.value))

    def cancel(self) -> None:
        self.call = None
        if self.run is not None:
            self.run.cancel()
