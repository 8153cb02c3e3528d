"""Parts of one request in flight.

Rules:

1. A part starts once the parts that it needs have ended.  One that needs a part without an answer and without a
   substitute is skipped.
2. A part gets the time that is left, less the usual time of the parts that follow it, and its own `timeout` at most.
   If that is far less than its usual time, it is not started.
3. Requests of parts that are the same and safe are made once.
4. An answer of 2xx that is JSON is a success; anything else is a failure.  If a required part fails, the others are
   cancelled and the whole fails at once.
5. If the client leaves, all parts are cancelled.
"""

from __future__ import annotations

import json
import re
from typing import Final

from sidecar.cache.rfc.lines import without
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import NEVER, SHORTEST_ANSWER, Exchange, Part
from sidecar.core.outcome import ANSWER_TOO_LARGE, PART_FAILED, Outcome, Refusal, failed
from sidecar.core.promise import Promise
from sidecar.core.stage import Wait
from sidecar.engine.inner import Allowance, InnerExchange
from sidecar.stages.aggregate.answer import Answer
from sidecar.stages.aggregate.heads import Head, read_head
from sidecar.stages.aggregate.lifetime import NO_STORE
from sidecar.stages.aggregate.targets import PartPlan, key_of
from sidecar.stages.aggregate.texts import NULL, Scope, Value, ValueMissing, value_of
from sidecar.transform.buffering import read_body
from sidecar.transform.jsonbody import SPACE, InvalidBody, checked
from sidecar.transform.selection import items_of

MEMORY: Final = 0.125
"""Weight of the latest duration in the usual one."""
RESERVE: Final = 1.25
"""Factor of the usual time that is left to the parts which follow, since half of all requests take longer."""
HOPELESS: Final = 0.5
"""Share of the usual duration; a part for which less time is left is not started."""
FORGET: Final = 0.8
"""Factor of the usual duration each time a part is not started for it, so that it is tried again some time."""
MOST_NAMES: Final = 20
"""Most names that are taken from a part's partial answer."""
BLANK: Final = 0x20
"""Highest octet of white space around a JSON text."""
NO_ITEMS: Final[list[list[Value]]] = []
"""Items of a part without a list; never changed."""
NO_VALUE: Final = "no_value"
"""Reason of a part whose path needs a value that is missing."""
NEEDS: Final = "needs"
"""Reason of a part that needs another part which failed."""
NO_TIME: Final = "timeout"
"""Reason of a part for which no time was left."""
INVALID: Final = "invalid"
"""Reason of a part whose answer is not JSON."""
TOO_MANY: Final = "too_many"
"""Reason of a part whose list is too long."""


CHALLENGE: Final = b"www-authenticate"
_WORDS: Final = re.compile(rb"[A-Za-z0-9_.\[\]-]{1,200}")


def inner_names(part: str, value: bytes) -> tuple[str, ...]:
    """Return the names of what a part's own answer misses, such as `orders.prices`."""
    return tuple(f"{part}.{word.decode()}" for word in _WORDS.findall(value)[:MOST_NAMES]) or (part,)


class Result:
    """Result of one request of a part."""

    __slots__ = ("detail", "outcome", "reason", "value")

    def __init__(self, value: Value | None, reason: str, detail: str, outcome: Outcome | None) -> None:
        self.value = value
        """Answer; None for a failure."""
        self.reason = reason
        """Reason of the failure; empty for a success."""
        self.detail = detail
        """Description of the failure; empty for a success."""
        self.outcome = outcome
        """Outcome of the request; None if none was made."""


class Gathering:
    """Parts of one request, from the start of the first to the whole answer."""

    __slots__ = (
        "_answer", "_env", "_now", "_plans", "_promise", "_runs", "_unfinished", "_waiting", "_where", "absent",
        "allowance", "asked", "is_merged", "is_over", "lines", "missing", "outcome", "outcomes", "parts", "scope",
        "speaks", "values", "x",
    )  # fmt: skip

    def __init__(
        self, x: Exchange, plans: list[PartPlan], answer: Answer, env: Env, where: str, lines: bytes, max_size: int
    ) -> None:
        """`lines` are the fields of all parts; `max_size` is the limit on the bytes of all their bodies."""
        self.x = x
        self.outcome: Outcome | None = None
        """Outcome of the whole; None until it is known."""
        self.is_over = False
        """True once no further part may start."""
        self.values: dict[str, Value] = {}
        """Answers and substitutes of the parts that have ended, by name."""
        self.absent: dict[str, str] = {}
        """Reasons of the failed parts without a substitute of their own, by name."""
        self.missing: dict[str, tuple[str, ...]] = {}
        """Names of what is missing, by the part: its own, or those that its partial answer has named."""
        self.outcomes: dict[str, Outcome] = {}
        """Outcomes of the parts with an answer of their own, by name."""
        self.asked: dict[tuple[object, ...], Ask] = {}
        """Safe requests that were made, by their identity."""
        self.parts: list[Part] = []
        """Records of all requests."""
        self.scope = Scope(x, self.values)
        """Values that texts may refer to."""
        self.lines = lines
        """Fields of all parts."""
        self.allowance = Allowance(max_size)
        """Bytes that are left for all bodies."""
        self.is_merged = answer.is_merged
        """True if each answer must be an object."""
        self.speaks = False
        """True once an answer has said something about storing."""
        self._plans = plans
        self._answer = answer
        self._env = env
        self._now = env.now
        self._where = where
        self._waiting = [len(plan.needs) for plan in plans]
        """Number of parts that each part still waits for."""
        self._unfinished = len(plans)
        self._runs: list[PartRun] = []
        """Parts that have started and not ended."""
        self._promise: Promise[Outcome] | None = None
        """Promise of the outcome; None if nobody waits."""
        x.parts = self.parts

    def now(self) -> float:
        """Return the instant."""
        return self._now()

    def start(self) -> None:
        """Start the parts that need no other."""
        now = self._now()
        for plan in self._plans:
            if not plan.needs and not self.is_over:
                self._begin(plan, now)

    def wait(self) -> Wait:
        """Return the request to wait for the outcome; a cancellation cancels all parts."""
        promise: Promise[Outcome] = Promise(self.cancel)
        self._promise = promise
        return Wait(promise)

    def cancel(self) -> None:
        """Cancel all parts, since the client has left."""
        self._promise = None  # breaks a reference cycle, as `asked.clear` in `_stop`
        self._stop()

    def _stop(self) -> None:
        """Cancel all parts in flight, and start no more."""
        self.is_over = True
        runs, self._runs = self._runs, []
        for run in runs:
            run.cancel()
        self.asked.clear()  # breaks a reference cycle, which only the garbage collector would free

    def _begin(self, plan: PartPlan, now: float) -> None:
        run = PartRun(self, plan, now)
        self._runs.append(run)
        run.begin()

    def deadline(self, plan: PartPlan, now: float) -> float:
        """Return the deadline of a part that starts now; `now` or less if it cannot end in time."""
        left = self.x.deadline - now
        allowed = left
        if left != NEVER:
            if left < plan.usual * HOPELESS or left < SHORTEST_ANSWER:
                plan.usual *= FORGET
                return now
            tail = plan.tail * RESERVE if plan.dependents else 0.0
            if tail > 0.0:
                own = plan.usual or tail
                allowed = max(left - tail, left * own / (own + tail))
        timeout = plan.timeout
        if timeout is not None and timeout < allowed:
            allowed = timeout
        return now + allowed

    def report_bug(self, plan: PartPlan, error: Exception) -> None:
        """Log a bug of a stage on the way of a part."""
        self._env.emit(events.BUG, where=f"the part {plan.name}", error=error)

    # ----- ends of parts

    def end(self, run: PartRun, result: Result, now: float) -> None:
        """Take the result of a part, and start those that needed only it."""
        plan = run.plan
        if self.is_over:
            return
        self._runs.remove(run)
        value = result.value
        if value is None:
            if plan.is_required:
                run.release()
                self._fail(plan, result)
                return
            self.missing[plan.name] = (plan.name,)
            value = self._substitute(run)
            if value is None:
                self.absent[plan.name] = result.reason
                value = Value(NULL, is_substitute=True)
            run.relabel()
            plan.counter(metrics.AGGREGATE_PARTS, run.substituted).value += 1
        else:
            usual = plan.usual
            plan.usual = usual + (now - run.started - usual) * (MEMORY if usual else 1.0)
            outcome = result.outcome
            if outcome is not None:
                self.outcomes[plan.name] = outcome
                head = plan.head_of(outcome)
                if head.speaks:
                    self.speaks = True
                if head.partial is not None and plan.name not in self.missing:
                    self.missing[plan.name] = inner_names(plan.name, head.partial)
            plan.count_success()
        run.release()
        self.values[plan.name] = value
        self._unfinished -= 1
        for each in plan.dependents:
            self._waiting[each.number] -= 1
            if self._waiting[each.number] == 0 and not self.is_over:
                self._begin(each, now)
        if self._unfinished == 0 and not self.is_over:
            self._conclude()

    def _substitute(self, run: PartRun) -> Value | None:
        """Return the first substitute that is there; None without one."""
        for substitute in run.plan.substitutes:
            if substitute is not None:
                run.substituted = "substituted"
                return substitute
            stale = run.stale(self.is_merged)
            if stale is not None:
                run.substituted = "stale"
                return stale
        return None

    def _conclude(self) -> None:
        """Make the whole answer."""
        missing: list[str] = []
        outcomes: list[Outcome] = []
        for plan in self._plans:
            missing += self.missing.get(plan.name, ())
            outcome = self.outcomes.get(plan.name)
            if outcome is not None:
                outcomes.append(outcome)
        wall = self._env.wall() if self.speaks else 0.0
        made = self._answer.make(self.scope, outcomes, missing, self.parts, wall, self.speaks)
        if not missing:
            for part in self.parts:
                if is_of_another(part.x, self.x):
                    made.lines = NO_STORE + without(made.lines, frozenset((b"cache-control",)))
                    break
        self._resolve(made)

    def _fail(self, plan: PartPlan, result: Result) -> None:
        """Fail as a whole, since a required part has failed."""
        plan.counter(metrics.AGGREGATE_PARTS, "failed").value += 1
        self._stop()
        outcome = result.outcome
        detail = f"The required part {plan.name} failed: {result.detail}"
        refusal = Refusal("aggregate", self._where, detail)
        failure = None if outcome is None else outcome.failure
        status = PART_FAILED.status
        lines = b""
        if failure is not None and outcome is not None:
            status = outcome.status
            refusal = refusal._replace(retry_after=outcome.refusal.retry_after)
            lines = fields_of(outcome, (CHALLENGE,))
        elif result.reason == NO_TIME:
            status = 504
        elif outcome is not None and result.reason.isdigit():
            lines = fields_of(outcome, (b"retry-after", CHALLENGE))
            status = outcome.status if outcome.status >= 400 and outcome.status not in (500, 501, 505) else status
            if status < 500:
                self._resolve(refused(status, detail, plan.name, lines))
                return
        found = failed(PART_FAILED, refusal, cause=result.detail)
        found.lines = lines
        found.status = found.verdict = status
        self._resolve(found)

    def _resolve(self, outcome: Outcome) -> None:
        self.is_over = True
        self.outcome = outcome
        self.asked.clear()
        promise, self._promise = self._promise, None
        if promise is not None:
            promise.resolve(outcome)

    def __repr__(self) -> str:
        return f"<Gathering {self._unfinished} of {len(self._plans)} parts left>"


def is_of_another(part: Exchange | None, x: Exchange) -> bool:
    """True if the route of a part has found another caller by its own `authenticate` than the outer route.

    A cache keeps callers apart only by those that its own route knows.
    """
    if part is None or part.caller is None or part.caller is x.caller:
        return False
    return x.caller is None or part.caller.digest() != x.caller.digest()


def fields_of(outcome: Outcome, names: tuple[bytes, ...]) -> bytes:
    """Return the lines of some fields of an outcome."""
    return b"".join([b"%b: %b\r\n" % field for field in outcome.headers if field[0] in names])


def refused(status: int, detail: str, part: str, lines: bytes) -> Outcome:
    """Return the answer to a request whose required part was refused with a status of 4xx."""
    document = {
        "type": f"urn:sidecar:problem:{PART_FAILED.code}", "title": PART_FAILED.title, "status": status,
        "detail": detail, "part": part,
    }  # fmt: skip
    lines += b"content-type: application/problem+json\r\ncache-control: no-store\r\nx-sidecar-reason: part_failed\r\n"
    return Outcome(status, None, json.dumps(document).encode(), lines=lines)


class PartRun:
    """One part in flight, with one request or with one for each item of its list."""

    __slots__ = ("_asks", "_count", "_done", "_items", "deadline", "gathering", "plan", "started", "substituted")

    def __init__(self, gathering: Gathering, plan: PartPlan, now: float) -> None:
        self.plan = plan
        self.gathering = gathering
        self.started = now
        """Instant of its start."""
        self.deadline = NEVER
        """Instant by which it must end."""
        self.substituted = "failed"
        """Result of the part if it fails: `failed`, `stale` or `substituted`."""
        self._asks: list[Ask] = []
        """Requests that were started, in the order of their items."""
        self._items = NO_ITEMS
        """Items of each request; empty without a list."""
        self._count = 1
        """Number of requests."""
        self._done = 0
        """Number of requests that have ended."""

    def begin(self) -> None:
        """Start the part, or end it at once if it cannot start."""
        plan, gathering = self.plan, self.gathering
        for need in plan.needs:
            if need in gathering.absent:
                self._skip(NEEDS, f"it needs the part {need}, which failed ({gathering.absent[need]})")
                return
        self.deadline = gathering.deadline(plan, self.started)
        if self.deadline <= self.started:
            self._skip(NO_TIME, "no time was left for it")
            return
        each, list_of = plan.each, plan.list_of
        if each is None or list_of is None:
            self._ask(gathering.scope, plan.name, self.started)
            return
        text = value_of(list_of, gathering.scope)
        items = None if text is None else items_of(Value(text).document)
        if items is None:
            self._skip(NO_VALUE, f"{{{list_of.text}}} is no list")
        elif len(items) > each.max:
            self._skip(TOO_MANY, f"{{{list_of.text}}} has {len(items)} items, but each.max is {each.max}")
        elif not items:
            gathering.end(self, Result(Value(b"[]"), "", "", None), self.started)
        else:
            size = each.batch or 1
            values = [Value(item) for item in items]
            self._items = [values[at : at + size] for at in range(0, len(values), size)]
            self._count = len(self._items)
            for _ in range(min(each.at_once, self._count)):
                if len(self._asks) < self._count and not gathering.is_over:
                    self._ask_next(self.started)

    def _skip(self, reason: str, detail: str) -> None:
        """End the part without a request."""
        record = Part(self.plan.name, None, "skipped", self.started)
        record.ended = self.started
        record.reason = reason
        self.gathering.parts.append(record)
        self.gathering.end(self, Result(None, reason, detail, None), self.started)

    def _ask(self, scope: Scope, name: str, now: float) -> None:
        ask = Ask(self, name, now)
        self._asks.append(ask)
        ask.start(scope)

    def _ask_next(self, now: float) -> None:
        """Start the request for the next items."""
        gathering, plan, number = self.gathering, self.plan, len(self._asks)
        each = plan.each
        assert each is not None
        scope = Scope(gathering.x, gathering.values, self._items[number], each.separator)
        self._ask(scope, f"{plan.name}[{number}]", now)

    def take(self, result: Result, now: float) -> None:
        """Take the result of one request."""
        gathering = self.gathering
        if gathering.is_over:
            return
        self._done += 1
        if not self._items or (result.value is None and self.plan.is_required):
            gathering.end(self, result, now)
        elif self._done == self._count:
            self._join(now)
        elif len(self._asks) < self._count:
            self._ask_next(now)

    def _join(self, now: float) -> None:
        """Join the answers for all items to one list, in which an item that failed is null."""
        plan = self.plan
        results = [ask.result for ask in self._asks if ask.result is not None]
        failures = [each for each in results if each.value is None]
        if len(failures) == len(results):
            self.gathering.end(self, failures[0], now)
            return
        texts: list[bytes] = []
        for result, items in zip(results, self._items, strict=True):
            value = result.value
            if value is None:
                texts += [NULL] * len(items)
            elif plan.each is None or plan.each.batch is None:
                texts.append(value.text)
            else:
                found = items_of(value.document)
                texts += [value.text] if found is None else found
        if failures:
            self.gathering.missing[plan.name] = (plan.name,)
        found_outcome = next((each.outcome for each in results if each.value is not None), None)
        self.gathering.end(self, Result(Value(b"[" + b",".join(texts) + b"]"), "", "", found_outcome), now)

    def stale(self, is_merged: bool) -> Value | None:
        """Return the stale response of the cache of the part's route; None if there is none."""
        if self._items or not self._asks:
            return None
        x = self._asks[0].x
        if x is None or x.stale is None:
            return None
        outcome = x.stale()
        if outcome.stream is not None:
            return None
        allowance = self.gathering.allowance
        limit = min(self.plan.max_body, max(0, allowance.left))
        found = evaluate(outcome, read_head(outcome), limit, is_merged).value
        if found is not None:
            allowance.left -= len(found.text)
        return found

    def relabel(self) -> None:
        """Set the result of the records of failed requests to that of the part."""
        for ask in self._asks:
            if ask.record.result == "failed":
                ask.record.result = self.substituted

    def cancel(self) -> None:
        """Cancel all requests in flight."""
        for ask in self._asks:
            ask.cancel()
        self.release()

    def release(self) -> None:
        """Drop the requests, which refer to the part: only the garbage collector would free such a cycle."""
        self._asks = []


class Ask:
    """One request of a part."""

    __slots__ = ("_followers", "_inner", "_run", "record", "result", "x")

    def __init__(self, run: PartRun, name: str, now: float) -> None:
        self.x: Exchange | None = None
        """Request; None before it is made, and if another part's request is used."""
        self.record = Part(name, None, "failed", now)
        """Record."""
        self.result: Result | None = None
        """Result; None until the end."""
        self._run = run
        self._inner: InnerExchange | None = None
        """Request in flight; None before and after."""
        self._followers: list[Ask] | None = None
        """Requests that are the same, and wait for its result; None without any."""

    def start(self, scope: Scope) -> None:
        """Make the request, or wait for the same request of another part."""
        run, record = self._run, self.record
        gathering, plan, now = run.gathering, run.plan, record.started
        gathering.parts.append(record)
        if now >= run.deadline:
            self._end(Result(None, NO_TIME, "no time was left for it", None), "skipped", now)
            return
        try:
            x = plan.make(gathering.x, scope, gathering.lines, now)
        except ValueMissing as error:
            self._end(Result(None, NO_VALUE, str(error), None), "skipped", now)
            return
        if plan.may_repeat:
            leader = gathering.asked.setdefault(key_of(x), self)
            if leader is not self:
                if leader.result is not None:
                    self._end(leader.result, "duplicate", now)
                elif leader._followers is None:
                    leader._followers = [self]
                else:
                    leader._followers.append(self)
                return
        if run.deadline < x.deadline:
            x.deadline = run.deadline
        x.caller_deadline = x.deadline
        self.x = record.x = x
        inner = self._inner = InnerExchange(x, plan.max_body, self._took, gathering.allowance)
        inner.start(plan.pipeline_of(x))

    def _took(self, inner: InnerExchange) -> None:
        """Take the answer."""
        self._inner = None
        run = self._run
        gathering, plan = run.gathering, run.plan
        outcome = inner.outcome
        assert outcome is not None
        if inner.error is not None:
            gathering.report_bug(plan, inner.error)
        self.record.outcome = outcome
        allowance, size = gathering.allowance, len(outcome.body)
        left = size + allowance.left if allowance.left > 0 else size
        result = evaluate(
            outcome, plan.head_of(outcome), plan.max_body if plan.max_body < left else left, gathering.is_merged
        )
        if result.value is not None and len(result.value.text) > size:
            allowance.left -= len(result.value.text) - size  # decoded, it is in memory as a whole
        self._end(result, "failed", gathering.now())

    def _end(self, result: Result, word: str, now: float) -> None:
        """End with a result; `word` is the one of a failure, or of a request that was not made."""
        record = self.record
        record.ended = now
        record.reason = result.reason
        record.result = "ok" if not result.reason and word == "failed" else word
        self.result = result
        followers, self._followers = self._followers, None
        self._run.take(result, now)
        if followers is not None:
            for follower in followers:
                follower._end(result, "duplicate", now)

    def cancel(self) -> None:
        """Cancel the request if it is in flight."""
        inner, self._inner = self._inner, None
        record = self.record
        if not record.ended:
            record.ended = self._run.gathering.now()
            record.result = "cancelled"
        self._followers = None
        if inner is not None:
            inner.cancel()


def evaluate(outcome: Outcome, head: Head, limit: int, is_merged: bool) -> Result:
    """Return the result of a request by its outcome and head; `limit` holds for the decoded body too."""
    failure = outcome.failure
    if failure is not None:
        detail = outcome.refusal.detail or outcome.cause or failure.title
        return Result(None, failure.code, detail, outcome)
    status = outcome.status
    if not 200 <= status < 300:
        return Result(None, str(status), f"the answer has the status {status}", outcome)
    text = outcome.body
    if not text:
        return Result(Value(NULL), "", "", outcome)
    if head.coding or len(text) > limit:
        body = read_body(outcome, limit)
        if body.problem is not None:
            reason = ANSWER_TOO_LARGE.code if body.problem.kind == "too_large" else INVALID
            return Result(None, reason, f"the body {body.problem.detail}", outcome)
        assert body.document is not None
        assert body.document.text is not None
        text = body.document.text
    else:
        try:
            text = checked(text)
        except InvalidBody as error:
            return Result(None, INVALID, f"the body {error}", outcome)
    if text[0] <= BLANK or text[-1] <= BLANK:
        text = text.strip(SPACE)
    if is_merged and text[:1] != b"{" and text != NULL:
        return Result(None, INVALID, "the body is no object, and cannot be merged", outcome)
    return Result(Value(text), "", "", outcome)
