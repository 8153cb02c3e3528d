"""Checks of a token's header and claims (RFC 7519 4.1, RFC 8725 3, RFC 9068 4)."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.identity.jws import InvalidToken
from sidecar.identity.spec import JwtSpec

USUAL_TYPES: Final = frozenset(("jwt", "at+jwt"))
"""Values of `typ` that are accepted by default, beside its absence."""
LONGEST_ID: Final = 256
"""Longest name of a caller, in characters."""
NUMBERS: Final = frozenset((int, float))
"""Types of the numbers of JSON; a truth value has another."""
MOST_SECONDS: Final = 1e15
"""Most seconds of a NumericDate, before or after the year 1970."""
CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ForeignToken(InvalidToken):
    """Raised for a token of another issuer."""


class ClaimRules:
    """Rules of one identity for headers and claims."""

    __slots__ = ("_algorithms", "_audiences", "_caller", "_issuer", "_leeway", "_needs_type", "_require", "_types")

    def __init__(self, spec: JwtSpec) -> None:
        self._issuer = spec.issuer
        self._audiences = frozenset(spec.audiences)
        self._algorithms = frozenset(spec.algorithms)
        self._leeway = spec.leeway
        self._require = spec.require
        self._caller = spec.caller
        self._types = USUAL_TYPES if spec.types is None else frozenset(map(_type, spec.types))
        self._needs_type = spec.types is not None

    def check_header(self, header: dict[str, Any]) -> tuple[str, str | None]:
        """Return algorithm and key ID of a header.  Raises `InvalidToken`."""
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken(f"the token's algorithm {algorithm!r} is not permitted")
        if not isinstance(kid, str) and "kid" in header:
            raise InvalidToken("the token's kid is no text")
        if not isinstance(typ, str) and "typ" in header:
            raise InvalidToken("the token's typ is no text")
        types = self._types
        if self._needs_type if typ is None else typ not in types and _type(typ) not in types:
            raise InvalidToken(f"the token's type {typ!r} is not permitted")
        return algorithm, kid

    def check_claims(self, claims: dict[str, Any], wall: float) -> tuple[str, float]:
        """Return the caller's ID, and the seconds for which the token is still valid at the Unix time `wall`.

        Raises `InvalidToken`, and `ForeignToken` for a token of another issuer.
        """
        issuer = claims.get("iss")
        if issuer != self._issuer or not isinstance(issuer, str):
            raise ForeignToken(f"the token's issuer {issuer!r} is not {self._issuer}")
        audience = claims.get("aud")
        known = self._audiences
        if known and not (audience in known if isinstance(audience, str) else known & audiences_of(audience)):
            raise InvalidToken(f"the token's audience {audience!r} is another service")
        expires = numeric_date(claims, "exp")
        if expires is None:
            raise InvalidToken("the token has no exp")
        left = expires + self._leeway - wall
        if left <= 0:
            raise InvalidToken(f"the token expired {-left + self._leeway:.0f} s ago")
        for name in ("nbf", "iat"):
            if (instant := numeric_date(claims, name)) is not None and instant > wall + self._leeway:
                raise InvalidToken(f"the token's {name} is {instant - wall:.0f} s in the future")
        for name in self._require:
            if claims.get(name) is None:
                raise InvalidToken(f"the token has no claim {name}")
        return caller_id(claims, self._caller), left


def _type(typ: str) -> str:
    """Return a media type in lower case, without the prefix that may be left out (RFC 7515 4.1.9)."""
    return typ.lower().removeprefix("application/")


def audiences_of(value: Any) -> frozenset[str]:
    """Return the audiences of a claim `aud`, which is a text or a list of texts (RFC 7519 4.1.3)."""
    if isinstance(value, str):
        return frozenset((value,))
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return frozenset(value)
    return frozenset()


def caller_id(claims: dict[str, Any], name: str) -> str:
    """Return the caller's ID from a claim.  Raises `InvalidToken` if it cannot be one."""
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidToken(f"the token has no claim {name} that names the caller")
    if len(value) > LONGEST_ID or (not value.isprintable() and CONTROLS.search(value)):
        raise InvalidToken(f"the claim {name} is too long for the name of a caller, or has control characters")
    return value


def numeric_date(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 2); None if it is absent.  Raises `InvalidToken`."""
    value: Any = claims.get(name)
    if value is None and name not in claims:
        return None
    kind: object = value.__class__
    if kind not in NUMBERS or not -MOST_SECONDS < value < MOST_SECONDS:
        raise InvalidToken(f"the token's {name} is not a date")
    return float(value)
