"""Signed tokens about callers for upstreams (RFC 7519), which a service can verify without trusting fields.

Rules:

1. Each caller's token is signed once and sent until half of its lifetime is over, so that an upstream always has the
   other half.
2. Callers with the same claims share a token.  The table is bounded; the oldest token is evicted first.
3. The key is that of the file, or one of the process.  It survives reloads in the state store under `signing_key`,
   where the admin listener finds it for its key set.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sidecar.core.env import BuildContext
from sidecar.core.exchange import Caller
from sidecar.identity.keys import SigningKey
from sidecar.stages.authenticate.spec import TokenSpec

MOST: Final = 4096
"""Most tokens that are kept."""
SIGNING_KEY: Final = "signing_key"


class CallerToken:
    """Tokens of one route."""

    __slots__ = ("_env", "_issuer", "_key", "_lines", "_name", "_spec")

    def __init__(self, spec: TokenSpec, ctx: BuildContext) -> None:
        """Raises `ValueError` if the file with the key cannot be used."""
        self._spec = spec
        self._name = spec.header.encode()
        self._issuer = ctx.service or "sidecar"
        self._env = ctx.env
        self._lines: dict[bytes, tuple[bytes, float]] = {}
        """Field line of each caller with the instant of its renewal, by the digest of the caller."""
        pem = None if spec.key is None else _read(spec.key)
        place = "process" if pem is None else sha256(pem).hexdigest()[:16]
        try:
            self._key: SigningKey = ctx.obtain((SIGNING_KEY, place), None, partial(SigningKey, pem))
        except ValueError as error:
            raise ValueError(f"forward.token.key: {spec.key} {error}") from None

    def line(self, caller: Caller) -> tuple[bytes, float]:
        """Return the field line with a caller's token, and the instant from which a new one is due."""
        lines, now, digest = self._lines, self._env.now(), caller.digest()
        known = lines.pop(digest, None)
        if known is None or known[1] <= now:
            value = self._key.sign(self._claims(caller))
            known = (b"%b: %b\r\n" % (self._name, value), now + self._spec.lifetime / 2)
            if len(lines) >= MOST:
                del lines[next(iter(lines))]
        lines[digest] = known
        return known

    def _claims(self, caller: Caller) -> dict[str, Any]:
        spec, wall = self._spec, int(self._env.wall())
        own = {name: caller.claims[name] for name in spec.claims if name in caller.claims}
        about = {"iss": self._issuer, "aud": spec.audience, "sub": caller.id, "identity": caller.identity}
        return {**own, **about, "iat": wall, "exp": wall + int(spec.lifetime)}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"forward.token.key: {path} cannot be read: {error.strerror}") from None
