"""Cache of verdicts on tokens, by the digest of the token.

Rules:

1. An accepted token is kept for `ACCEPTED_FOR` at most, and never beyond its end; a rejected one for `REJECTED_FOR`.
2. A verdict that rests on a key ends when the key leaves its set.
3. Accepted and rejected tokens have separate tables with bounds, so that a flood of forged tokens evicts no accepted
   one.  The oldest is evicted first: all are kept for about the same time.
4. A request with an accepted token in the usual spelling is found by the last bytes of the token, then compared as a
   whole: a digest of the token would cost more than the rest of the look-up.  So accepted tokens are in memory for as
   long as their verdicts; rejected ones are known by their digests only.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import Caller
from sidecar.core.metrics import Counter
from sidecar.identity.credentials import TAIL
from sidecar.identity.verdict import Rejection

if TYPE_CHECKING:
    from sidecar.identity.keys import Key

ACCEPTED_FOR: Final = 60.0
"""Most seconds for which an accepted token is not verified again."""
REJECTED_FOR: Final = 5.0
"""Seconds for which a rejected token is rejected without being verified."""
MOST_ACCEPTED: Final = 10_000
"""Most accepted tokens that are kept."""
MOST_BYTES: Final = 16 * 2**20
"""Most bytes of accepted tokens and of their claims."""
MOST_REJECTED: Final = 4_000
"""Most rejected tokens that are kept."""


class Validity:
    """Validity of all verdicts that rest on one key."""

    __slots__ = ("is_current",)

    def __init__(self) -> None:
        self.is_current = True
        """False once the key has left its set."""


class Entry:
    """Verdict on an accepted token."""

    __slots__ = ("caller", "hits", "size", "token", "until", "validity")

    def __init__(
        self, caller: Caller, validity: Validity, until: float, size: int, token: bytes, hits: Counter
    ) -> None:
        self.caller = caller
        self.validity = validity
        """Validity of the key that has verified the token."""
        self.until = until
        """Instant at which the verdict ends."""
        self.size = size
        """Bytes that count towards `MOST_BYTES`."""
        self.token = token
        """The token; empty if it is known by its digest only."""
        self.hits = hits
        """Counts requests whose token was found accepted."""


ASKED: Final = Validity()
"""Validity of verdicts that rest on no key, because the issuer was asked."""


class TokenCache:
    """Verdicts of one identity."""

    __slots__ = ("_accepted", "_by_tail", "_bytes", "_most_accepted", "_most_rejected", "_rejected", "hits")

    def __init__(
        self, hits: Counter | None = None, most_accepted: int = MOST_ACCEPTED, most_rejected: int = MOST_REJECTED
    ) -> None:
        """`most_accepted` and `most_rejected` bound the tokens that are kept."""
        self._most_accepted = most_accepted
        self._most_rejected = most_rejected
        self.hits = Counter() if hits is None else hits
        """Counts requests whose token was found accepted."""
        self._accepted: dict[bytes, Entry] = {}
        self._by_tail: dict[bytes, Entry] = {}
        """Accepted tokens by their last `TAIL` bytes; of those that have them in common, the last one."""
        self._rejected: dict[bytes, tuple[Rejection, float]] = {}
        self._bytes = 0

    @staticmethod
    def digest(token: bytes) -> bytes:
        """Return the digest of a token."""
        return sha256(token).digest()

    def get(self, digest: bytes, now: float) -> Caller | Rejection | None:
        """Return the verdict on a token; None if there is none that still holds."""
        entry = self._accepted.get(digest)
        if entry is not None:
            if holds(entry, now):
                return entry.caller
            self._drop(digest, entry)
            return None
        known = self._rejected.get(digest)
        if known is None:
            return None
        if now < known[1]:
            return known[0]
        del self._rejected[digest]
        return None

    def find(self, tail: bytes) -> Entry | None:
        """Return the accepted token with these last bytes; None if there is none.

        The caller compares the whole token, and checks that the verdict `holds`.
        """
        return self._by_tail.get(tail)

    def accept(
        self, digest: bytes, caller: Caller, key: Key | None, until: float, size: int, token: bytes = b""
    ) -> None:
        """Keep the verdict on an accepted token of `size` bytes until the instant `until`.

        With `token`, `find` finds it.
        """
        size += len(token)
        accepted = self._accepted
        if (known := accepted.get(digest)) is not None:
            self._drop(digest, known)
        while accepted and (len(accepted) >= self._most_accepted or self._bytes + size > MOST_BYTES):
            oldest = next(iter(accepted))
            self._drop(oldest, accepted[oldest])
        validity = ASKED if key is None else key.validity
        accepted[digest] = entry = Entry(caller, validity, until, size, token, self.hits)
        self._bytes += size
        if len(token) > TAIL:
            self._by_tail[token[-TAIL:]] = entry

    def reject(self, digest: bytes, rejection: Rejection, now: float) -> None:
        """Keep the verdict on a rejected token."""
        rejected = self._rejected
        if len(rejected) >= self._most_rejected:
            del rejected[next(iter(rejected))]
        rejected[digest] = (rejection, now + REJECTED_FOR)

    def __len__(self) -> int:
        return len(self._accepted)

    def _drop(self, digest: bytes, entry: Entry) -> None:
        del self._accepted[digest]
        self._bytes -= entry.size
        tail = entry.token[-TAIL:]
        if tail and self._by_tail.get(tail) is entry:
            del self._by_tail[tail]

    def __repr__(self) -> str:
        return f"<TokenCache {len(self._accepted)} accepted, {len(self._rejected)} rejected>"


def holds(entry: Entry, now: float) -> bool:
    """True if the verdict on an accepted token holds at the instant `now`."""
    return now < entry.until and entry.validity.is_current
