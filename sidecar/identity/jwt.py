"""Identity of bearer tokens that are signed by their issuer (RFC 7519, RFC 8725, RFC 9068).

The cheap checks come first: length, verdicts that are cached, the bounds of `verification.py`, form, header and claims.
Only a token that passes them costs a signature, in its turn, and in a worker thread if its key is slow.  A token that
needs a key which is not there waits for one fetch of the keys.
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
from sidecar.identity.key_source import KeySet, KeySource, RemoteKeys
from sidecar.identity.keys import Key
from sidecar.identity.spec import JwtSpec
from sidecar.identity.tokens import ACCEPTED_FOR, TokenCache
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import VerificationBudget

MOST_TRIED: Final = 4
"""Most keys that are tried for a token without a key ID."""


class Unverified:
    """Token whose header and claims are right, and whose signature is to be verified."""

    __slots__ = ("algorithm", "caller", "digest", "ends", "key_set", "keys", "parsed", "token")

    def __init__(
        self,
        token: bytes,
        digest: bytes,
        parsed: Token,
        algorithm: str,
        caller: str,
        ends: float,
        keys: list[Key],
        key_set: KeySet,
    ) -> None:
        self.token = token
        self.digest = digest
        """Digest by which its verdict is cached."""
        self.parsed = parsed
        self.algorithm = algorithm
        """Algorithm that its header names."""
        self.caller = caller
        """Caller that its claims name."""
        self.ends = ends
        """Instant from which it is no longer valid."""
        self.keys = keys
        """Keys that may have made its signature."""
        self.key_set = key_set
        """Set of these keys."""

    def signer(self) -> Key | None:
        """Return the key that has made the signature; None if it is wrong."""
        for key in self.keys:
            if key.verify(self.algorithm, self.parsed.signature, self.parsed.signed):
                return key
        return None


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
        return self._known(digest, now) or self._judge(x, token, digest, now)

    def _known(self, digest: bytes, now: float) -> Caller | Rejection | None:
        """Return the cached verdict on a token, and count it; None if there is none."""
        known = self._tokens.get(digest, now)
        if known is not None:
            counter = self._cached if known.__class__ is Caller else self._rejected
            counter.value += 1
        return known

    def _judge(
        self, x: Exchange, token: bytes, digest: bytes, now: float, *, may_fetch: bool = True, may_queue: bool = True
    ) -> Verdict | Wait:
        """Judge a token that has no verdict yet, and count the verdict.

        `may_fetch` is False for a token that has waited for keys, and `may_queue` for one whose turn it is.
        """
        budget = self._budget
        if (denied := budget.deny(x.client_address, now)) is not None:  # cheaper than parsing
            return self._refused(denied)
        try:
            parsed = parse_token(token)
            algorithm, kid = self._rules.check_header(parsed.header)
            caller, left = self._rules.check_claims(parsed.claims, self._wall())
        except InvalidToken as error:
            if isinstance(error, ForeignToken):
                return self._refused(Rejection(str(error), is_foreign=True))
            return self._reject(digest, str(error), now)
        source = self.source
        usable = source.is_usable(now)
        keys = source.keys.find(algorithm, kid) if usable else []
        if not keys:
            waiting = source.fetched(kid, now) if may_fetch else None
            if waiting is not None:
                return Wait(self._after_fetch(x, token, digest, waiting))
            if not usable or (isinstance(source, RemoteKeys) and source.is_failing):
                cause = f"the keys of {self.name} cannot be had: {source.problem or 'a fetch is due'}"
                return self._refused(Unavailable(cause, 1.0))
            return self._refused(Rejection(f"no key of {self.name} has the ID {kid!r} and is for {algorithm}"))
        keys = keys[:MOST_TRIED]
        unverified = Unverified(token, digest, parsed, algorithm, caller, now + left, keys, source.keys)
        for key in keys:
            if key.is_slow:
                if (denied := budget.crowd()) is not None:
                    return self._refused(denied)
                return Wait(self._verify_in_thread(x, unverified))
        if may_queue and (turn := budget.turn(now)) is not None:
            if isinstance(turn, Unavailable):
                return self._refused(turn)
            return Wait(self._verify_in_turn(x, unverified, turn))
        return self._verify(x, unverified, now)

    async def _after_fetch(self, x: Exchange, token: bytes, digest: bytes, waiting: Any) -> Verdict:
        """Judge a token after a fetch of the keys."""
        await waiting
        now = self._now()
        return await _told(self._known(digest, now) or self._judge(x, token, digest, now, may_fetch=False))

    async def _verify_in_turn(self, x: Exchange, unverified: Unverified, turn: Any) -> Verdict:
        """Verify a signature when its turn has come; a refusal is answered in the next one."""
        await turn
        found = await self._verify_late(x, unverified)
        if found.__class__ is not Caller:
            await self._budget.pause()
        return found

    async def _verify_late(self, x: Exchange, unverified: Unverified) -> Verdict:
        """Verify a signature; the token is judged anew if it or its keys may no longer count."""
        now, source = self._now(), self.source
        if (known := self._known(unverified.digest, now)) is not None:
            return known
        if now >= unverified.ends or not source.is_usable(now) or source.keys is not unverified.key_set:
            token, digest = unverified.token, unverified.digest
            return await _told(self._judge(x, token, digest, now, may_fetch=False, may_queue=False))
        if (denied := self._budget.deny(x.client_address, now)) is not None:
            return self._refused(denied)
        return self._verify(x, unverified, now)

    async def _verify_in_thread(self, x: Exchange, unverified: Unverified) -> Verdict:
        """Verify a signature whose key takes long, while the event loop goes on."""
        found = await self._budget.in_thread(x.client_address, unverified.signer)
        if isinstance(found, Unavailable):
            return self._refused(found)
        return self._conclude(x, unverified, found, self._now())

    def _verify(self, x: Exchange, unverified: Unverified, now: float) -> Verdict:
        """Verify a signature on the event loop."""
        began = self._now()
        signer = unverified.signer()
        self._budget.pay(self._now() - began)
        return self._conclude(x, unverified, signer, now)

    def _conclude(self, x: Exchange, unverified: Unverified, signer: Key | None, now: float) -> Verdict:
        """Return the verdict on a token that `signer` has signed, or none of the keys."""
        if signer is None:
            self._budget.fail(x.client_address, now)
            return self._reject(unverified.digest, "the token's signature is wrong", now)
        self._verified.value += 1
        found = Caller(unverified.caller, self.name, unverified.parsed.claims, AUTHORIZATION)
        until, token = min(unverified.ends, now + ACCEPTED_FOR), unverified.token
        self._tokens.accept(unverified.digest, found, signer, until, len(token), token)
        return found

    def _reject(self, digest: bytes, cause: str, now: float) -> Verdict:
        """Reject a token, also when it comes again soon."""
        rejection = Rejection(cause)
        self._tokens.reject(digest, rejection, now)
        return self._refused(rejection)

    def _refused(self, found: Rejection | Unavailable) -> Verdict:
        """Count a new verdict, and return it."""
        if found.__class__ is Rejection:
            self._rejected.value += 1
        else:
            self._undecided.value += 1
        return found

    def describe(self) -> dict[str, Any]:
        """Return kind and number of cached tokens as JSON-ready values."""
        return {"kind": "jwt", "tokens": len(self._tokens), "keys": len(self.source.keys.keys)}


async def _told(found: Verdict | Wait) -> Verdict:
    """Return a verdict, for which a token may have to wait once more: for its turn, or for a slow key."""
    if isinstance(found, Wait):
        verdict: Verdict = await found.awaited
        return verdict
    return found
