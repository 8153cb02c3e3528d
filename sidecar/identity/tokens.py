"""Cache of verdicts on tokens, by the digest of the token.

Rules:

1. An accepted token is kept for `ACCEPTED_FOR` at most, and never beyond its end; a rejected one for `REJECTED_FOR`.
2. A verdict that rests on a key ends when the key leaves its set.
3. Accepted and rejected tokens have separate tables with bounds, so that a flood of forged tokens evicts no accepted
   one.  The oldest is evicted first: all are kept for about the same time.
4. Tokens themselves are not kept, only their digests.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from sidecar.core.exchange import Caller
from sidecar.identity.keys import Key
from sidecar.identity.verdict import Rejection

ACCEPTED_FOR: Final = 60.0
"""Most seconds for which an accepted token is not verified again."""
REJECTED_FOR: Final = 5.0
"""Seconds for which a rejected token is rejected without being verified."""
MOST_ACCEPTED: Final = 10_000
"""Most accepted tokens that are kept."""
MOST_BYTES: Final = 8 * 2**20
"""Most bytes of accepted tokens, which bounds their claims."""
MOST_REJECTED: Final = 4_000
"""Most rejected tokens that are kept."""


class Entry:
    """Verdict on an accepted token."""

    __slots__ = ("caller", "key", "size", "until")

    def __init__(self, caller: Caller, key: Key | None, until: float, size: int) -> None:
        self.caller = caller
        self.key = key
        """Key that has verified the token; None if the issuer was asked."""
        self.until = until
        """Instant at which the verdict ends."""
        self.size = size


class TokenCache:
    """Verdicts of one identity."""

    __slots__ = ("_accepted", "_bytes", "_rejected")

    def __init__(self) -> None:
        self._accepted: dict[bytes, Entry] = {}
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
            if now < entry.until and (entry.key is None or entry.key.is_current):
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

    def accept(self, digest: bytes, caller: Caller, key: Key | None, until: float, size: int) -> None:
        """Keep the verdict on an accepted token of `size` bytes until the instant `until`."""
        accepted = self._accepted
        if (known := accepted.get(digest)) is not None:
            self._drop(digest, known)
        while accepted and (len(accepted) >= MOST_ACCEPTED or self._bytes + size > MOST_BYTES):
            oldest = next(iter(accepted))
            self._drop(oldest, accepted[oldest])
        accepted[digest] = Entry(caller, key, until, size)
        self._bytes += size

    def reject(self, digest: bytes, rejection: Rejection, now: float) -> None:
        """Keep the verdict on a rejected token."""
        rejected = self._rejected
        if len(rejected) >= MOST_REJECTED:
            del rejected[next(iter(rejected))]
        rejected[digest] = (rejection, now + REJECTED_FOR)

    def __len__(self) -> int:
        return len(self._accepted)

    def _drop(self, digest: bytes, entry: Entry) -> None:
        del self._accepted[digest]
        self._bytes -= entry.size

    def __repr__(self) -> str:
        return f"<TokenCache {len(self._accepted)} accepted, {len(self._rejected)} rejected>"
