"""Verdicts on the credentials of a request, and the interface of an identity.

A verdict is a `Caller`, a `Rejection` of credentials that are wrong, or `Unavailable` if nobody can tell.  The causes
are for logs and spans: clients get the words of RFC 6750 only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol

from sidecar.core.exchange import Caller, Exchange
from sidecar.core.stage import Wait

LONGEST_CAUSE: Final = 300
"""Longest cause in characters, because tokens can contain long texts."""


class Rejection:
    """Verdict on credentials that are wrong."""

    __slots__ = ("cause", "challenge", "is_ambiguous", "is_forbidden", "is_foreign")

    def __init__(self, cause: str, *, is_foreign: bool = False, is_ambiguous: bool = False) -> None:
        self.cause = cause if len(cause) <= LONGEST_CAUSE else f"{cause[:LONGEST_CAUSE]}..."
        """Reason for logs and spans."""
        self.is_foreign = is_foreign
        """True if the credentials are those of another identity, so that another rejection tells more."""
        self.is_ambiguous = is_ambiguous
        """True if the request has several credentials of one kind (`invalid_request` in RFC 6750 3.1)."""
        self.challenge = b""
        """Value of WWW-Authenticate that an external server has sent; empty without one."""
        self.is_forbidden = False
        """True if an external server knows the caller, and refuses the request (403)."""

    def __repr__(self) -> str:
        return f"<Rejection {self.cause}>"


class Unavailable:
    """Verdict on credentials that cannot be verified at present."""

    __slots__ = ("cause", "retry_after")

    def __init__(self, cause: str, retry_after: float = 1.0) -> None:
        self.cause = cause[:LONGEST_CAUSE]
        """Reason for logs and spans."""
        self.retry_after = retry_after
        """Seconds until another request may succeed."""

    def __repr__(self) -> str:
        return f"<Unavailable {self.cause}>"


QUOTED: Final = re.compile(r"[^ !#-\[\]-~]")
"""Matches a character that a realm is written without (RFC 9110 5.6.4)."""

Verdict = Caller | Rejection | Unavailable


class Identity(Protocol):
    """Way to identify callers, as one member of the section `identities` configures it."""

    name: str
    """Name in the policy file."""
    scheme: bytes
    """Authentication scheme of its challenge (RFC 9110 11.6.1)."""
    field: bytes
    """Name in lower case of the header field with its credentials; empty if they are elsewhere."""

    def start(self) -> None:
        """Start background work; without effect if it runs."""

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | Wait | None:
        """Return the verdict, a `Wait` for one, or None if the request has no credentials for this identity.

        `lines` are the request's field lines, and `lower` is a line feed and the same lines in lower case.
        """


def challenges(identities: Iterable[Identity], service: str) -> list[tuple[bytes, bytes]]:
    """Return scheme and challenge (RFC 9110 11.3) of each authentication scheme; the realm is the service."""
    realm = QUOTED.sub("", service).encode()
    schemes = dict.fromkeys(identity.scheme for identity in identities if identity.scheme)
    return [(scheme, b'%b realm="%b"' % (scheme, realm)) for scheme in schemes]
