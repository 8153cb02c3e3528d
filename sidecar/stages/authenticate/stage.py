"""Stage `authenticate`: identifies the caller by one of several identities, and refuses all others.

Rules:

1. The identities are asked in order, and the first that accepts the credentials names the caller.
2. Without credentials the answer is 401 without an error code; a wrong token gets `invalid_token`, and ambiguous ones
   400 with `invalid_request`; without a bearer token there is no such word (RFC 6750 3.1).  Every 401 names all schemes
   in WWW-Authenticate (RFC 9110 11.6.1).  What an external server refuses with 403 gets 403.
3. If an identity cannot tell by the deadline of the request and no other accepts, the answer is 503 with Retry-After.
4. A client learns no more than these words.  The reason is in the access log and in the span.
5. A token that was verified before is judged at the instant at which the head of its request was complete.
6. `mode: observe` lets all requests pass, counts those that would have been refused, and keeps their responses out of
   caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import CRITICALITIES, Caller, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import BAD_CREDENTIALS, FORBIDDEN, UNAUTHENTICATED, UNVERIFIABLE, Outcome, Refusal, failed
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Stage, Wait
from sidecar.http2.hpack import never_index
from sidecar.identity.credentials import (
    AUTHORIZATION,
    LINE_FEED,
    LONGEST_LINES,
    NAMES,
    REQUEST_ID,
    USUAL,
    bearer_token,
    known_lines,
    token_tail,
)
from sidecar.identity.forwarding import Forwarding
from sidecar.identity.tokens import Entry, TokenCache, holds
from sidecar.identity.verdict import Identity, Rejection, Unavailable, Verdict, challenges
from sidecar.stages.authenticate.spec import Spec

ABSENT: Final = "The request has no credentials."
INVALID: Final = "The credentials are malformed, expired, revoked or invalid for another reason."
AMBIGUOUS: Final = "The request has more than one credential of a kind."
FORBIDS: Final = "The server that decides about callers refuses the request."
UNDECIDED: Final = "The credentials cannot be verified at present."
BEARER: Final = b"Bearer"
LONGEST_WAIT: Final = 3600.0
"""Most seconds for which a request without a deadline waits for an identity; each has a shorter timeout of its own."""
MOST_LATE: Final = 1024
"""Most identities of a route that go on although the deadline of their request has passed."""
IN_LINE: Final = 16
"""Bytes of the line X-Request-Id besides its value."""


class Authenticator:
    """Stage of one route.  A ticket is always None."""

    __slots__ = (
        "_caches", "_challenges", "_env", "_find", "_first", "_forwarding", "_found", "_has_ranks", "_identities",
        "_keep", "_late", "_now", "_observed", "_optional", "_ranks", "_where",
    )  # fmt: skip

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self._identities: tuple[Identity, ...] = tuple(ctx.resources("identity", name) for name in spec.any_of)
        self._first: Callable[..., Any] = self._identities[0].authenticate
        self._caches: list[TokenCache] = []
        """Caches of the first identities, up to the first that has none."""
        for identity in self._identities:
            if (cache := getattr(identity, "tokens", None)) is None:
                break
            self._caches.append(cache)
        self._found: list[Any] = [None]
        """Entry of the lines that `_find` has found last."""
        known = known_lines(self._found)
        self._find: Callable[[bytes, bytes], bytes | None] = known.find
        self._keep: Callable[[bytes, bytes, object], None] = known.keep
        self._optional = spec.optional
        self._where = ctx.where
        self._env = ctx.env
        self._late = 0
        """Identities that go on although the deadline of their request has passed."""
        self._now: Callable[[], float] = ctx.env.now
        self._ranks: Mapping[str, str] = ctx.resources("criticality", ctx.route)
        """Criticality of callers by their ID."""
        self._has_ranks = bool(self._ranks)
        forward, token = spec.forward, None
        if forward.token is not None:
            from sidecar.stages.authenticate.caller_token import CallerToken  # loads cryptography

            token = CallerToken(forward.token, ctx)
        fields = {identity.field for identity in self._identities} - {b""}
        never_index(fields)
        if forward.token is not None:
            never_index((forward.token.header.encode().lower(),))
        self._forwarding = Forwarding(
            ctx.resources("caller_fields", ctx.route),
            (forward.caller or "").encode(),
            {claim: name.encode() for claim, name in forward.claims.items()},
            fields if forward.credentials == "drop" else (),
            {identity.name: passed for identity in self._identities if (passed := getattr(identity, "answered", ()))},
            token,
        )
        self._challenges = challenges(self._identities, ctx.service)
        self._observed: Counter | None = None
        """Counts requests that would have been refused; None to refuse them."""
        if not spec.is_enforced:
            self._observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="authenticate", route=ctx.route)

    def admit(self, x: Exchange) -> Outcome | Wait | None:
        lines = x.raw if x.parsed is None else x.lines
        if self._caches:
            find = self._find  # a method call is slow where the attribute holds a function
            forwarded: bytes | None = find(lines, x.request_id)
            if forwarded is not None:
                known: Entry = self._found[0]
                if (x.arrived or self._now()) < known.until and known.validity.is_current:
                    if x.stream is not None or self._has_ranks:
                        self._pass(x, known, forwarded)
                        return None
                    known.hits.value += 1  # inlined `_pass`
                    x.parsed = None
                    x.raw = forwarded
                    x.caller = known.caller
                    return None
            if self._is_known(x, lines):
                return None
        lower = b"\n" + lines.lower()
        if x.is_inner and x.caller is not None:
            if self._vouches_for(x.caller):
                self._accept(x, x.caller, lines, lower)
                return None
            x.caller = None  # known to the outer route only: a name means nothing under other identities
        found = self._first(x, lines, lower, self._now())
        if found.__class__ is Caller:
            self._accept(x, found, lines, lower)
            return None
        return self._go_on(x, 0, found, None, lines, lower)

    def _is_known(self, x: Exchange, lines: bytes) -> bool:
        """True if the request has one token, in the usual spelling, that is cached as accepted; the request then has
        its caller.  False leaves the request as it was."""
        tail = token_tail(lines)
        if tail is None:
            return False
        for cache in self._caches:
            candidate = cache.find(tail)
            if candidate is None or not holds(candidate, self._now()):
                continue
            forwarded = self._forward(candidate, lines, len(x.request_id) + IN_LINE if x.request_id else 0)
            if forwarded is not None:
                self._pass(x, candidate, forwarded)
                return True
        return False

    def _pass(self, x: Exchange, entry: Entry, forwarded: bytes) -> None:
        """Let a request with a cached token pass."""
        entry.hits.value += 1
        x.parsed = None
        x.raw = forwarded
        if x.stream is not None:
            self._forwarding.bar_trailers(x)
        x.caller = entry.caller
        if self._has_ranks:
            self._name(x, entry.caller)

    def _forward(self, entry: Entry, lines: bytes, rest: int) -> bytes | None:
        """Return the field lines that go on for a cached token, and keep them but for X-Request-Id; None if the token
        is another one, or if the lines need a closer look.

        `rest` is the length of the line X-Request-Id, 0 without it.
        """
        size = len(lines) - rest
        if not lines.startswith(REQUEST_ID, size):
            size = len(lines)
        given, own_id = lines[:size], lines[size:]
        at = given.find(USUAL) - 1
        start = at + 1 + len(USUAL)
        end = given.find(b"\n", start) - 1
        if at < 0 or end - start != len(entry.token) or not given.startswith(entry.token, start):
            return None
        if not given.startswith(NAMES, at) or (at and given[at - 1] != LINE_FEED):
            return None  # the end of another field's name
        others = given[:at] + given[end + 2 :]
        lower = others.lower()
        forwarding = self._forwarding
        if lower.find(AUTHORIZATION) >= 0 or not forwarding.is_clean(lower):
            return None
        forwarded = (others if forwarding.drops_authorization else given) + forwarding.lines_of(entry.caller)
        if size <= LONGEST_LINES and not forwarding.is_renewed:
            self._keep(given, forwarded, entry)
        return forwarded + own_id

    def _vouches_for(self, caller: Caller) -> bool:
        """True if one of the identities has vouched for the caller of an inner request, on its outer route."""
        return any(identity.name == caller.identity for identity in self._identities)

    def _go_on(
        self, x: Exchange, index: int, found: Any, worst: Rejection | Unavailable | None, lines: bytes, lower: bytes
    ) -> Outcome | Wait | None:
        """Continue after the verdict `found` of the identity at `index`; `worst` is that of the earlier ones."""
        identities = self._identities
        while True:
            if found.__class__ is Caller:
                self._accept(x, found, lines, lower)
                return None
            if found.__class__ is Wait:
                return Wait(self._wait(x, index, found, worst, lines, lower))
            if found is not None:
                worst = graver(worst, found)
            index += 1
            if index == len(identities):
                return self._refuse(x, worst, lines, lower)
            found = identities[index].authenticate(x, lines, lower, self._now())

    async def _wait(
        self, x: Exchange, index: int, wait: Wait, worst: Rejection | Unavailable | None, lines: bytes, lower: bytes
    ) -> Outcome | None:
        """Wait for the verdict of an identity, then go on."""
        found = await self._told(x, index, wait)
        following = self._go_on(x, index, found, worst, lines, lower)
        return await following.awaited if isinstance(following, Wait) else following

    async def _told(self, x: Exchange, index: int, wait: Wait) -> Verdict | None:
        """Return the verdict of the identity at `index`; at the deadline of the request, that it cannot tell.

        It goes on after that, because its verdict may be cached for the next request, unless `MOST_LATE` do.
        """
        awaited = wait.awaited
        assert not isinstance(awaited, Promise)  # an identity waits in a coroutine
        told: Promise[Run[Any] | None] = Promise()
        run: Run[Any] = Run(awaited, partial(self._end, told))
        left = min(x.deadline - self._now(), LONGEST_WAIT)
        timer = self._env.call_later(max(0.0, left), told.resolve, None)
        try:
            ended = await told
        except asyncio.CancelledError:
            run.cancel()
            raise
        finally:
            timer.cancel()
        if ended is None:
            self._late += 1
            if self._late > MOST_LATE:
                run.cancel()
            return Unavailable(f"{self._identities[index].name} has not told by the deadline of the request")
        if ended.error is not None:
            raise ended.error
        verdict: Verdict | None = ended.value
        return verdict

    def _end(self, told: Promise[Run[Any] | None], run: Run[Any]) -> None:
        """Tell that an identity has come to an end; if the request does not wait any more, only a bug is told."""
        if told.done() and not told.cancelled():
            self._late -= 1
            if isinstance(run.error, Exception):
                self._env.emit(events.BUG, where=f"{self._where}: authenticate", error=run.error)
        told.resolve(run)

    def _accept(self, x: Exchange, caller: Caller, lines: bytes, lower: bytes) -> None:
        self._name(x, caller)
        self._forwarding.apply(x, caller, lines, lower)

    def _name(self, x: Exchange, caller: Caller) -> None:
        """Set the caller of a request, and its criticality if the caller has one."""
        x.caller = caller
        if self._ranks and (rank := self._ranks.get(caller.id)) is not None:
            own = CRITICALITIES[rank]
            if x.is_inner:  # no more important than the request it is made for
                own = max(own, x.criticality)
            x.criticality = own if x.stated_criticality < 0 else max(own, x.stated_criticality)

    def _refuse(
        self, x: Exchange, verdict: Rejection | Unavailable | None, lines: bytes, lower: bytes
    ) -> Outcome | None:
        """Refuse a request, or let it pass as anonymous."""
        if verdict is None and self._optional:
            self._forwarding.apply(x, None, lines, lower)
            return None
        if self._observed is not None:
            self._observed.value += 1
            x.is_unverified = True
            self._note(x, verdict, "observe")
            self._forwarding.apply(x, None, lines, lower)
            return None
        self._note(x, verdict, "enforce")
        if isinstance(verdict, Unavailable):
            refusal = Refusal("authenticate", self._where, UNDECIDED, retry_after=verdict.retry_after)
            return failed(UNVERIFIABLE, refusal, verdict.cause)
        if verdict is None:
            return self._challenge(failed(UNAUTHENTICATED, Refusal("authenticate", self._where, ABSENT)), b"", b"")
        has_token = bearer_token(lines, lower) is not None  # otherwise another credential is wrong
        if verdict.is_ambiguous:
            refusal = Refusal("authenticate", self._where, AMBIGUOUS)
            error = b"invalid_request" if has_token else b""
            return self._challenge(failed(BAD_CREDENTIALS, refusal, verdict.cause), error, b"")
        if verdict.is_forbidden:
            return failed(FORBIDDEN, Refusal("authenticate", self._where, FORBIDS), verdict.cause)
        refusal = Refusal("authenticate", self._where, INVALID)
        error = b"invalid_token" if has_token else b""
        return self._challenge(failed(UNAUTHENTICATED, refusal, verdict.cause), error, verdict.challenge)

    def _challenge(self, outcome: Outcome, error: bytes, other: bytes) -> Outcome:
        """Add WWW-Authenticate to a refusal; `other` is the challenge of an external server, empty without one."""
        for scheme, challenge in self._challenges:
            value = b'%b, error="%b"' % (challenge, error) if error and scheme == BEARER else challenge
            outcome.add(b"www-authenticate", value)
        if other:
            outcome.add(b"www-authenticate", other)
        return outcome

    @staticmethod
    def _note(x: Exchange, verdict: Rejection | Unavailable | None, mode: str) -> None:
        if x.trace is not None:
            x.trace.note(events.UNVERIFIED, reason=ABSENT if verdict is None else verdict.cause, mode=mode)


class ClaimFilter:
    """Stage of a route without `authenticate`, whose upstream gets claims about callers from other routes."""

    __slots__ = ("_forwarding",)

    def __init__(self, fields: frozenset[bytes]) -> None:
        self._forwarding = Forwarding(fields)

    def admit(self, x: Exchange) -> None:
        """Drop what the client claims; an inner request has only what its outer route has said."""
        if x.is_inner:
            return
        lines = x.lines
        self._forwarding.apply(x, None, lines, lines.lower())


def graver(one: Rejection | Unavailable | None, other: Any) -> Rejection | Unavailable:
    """Return the verdict that decides: one that is undecided, else the rejection that tells most."""
    if one is None or isinstance(other, Unavailable):
        return other  # type: ignore[no-any-return]
    if isinstance(one, Unavailable) or other.is_foreign:
        return one
    return other if one.is_foreign or other.is_ambiguous else one


def claim_filter(fields: frozenset[bytes]) -> Stage:
    """Return a stage that drops fields about the caller."""
    return ClaimFilter(fields)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return Authenticator(spec, ctx)
