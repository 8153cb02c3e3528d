"""Token for an upstream from an OAuth 2.0 server (client credentials grant, RFC 6749 4.4).

Rules:

1. A token is renewed in the background at three quarters of its lifetime, with jitter, so that no request waits for it.
   Requests that need a token before there is one share one request to the server.
2. After a failure the server is asked again at growing intervals.  The last token is sent until it ends; from then on
   requests are refused at once, except the one that starts the next attempt.
3. An upstream that rejects a token makes it be renewed, at most once in `REJECTED_EVERY`: an upstream that rejects all
   tokens does not flood the server.
4. The secret of the client is read for each token, so a changed file needs no reload.
5. Tokens and secrets are in no message.  Of an error response only its `error` is told (RFC 6749 5.2).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle, TimerHandle
from sidecar.core.exchange import NEVER
from sidecar.core.message import Headers
from sidecar.core.promise import Promise
from sidecar.identity.http_source import FetchError, HttpSource
from sidecar.identity.jws import parse_json
from sidecar.identity.outgoing.source import VALUE, Credentials, describe_file_error, read_secret
from sidecar.identity.outgoing.spec import OAuth2Spec

HTTP_OK: Final = 200
RENEWED_AT: Final = 0.75
"""Share of its lifetime at which a token is renewed."""
MARGIN: Final = 0.05
"""Share of its lifetime before its end from which a token is no longer sent, but no more than `MOST_MARGIN`."""
MOST_MARGIN: Final = 5.0
"""Most seconds of that margin: time for the request to arrive, and for clocks that differ."""
UNSTATED: Final = 300.0
"""Lifetime in seconds of a token whose server states none."""
LONGEST_LIFETIME: Final = 30 * 86400.0
"""Longest lifetime in seconds; a longer one counts as this."""
LEAST_PAUSE: Final = 1.0
"""Least seconds from a failure to the next attempt; each further failure doubles them."""
MOST_PAUSE: Final = 30.0
JITTER: Final = 0.1
"""Share of an interval by which it is shortened or lengthened at random."""
REJECTED_EVERY: Final = 10.0
"""Least seconds between two renewals because the upstream has rejected a token."""
LONGEST_TOKEN: Final = 16 * 1024
"""Longest token in characters."""
LONGEST_WORD: Final = 100
"""Longest `error` of a server that is told, in characters."""


class ClientCredentials(Credentials):
    """Token of one upstream."""

    def __init__(self, upstream: str, spec: OAuth2Spec, source: HttpSource, env: Env) -> None:
        """`source` is the client for the token endpoint.  Raises `OSError` and `ValueError` if there is no secret."""
        self._upstream = upstream
        self._spec = spec
        self._source = source
        self._env = env
        self._now: Callable[[], float] = env.now
        read_secret(spec.client.secret)
        self.problem = "was not fetched yet"
        self._value = b""
        self._ends = 0.0
        """Instant from which the token is no longer sent."""
        self._renewed_at = 0.0
        """Instant of the last token; 0 before the first."""
        self._failures = 0
        """Failed attempts since the last token."""
        self._failed_at = -NEVER
        self._rejected_at = -NEVER
        """Instant of the last renewal because of a rejected token."""
        self._task: TaskHandle | None = None
        """Request to the server in flight; None without one."""
        self._timer: TimerHandle | None = None
        """Timer of the next renewal; None without one."""
        self._waiting: list[Promise[None]] = []
        self._is_retired = False
        counter = env.meter.counter
        self._results = {
            result: counter(metrics.CREDENTIAL_FETCHES, upstream=upstream, result=result) for result in ("ok", "failed")
        }
        self._rejections = counter(metrics.CREDENTIAL_REJECTIONS, upstream=upstream)
        env.meter.gauge(metrics.CREDENTIAL_LEFT, self._left, upstream=upstream)

    def start(self) -> None:
        if self._task is None and self._timer is None:
            self._begin()

    def retire(self) -> None:
        self._is_retired = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def value(self, now: float) -> bytes:
        return self._value if now < self._ends else b""

    def retry_after(self, now: float) -> float | None:
        return max(1.0, self._failed_at + LEAST_PAUSE - now)

    async def obtain(self, deadline: float) -> bytes:
        now = self._now()
        if (value := self.value(now)) and self._task is None:
            return value
        if self._task is None:
            if now - self._failed_at < LEAST_PAUSE:
                return b""
            self._begin()
        promise: Promise[None] = Promise()
        self._waiting.append(promise)
        timer = None if deadline == NEVER else self._env.call_later(max(0.0, deadline - now), promise.resolve, None)
        try:
            await promise
        finally:
            if timer is not None:
                timer.cancel()
        return self.value(self._now())

    def reject(self, value: bytes) -> bool:
        self._rejections.value += 1
        if value != self._value:
            return True  # another request has renewed the token meanwhile
        now = self._now()
        if now - self._rejected_at < REJECTED_EVERY:
            return False
        self._rejected_at = now
        self._env.emit(events.CREDENTIALS_REJECTED, upstream=self._upstream, url=self._source.url)
        self._begin()
        return True

    # ----- requests to the server

    def _begin(self) -> None:
        """Ask the server for a token, unless that is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self._env.spawn(self._renew())

    async def _renew(self) -> None:
        """Ask the server once, release the requests that wait, and plan the next renewal."""
        due = LEAST_PAUSE
        try:
            value, lifetime = await self._fetch()
        except (FetchError, ValueError, OSError) as error:
            due = self._fail(str(error) if isinstance(error, FetchError) else describe_file_error(error))
        except Exception as error:  # a bug must not end the renewals
            self._env.emit(events.BUG, where=f"credentials of {self._upstream}", error=error)
            due = self._fail(repr(error))
        else:
            due = self._accept(value, lifetime)
        finally:
            self._task = None
            waiting, self._waiting = self._waiting, []
            for promise in waiting:
                promise.resolve(None)
        if not self._is_retired and self._task is None:
            pause = due * (1 - JITTER + 2 * JITTER * self._env.rng.random())
            self._timer = self._env.call_later(pause, self._begin)

    async def _fetch(self) -> tuple[bytes, float]:
        """Return the field's value and the lifetime of a new token.  Raises `FetchError`, `OSError`, `ValueError`."""
        url = self._source.url
        headers, body = self._question()
        reply = await self._source.ask(self._spec.timeout, headers, method=b"POST", body=body)
        try:
            found = parse_json(reply.body)
        except ValueError:
            found = None
        if reply.status != HTTP_OK:
            word = found.get("error") if isinstance(found, dict) else None
            told = f" ({word})" if isinstance(word, str) and VALUE.fullmatch(word[:LONGEST_WORD]) else ""
            raise FetchError(f"{url}: answered with the status {reply.status}{told[: LONGEST_WORD + 3]}")
        if not isinstance(found, dict):
            raise FetchError(f"{url}: the answer is not a JSON object")
        token, kind = found.get("access_token"), found.get("token_type")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise FetchError(f"{url}: the token is not of the type Bearer")
        if not isinstance(token, str) or len(token) > LONGEST_TOKEN or not VALUE.fullmatch(token) or " " in token:
            raise FetchError(f"{url}: the answer has no access_token of visible characters")
        return b"Bearer " + token.encode(), _lifetime(found.get("expires_in"), url)

    def _question(self) -> tuple[Headers, bytes]:
        """Return fields and body of a token request."""
        spec, client = self._spec, self._spec.client
        secret = read_secret(client.secret)
        headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        form = {"grant_type": "client_credentials"}
        if spec.scopes:
            form["scope"] = " ".join(spec.scopes)
        if spec.client_auth == "basic":
            pair = f"{quote_plus(client.id)}:{quote_plus(secret)}".encode()
            headers.append((b"authorization", b"Basic " + b64encode(pair)))
        else:
            form |= {"client_id": client.id, "client_secret": secret}
        return headers, urlencode({**form, **spec.parameters}).encode()

    def _accept(self, value: bytes, lifetime: float) -> float:
        """Put a token in force, and return the seconds until its renewal."""
        self._results["ok"].value += 1
        failures, self._failures = self._failures, 0
        self.problem = ""
        self._value = value
        self._renewed_at = self._now()
        self._ends = self._renewed_at + lifetime - min(MOST_MARGIN, lifetime * MARGIN)
        if failures:
            self._env.emit(events.CREDENTIALS_RESTORED, upstream=self._upstream, failures=failures)
        return lifetime * RENEWED_AT

    def _fail(self, reason: str) -> float:
        """Take note of a failure, and return the seconds until the next attempt."""
        self._results["failed"].value += 1
        self._failures += 1
        self._failed_at = self._now()
        if self._failures == 1 or reason != self.problem:
            left = round(self._left(), 3)
            self._env.emit(events.CREDENTIALS_FAILED, upstream=self._upstream, reason=reason, left=left)
        self.problem = reason
        return float(min(MOST_PAUSE, LEAST_PAUSE * 2 ** min(self._failures - 1, 20)))

    def _left(self) -> float:
        """Return the seconds for which the token is still sent."""
        return max(0.0, self._ends - self._now()) if self._value else 0.0

    def describe(self) -> dict[str, Any]:
        renewed = {"age": round(self._now() - self._renewed_at, 3)} if self._value else {}
        return {
            "upstream": self._upstream,
            "kind": "oauth2",
            "url": self._source.url,
            "has_token": self._left() > 0,
            **renewed,
            "left": round(self._left(), 3),
            "failures": self._failures,
            "problem": self.problem,
        }


def _lifetime(stated: Any, url: str) -> float:
    """Return the lifetime of a token in seconds; some servers state it as text.  Raises `FetchError`."""
    if stated is None:
        return UNSTATED
    if isinstance(stated, str) and stated.isascii() and stated.isdigit() and len(stated) < 20:
        stated = int(stated)
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not stated > 0:
        raise FetchError(f"{url}: the token's expires_in is not a number of seconds")
    return float(min(stated, LONGEST_LIFETIME))
