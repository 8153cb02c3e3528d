"""Signed tokens about callers: verified by PyJWT, cached, renewed, and out of reach of clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from sidecar.core.exchange import Caller
from sidecar.identity.keys import SigningKey
from sidecar.stages import BY_NAME
from sidecar.stages.authenticate import caller_token
from sidecar.stages.authenticate.caller_token import CallerToken
from sidecar.stages.authenticate.spec import TokenSpec
from tests.support.clock import WALL, FakeEnv, make_env
from tests.support.issuer import jwk, key
from tests.support.service import Store, context
from tests.unit.identity.test_jwt import identity
from tests.unit.stages.authenticate.test_cached import lines, send, stage

PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
SPEC = {"audience": "orders", "claims": ["tenant"], "lifetime": "60s"}


def make(env: FakeEnv | None = None, **settings: Any) -> tuple[CallerToken, SigningKey]:
    """Return a source of tokens, and its key."""
    built = CallerToken(TokenSpec.model_validate({**SPEC, **settings}), context(env, store=Store()))
    return built, built._key


def caller(name: str = "alice", **claims: Any) -> Caller:
    return Caller(name, "corporate", {"sub": name, "tenant": "acme", "secret": "x", **claims})


def verified(line: bytes, signer: SigningKey) -> dict[str, Any]:
    """Return the claims of a field line's token, as PyJWT reads them with the published key."""
    name, _, token = line.removesuffix(b"\r\n").partition(b": ")
    assert name == b"x-caller-token"
    known = jwt.PyJWKSet.from_dict({"keys": [signer.jwk]})[jwt.get_unverified_header(token)["kid"]]
    found: dict[str, Any] = jwt.decode(
        token, known, algorithms=["EdDSA"], audience="orders", issuer="sidecar",
        options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "sub"]},
    )  # fmt: skip
    return found


def test_another_library_verifies_the_token_with_the_published_key() -> None:
    built, signer = make()
    found = verified(built.line(caller())[0], signer)
    instants = {"iat": int(WALL), "exp": int(WALL) + 60}
    about = {"iss": "sidecar", "aud": "orders", "sub": "alice", "identity": "corporate", "tenant": "acme"}
    assert found == {**about, **instants}
    assert set(signer.jwk) == {"kty", "crv", "x", "kid", "use", "alg"}, "the private key is not published"
    with pytest.raises(jwt.InvalidSignatureError):
        verified(built.line(caller())[0], _with_id(signer.id))


def _with_id(kid: str) -> SigningKey:
    other = SigningKey()
    other.jwk["kid"] = kid
    return other


def test_each_caller_has_one_token_for_half_of_its_lifetime() -> None:
    env = make_env()
    built, signer = make(env)
    first, until = built.line(caller())
    assert until == env.now() + 30
    assert built.line(caller())[0] is first, "another object of the same caller"
    assert built.line(caller("bob"))[0] != first
    assert built.line(caller(tenant="other"))[0] != first
    env.advance(29.9)
    assert built.line(caller())[0] is first
    env.advance(0.2)
    renewed = built.line(caller())[0]
    assert verified(renewed, signer)["exp"] > verified(first, signer)["exp"]


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_token, "MOST", 3)
    built, _ = make()
    first = built.line(caller("0"))[0]
    for number in range(1, 4):
        built.line(caller(str(number)))
    assert len(built._lines) == 3
    assert built.line(caller("0"))[0] == first, "Ed25519 signs without chance"


def test_a_key_from_a_file_is_the_same_in_each_process(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*PEM))
    (one, signer), (other, _) = make(key=str(path)), make(key=str(path))
    assert one.line(caller()) == other.line(caller())
    verified(one.line(caller())[0], signer)
    assert make()[1].id != make()[1].id, "without a file each process has its own"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "is not a private key in PEM"),
        (ec.generate_private_key(ec.SECP256R1()).private_bytes(*PEM), "openssl genpkey -algorithm ed25519"),
        (
            ed25519.Ed25519PrivateKey.generate().private_bytes(
                *PEM[:2], serialization.BestAvailableEncryption(b"password")
            ),
            "without a password",
        ),
    ],
)
def test_a_file_without_a_usable_key_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"forward.token.key: .*key.pem .*{words}"):
        make(key=str(path))


def test_the_token_goes_on_instead_of_what_the_client_sends_and_is_renewed_for_a_cached_caller() -> None:
    env = make_env()
    found = identity(jwk(key()), env=env)
    built = stage(found, env=env, token=SPEC)
    assert built._forwarding._token is not None
    seen = []
    for seconds in (0.0, 1.0, 1.0, 30.0, 1.0):
        env.advance(seconds)
        outcome, x = send(built, lines(b"X-Trace: 1"))
        assert outcome is None
        seen.append([value for name, value in x.headers if name == b"x-caller-token"])
    assert [len(each) for each in seen] == [1] * 5
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == seen[4] != seen[2]
    verified(b"x-caller-token: %b" % seen[4][0], built._forwarding._token._key)


def test_names_and_claims_of_the_token_are_its_own() -> None:
    spec = BY_NAME["authenticate"].spec
    for forward in (
        {"token": {"audience": "orders", "claims": ["aud"]}},
        {"token": {"audience": "orders", "header": "authorization"}},
        {"token": {"audience": "orders"}, "caller": "X_Caller-Token"},
        {"token": {}},
        {"token": {"audience": "orders", "lifetime": "1s"}},
    ):
        with pytest.raises(ValueError, match="forward"):
            spec.model_validate({"any_of": ["corporate"], "forward": forward})
    given = spec.model_validate({"any_of": ["corporate"], "forward": {"token": {"audience": "orders"}}})
    assert given.forward.fields() == ["x-caller-token"]  # type: ignore[attr-defined]
