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
6. A part that streams ends last: once its head has come, it waits for the others (`streaming.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from sidecar.cache.rfc.lines import without
from sidecar.core import events, metrics
from sidecar.core.body import Body
from sidecar.core.env import Env
from sidecar.core.exchange import NEVER, SHORTEST_ANSWER, Caller, Exchange, Part
from sidecar.core.outcome import ANSWER_TOO_LARGE, INTERNAL, PART_FAILED, Failure, Outcome, Refusal, failed
from sidecar.core.promise import Promise
from sidecar.core.stage import Wait
from sidecar.engine.inner import Allowance, InnerExchange
from sidecar.stages.aggregate.answer import Answer
from sidecar.stages.aggregate.heads import NO_HEAD, Answered, read_head, remembered
from sidecar.stages.aggregate.lifetime import NO_STORE
from sidecar.stages.aggregate.spec import EachSpec
from sidecar.stages.aggregate.streaming import HOLE, PartStream, body_to_stream
from sidecar.stages.aggregate.targets import PartPlan
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
EMPTY: Final = Answered(NO_HEAD, Value(b"[]"))
"""Answer of a part whose list is empty."""
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


class Failed:
    """Failure of a part, or of one of its requests."""

    __slots__ = ("detail", "outcome", "reason")

    def __init__(self, reason: str, detail: str, outcome: Outcome | None) -> None:
        self.reason = reason
        """Reason, as in `Part.reason`."""
        self.detail = detail
        """Description."""
        self.outcome = outcome
        """Outcome of the request; None if none was made."""


class Item:
    """Place of a request in the list of a part."""

    __slots__ = ("list", "number")

    def __init__(self, of: ListRun, number: int) -> None:
        self.list = of
        self.number = number
        """Index among the requests of the list."""


class Follower:
    """Request that is the same as one in flight, and waits for its result."""

    __slots__ = ("item", "plan", "record")

    def __init__(self, plan: PartPlan, record: Part, item: Item | None) -> None:
        self.plan = plan
        self.record = record
        self.item = item
        """Place in a list; None without a list."""


class Gathering:
    """Parts of one request, from the start of the first to the whole answer."""

    __slots__ = (
        "_answer", "_env", "_outcomes", "_plans", "_promise", "_speaks", "_streamed", "_unfinished", "_waiting",
        "_waits", "_where", "absent",
        "allowance", "asked", "asks", "is_over", "lines", "missing", "now", "outcome", "parts", "scope",
        "values", "x",
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
        self.asks: list[Ask] = []
        """Requests that were sent; empty once the whole has ended."""
        self.asked: dict[tuple[object, ...], Ask] = {}
        """Requests that may be made once for several, by their identity; empty once the whole has ended."""
        self.parts: list[Part] = []
        """Records of all requests."""
        x.parts = self.parts
        self.scope = Scope(x, self.values)
        """Values that texts may refer to."""
        self.lines = lines
        """Fields of all parts."""
        self.allowance = Allowance(max_size)
        """Bytes that are left for all bodies."""
        self.now: Callable[[], float] = env.now
        """Function that returns the instant."""
        self._speaks = False
        """True once an answer has said something about storing."""
        self._outcomes: list[Outcome | None] = [None] * len(plans)
        """Outcomes of the parts with an answer of their own, in the order of the file; None for the others."""
        self._plans = plans
        self._answer = answer
        self._env = env
        self._where = where
        self._waiting = [len(plan.needs) for plan in plans]
        """Number of parts that each part still waits for."""
        self._unfinished = len(plans)
        self._waits: Ask | None = None
        """Request whose body streams once all other parts have ended; None without one."""
        self._streamed: PartStream | None = None
        """Body that streams in the answer; None without one."""
        self._promise: Promise[Outcome] | None = None
        """Promise of the outcome; None if nobody waits."""

    def start(self) -> None:
        """Start the parts that need no other."""
        now = self.now()
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
        self._cancel_all()

    def _cancel_all(self) -> None:
        """Cancel the requests in flight, and start no more parts."""
        now = self.now()
        for record in self.parts:
            if not record.ended:
                record.ended = now
                record.result = "cancelled"
        for ask in self._close():
            ask.give_up()
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.cancel()

    def _close(self) -> list[Ask]:
        """Start no more parts, and return the requests that were sent."""
        self.is_over = True
        self._waits = None
        asks, self.asks = self.asks, []  # breaks reference cycles, which only the garbage collector would free
        self.asked.clear()
        return asks

    def _begin(self, plan: PartPlan, now: float) -> None:
        """Start a part, or end it at once if it cannot start."""
        for need in plan.needs:
            if need in self.absent:
                self._skip(plan, NEEDS, f"it needs the part {need}, which failed ({self.absent[need]})", now)
                return
        deadline = self.x.deadline
        left = deadline - now
        if left < plan.usual * HOPELESS or left < SHORTEST_ANSWER:
            plan.usual *= FORGET
            self._skip(plan, NO_TIME, "no time was left for it", now)
            return
        if plan.dependents and left != NEVER:
            tail = plan.tail * RESERVE
            if tail > 0.0:
                own = plan.usual or tail
                left = max(left - tail, left * own / (own + tail))
                deadline = now + left
        timeout = plan.timeout
        if timeout is not None and timeout < left:
            deadline = now + timeout
        if plan.each is None:
            self.ask(plan, plan.name, now, deadline, self.scope, None)
        else:
            self._begin_list(plan, plan.each, now, deadline)

    def ask(self, plan: PartPlan, name: str, now: float, deadline: float, scope: Scope, item: Item | None) -> None:
        """Make a request of a part, or wait for the same request of another one.

        `item` is its place in the list for whose items it is made; None without a list.
        """
        record = Part(name, None, "failed", now)
        self.parts.append(record)
        if item is not None:
            item.list.records.append(record)
        if now >= deadline:
            failure = Failed(NO_TIME, "no time was left for it", None)
            self.end_request(plan, record, item, failure, None, "skipped", now)
            return
        try:
            x = plan.make(self.x, scope, self.lines, now, deadline)
        except ValueMissing as error:
            failure = Failed(NO_VALUE, str(error), None)
            self.end_request(plan, record, item, failure, None, "skipped", now)
            return
        key = None
        if plan.may_repeat:
            key = plan.key_of(x)
            leader = self.asked.get(key)
            if leader is not None:
                if leader.result is not None:
                    self.end_request(plan, record, item, leader.result, leader.value, "duplicate", now)
                elif leader.followers is None:
                    leader.followers = [Follower(plan, record, item)]
                else:
                    leader.followers.append(Follower(plan, record, item))
                return
        record.x = x
        ask = Ask(self, plan, record, x, item)
        self.asks.append(ask)
        if key is not None:
            self.asked[key] = ask
        ask.start()

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
            self.end(plan, EMPTY, None, 0.0, now)
        else:
            ListRun(self, plan, each, items, now, deadline).begin()

    def _skip(self, plan: PartPlan, reason: str, detail: str, now: float) -> None:
        """End a part without a request."""
        record = Part(plan.name, None, "skipped", now)
        record.ended = now
        record.reason = reason
        self.parts.append(record)
        self.end(plan, Failed(reason, detail, None), None, 0.0, now)

    def report_bug(self, plan: PartPlan, error: BaseException) -> None:
        """Log a bug of a stage on the way of a part."""
        self._env.emit(events.BUG, where=f"the part {plan.name}", error=error)

    def break_off(self, plan: PartPlan, error: Exception) -> None:
        """Fail as a whole because of a bug that the end of a part has met."""
        self.report_bug(plan, error)
        self._cancel_all()
        self._resolve(failed(INTERNAL))

    # ----- ends of parts

    def end_request(
        self, plan: PartPlan, record: Part, item: Item | None, result: Answered | Failed, outcome: Outcome | None,
        word: str, now: float,
    ) -> None:  # fmt: skip
        """Take the result of a request; `word` is the one of a failure, or of a request that was not made."""
        record.ended = now
        if isinstance(result, Failed):
            record.reason = result.reason
            record.result = word
        else:
            record.result = "ok" if word == "failed" else word
        if item is None:
            self.end(plan, result, outcome, now - record.started, now, record)
        else:
            item.list.take(item.number, result, outcome, now)

    def end(
        self, plan: PartPlan, result: Answered | Failed, outcome: Outcome | None, seconds: float, now: float,
        record: Part | None = None, of: ListRun | None = None,
    ) -> None:  # fmt: skip
        """Take the result of a part, and start those that needed only it.

        `outcome` is that of its request, or of the first one of a list; None if none was made.  `seconds` is the time
        that it took.  `record` is that of its request, and `of` its list; None without one.
        """
        if self.is_over:
            return
        if isinstance(result, Answered):
            value, head = result.value, result.head
            usual = plan.usual
            plan.usual = usual + (seconds - usual) * MEMORY if usual else seconds
            if head.speaks:
                self._speaks = True
            if head.partial is not None and plan.name not in self.missing:
                self.missing[plan.name] = inner_names(plan.name, head.partial)
            self._outcomes[plan.number] = outcome
            counter = plan.succeeded
            if counter is None:
                counter = plan.succeeded = plan.counter(metrics.AGGREGATE_PARTS, "ok")
            counter.value += 1
        elif plan.is_required:
            self._fail(plan, result)
            return
        else:
            value = self._replace(plan, result, of.records if of is not None else [] if record is None else [record])
        self.values[plan.name] = value
        self._unfinished -= 1
        for each in plan.dependents:
            self._waiting[each.number] -= 1
            if self._waiting[each.number] == 0 and not self.is_over:
                self._begin(each, now)
        if self._unfinished == 0 and not self.is_over:
            self._conclude()
        elif self._unfinished == 1 and self._waits is not None:
            self.release(self._waits)

    def hold(self, ask: Ask) -> None:
        """Take a request whose head has come, and whose body streams once all other parts have ended."""
        self._waits = ask
        if self._unfinished == 1:
            self.release(ask)

    def release(self, ask: Ask) -> None:
        """End the part that streams, if it waits: all others have ended, or its body has broken off."""
        if self._waits is ask:
            self._waits = None
            ask.pass_on()

    def take_body(self, plan: PartPlan, record: Part, body: Body) -> Value:
        """Take a body that streams in the answer, and return the value that stands for it."""
        self._streamed = PartStream(body, record, plan.max_streamed, self.now)
        return Value(HOLE)

    def _replace(self, plan: PartPlan, failure: Failed, records: list[Part]) -> Value:
        """Return the first substitute that is there for a part that has failed, else null."""
        self.missing[plan.name] = (plan.name,)
        value: Value | None = None
        word = "failed"
        for substitute in plan.substitutes:
            if substitute is not None:
                value, word = substitute, "substituted"
            elif records and plan.each is None:
                value, word = self._stale(plan, records[0]), "stale"
            if value is not None:
                break
        else:
            word = "failed"
            self.absent[plan.name] = failure.reason
            value = Value(NULL, True)
        for record in records:
            if record.result == "failed":
                record.result = word
        plan.counter(metrics.AGGREGATE_PARTS, word).value += 1
        return value

    def _stale(self, plan: PartPlan, record: Part) -> Value | None:
        """Return the stale response of the cache that a request has met; None if there is none."""
        x = record.x
        if x is None or x.stale is None:
            return None
        outcome = x.stale()
        body = body_to_stream(outcome) if plan.streams else None
        if body is not None:
            return self.take_body(plan, record, body)
        if outcome.stream is not None:
            outcome.discard()
            return None
        self.allowance.left -= len(outcome.body)
        found = evaluate(outcome, plan, self.allowance)
        if isinstance(found, Failed):
            self.allowance.left += len(outcome.body)
            return None
        return found.value

    def _conclude(self) -> None:
        """Make the whole answer."""
        missing: list[str] = []
        if self.missing:
            for plan in self._plans:
                missing += self.missing.get(plan.name, ())
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        wall = self._env.wall() if self._speaks else 0.0
        made = self._answer.make(self.scope, outcomes, missing, self.parts, wall, self._speaks)
        if not missing:
            caller = self.x.caller
            for part in self.parts:
                inner = part.x
                if inner is not None and inner.caller is not caller and is_of_another(inner.caller, caller):
                    made.lines = NO_STORE + without(made.lines, frozenset((b"cache-control",)))
                    break
        streamed = self._streamed
        if streamed is not None and self.x.method == b"HEAD":
            streamed.cancel()
        elif streamed is not None:
            made.stream, made.body = streamed.splice(made.body), b""
        self._resolve(made)

    def _fail(self, plan: PartPlan, result: Failed) -> None:
        """Fail as a whole, since a required part has failed."""
        plan.counter(metrics.AGGREGATE_PARTS, "failed").value += 1
        self._cancel_all()
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


def is_of_another(caller: Caller | None, outer: Caller | None) -> bool:
    """True if the route of a part has found another caller by its own `authenticate` than the outer route.

    A cache keeps callers apart only by those that its own route knows.
    """
    return caller is not None and (outer is None or caller.digest() != outer.digest())


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

    __slots__ = (
        "_deadline", "_each", "_first", "_gathering", "_is_asking", "_items", "_left", "_outcome", "_plan", "_results",
        "_started", "records",
    )  # fmt: skip

    def __init__(
        self, gathering: Gathering, plan: PartPlan, each: EachSpec, items: list[bytes], now: float, deadline: float
    ) -> None:
        """`deadline` is the instant by which the part must end."""
        self.records: list[Part] = []
        """Records of the requests that were started, in the order of their items."""
        self._gathering = gathering
        self._plan = plan
        self._started = now
        self._deadline = deadline
        self._each = each
        size, values = each.batch or 1, [Value(item) for item in items]
        self._items = [values[at : at + size] for at in range(0, len(values), size)]
        """Items of each request."""
        self._left = self._first = len(self._items)
        self._results: list[Answered | Failed | None] = [None] * self._left
        """Results of the requests; None until their end."""
        self._outcome: Outcome | None = None
        """Outcome of the first request that has succeeded, in the order of the items; None before it."""
        self._is_asking = False
        """True while requests are being started."""

    def begin(self) -> None:
        """Start the first requests."""
        self._ask(self._started)

    def _ask(self, now: float) -> None:
        """Start requests until `at_once` are in flight.

        Those that end at once, such as hits of a cache, are not nested: their number is not bounded by the stack.
        """
        if self._is_asking:
            return
        self._is_asking = True
        most, total = self._each.at_once, len(self._items)
        while self._left and not self._gathering.is_over:
            started = len(self.records)
            if started == total or started - (total - self._left) >= most:
                break
            self._ask_next(now)
        self._is_asking = False

    def _ask_next(self, now: float) -> None:
        """Start the request for the next items."""
        gathering, plan, number = self._gathering, self._plan, len(self.records)
        scope = Scope(gathering.x, gathering.values, self._items[number], self._each.separator)
        gathering.ask(plan, f"{plan.name}[{number}]", now, self._deadline, scope, Item(self, number))

    def take(self, number: int, result: Answered | Failed, outcome: Outcome | None, now: float) -> None:
        """Take the result of one request."""
        gathering = self._gathering
        if gathering.is_over:
            return
        self._results[number] = result
        self._left -= 1
        if isinstance(result, Failed):
            if self._plan.is_required:
                gathering.end(self._plan, result, None, 0.0, now, None, self)
                return
        elif number < self._first:
            self._first, self._outcome = number, outcome
        if self._left == 0:
            self._end(now)
        else:
            self._ask(now)

    def _end(self, now: float) -> None:
        """End with a list of all results, in which an item that failed is null."""
        gathering, plan = self._gathering, self._plan
        texts: list[bytes] = []
        first = self._results[self._first if self._outcome is not None else 0]
        for result, items in zip(self._results, self._items, strict=True):
            if not isinstance(result, Answered):
                texts += [NULL] * len(items)
                gathering.missing[plan.name] = (plan.name,)
            elif self._each.batch is None:
                texts.append(result.value.text)
            else:
                found = items_of(result.value.document)
                texts += [result.value.text] if found is None else found
        if isinstance(first, Answered):
            answered = Answered(first.head, Value(b"[" + b",".join(texts) + b"]"))
            gathering.end(plan, answered, self._outcome, now - self._started, now, None, self)
        elif isinstance(first, Failed):
            gathering.end(plan, first, None, 0.0, now, None, self)


class Ask(InnerExchange):
    """Request of a part in flight."""

    __slots__ = ("_gathering", "_heard", "_held", "_item", "_plan", "_record", "followers", "result")

    def __init__(self, gathering: Gathering, plan: PartPlan, record: Part, x: Exchange, item: Item | None) -> None:
        pipeline = plan.pipeline if plan.pick is None else plan.pipeline_of(x)
        InnerExchange.__init__(self, pipeline, x, plan.max_body, None, gathering.allowance)
        self.result: Answered | Failed | None = None
        """Result; None until the end."""
        self.followers: list[Follower] | None = None
        """Requests that are the same, and wait for its result; None without any."""
        self._held: Body | None = None
        """Body that waits for the other parts; None without one."""
        self._heard = 0.0
        """Instant at which its head came."""
        self._gathering = gathering
        self._plan = plan
        self._record = record
        self._item = item

    def ended(self) -> None:
        """Take the head of a part that streams; collect the body of any other."""
        outcome = self.value
        body = None
        if self._plan.streams and outcome is not None and not self._is_given_up:
            body = body_to_stream(outcome)
        if body is None:
            InnerExchange.ended(self)
        elif max(body.length or 0, body.received) > self._plan.max_streamed:
            body.cancel(ANSWER_TOO_LARGE)
            self.value = failed(ANSWER_TOO_LARGE)
            self.report()
        else:
            self._stream = self._held = body  # `give_up` cancels it
            self._heard = self._gathering.now()
            self._gathering.hold(self)
            body.on_close(self._closed)

    def _closed(self, failure: Failure | None) -> None:
        """Fail at once if the body breaks off while it waits."""
        if failure is not None:
            self._gathering.release(self)

    def pass_on(self) -> None:
        """Take the head as the answer, unless the body has broken off."""
        outcome, body = self.value, self._held
        self._stream = self._held = None
        assert outcome is not None
        assert body is not None
        if body.failure is not None:
            self.value = failed(body.failure, cause=body.cause)
            self.report()
            return
        gathering, plan, record = self._gathering, self._plan, self._record
        try:
            record.outcome = outcome
            result = self.result = Answered(read_head(outcome), gathering.take_body(plan, record, body))
            gathering.end_request(plan, record, None, result, outcome, "failed", self._heard)
        except Exception as error:
            gathering.break_off(plan, error)

    def report(self) -> None:
        """Take the answer.  A bug fails the whole: raised here, it would end a connection, and the client waited."""
        gathering, plan, record, outcome = self._gathering, self._plan, self._record, self.value
        assert outcome is not None
        try:
            if self.error is not None:
                gathering.report_bug(plan, self.error)
            record.outcome = outcome
            result = self.result = evaluate(outcome, plan, gathering.allowance)
            now = gathering.now()
            gathering.end_request(plan, record, self._item, result, outcome, "failed", now)
            followers, self.followers = self.followers, None
            if followers is not None:
                for each in followers:
                    gathering.end_request(each.plan, each.record, each.item, result, outcome, "duplicate", now)
        except Exception as error:
            gathering.break_off(plan, error)


def evaluate(outcome: Outcome, plan: PartPlan, allowance: Allowance) -> Answered | Failed:
    """Return the result of a request by its outcome; `allowance` has counted its body, but not its decoded text."""
    failure = outcome.failure
    if failure is not None:
        detail = outcome.refusal.detail or outcome.cause or failure.title
        return Failed(failure.code, detail, outcome)
    status = outcome.status
    if not 200 <= status < 300:
        return Failed(str(status), f"the answer has the status {status}", outcome)
    latest, text = plan.latest, outcome.body
    head = latest.head
    if outcome.parsed is not None or outcome.raw != head.lines:
        head = read_head(outcome)
    elif text == latest.value.text and text and allowance.left >= 0:
        # A document that was opened has another spelling where it is encoded again.
        return latest if latest.value.opened is None else Answered(head, Value(text))
    if not text:
        plan.latest = remembered(latest, Answered(head, Value(NULL)), False)
        return Answered(head, Value(NULL))
    limit = min(plan.max_body, len(text) + allowance.left)
    if head.coding or len(text) > limit:
        body = read_body(outcome, limit)
        if body.problem is not None:
            reason = ANSWER_TOO_LARGE.code if body.problem.kind == "too_large" else INVALID
            return Failed(reason, f"the body {body.problem.detail}", outcome)
        assert body.document is not None
        assert body.document.text is not None
        text = body.document.text
        allowance.left -= max(0, len(text) - len(outcome.body))  # decoded, it is in memory as a whole
    else:
        try:
            text = checked(text)
        except InvalidBody as error:
            return Failed(INVALID, f"the body {error}", outcome)
    if text[0] <= BLANK or text[-1] <= BLANK:
        text = text.strip(SPACE)
    if plan.is_merged and text[:1] != b"{" and text != NULL:
        return Failed(INVALID, "the body is no object, and cannot be merged", outcome)
    answered = Answered(head, Value(text))
    plan.latest = remembered(latest, answered, text is outcome.body)
    return answered
