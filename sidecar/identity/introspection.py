"""Identity of opaque tokens that their issuer is asked about (RFC 7662).

Rules:

1. Answers are cached by the digest of the token: active ones for `cache` and never beyond `exp`, others for some
   seconds.
2. Requests with the same new token share one question.
3. While the endpoint fails, requests with unknown tokens get 503.  With `allow_stale` the last answer for a token is
   used again for `stale_for`.  A breaker keeps a failing endpoint from delaying every request.
4. A client whose tokens are not active too often has no more questions asked for a while (`verification.py`).
5. The credentials of the sidecar are sent as RFC 6749 2.3.1 asks, with their parts form-encoded.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote_plus

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.stage import Wait
from sidecar.identity.claims import audiences_of, caller_id, numeric_date
from sidecar.identity.credentials import AUTHORIZATION, bearer_token
from sidecar.identity.http_source import FetchError, HttpSource
from sidecar.identity.jws import InvalidToken, parse_json
from sidecar.identity.spec import IntrospectionSpec
from sidecar.identity.tokens import TokenCache
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import VerificationBudget

HTTP_OK: Final = 200
HTTP_BAD_REQUEST: Final = 400
MOST_STALE: Final = 10_000
"""Most answers that are kept for `allow_stale`."""
RETRY_AFTER: Final = 1.0


class Introspection:
    """Identity of opaque tokens."""

    scheme = b"Bearer"
    field = AUTHORIZATION

    def __init__(
        self,
        name: str,
        spec: IntrospectionSpec,
        secret: str,
        source: HttpSource,
        budget: VerificationBudget,
        env: Env,
    ) -> None:
        self.name = name
        self._spec = spec
        self._source = source
        self._budget = budget
        self._env = env
        self._now: Callable[[], float] = env.now
        pair = f"{quote_plus(spec.client.id)}:{quote_plus(secret)}".encode()
        self._headers = [
            (b"authorization", b"Basic " + b64encode(pair)),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"accept", b"application/json"),
        ]
        self._asked: dict[bytes, list[asyncio.Future[Verdict | None]]] = {}
        """Requests that wait for each question in flight, by the digest of the token."""
        self._stale: dict[bytes, tuple[Caller, float]] = {}
        """Last answer for each token, with the instant until which it may be used; only for `allow_stale`."""
        counter = env.meter.counter
        self._counters = {
            result: counter(metrics.AUTHENTICATIONS, identity=name, result=result)
            for result in ("cached", "accepted", "rejected", "unavailable", "stale")
        }
        self._tokens = tokens = TokenCache(self._counters["cached"])
        env.meter.gauge(metrics.IDENTITY_TOKENS, lambda: len(tokens), identity=name)

    def start(self) -> None:
        """Do nothing: there is no background work."""

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | Wait | None:
        token = bearer_token(lines, lower)
        if token is None or isinstance(token, Rejection):
            return token
        if not token or len(token) > self._spec.max_token:
            self._counters["rejected"].value += 1
            return Rejection(f"the token has {len(token)} bytes; 1 to {self._spec.max_token} are allowed")
        digest = TokenCache.digest(token)
        known = self._tokens.get(digest, now)
        if known is not None:
            self._counters["cached"].value += 1
            return known
        client = x.client_address
        if (denied := self._budget.deny(client, now)) is not None:
            self._counters["unavailable"].value += 1
            return denied
        return Wait(self._ask(token, digest, client))

    async def _ask(self, token: bytes, digest: bytes, client: str) -> Verdict:
        """Return the answer for a token, which requests with the same token share."""
        while (waiting := self._asked.get(digest)) is not None:
            future: asyncio.Future[Verdict | None] = self._env.future()
            waiting.append(future)
            if (shared := await future) is not None:
                return shared  # otherwise the request that asked has been cancelled
        self._asked[digest] = []
        verdict: Verdict | None = None
        try:
            verdict = await self._question(token, digest)
            if isinstance(verdict, Rejection) and not verdict.is_foreign:
                self._budget.fail(client, self._now())
        finally:
            for future in self._asked.pop(digest):
                if not future.done():
                    future.set_result(verdict)
        return verdict

    async def _question(self, token: bytes, digest: bytes) -> Verdict:
        spec = self._spec
        body = b"token=" + quote_plus(token).encode() + b"&token_type_hint=access_token"
        try:
            reply = await self._source.ask(spec.timeout, self._headers, method=b"POST", body=body)
            if reply.status == HTTP_BAD_REQUEST and is_unsupported(reply.body):
                return self._reject(
                    digest, "the issuer introspects no tokens of this form", self._now(), is_foreign=True
                )
            if reply.status != HTTP_OK:
                raise FetchError(f"{self._source.url}: answered with the status {reply.status}")
            found = parse_json(reply.body)
            if not isinstance(found, dict) or not isinstance(found.get("active"), bool):
                raise FetchError(f"{self._source.url}: the answer has no member `active`")
            expires = numeric_date(found, "exp") if found["active"] else None
        except (FetchError, InvalidToken, ValueError) as error:
            return self._after_failure(digest, str(error))
        now = self._now()
        if not found["active"]:
            return self._reject(digest, "the issuer says that the token is not active", now)
        return self._accept(found, digest, len(token), expires, now)

    def _accept(self, found: dict[str, Any], digest: bytes, size: int, expires: float | None, now: float) -> Verdict:
        """Return the caller of an active token; `expires` is the Unix time of its end, None if none is stated."""
        spec = self._spec
        try:
            if spec.audiences and audiences_of(found.get("aud")).isdisjoint(spec.audiences):
                raise InvalidToken(f"the token's audience {found.get('aud')!r} is another service")
            name = caller_id(found, spec.caller)
        except InvalidToken as error:
            return self._reject(digest, str(error), now)
        left = float("inf") if expires is None else expires - self._env.wall()
        if left <= 0:
            return self._reject(digest, "the token has expired", now)
        claims = {key: value for key, value in found.items() if key != "active"}
        caller = Caller(name, self.name, claims, AUTHORIZATION)
        if spec.cache:
            self._tokens.accept(digest, caller, None, now + min(spec.cache, left), size)
        if spec.on_failure == "allow_stale":
            self._stale.pop(digest, None)
            if len(self._stale) >= MOST_STALE:
                del self._stale[next(iter(self._stale))]
            self._stale[digest] = (caller, now + min(spec.cache + spec.stale_for, left))
        self._counters["accepted"].value += 1
        return caller

    def _reject(self, digest: bytes, cause: str, now: float, *, is_foreign: bool = False) -> Rejection:
        rejection = Rejection(cause, is_foreign=is_foreign)
        self._tokens.reject(digest, rejection, now)
        self._stale.pop(digest, None)
        self._counters["rejected"].value += 1
        return rejection

    def _after_failure(self, digest: bytes, cause: str) -> Verdict:
        """Return the last answer for a token if the policy allows it; otherwise nobody can tell."""
        known = self._stale.get(digest)
        if known is not None:
            if self._now() < known[1]:
                self._counters["stale"].value += 1
                return known[0]
            del self._stale[digest]
        self._counters["unavailable"].value += 1
        return Unavailable(cause, RETRY_AFTER)

    def learn(self, token: bytes, claims: dict[str, Any]) -> None:
        """Take an answer for a token as if its issuer had given it; for tests of policies."""
        with suppress(InvalidToken):
            self._accept(claims, TokenCache.digest(token), len(token), numeric_date(claims, "exp"), self._now())

    def describe(self) -> dict[str, Any]:
        """Return kind and number of cached tokens as JSON-ready values."""
        return {"kind": "introspection", "url": self._source.url, "tokens": len(self._tokens)}


def is_unsupported(body: bytes) -> bool:
    """True if the body of a 400 says that tokens of this form, such as signed ones, are not introspected here.

    The error is that of RFC 7009 2.2.1, which RFC 7662 does not name and servers use.
    """
    try:
        found = parse_json(body)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("error") == "unsupported_token_type"
