"""Client for one server of an identity provider, over the sidecar's own upstream client.

Rules:

1. Every question has a deadline, and an answer has a size.  Redirects are not followed (RFC 8725 3.10).
2. Each server is an upstream of its own, named `identity:NAME`: its connections are pooled, and metrics tell it apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from sidecar.core.body import Body
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.core.stage import Service
from sidecar.transform.buffering import collect

MOST_BYTES: Final = 512 * 1024
"""Largest answer in bytes."""
COMMON: Final[Headers] = [(b"user-agent", b"sidecar"), (b"accept-encoding", b"identity")]


class Reply(NamedTuple):
    """Answer of a server."""

    status: int
    headers: Headers
    body: bytes


class FetchError(Exception):
    """Error of a question: no answer, or one that cannot be used.  The text is for logs."""


class HttpSource:
    """Client for the URL of an identity provider."""

    def __init__(self, url: str, service: Service, env: Env) -> None:
        """`service` is the upstream of the URL's server."""
        self.url = url
        parts = urlsplit(url)
        self._scheme = parts.scheme.encode()
        self._authority = parts.netloc.encode()
        self.path = (parts.path or "/").encode()
        """Path of the URL."""
        self.query = parts.query.encode() if parts.query else None
        """Query of the URL; None without one."""
        self._service = service
        self._now: Callable[[], float] = env.now

    async def ask(
        self,
        timeout: float,
        headers: Headers,
        *,
        method: bytes = b"GET",
        body: bytes = b"",
        path: bytes | None = None,
        query: bytes | None = None,
        authority: bytes = b"",
    ) -> Reply:
        """Send a request and return the answer; without `path`, to the URL itself.  Raises `FetchError`.

        `authority` is the Host that the server gets in place of that of the URL.
        """
        x = Exchange(method, self.path if path is None else path, [*headers, *COMMON])
        x.query = self.query if path is None else query
        x.scheme = self._scheme
        x.authority = authority or self._authority
        x.body = body
        x.arrived = self._now()
        x.deadline = x.arrived + timeout
        x.timeout_header = b""
        outcome = await self._service(x)
        if outcome.failure is not None:
            outcome.discard()
            raise FetchError(f"{self.url}: {outcome.whole_cause or outcome.refusal.detail or outcome.failure.title}")
        content: bytes | Body | Failure = outcome.body
        if outcome.stream is not None:
            content = await collect(outcome.stream, MOST_BYTES)
        if isinstance(content, Failure):
            raise FetchError(f"{self.url}: {content.title}")
        if isinstance(content, Body):
            content.cancel()
        if isinstance(content, Body) or len(content) > MOST_BYTES:
            raise FetchError(f"{self.url}: the answer is larger than {MOST_BYTES} bytes")
        return Reply(outcome.status, outcome.headers, content)

    def __repr__(self) -> str:
        return f"<HttpSource {self.url}>"
