"""Tokens that must be rejected, and those that must be accepted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.core.exchange import Caller
from sidecar.core.outcome import Failure
from sidecar.core.stage import Wait
from sidecar.identity.credentials import TAIL
from sidecar.identity.jwt import JwtIdentity
from sidecar.identity.key_source import InlineKeys, KeySet
from sidecar.identity.keys import read_key
from sidecar.identity.spec import JwtSpec
from sidecar.identity.tokens import MOST_BYTES, TokenCache
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import MOST_CLIENTS, VerificationBudget, VerificationSpec
from tests.support.clock import WALL, FakeEnv, make_env
from tests.support.issuer import CLAIMS, ISSUER, jwk, key, part, raw, sign
from tests.support.service import exchange

ALGORITHMS = {
    "RS256": "RSA",
    "PS384": "RSA",
    "ES256": "EC",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "OKP",
    "Ed25519": "OKP",
}


def identity(
    *keys: dict[str, Any],
    env: FakeEnv | None = None,
    limits: VerificationSpec | None = None,
    at_once: int = 1000,
    wary_for: float = 0.0,
    **settings: Any,
) -> JwtIdentity:
    keys = keys or (jwk(key()),)
    spec = JwtSpec.model_validate({"issuer": ISSUER, "audiences": ["orders"], **settings, "keys": {"inline": keys}})
    env = env or make_env()
    source = InlineKeys("corporate", keys[:1])
    source.keys = KeySet(read_key(each, has_secrets=True) for each in keys)  # also sets that policies cannot have
    budget = VerificationBudget(limits or VerificationSpec(), env, at_once=at_once, wary_for=wary_for)
    return JwtIdentity("corporate", spec, source, budget, env)


def ask(found: JwtIdentity, token: bytes | None, address: str = "10.0.0.1", now: float = 1000.0) -> Verdict | None:
    headers = {} if token is None else {"authorization": f"Bearer {token.decode('latin-1')}"}
    x = exchange(headers=headers, client_address=address)
    lines = x.lines
    verdict = found.authenticate(x, lines, b"\n" + lines.lower(), now)
    if isinstance(verdict, Wait):  # the key is slow
        verdict = asyncio.run(verdict.awaited)
    return verdict


def cause(found: Verdict | None) -> str:
    assert isinstance(found, Rejection | Unavailable), found
    return found.cause


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_signed_token_names_its_caller(alg: str) -> None:
    signer = key(ALGORITHMS[alg])
    found = ask(identity(jwk(signer), algorithms=[alg]), sign(signer, alg=alg))
    assert isinstance(found, Caller)
    assert (found.id, found.identity, found.credential) == ("alice", "corporate", b"authorization")
    assert found.claims["tenant"] == "acme"


@pytest.mark.parametrize("alg", ["HS256", "HS512"])
def test_a_shared_secret_verifies_only_its_own_algorithm(alg: str) -> None:
    signer = key("oct")
    assert isinstance(ask(identity(jwk(signer), algorithms=["HS256", "HS512"]), sign(signer, alg=alg)), Caller)
    assert isinstance(ask(identity(jwk(signer), algorithms=["HS384"]), sign(signer, alg=alg)), Rejection)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "payments"}, "audience"),
        ({"aud": ["payments", "x"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": {"orders": 1}}, "audience"),
        ({"aud": ["orders", 7]}, "audience"),
        ({"exp": WALL - 31}, "expired 31 s ago"),
        ({"exp": None}, "no exp"),
        ({"exp": str(WALL + 60)}, "exp is not a date"),
        ({"exp": True}, "exp is not a date"),
        ({"nbf": WALL + 31}, "nbf"),
        ({"nbf": "soon"}, "nbf is not a date"),
        ({"iat": WALL + 60}, "iat"),
        ({"sub": None}, "no claim sub"),
        ({"sub": 17}, "no claim sub"),
        ({"sub": ""}, "no claim sub"),
        ({"sub": "a\r\nx-admin: 1"}, "control characters"),
        ({"sub": "a" * 257}, "too long"),
        ({"tenant": None}, "no claim tenant"),
    ],
)
def test_wrong_claims_are_rejected(changed: dict[str, Any], words: str) -> None:
    assert words in cause(ask(identity(require=["tenant"]), sign(key(), changed)))


@pytest.mark.parametrize(
    "changed", [{"exp": WALL - 29}, {"nbf": WALL + 29}, {"iat": WALL + 29.5}, {"aud": ["a", "orders"]}, {"exp": 1e12}]
)
def test_claims_within_the_leeway_are_accepted(changed: dict[str, Any]) -> None:
    assert isinstance(ask(identity(), sign(key(), changed)), Caller)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"typ": "logout+jwt"}, "type"),
        ({"typ": 7}, "typ"),
        ({"crit": ["exp"]}, "crit"),
        ({"b64": True}, "b64"),
        ({"zip": "DEF"}, "zip"),
        ({"enc": "A128GCM"}, "enc"),
        ({"cty": "JWT"}, "nested"),
        ({"cty": "application/jwt"}, "nested"),
        ({"kid": ["one"]}, "kid"),
        ({"kid": "../../etc/passwd"}, "no key"),
        ({"kid": "one' OR 1=1"}, "no key"),
        ({"alg": "none"}, "algorithm"),
        ({"alg": "None"}, "algorithm"),
        ({"alg": "es256"}, "algorithm"),
        ({"alg": ["ES256"]}, "algorithm"),
        ({"alg": None}, "algorithm"),
        ({"alg": "HS256"}, "algorithm"),
    ],
)
def test_wrong_headers_are_rejected(header: dict[str, Any], words: str) -> None:
    whole = {"alg": "ES256", "kid": "one", **header}
    assert words in cause(ask(identity(), raw({n: v for n, v in whole.items() if v is not None}, CLAIMS, key())))


@pytest.mark.parametrize(
    "header", [{"typ": None}, {"typ": "at+jwt"}, {"typ": "application/AT+JWT"}, {"x5u": "http://x"}]
)
def test_usual_types_are_accepted_and_keys_in_the_header_ignored(header: dict[str, Any]) -> None:
    own = jwk(key("EC", "mine"))
    assert isinstance(ask(identity(), sign(key(), **header, jwk=own)), Caller)
    assert isinstance(ask(identity(), sign(key("EC", "mine"), **header, jwk=own)), Rejection)


@pytest.mark.parametrize("name", ["kid", "typ"])
def test_null_is_no_text_and_not_the_absence_of_a_member(name: str) -> None:
    """RFC 7515 4.1.4 and 4.1.9: the value is a text."""
    whole = {"alg": "ES256", "kid": "one", "typ": "JWT"}
    assert isinstance(ask(identity(), raw({k: v for k, v in whole.items() if k != name}, CLAIMS, key())), Caller)
    assert f"{name} is no text" in cause(ask(identity(), raw({**whole, name: None}, CLAIMS, key())))


def test_configured_types_must_be_present() -> None:
    found = identity(types=["at+jwt"])
    assert isinstance(ask(found, sign(key(), typ="at+jwt")), Caller)
    assert "type" in cause(ask(found, sign(key(), typ="JWT")))
    assert "type" in cause(ask(found, sign(key(), typ=None)))


def test_a_public_key_is_never_the_secret_of_an_hmac() -> None:
    """Algorithm confusion (RFC 8725 2.1), with every usual spelling of the public key."""
    import hmac

    signer = key("RSA")
    public = jwk(signer)
    found = identity(public, jwk(key("oct", "two")), algorithms=["RS256", "HS256"])
    for secret in (signer.as_pem(private=False), signer.as_der(private=False), json.dumps(public).encode()):
        for kid in ("one", "two", None):
            header = {"alg": "HS256", **({"kid": kid} if kid else {})}
            signed = part(header) + b"." + part(CLAIMS)
            token = signed + b"." + part(hmac.digest(secret, signed, "sha256"))
            assert isinstance(ask(found, token), Rejection)


def test_a_key_is_used_only_as_it_says() -> None:
    token = sign(key("RSA"), alg="RS256")
    for members, words in [
        ({"use": "enc"}, "for the use"),
        ({"key_ops": ["sign"]}, "operation verify"),
        ({"alg": "RSA-OAEP"}, "is for the algorithm"),
        ({"kty": "rsa"}, "has the type"),
        ({"kid": 7}, "kid"),
        ({"kid": "k" * 257}, "kid"),
        ({"e": "AQ"}, "cannot be read"),
        ({"e": "AQAAAAE"}, "exponent"),
        ({"n": jwk(key("RSA"))["n"][:100]}, "bits"),
        ({"n": None}, "lacks"),
        ({"d": "AQAB"}, "private"),
    ]:
        with pytest.raises(ValueError, match=words):
            identity(jwk(key("RSA"), **members), algorithms=["RS256"])
    found = identity(jwk(key("RSA"), alg="PS256"), algorithms=["RS256", "PS256"])
    assert "no key" in cause(ask(found, token))
    assert isinstance(ask(found, sign(key("RSA"), alg="PS256")), Caller)


def test_a_token_without_key_id_is_verified_with_the_few_keys_that_fit() -> None:
    names = [f"k{number}" for number in range(4)]
    found = identity(*(jwk(key("EC", name)) for name in names), jwk(key("RSA")), algorithms=["ES256", "RS256"])
    for name in names:
        assert isinstance(ask(found, sign(key("EC", name), kid=None)), Caller)
    assert isinstance(ask(found, sign(key("EC", "other"), kid=None)), Rejection)
    assert isinstance(ask(found, sign(key("EC", "k0"), kid="k1")), Rejection), "the ID decides"


def test_each_token_has_one_spelling() -> None:
    token = sign(key())
    head, payload, signature = token.split(b".")
    for wrong in (
        token + b"=", token + b"A", token[:-1], token + b"\t.", token.replace(b".", b"..", 1), head + b"." + payload,
        token + b".", b".".join((head, payload, b"")), b".".join((head, payload + b"==", signature)),
        b"." + payload + b"." + signature, token.replace(b".", b"\n.", 1), b"", b"..", b"a.b.c", b"\xff.\xfe.\xfd",
    ):  # fmt: skip
        assert isinstance(ask(identity(), wrong), Rejection), wrong
    last = signature[-1:]
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    at = letters.index(last)
    for other in range(at & ~15, (at & ~15) + 16):  # 64 bytes: the last four bits of the last character are unused
        spelt = b".".join((head, payload, signature[:-1] + letters[other : other + 1]))
        assert isinstance(ask(identity(), spelt), Caller) == (spelt == token)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":99999999999,"sub":"admin"}',
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":99999999999,"a":{"b":1,"b":2}}',
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":Infinity}',
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":NaN}',
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":1e999}',
        b'{"iss":"https://id.example","aud":"orders","sub":"alice","exp":' + b"9" * 5000 + b"}",
        b"[" * 5000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'["alice"]',
        b'"alice"',
        b"null",
        b"\xff\xfe",
        b"",
        b"{}{}",
    ],
)
def test_strange_payloads_are_rejected(payload: bytes) -> None:
    assert isinstance(ask(identity(), raw({"alg": "ES256", "kid": "one"}, payload, key())), Rejection)


def test_duplicate_members_of_the_header_are_rejected() -> None:
    header = b'{"alg":"ES256","kid":"one","alg":"ES256"}'
    assert "twice" in cause(ask(identity(), raw(header, CLAIMS, key())))


def test_a_long_token_is_rejected_unread() -> None:
    token = sign(key(), {"filler": "x" * 20_000})
    assert "bytes" in cause(ask(identity(), token))
    assert isinstance(ask(identity(max_token="64KiB"), token), Caller)


def test_requests_without_a_bearer_token_are_no_matter_of_this_identity() -> None:
    found = identity()
    assert ask(found, None) is None
    for value, is_none in (("Basic YWxpY2U6", True), ("bearer", False), ("Bearer", False), ("BEARER x", False)):
        x = exchange(headers={"authorization": value})
        assert (found.authenticate(x, x.lines, b"\n" + x.lines.lower(), 1000.0) is None) == is_none
    token = sign(key()).decode()
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        x = exchange(headers={"authorization": f"{scheme} {token}"})
        assert isinstance(found.authenticate(x, x.lines, b"\n" + x.lines.lower(), 1000.0), Caller)


def test_two_tokens_in_one_request_are_ambiguous() -> None:
    token = b"Bearer " + sign(key())
    x = exchange(headers=[(b"authorization", token), (b"Authorization", token)])
    verdict = identity().authenticate(x, x.lines, b"\n" + x.lines.lower(), 1000.0)
    assert isinstance(verdict, Rejection)
    assert verdict.is_ambiguous


def test_verdicts_are_cached_until_the_token_ends_or_a_minute_is_over() -> None:
    env = make_env()
    found = identity(env=env)
    token, short = sign(key()), sign(key(), {"exp": WALL + 10})
    first = ask(found, token, now=env.now())
    assert ask(found, token, now=env.now() + 59) is first
    assert ask(found, token, now=env.now() + 61) is not first
    assert isinstance(ask(found, short, now=env.now()), Caller)
    env.advance(39)
    assert isinstance(ask(found, short, now=env.now()), Caller)
    env.advance(2)
    assert "expired" in cause(ask(found, short, now=env.now()))


def test_a_rejected_token_is_rejected_unread_for_five_seconds() -> None:
    env = make_env()
    found = identity(env=env)
    token = sign(key("EC", "forged"), kid="one")
    first = ask(found, token, now=env.now())
    assert ask(found, token, now=env.now() + 4) is first
    assert ask(found, token, now=env.now() + 6) is not first


def test_forged_tokens_exhaust_their_client_and_nobody_else() -> None:
    env = make_env()
    found = identity(env=env, limits=VerificationSpec.built_in(share=1.0, failures=5.0))
    good = sign(key())
    assert isinstance(ask(found, good), Caller)
    forger = key("EC", "forged")
    verdicts = [ask(found, sign(forger, {"jti": str(n)}, kid="one"), "10.9.9.9") for n in range(20)]
    assert [isinstance(each, Rejection) for each in verdicts] == [True] * 5 + [False] * 15
    assert isinstance(verdicts[-1], Unavailable)
    assert verdicts[-1].retry_after >= 1
    assert isinstance(ask(found, good, "10.9.9.9"), Caller), "a token that was verified before is not affected"
    fresh = sign(key(), {"jti": "fresh"})
    assert isinstance(ask(found, fresh, "10.9.9.9"), Unavailable)
    assert isinstance(ask(found, b"nonsense", "10.9.9.9"), Unavailable), "its tokens are not even read"
    assert isinstance(ask(found, b"nonsense", "10.0.0.2"), Rejection)
    assert isinstance(ask(found, fresh, "10.0.0.2"), Caller), "other clients are not affected"
    assert isinstance(ask(found, sign(key(), {"jti": "late"}), "10.9.9.9", now=env.now() + 2), Caller)


def test_verification_takes_no_more_than_its_share_of_the_cpu() -> None:
    env = make_env()
    found = identity(env=env, limits=VerificationSpec.built_in(share=0.001, failures=1e6))
    verdicts = [ask(found, sign(key(), {"jti": str(n)}), now=env.now()) for n in range(40)]
    assert 15 <= sum(isinstance(each, Caller) for each in verdicts) <= 21
    assert isinstance(verdicts[-1], Unavailable)
    assert env.meter.value("sidecar.verifications.denied") >= 19
    assert isinstance(ask(found, sign(key(), {"jti": "later"}), now=env.now() + 1.5), Caller)


def test_the_table_of_clients_is_bounded() -> None:
    env = make_env()
    budget = VerificationBudget(VerificationSpec(), env)
    for number in range(MOST_CLIENTS + 10):
        budget.fail(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", env.now())
    assert budget.describe()["clients"] == MOST_CLIENTS


def test_the_tables_of_verdicts_are_bounded() -> None:
    cache = TokenCache(None, 3, 3)
    for number in range(10):
        token = b"%060d" % number
        cache.accept(TokenCache.digest(token), Caller("alice", "corporate", {}), None, 60.0, len(token), token)
        cache.reject(b"forged %d" % number, Rejection("forged"), 0.0)
        assert cache.find(token[-TAIL:]) is not None
    assert repr(cache) == "<TokenCache 3 accepted, 3 rejected>"
    assert [cache.find((b"%060d" % number)[-TAIL:]) is not None for number in range(10)] == [False] * 7 + [True] * 3
    assert cache.get(b"forged 6", 1.0) is None
    assert cache.get(b"forged 7", 1.0) is not None


def test_accepted_tokens_have_a_bound_in_bytes() -> None:
    cache = TokenCache()
    for number in range(4):
        cache.accept(b"%d" % number, Caller("alice", "corporate", {}), None, 60.0, MOST_BYTES // 3)
    assert len(cache) == 3


def test_clients_of_one_ipv6_network_are_one() -> None:
    from sidecar.identity.verification import network

    assert network("2001:db8:1:2::7") == network("2001:db8:1:2:a:b:c:d") == "2001:db8:1:2"
    assert network("2001:db8::7") != network("2001:db8:0:1::7")
    assert network("::1") == "0:0:0:0"
    assert network("10.0.0.1") == "10.0.0.1"


def test_callers_with_other_claims_have_other_digests() -> None:
    def digest(**claims: Any) -> bytes:
        found = ask(identity(), sign(key(), claims))
        assert isinstance(found, Caller)
        return found.digest()

    assert digest() == digest(iat=WALL, jti="7", exp=WALL + 60)
    assert digest() != digest(tenant="other")
    assert digest() != digest(sub="bob")


def test_failures_have_their_own_statuses() -> None:
    from sidecar.core.outcome import BAD_CREDENTIALS, UNAUTHENTICATED, UNVERIFIABLE

    found: list[Failure] = [UNAUTHENTICATED, BAD_CREDENTIALS, UNVERIFIABLE]
    assert [each.status for each in found] == [401, 400, 503]
    assert not any(each.sent for each in found)
