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
from sidecar.stages.aggregate.heads import NO_HEAD, Head
from sidecar.stages.aggregate.lifetime import NO_STORE
from sidecar.stages.aggregate.spec import EachSpec
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
    """Result of a part, or of one of its requests."""

    __slots__ = ("detail", "head", "outcome", "reason", "value")

    def __init__(
        self, value: Value | None, reason: str, detail: str, outcome: Outcome | None, head: Head = NO_HEAD
    ) -> None:
        self.value = value
        """Answer; None for a failure."""
        self.reason = reason
        """Reason of the failure; empty for a success."""
        self.detail = detail
        """Description of the failure; empty for a success."""
        self.outcome = outcome
        """Outcome of the request; None if none was made."""
        self.head = head
        """Head of the answer; `NO_HEAD` for a failure."""


class Gathering:
    """Parts of one request, from the start of the first to the whole answer."""

    __slots__ = (
        "_answer", "_env", "_now", "_plans", "_promise", "_unfinished", "_waiting", "_where", "absent", "allowance",
        "asked", "asks", "is_merged", "is_over", "lines", "missing", "outcome", "outcomes", "parts", "scope",
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
        self.asks: list[Ask] = []
        """All requests; empty once the whole has ended."""
        self.asked: dict[tuple[object, ...], Ask] = {}
        """Requests that may be made once for several, by their identity; empty once the whole has ended."""
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
        self._promise = None
        for ask in self._close():
            ask.cancel()

    def _close(self) -> list[Ask]:
        """Start no more parts, and return all requests."""
        self.is_over = True
        asks, self.asks = self.asks, []  # breaks reference cycles, which only the garbage collector would free
        self.asked.clear()
        return asks

    def _begin(self, plan: PartPlan, now: float) -> None:
        """Start a part, or end it at once if it cannot start."""
        for need in plan.needs:
            if need in self.absent:
                self._skip(plan, NEEDS, f"it needs the part {need}, which failed ({self.absent[need]})", now)
                return
        deadline = self._deadline(plan, now)
        if deadline <= now:
            self._skip(plan, NO_TIME, "no time was left for it", now)
        elif plan.each is None:
            Ask(self, plan, plan.name, now, deadline, None).start(self.scope)
        else:
            self._begin_list(plan, plan.each, now, deadline)

    def _begin_list(self, plan: PartPlan, each: EachSpec, now: float, deadline: float) -> None:
        """Start a part that is asked for each item of a list."""
        list_of = plan.list_of
        assert list_of is not None
        text = value_of(list_of, self.scope)
        items = None if text is None else items_of(Value(text).document)
        if items is None:
            self._skip(plan, NO_VALUE, f"{{{list_of.text}}} is no list", now)
        elif len(items) > each.max:
            self._skip(plan, TOO_MANY, f"{{{list_of.text}}} has {len(items)} items, but each.max is {each.max}", now)
        elif not items:
            self.end(plan, Result(Value(b"[]"), "", "", None), now, None)
        else:
            ListRun(self, plan, each, items, now, deadline).begin()

    def _skip(self, plan: PartPlan, reason: str, detail: str, now: float) -> None:
        """End a part without a request."""
        record = Part(plan.name, None, "skipped", now)
        record.ended = now
        record.reason = reason
        self.parts.append(record)
        self.end(plan, Result(None, reason, detail, None), now, None)

    def _deadline(self, plan: PartPlan, now: float) -> float:
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

    def end(self, plan: PartPlan, result: Result, now: float, ask: Ask | None) -> None:
        """Take the result of a part, and start those that needed only it.

        `ask` is its request, the last one of several; None if none was made.
        """
        if self.is_over:
            return
        value = result.value
        if value is None:
            if plan.is_required:
                self._fail(plan, result)
                return
            value = self._replace(plan, result, [] if ask is None else ask.siblings())
        else:
            usual = plan.usual
            seconds = 0.0 if ask is None else now - ask.begun
            plan.usual = usual + (seconds - usual) * (MEMORY if usual else 1.0)
            outcome = result.outcome
            if outcome is not None:
                self.outcomes[plan.name] = outcome
                head = result.head
                if head.speaks:
                    self.speaks = True
                if head.partial is not None and plan.name not in self.missing:
                    self.missing[plan.name] = inner_names(plan.name, head.partial)
            plan.count_success()
        self.values[plan.name] = value
        self._unfinished -= 1
        for each in plan.dependents:
            self._waiting[each.number] -= 1
            if self._waiting[each.number] == 0 and not self.is_over:
                self._begin(each, now)
        if self._unfinished == 0 and not self.is_over:
            self._conclude()

    def _replace(self, plan: PartPlan, result: Result, asks: list[Ask]) -> Value:
        """Return the first substitute that is there for a part that has failed, else null; `asks` are its requests."""
        self.missing[plan.name] = (plan.name,)
        value: Value | None = None
        word = "failed"
        for substitute in plan.substitutes:
            if substitute is not None:
                value, word = substitute, "substituted"
            elif asks and plan.each is None:
                value, word = self._stale(asks[0]), "stale"
            if value is not None:
                break
        else:
            word = "failed"
            self.absent[plan.name] = result.reason
            value = Value(NULL, True)
        for ask in asks:
            if ask.record.result == "failed":
                ask.record.result = word
        plan.counter(metrics.AGGREGATE_PARTS, word).value += 1
        return value

    def _stale(self, ask: Ask) -> Value | None:
        """Return the stale response of the cache that a request has met; None if there is none."""
        x = ask.x
        if x is None or x.stale is None:
            return None
        outcome = x.stale()
        if outcome.stream is not None:
            return None
        limit = min(ask.plan.max_body, max(0, self.allowance.left))
        found = evaluate(outcome, ask.plan, limit, self.is_merged).value
        if found is not None:
            self.allowance.left -= len(found.text)
        return found

    def _conclude(self) -> None:
        """Make the whole answer."""
        missing: list[str] = []
        outcomes: list[Outcome] = []
        for plan in self._plans:
            if self.missing:
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
        for ask in self._close():
            ask.cancel()
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
        self._close()
        self.outcome = outcome
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


class ListRun:
    """Part in flight that is asked for each item of a list, or for several at once."""

    __slots__ = ("_done", "_each", "_is_asking", "_items", "asks", "deadline", "gathering", "plan", "started")

    def __init__(
        self, gathering: Gathering, plan: PartPlan, each: EachSpec, items: list[bytes], now: float, deadline: float
    ) -> None:
        self.gathering = gathering
        self.plan = plan
        self.started = now
        """Instant of its start."""
        self.deadline = deadline
        """Instant by which it must end."""
        self.asks: list[Ask] = []
        """Requests that were started, in the order of their items."""
        self._each = each
        size, values = each.batch or 1, [Value(item) for item in items]
        self._items = [values[at : at + size] for at in range(0, len(values), size)]
        """Items of each request."""
        self._done = 0
        """Number of requests that have ended."""
        self._is_asking = False
        """True while requests are being started."""

    def begin(self) -> None:
        """Start the first requests."""
        self._ask(self.started)

    def _ask(self, now: float) -> None:
        """Start requests until `at_once` are in flight.

        Those that end at once, such as hits of a cache, are not nested: their number is not bounded by the stack.
        """
        if self._is_asking:
            return
        self._is_asking = True
        most, total = self._each.at_once, len(self._items)
        while self._done < total and not self.gathering.is_over:
            started = len(self.asks)
            if started == total or started - self._done >= most:
                break
            self._ask_next(now)
        self._is_asking = False

    def _ask_next(self, now: float) -> None:
        """Start the request for the next items."""
        gathering, number = self.gathering, len(self.asks)
        ask = Ask(gathering, self.plan, f"{self.plan.name}[{number}]", now, self.deadline, self)
        self.asks.append(ask)
        ask.start(Scope(gathering.x, gathering.values, self._items[number], self._each.separator))

    def take(self, ask: Ask, result: Result, now: float) -> None:
        """Take the result of one request."""
        if self.gathering.is_over:
            return
        self._done += 1
        is_refused = result.value is None and self.plan.is_required
        if is_refused or self._done == len(self._items):
            self.gathering.end(self.plan, result if is_refused else self._joined(), now, ask)
            self.asks = []  # breaks a reference cycle, which only the garbage collector would free
        else:
            self._ask(now)

    def _joined(self) -> Result:
        """Return the result of all requests: a list, in which an item that failed is null."""
        plan = self.plan
        results = [ask.result for ask in self.asks if ask.result is not None]
        first = next((each for each in results if each.value is not None), None)
        if first is None:
            return results[0]
        texts: list[bytes] = []
        for result, items in zip(results, self._items, strict=True):
            value = result.value
            if value is None:
                texts += [NULL] * len(items)
                self.gathering.missing[plan.name] = (plan.name,)
            elif self._each.batch is None:
                texts.append(value.text)
            else:
                found = items_of(value.document)
                texts += [value.text] if found is None else found
        return Result(Value(b"[" + b",".join(texts) + b"]"), "", "", first.outcome, first.head)


class Ask:
    """One request of a part."""

    __slots__ = (
        "_followers", "_gathering", "_inner", "_list", "begun", "deadline", "plan", "record", "result", "x",
    )  # fmt: skip

    def __init__(
        self, gathering: Gathering, plan: PartPlan, name: str, now: float, deadline: float, of: ListRun | None
    ) -> None:
        """Make a request of a part; `of` is the list for one of whose items it is made, None without a list."""
        self.plan = plan
        self.deadline = deadline
        """Instant by which it must end."""
        self.begun = now if of is None else of.started
        """Instant at which its part has started."""
        self.x: Exchange | None = None
        """Request; None before it is made, and if another part's request is used."""
        self.record = Part(name, None, "failed", now)
        """Record."""
        self.result: Result | None = None
        """Result; None until the end."""
        self._gathering = gathering
        self._list = of
        self._inner: InnerExchange | None = None
        """Request in flight; None before and after."""
        self._followers: list[Ask] | None = None
        """Requests that are the same, and wait for its result; None without any."""

    def siblings(self) -> list[Ask]:
        """Return all requests of its part."""
        return [self] if self._list is None else self._list.asks

    def start(self, scope: Scope) -> None:
        """Make the request, or wait for the same request of another part."""
        gathering, plan, record = self._gathering, self.plan, self.record
        now = record.started
        gathering.asks.append(self)
        gathering.parts.append(record)
        if now >= self.deadline:
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
        if self.deadline < x.deadline:
            x.deadline = self.deadline
        x.caller_deadline = x.deadline
        self.x = record.x = x
        inner = self._inner = InnerExchange(x, plan.max_body, self._took, gathering.allowance)
        inner.start(plan.pipeline_of(x))

    def _took(self, inner: InnerExchange) -> None:
        """Take the answer."""
        self._inner = None
        gathering, plan = self._gathering, self.plan
        outcome = inner.outcome
        assert outcome is not None
        if inner.error is not None:
            gathering.report_bug(plan, inner.error)
        self.record.outcome = outcome
        allowance, size = gathering.allowance, len(outcome.body)
        left = size + allowance.left if allowance.left > 0 else size
        result = evaluate(outcome, plan, plan.max_body if plan.max_body < left else left, gathering.is_merged)
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
        if self._list is None:
            self._gathering.end(self.plan, result, now, self)
        else:
            self._list.take(self, result, now)
        if followers is not None:
            for follower in followers:
                follower._end(result, "duplicate", now)

    def cancel(self) -> None:
        """Cancel the request if it is in flight."""
        inner, self._inner = self._inner, None
        record = self.record
        if not record.ended:
            record.ended = self._gathering.now()
            record.result = "cancelled"
        self._followers = None
        if self._list is not None:
            self._list.asks = []  # breaks a reference cycle
        if inner is not None:
            inner.cancel()


def evaluate(outcome: Outcome, plan: PartPlan, limit: int, is_merged: bool) -> Result:
    """Return the result of a request by its outcome; `limit` holds for the decoded body too."""
    failure = outcome.failure
    if failure is not None:
        detail = outcome.refusal.detail or outcome.cause or failure.title
        return Result(None, failure.code, detail, outcome)
    status = outcome.status
    if not 200 <= status < 300:
        return Result(None, str(status), f"the answer has the status {status}", outcome)
    head, text = plan.head_of(outcome), outcome.body
    if not text:
        return Result(Value(NULL), "", "", outcome, head)
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
    return Result(Value(text), "", "", outcome, head)
