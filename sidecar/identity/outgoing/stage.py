"""Stage `credentials`: puts the sidecar's own credential into every request to an upstream.

Rules:

1. It is the innermost stage, so that each attempt of a retry or a hedge has the credential of its moment, and nothing
   further out sees it.  The request is restored once its response is there.
2. What a client has sent under the field's name, or under a twin of it, is dropped, also from the trailers.
3. Without a credential the request is refused with `no_credentials` (503).  The upstream is not to blame.
4. An upstream that rejects the credential (401, or UNAUTHENTICATED of gRPC) gets the request once more with another
   one, if there is one and the body can be sent again.  It has not acted on the request, so the method does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import NO_CREDENTIALS, UNAUTHENTICATED_STATUS, Outcome, Refusal, failed
from sidecar.core.stage import Service, Wait, unbound
from sidecar.identity.forwarding import Forwarding
from sidecar.identity.outgoing.source import Credentials

REJECTED: Final = (401, UNAUTHENTICATED_STATUS)
"""Verdicts on answers that reject the credential."""
ABSENT: Final = "The sidecar has no credentials for the upstream {}."
WHY: Final = "credentials"
"""Reason of the repeated attempt (`Attempt.why`)."""


class Equipped:
    """Ticket of a request that has the credential: the fields that it came with, and the value that was added."""

    __slots__ = ("_is_changed", "_parsed", "_raw", "value")

    def __init__(self, x: Exchange, value: bytes) -> None:
        self._parsed: Headers | None = x.parsed
        self._raw = x.raw
        self._is_changed = True
        self.value = value
        """Value of the field; empty once the upstream has rejected it."""

    def restore(self, x: Exchange) -> None:
        """Set the fields of the request back, once."""
        if self._is_changed:
            self._is_changed = False
            x.parsed, x.raw = self._parsed, self._raw


class CredentialsStage:
    """Stage of one pipeline to an upstream."""

    def __init__(self, upstream: str, source: Credentials, where: str, env: Env) -> None:
        self.inner: Service = unbound
        self._upstream = upstream
        self._source = source
        self._where = where
        self._now: Callable[[], float] = env.now
        self._field = source.field
        self._others = Forwarding([source.field])

    def admit(self, x: Exchange) -> Equipped | Wait:
        value = self._source.value(self._now())
        return self._equip(x, value) if value else Wait(self._obtain(x))

    async def _obtain(self, x: Exchange) -> Equipped | Outcome:
        """Wait for a credential; return the ticket, or the refusal if there is none."""
        value = await self._source.obtain(x.deadline)
        if value:
            return self._equip(x, value)
        after = self._source.retry_after(self._now())
        refusal = Refusal(WHY, self._where, ABSENT.format(self._upstream), retry_after=after)
        return failed(NO_CREDENTIALS, refusal, self._source.problem)

    def _equip(self, x: Exchange, value: bytes) -> Equipped:
        ticket = Equipped(x, value)
        lines = x.lines
        x.lines = lines  # a list of pairs is shared with forks of the request, so the fields are changed as lines
        self._others.apply(x, None, lines, b"\n" + lines.lower())
        x.add_lines(b"%b: %b\r\n" % (self._field, value))
        return ticket

    def answer(self, x: Exchange, ticket: Equipped, outcome: Outcome) -> Outcome | Wait:
        ticket.restore(x)
        if outcome.verdict not in REJECTED or outcome.failure is not None:
            return outcome
        rejected, ticket.value = ticket.value, b""
        if not self._source.reject(rejected) or not x.is_replayable:
            return outcome
        return Wait(self._repeat(x, rejected, outcome))

    async def _repeat(self, x: Exchange, rejected: bytes, outcome: Outcome) -> Outcome:
        """Send a request once more with another credential; without one, return the first answer."""
        value = await self._source.obtain(x.deadline)
        if not value or value == rejected:
            return outcome
        outcome.discard()
        if x.stream is not None:
            x.stream.rewind()
        twin = x.fork(max(x.attempt + 1, len(x.attempts) + 1), WHY)
        ticket = self._equip(twin, value)
        try:
            return await self.inner(twin)
        finally:
            ticket.restore(twin)

    def settle(self, x: Exchange, ticket: Equipped, outcome: Outcome) -> None:
        ticket.restore(x)
        if outcome.verdict == UNAUTHENTICATED_STATUS and outcome.failure is None and ticket.value:
            self._source.reject(ticket.value)  # the status came late, in the trailers

    def __repr__(self) -> str:
        return f"<CredentialsStage {self._upstream}>"
