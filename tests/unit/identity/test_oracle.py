"""Differential test: every token that the sidecar accepts is accepted by an independent library with the same rules.

The other way round, well-formed tokens that the library accepts are accepted here, unless a rule of ours is stricter.
"""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt as oracle
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet

from sidecar.core.exchange import Caller
from tests.support.clock import WALL
from tests.support.issuer import CLAIMS, ISSUER, jwk, key, part, raw
from tests.unit.identity.test_jwt import ask, identity

SIGNERS = {"RS256": key("RSA", "rsa"), "ES256": key("EC", "ec"), "HS256": key("oct", "secret")}
ALGORITHMS = list(SIGNERS)
KEYS = KeySet([SIGNERS["RS256"], SIGNERS["ES256"], SIGNERS["HS256"]])
OURS = identity(*(jwk(each) for each in SIGNERS.values()), algorithms=ALGORITHMS)
RULES = oracle.JWTClaimsRegistry(
    now=lambda: int(WALL),
    leeway=30,
    iss={"essential": True, "value": ISSUER},
    aud={"essential": True, "values": ["orders"]},
    sub={"essential": True},
    exp={"essential": True},
)
instants = st.one_of(st.integers(int(WALL) - 60, int(WALL) + 60), st.floats(WALL - 60, WALL + 60), st.none(), st.text())
claims = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.sampled_from([ISSUER, "https://evil.example", None, 7, [ISSUER]]),
        "aud": st.sampled_from(["orders", ["orders", "x"], "x", [], None, 7]),
        "sub": st.sampled_from(["alice", "", None, 7]),
        "exp": instants,
        "nbf": instants,
        "iat": instants,
    },
)
REGISTERED = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti")
"""Claims whose values have a form (RFC 7519 4.1); generators find such names in the sources."""
headers = st.fixed_dictionaries(
    {"alg": st.sampled_from([*ALGORITHMS, "none", "HS384", "PS256", "rs256"])},
    optional={
        "kid": st.sampled_from(["rsa", "ec", "secret", "two", "", 7, None]),
        "typ": st.sampled_from(["JWT", "at+jwt", "dpop+jwt", 7]),
        "crit": st.just(["exp"]),
        "b64": st.just(False),
    },
)


def accepted_by_oracle(token: bytes) -> bool:
    """True if the library accepts a token, with one of the keys: it takes no set of keys for a token without an ID."""
    return any(accepted_with(each, token) for each in (KEYS, *SIGNERS.values()))


def accepted_with(keys: Any, token: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        try:
            decoded = oracle.decode(token.decode("latin-1"), keys, algorithms=ALGORITHMS)
            RULES.validate(decoded.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            return False
    return True


def accepted_by_us(token: bytes) -> bool:
    return isinstance(ask(OURS, token), Caller)


@settings(max_examples=150, deadline=None)
@given(headers, claims, st.sampled_from(ALGORITHMS), st.booleans())
def test_an_accepted_token_is_accepted_by_another_library(
    header: dict[str, Any], changed: dict[str, Any], signer: str, has_all: bool
) -> None:
    payload = {**CLAIMS, **changed} if has_all else changed
    token = raw(header, payload, SIGNERS[signer], signer)
    if accepted_by_us(token):
        assert accepted_by_oracle(token), (header, payload)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ALGORITHMS),
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name not in REGISTERED), st.integers() | st.text(max_size=8), max_size=4
    ),
)
def test_well_formed_tokens_are_accepted_by_both(alg: str, more: dict[str, Any]) -> None:
    payload = {**more, **CLAIMS}
    token = raw({"alg": alg, "kid": SIGNERS[alg].kid, "typ": "JWT"}, payload, SIGNERS[alg], alg)
    assert accepted_by_oracle(token)
    assert accepted_by_us(token)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_token_is_accepted(data: st.DataObject) -> None:
    """Any change of an accepted token's bytes is refused: each token has one spelling."""
    token = raw({"alg": "ES256", "kid": "ec"}, CLAIMS, SIGNERS["ES256"])
    at = data.draw(st.integers(0, len(token) - 1))
    octet = data.draw(st.integers(0, 255))
    changed = bytes([*token[:at], octet, *token[at + 1 :]])
    if changed != token:
        assert not accepted_by_us(changed)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_nonsense_is_refused_and_never_raises(head: bytes, payload: bytes, signature: bytes) -> None:
    assert not accepted_by_us(b".".join((part(head), part(payload), part(signature))))
    assert not accepted_by_us(b".".join((head, payload, signature)).replace(b"\r", b"").replace(b"\n", b""))


def test_the_secret_of_one_algorithm_signs_for_no_other() -> None:
    for alg, signer in SIGNERS.items():
        for claimed in ALGORITHMS:
            header = {"alg": claimed, "kid": signer.kid}
            signed = part(header) + b"." + part(CLAIMS)
            token = signed + b"." + part(signature_of(alg, signed))
            assert accepted_by_us(token) == (alg == claimed)


def signature_of(alg: str, signed: bytes) -> bytes:
    from joserfc import jws

    return jws.JWSRegistry.algorithms[alg].sign(signed, SIGNERS[alg])  # type: ignore[no-any-return]
