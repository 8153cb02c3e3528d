"""Identity of bearer tokens that are signed by their issuer (RFC 7519, RFC 8725, RFC 9068).

The cheap checks come first: length, form, header and claims.  Only a token that passes them costs a signature, within
the bounds of `verification.py`.  A token that needs a key which is not there waits for one fetch of the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.stage import Wait
from sidecar.identity.claims import ClaimRules, ForeignToken
from sidecar.identity.credentials import AUTHORIZATION, bearer_token
from sidecar.identity.jws import InvalidToken, Token, parse_token
from sidecar.identity.key_source import KeySource, RemoteKeys
from sidecar.identity.keys import Key
from sidecar.identity.spec import JwtSpec
from sidecar.identity.tokens import ACCEPTED_FOR, TokenCache
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import VerificationBudget

MOST_TRIED: Final = 4
"""Most keys that are tried for a token without a key ID."""


class JwtIdentity:
    """Identity of signed tokens.  The state store has it under its name and settings."""

    scheme = b"Bearer"
    field = AUTHORIZATION

    def __init__(self, name: str, spec: JwtSpec, source: KeySource, budget: VerificationBudget, env: Env) -> None:
        self.name = name
        self.source = source
        """Source of the keys."""
        self._max_token = spec.max_token
        self._rules = ClaimRules(spec)
        self._budget = budget
        self._env = env
        self._now: Callable[[], float] = env.now
        self._wall: Callable[[], float] = env.wall
        counter = env.meter.counter
        self._cached = counter(metrics.AUTHENTICATIONS, identity=name, result="cached")
        self._tokens = tokens = TokenCache(self._cached)
        self._verified = counter(metrics.AUTHENTICATIONS, identity=name, result="accepted")
        self._rejected = counter(metrics.AUTHENTICATIONS, identity=name, result="rejected")
        self._undecided = counter(metrics.AUTHENTICATIONS, identity=name, result="unavailable")
        env.meter.gauge(metrics.IDENTITY_TOKENS, lambda: len(tokens), identity=name)

    def start(self) -> None:
        self.source.start()

    @property
    def tokens(self) -> TokenCache:
        """Verdicts on tokens."""
        return self._tokens

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | Wait | None:
        token = bearer_token(lines, lower)
        if not isinstance(token, bytes):
            return token
        if len(token) > self._max_token:
            self._rejected.value += 1
            return Rejection(f"the token has {len(token)} bytes, more than {self._max_token}")
        digest = sha256(token).digest()
        known = self._tokens.get(digest, now)
        if known is not None:
            counter = self._cached if known.__class__ is Caller else self._rejected
            counter.value += 1
            return known
        found = self._judge(x, token, digest, now, may_wait=True)
        if found.__class__ is Rejection:
            self._rejected.value += 1
        elif found.__class__ is Unavailable:
            self._undecided.value += 1
        return found

    def _judge(self, x: Exchange, token: bytes, digest: bytes, now: float, *, may_wait: bool) -> Verdict | Wait:
        """Judge a token that has no verdict yet."""
        try:
            parsed = parse_token(token)
            algorithm, kid = self._rules.check_header(parsed.header)
            caller, left = self._rules.check_claims(parsed.claims, self._wall())
        except InvalidToken as error:
            if isinstance(error, ForeignToken):
                return Rejection(str(error), is_foreign=True)
            return self._reject(digest, str(error), now)
        source = self.source
        usable = source.is_usable(now)
        keys = source.keys.find(algorithm, kid) if usable else []
        if not keys:
            waiting = source.fetched(kid, now) if may_wait else None
            if waiting is not None:
                return Wait(self._after_fetch(x, token, digest, waiting, now))
            if not usable or (isinstance(source, RemoteKeys) and source.is_failing):
                return Unavailable(f"the keys of {self.name} cannot be had: {source.problem or 'a fetch is due'}", 1.0)
            return Rejection(f"no key of {self.name} has the ID {kid!r} and is for {algorithm}")
        if (denied := self._budget.deny(x.client_address, now)) is not None:
            return denied
        key = self._verify(parsed, algorithm, keys)
        if key is None:
            self._budget.fail(x.client_address, now)
            return self._reject(digest, "the token's signature is wrong", now)
        self._verified.value += 1
        found = Caller(caller, self.name, parsed.claims, AUTHORIZATION)
        self._tokens.accept(digest, found, key, now + min(left, ACCEPTED_FOR), len(token), token)
        return found

    def _verify(self, token: Token, algorithm: str, keys: list[Key]) -> Key | None:
        """Return the key that has made the signature; None if it is wrong."""
        began = self._now()
        try:
            for key in keys[:MOST_TRIED]:
                if key.verify(algorithm, token.signature, token.signed):
                    return key
        finally:
            self._budget.pay(began)
        return None

    async def _after_fetch(self, x: Exchange, token: bytes, digest: bytes, waiting: Any, now: float) -> Verdict:
        """Judge a token after a fetch of the keys, or at the deadline of its request."""
        timer = self._env.call_later(max(0.0, x.deadline - now), _wake, waiting) if x.deadline < 1e9 + now else None
        try:
            await waiting
        finally:
            if timer is not None:
                timer.cancel()
        now = self._now()
        found = self._tokens.get(digest, now) or self._judge(x, token, digest, now, may_wait=False)
        assert not isinstance(found, Wait)
        if isinstance(found, Rejection):
            self._rejected.value += 1
        elif isinstance(found, Unavailable):
            self._undecided.value += 1
        return found

    def _reject(self, digest: bytes, cause: str, now: float) -> Rejection:
        rejection = Rejection(cause)
        self._tokens.reject(digest, rejection, now)
        return rejection

    def explain(self, token: bytes) -> Verdict | Wait:
        """Return the verdict on a token without any client; for people."""
        return self._judge(Exchange(b"GET", b"/"), token, TokenCache.digest(token), self._now(), may_wait=False)

    def describe(self) -> dict[str, Any]:
        """Return kind and number of cached tokens as JSON-ready values."""
        return {"kind": "jwt", "tokens": len(self._tokens), "keys": len(self.source.keys.keys)}


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)
