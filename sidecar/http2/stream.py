"""One stream of an HTTP/2 connection (RFC 9113 5.1), and the table of its states.

    from                  to                    when
    --------------------  --------------------  ------------------------------------------
    OPEN                  HALF_CLOSED_LOCAL     we have sent END_STREAM
    OPEN                  HALF_CLOSED_REMOTE    the peer has sent END_STREAM
    HALF_CLOSED_LOCAL     CLOSED                the peer has sent END_STREAM
    HALF_CLOSED_REMOTE    CLOSED                we have sent END_STREAM
    any                   CLOSED                one of the two has sent RST_STREAM

A stream is idle before it has an object, and reserved never: nothing is pushed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.http2.heads import Head

OPEN: Final = 0
HALF_CLOSED_LOCAL: Final = 1
HALF_CLOSED_REMOTE: Final = 2
CLOSED: Final = 3
STATES: Final = ("OPEN", "HALF_CLOSED_LOCAL", "HALF_CLOSED_REMOTE", "CLOSED")
"""Names of the states, by number."""
SENT_END: Final = HALF_CLOSED_LOCAL
RECEIVED_END: Final = HALF_CLOSED_REMOTE
RESET: Final = CLOSED
"""Events, as the bits that they set in a state: one for each side that is closed."""

NOTHING: Final[frozenset[bytes]] = frozenset()


class Stream:
    """Stream of one request and its response.  The owner keeps what is its own in `user`."""

    __slots__ = (
        "content", "credit", "ending", "ends_after_pending", "expected", "fault", "forbids_content", "has_final_head",
        "has_sent_head", "held", "id", "is_queued", "marks", "paused", "pending", "received", "state", "taken",
        "trailers", "unsent", "user", "waits", "window",
    )  # fmt: skip

    def __init__(self, number: int, window: int, credit: int) -> None:
        self.id = number
        self.state = OPEN
        self.window = window
        """Bytes that the peer lets us send; negative after it has lowered its initial window."""
        self.credit = credit
        """Bytes that we let the peer send."""
        self.taken = 0
        """Bytes that were taken and not given back to the peer yet."""
        self.paused = False
        """True while nothing is given back, because nobody takes what arrives."""
        self.has_final_head = False
        """True once the request's or the final response's head has arrived: what follows it are trailers."""
        self.has_sent_head = False
        """True once we have sent that of our own."""
        self.received = 0
        """Bytes of content."""
        self.expected = -1
        """Bytes of content that its head has announced; negative if it has not."""
        self.forbids_content = False
        """True for a response that has none, whatever its head says (HEAD, 204, 304)."""
        self.pending: list[bytes] = []
        """Pieces that wait for a window."""
        self.unsent = 0
        """Bytes in them."""
        self.held: list[bytes] | None = None
        """Content of small frames that is delivered at the end of the read; None without any."""
        self.waits = False
        """True if the owner was told that pieces wait, and is told when they are out."""
        self.is_queued = False
        """True while the stream is in the line for the connection's window."""
        self.ends_after_pending = False
        self.trailers: bytes | None = None
        """Trailers that wait behind those pieces; None if there are none."""
        self.marks: frozenset[bytes] = NOTHING
        """Names of fields in those trailers that go out as never indexed."""
        self.fault = ""
        """Words on what the peer has done wrong, for which we have reset the stream; empty if we have not."""
        self.content: bytes | None = None
        """Content of a message that arrived whole with its head (`Session.joins_content`); None for any other."""
        self.ending: Head | None = None
        """Trailers that arrived with head and content; None for any other message."""
        self.user: object = None

    @property
    def can_send(self) -> bool:
        """True until we have ended our side."""
        return not self.state & SENT_END

    @property
    def can_receive(self) -> bool:
        """True until the peer has ended its side."""
        return not self.state & RECEIVED_END

    @property
    def has_pending(self) -> bool:
        """True if something waits to be sent."""
        return bool(self.pending) or self.trailers is not None

    def move(self, event: int) -> bool:
        """Go to the state that follows; return True if that is CLOSED."""
        self.state = state = self.state | event
        return state == CLOSED

    def __repr__(self) -> str:
        return f"<Stream {self.id} {STATES[self.state]}>"
