"""Identity that an external server decides about (Envoy's `ext_authz` over HTTP, nginx's `auth_request`).

Rules:

1. The server gets the request's method, the request's path behind its own, and the named fields.  It gets no body.
   Without `append_path` it gets a GET for its own URL, with the request in fields that it may know from other proxies.
2. 2xx accepts, 401 and 403 refuse, and the client gets the same; a WWW-Authenticate of the server goes to the client.
   Any other answer, and none at all, is a failure: the request gets 503.
3. With `cache`, an answer is used again for a request with the same method, path and fields, told ones included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.message import get
from sidecar.core.stage import Wait
from sidecar.identity.claims import CONTROLS, LONGEST_ID
from sidecar.identity.credentials import field_value
from sidecar.identity.http_source import FetchError, HttpSource, Reply
from sidecar.identity.spec import ExternalSpec
from sidecar.identity.tokens import TokenCache
from sidecar.identity.verdict import Rejection, Unavailable, Verdict

FORBIDDEN: Final = 403
REFUSALS: Final = (401, FORBIDDEN)
RETRY_AFTER: Final = 1.0


class External:
    """Identity that a server decides about."""

    scheme = b""

    def __init__(self, name: str, spec: ExternalSpec, source: HttpSource, env: Env) -> None:
        self.name = name
        self.field = b"authorization" if "authorization" in spec.headers else b""
        self._spec = spec
        self._source = source
        self._now: Callable[[], float] = env.now
        self._fields = [header.encode() for header in spec.headers]
        self.answered = tuple(header.encode() for header in spec.forward)
        """Names of the fields of an answer that go on to the upstream."""
        self._caller = (spec.caller or "").encode()
        self._answers = TokenCache()
        counter = env.meter.counter
        self._counters = {
            result: counter(metrics.AUTHENTICATIONS, identity=name, result=result)
            for result in ("cached", "accepted", "rejected", "unavailable")
        }

    def start(self) -> None:
        """Do nothing: there is no background work."""

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | Wait | None:
        sent: list[tuple[bytes, bytes]] = []
        for name in self._fields:
            value = field_value(name, lines, lower)
            if isinstance(value, Rejection):
                return value
            if value is not None:
                sent.append((name, value))
        if not sent:
            return None
        if not self._spec.append_path:
            told = _told(x)
            names = {name for name, _ in told}
            sent = [*told, *(each for each in sent if each[0] not in names)]
        digest = b""
        if self._spec.cache:
            host = (x.public_authority or x.authority) if self._spec.keep_host else b""
            digest = TokenCache.digest(repr((x.method, x.path, x.query, host, sent)).encode())
            known = self._answers.get(digest, now)
            if known is not None:
                self._counters["cached"].value += 1
                return known
        return Wait(self._ask(x, sent, digest))

    async def _ask(self, x: Exchange, sent: list[tuple[bytes, bytes]], digest: bytes) -> Verdict:
        source = self._source
        method, path, query, headers = b"GET", source.path, source.query, sent
        if self._spec.append_path:
            method = x.method if x.method != b"HEAD" else b"GET"  # the answer to a HEAD has no body to read either
            path = source.path.rstrip(b"/") + (x.path if x.path.startswith(b"/") else b"/" + x.path)
            query, headers = x.query, [*sent, (b"x-forwarded-method", x.method)]
        try:
            reply = await source.ask(
                self._spec.timeout, headers, method=method, path=path, query=query,
                authority=(x.public_authority or x.authority) if self._spec.keep_host else b"",
            )  # fmt: skip
        except FetchError as error:
            self._counters["unavailable"].value += 1
            return Unavailable(str(error), RETRY_AFTER)
        return self._judge(reply, digest, self._now())

    def _judge(self, reply: Reply, digest: bytes, now: float) -> Verdict:
        if reply.status in REFUSALS:
            rejection = Rejection(f"{self._source.url} refused the request with {reply.status}")
            rejection.challenge = get(reply.headers, b"www-authenticate") or b""
            rejection.is_forbidden = reply.status == FORBIDDEN
            if digest:
                self._answers.reject(digest, rejection, now)
            self._counters["rejected"].value += 1
            return rejection
        if not 200 <= reply.status < 300:
            self._counters["unavailable"].value += 1
            return Unavailable(f"{self._source.url} answered with the status {reply.status}", RETRY_AFTER)
        claims = {
            name.decode(): _text(value) for name in self.answered if (value := get(reply.headers, name)) is not None
        }
        caller = self.name
        if self._caller:
            named = [value for name, value in reply.headers if name == self._caller]
            caller = _text(named[0]) if len(named) == 1 else ""
            if not 0 < len(caller) <= LONGEST_ID or CONTROLS.search(caller):
                self._counters["unavailable"].value += 1
                return Unavailable(f"{self._source.url} names not one caller in {self._caller.decode()}", RETRY_AFTER)
        found = Caller(caller, self.name, claims, self.field)
        if digest:
            self._answers.accept(digest, found, None, now + self._spec.cache, sum(map(len, claims.values())) + 64)
        self._counters["accepted"].value += 1
        return found

    def describe(self) -> dict[str, Any]:
        """Return kind and URL as JSON-ready values."""
        return {"kind": "external", "url": self._source.url, "answers": len(self._answers)}


def _told(x: Exchange) -> list[tuple[bytes, bytes]]:
    """Return the fields that tell a server of a request, by the names that Traefik and users of nginx give them."""
    host = x.public_authority or x.authority
    target = x.path if x.query is None else b"%b?%b" % (x.path, x.query)
    fields = [
        (b"x-forwarded-method", x.method), (b"x-forwarded-proto", x.scheme), (b"x-forwarded-host", host),
        (b"x-forwarded-uri", target), (b"x-original-method", x.method), (b"x-original-uri", target),
        (b"x-original-url", b"%b://%b%b" % (x.scheme, host, target)),
    ]  # fmt: skip
    return [*fields, (b"x-forwarded-for", x.client_address.encode())] if x.client_address else fields


def _text(value: bytes) -> str:
    """Return the value of a field, which is UTF-8 or else ISO 8859-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
