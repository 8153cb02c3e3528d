"""Body of an answer of which one part streams: the text before the part, the part as it arrives, and the text after it.

Rules:

1. All other parts have ended before, so that the head is that of the whole answer.
2. At most `sidecar.core.body.HIGH_WATER` and one read of the part are in memory.
3. The text of the part is checked as it passes (`sidecar.transform.structure`).  A text that is wrong, too long or
   broken off breaks off the answer, as no status can say so any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core.body import HIGH_WATER, OPEN, Body
from sidecar.core.exchange import Part
from sidecar.core.message import Headers
from sidecar.core.outcome import ANSWER_TOO_LARGE, CLIENT_CLOSED, PART_FAILED, Failure, Outcome
from sidecar.stages.aggregate.texts import NULL
from sidecar.transform.jsonbody import InvalidBody
from sidecar.transform.structure import Structure
from sidecar.transform.validators import coding_of, is_json

HOLE: Final = b"\0"
"""Text in place of a part that streams; no JSON has it."""


def body_to_stream(outcome: Outcome) -> Body | None:
    """Return the body of a part's answer if it can stream; None for one that is held and checked as a whole.

    That is one without success, one that is known to be short, one with a content coding, and one that is not JSON.
    """
    stream = outcome.stream
    if outcome.failure is not None or not 200 <= outcome.status < 300 or outcome.tunnel is not None:
        return None
    size = len(outcome.body) if stream is None else stream.length
    if (size is not None and size <= HIGH_WATER) or coding_of(outcome):
        return None
    if not is_json(outcome.header(b"content-type")):
        return None
    return Body.of(outcome.body, []) if stream is None else stream


class PartStream:
    """Body of a part on its way into the answer: the sink of the part, and the source of the answer."""

    __slots__ = ("_body", "_now", "_structure", "_suffix", "limit", "record", "stream")

    def __init__(self, stream: Body, record: Part, limit: int, now: Callable[[], float]) -> None:
        """`record` is that of the part, `limit` is in bytes, and `now` returns the instant."""
        self.stream = stream
        """Body of the part."""
        self.record = record
        """Record of the part, whose end is that of its body."""
        self.limit = limit
        """Most bytes of the body."""
        self._now = now
        self._structure = Structure()
        self._suffix = b""
        self._body: Body | None = None

    def splice(self, text: bytes) -> Body:
        """Return the body of the answer with this text, in which the part goes in place of `HOLE`."""
        prefix, _, self._suffix = text.partition(HOLE)
        length = self.stream.length
        body = self._body = Body(self, None if length is None else length + len(text) - len(HOLE))
        body.feed(prefix)
        self.stream.attach(self)
        return body

    def cancel(self, failure: Failure = CLIENT_CLOSED) -> None:
        """Discard the body of the part."""
        self.stream.cancel(failure)

    def _end(self, reason: str = "", result: str = "failed") -> None:
        self.record.ended = self._now()
        if reason:
            self.record.reason, self.record.result = reason, result

    def _break_off(self, failure: Failure, reason: str, cause: str) -> None:
        """Break off the answer."""
        self._end(reason)
        body = self._body
        if body is not None:
            body.fail(failure, f"the part {self.record.name} {cause}")

    # ----- sink of the part

    def write(self, data: bytes) -> None:
        body = self._body
        if body is None or body.state != OPEN:
            return
        if self.stream.received > self.limit:
            self.stream.cancel(ANSWER_TOO_LARGE)
            self._break_off(ANSWER_TOO_LARGE, ANSWER_TOO_LARGE.code, f"is longer than {self.limit} bytes")
            return
        try:
            self._structure.feed(data)
        except InvalidBody as error:
            self.stream.cancel(PART_FAILED)
            self._break_off(PART_FAILED, "invalid", str(error))
            return
        body.feed(data)

    def finish(self, trailers: Headers) -> None:
        body = self._body
        if body is None or body.state != OPEN:
            return
        try:
            self._structure.finish()
        except InvalidBody as error:
            self._break_off(PART_FAILED, "invalid", str(error))
            return
        self._end()
        body.feed(NULL + self._suffix if self._structure.is_empty else self._suffix)
        body.finish()

    def fail(self, failure: Failure) -> None:
        cause = self.stream.cause or failure.title
        self._break_off(failure if failure.origin == "client" else PART_FAILED, failure.code, f"broke off: {cause}")

    # ----- source of the answer

    def pause_body(self) -> None:
        self.stream.pause()

    def resume_body(self) -> None:
        self.stream.resume()

    def cancel_body(self) -> None:
        failure = CLIENT_CLOSED if self._body is None or self._body.failure is None else self._body.failure
        self._end(failure.code, "cancelled")
        self.stream.cancel(failure)

    def __repr__(self) -> str:
        return f"<PartStream {self.record.name} {self.stream!r}>"
