"""Key sets that are ambiguous or contradict themselves, and tokens that contradict their key.

Each row is made here: the members of a key or of a set, the header of a token that the right key has signed, and
whether RFC 7515 to 7518 let a verifier accept it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.core import events
from sidecar.core.exchange import Caller
from sidecar.identity.jwt import JwtIdentity
from sidecar.identity.key_source import FileKeys, InlineKeys, KeySource
from sidecar.identity.keys import read_key, read_keys
from sidecar.identity.spec import JwtSpec
from sidecar.identity.verdict import Verdict
from sidecar.identity.verification import VerificationBudget, VerificationSpec
from tests.support.clock import WALL, make_env
from tests.support.issuer import ISSUER, KeyServer, jwk, key
from tests.support.loop import settle, virtual
from tests.unit.identity.test_forgeries import EC, P384, RSA, SECRET, b64, make, public, signature, text
from tests.unit.identity.test_jwt import ask
from tests.unit.identity.test_key_source import Rig

SHARED = {"kty": "oct", "k": b64(SECRET).decode(), "kid": "hs"}
OTHER = {"kty": "oct", "k": b64(SECRET[::-1]).decode(), "kid": "hs-2"}
RS, ES, E3 = public(RSA, "rsa"), public(EC, "ec"), public(P384, "p384")
ALL = ["RS256", "PS256", "RS384", "PS384", "ES256", "ES384", "HS256", "HS384"]

MIXED = "secrets .oct. beside public keys"
REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a secret beside a public key": ([SHARED, ES], MIXED),
    "a secret behind a public key": ([RS, ES, SHARED], MIXED),
    "a secret and a public key of one ID": ([{**SHARED, "kid": "ec"}, ES], MIXED),
    "a secret and a public key without IDs": (
        [{k: v for k, v in SHARED.items() if k != "kid"}, public(EC, None)],
        MIXED,
    ),
    "two secrets of one ID": ([SHARED, {**OTHER, "kid": "hs"}], "two keys for HS256 with the kid 'hs'"),
    "two keys of one type and ID": ([RS, jwk(key("RSA", "rsa"))], "two keys for RS256 with the kid 'rsa'"),
    "one of them for fewer algorithms": (
        [RS, {**jwk(key("RSA", "rsa")), "alg": "PS256"}],
        "two keys for PS256 with the kid 'rsa'",
    ),
    "the first and the last of many": (
        [ES, *({**OTHER, **RS, "kid": str(n)} for n in range(9)), jwk(key("EC", "ec"))],
        "'ec'",
    ),
}
TAKEN: dict[str, list[dict[str, Any]]] = {
    "two secrets": [SHARED, OTHER],
    "public keys of several types": [RS, ES, E3],
    "equivalent keys of two types with one ID (RFC 7517 4.5)": [{**RS, "kid": "one"}, {**ES, "kid": "one"}],
    "two curves with one ID": [{**ES, "kid": "one"}, {**E3, "kid": "one"}],
    "one key, listed for two algorithms": [{**RS, "alg": "RS256"}, {**RS, "alg": "PS256"}],
    "one key twice": [RS, RS],
    "two keys of one ID, each for its own algorithm": [
        {**RS, "alg": "RS256"},
        {**jwk(key("RSA", "rsa")), "alg": "PS256"},
    ],
    "two keys without ID": [public(EC, None), {k: v for k, v in jwk(key("EC", "x")).items() if k != "kid"}],
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_set_is_refused_as_a_whole(name: str, tmp_path: Path) -> None:
    keys, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read_keys({"keys": keys}, has_secrets=True)
    with pytest.raises(ValueError, match=f"^keys.inline: has .*{message}"):
        InlineKeys("corporate", keys)
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    with pytest.raises(ValueError, match=f"^{path}: has .*{message}"):
        FileKeys("corporate", str(path), make_env())


@pytest.mark.parametrize("name", TAKEN)
def test_a_set_in_which_algorithm_and_id_name_one_key_is_taken(name: str) -> None:
    keys, problems = read_keys({"keys": TAKEN[name]}, has_secrets=True)
    assert (len(keys), problems) == (len(TAKEN[name]), [])


def test_a_file_that_becomes_ambiguous_leaves_the_keys_in_force(tmp_path: Path) -> None:
    path, env = tmp_path / "keys.json", make_env()
    path.write_text(json.dumps({"keys": [ES]}))
    source = FileKeys("corporate", str(path), env)
    path.write_text(json.dumps({"keys": [ES, SHARED, OTHER]}))
    source.poll()
    assert not source.problem, "the file may still be being written"
    source.poll()
    assert [each.id for each in source.keys.keys] == ["ec"]
    assert source.keys.keys[0].is_current
    assert "write two identities" in source.problem
    assert source.problem in str(env.emitted(events.KEYS_FAILED))


@virtual
async def test_a_url_whose_set_becomes_ambiguous_leaves_the_keys_in_force() -> None:
    rig = Rig(KeyServer(jwk(key())))
    await settle()
    token = rig.fresh(1)
    rig.server.keys = [jwk(key()), jwk(key("EC", "two")), {**jwk(key("EC", "three")), "kid": "two"}]
    await rig.source._fetch()
    assert rig.source.problem == f"{ISSUER}/keys: has two keys for ES256 with the kid 'two'; give each its own kid"
    assert isinstance(await rig.ask(token), Caller)
    rig.server.keys = [jwk(key()), SHARED]  # a secret that everybody can read is left out, and the rest is used
    await rig.source._fetch()
    assert rig.source.problem == ""
    assert isinstance(await rig.ask(rig.fresh(2)), Caller)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "alg of no algorithm": ({**ES, "alg": "ES521"}, "is for the algorithm 'ES521'"),
    "alg of another curve": ({**ES, "alg": "ES384"}, "is for the algorithm 'ES384'"),
    "alg of another type": ({**RS, "alg": "ES256"}, "is for the algorithm 'ES256'"),
    "alg of an HMAC on a public key": ({**RS, "alg": "HS256"}, "is for the algorithm 'HS256'"),
    "alg of an encryption": ({**SHARED, "alg": "A256GCM"}, "is for the algorithm 'A256GCM'"),
    "alg none": ({**ES, "alg": "none"}, "is for the algorithm 'none'"),
    "alg that is a list": ({**ES, "alg": ["ES256"]}, "has an alg that is no text"),
    "use enc": ({**ES, "use": "enc"}, "is for the use 'enc'"),
    "use that is a list": ({**ES, "use": ["sig"]}, "is for the use"),
    "key_ops without verify": ({**ES, "key_ops": ["encrypt"]}, "is not for the operation verify"),
    "key_ops that are empty": ({**ES, "key_ops": []}, "is not for the operation verify"),
    "key_ops that are a text": ({**ES, "key_ops": "verify"}, "is not for the operation verify"),
    "key_ops with a repetition": ({**ES, "key_ops": ["verify", "verify"]}, "no list of different texts"),
    "key_ops with a number": ({**ES, "key_ops": ["verify", 7]}, "no list of different texts"),
    "use enc beside key_ops verify": ({**ES, "use": "enc", "key_ops": ["verify"]}, "is for the use 'enc'"),
    "use sig beside key_ops encrypt": ({**ES, "use": "sig", "key_ops": ["encrypt"]}, "is not for the operation verify"),
    "kty of another type": ({**ES, "kty": "RSA"}, "lacks one of n, e"),
    "curve of another size": ({**ES, "crv": "P-384"}, "cannot be read"),
    "point that is not on the curve": ({**ES, "y": ES["x"]}, "cannot be read"),
    "a secret with foreign characters": ({**SHARED, "k": "?" + SHARED["k"]}, "has k that is not base64url"),
    "a modulus with white space": ({**RS, "n": RS["n"] + "\n"}, "has n that is not base64url"),
    "an empty secret": ({**SHARED, "k": ""}, "has k that is not base64url"),
    "a short secret": ({**SHARED, "k": b64(SECRET[:31]).decode()}, "has 31 bytes"),
    "a secret of zeros": ({**SHARED, "k": b64(bytes(32)).decode()}, "repeats few bytes"),
    "a secret of one word": ({**SHARED, "k": b64(b"secret!" * 8).decode()}, "repeats few bytes"),
    "exponent one": ({**RS, "e": "AQ"}, "unusual exponent|cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_key_that_contradicts_itself_is_left_out(name: str) -> None:
    document, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        read_key(document, has_secrets=True)
    sound = SHARED if document["kty"] == "oct" else jwk(key("EC", "sound"))
    keys, problems = read_keys([document, {**sound, "kid": "sound"}], has_secrets=True)
    assert [each.id for each in keys] == ["sound"]
    assert len(problems) == 1
    assert problems[0].startswith(f"key {document['kid']} ")


def judge(document: dict[str, Any], token: bytes) -> Verdict | None:
    spec = JwtSpec.model_validate(
        {"issuer": ISSUER, "audiences": ["orders"], "algorithms": ALL, "keys": {"inline": [document]}}
    )
    env = make_env()
    source: KeySource = InlineKeys("corporate", [document])
    return ask(JwtIdentity("corporate", spec, source, VerificationBudget(VerificationSpec(), env), env), token)


def padded(token: bytes, part: int) -> bytes:
    """Return a token with base64 padding behind one of its parts."""
    parts = token.split(b".")
    parts[part] += b"=" * (-len(parts[part]) % 4 or 4)
    return b".".join(parts)


def padded_and_signed(part: int) -> bytes:
    """Return a token with base64 padding behind header or payload, which its issuer has signed."""
    parts = [
        b64(text({"alg": "ES256", "kid": "ec"})),
        b64(text({"iss": ISSUER, "aud": "orders", "sub": "al", "exp": WALL + 60})),
    ]
    parts[part] += b"=" * (-len(parts[part]) % 4 or 4)
    return b".".join((*parts, b64(signature("ES256", b".".join(parts)))))


VECTORS: dict[str, tuple[dict[str, Any], bytes, bool]] = {
    "key without alg": (RS, make({"alg": "PS256"}, alg="PS256"), True),
    "key with the algorithm of the token": ({**RS, "alg": "PS256"}, make(alg="PS256"), True),
    "key for PS256, token with RS256": ({**RS, "alg": "PS256"}, make(alg="RS256"), False),
    "key for PS384, token with PS256": ({**RS, "alg": "PS384"}, make(alg="PS256"), False),
    "key for HS384, token with HS256": ({**SHARED, "alg": "HS384"}, make(alg="HS256"), False),
    "secret for HS256": ({**SHARED, "alg": "HS256"}, make(alg="HS256"), True),
    "key_ops verify": ({**ES, "key_ops": ["verify"]}, make(), True),
    "key_ops sign and verify": ({**ES, "key_ops": ["sign", "verify"]}, make(), True),
    "use sig beside key_ops verify": ({**ES, "use": "sig", "key_ops": ["verify"]}, make(), True),
    "unknown members of a key": ({**ES, "x5t": "AAAA", "example.com/x": 1}, make(), True),
    "key without kid": (public(EC, None), make(), False),
    "neither has a kid": (public(EC, None), make({"kid": ...}), True),
    "white space in the header": (ES, make(b'{ "kid" : "ec", "alg" : "ES256" }'), True),
    "padded header": (ES, padded(make(), 0), False),
    "padded payload": (ES, padded(make(), 1), False),
    "padded signature": (ES, padded(make(), 2), False),
    "header padded by its issuer": (ES, padded_and_signed(0), False),
    "payload padded by its issuer": (ES, padded_and_signed(1), False),
    "a foreign character behind the header": (ES, make().replace(b".", b"?.", 1), False),
    "a foreign character in the header": (ES, make()[:9] + b"?" + make()[9:], False),
    "a foreign character before the signature": (ES, b".?".join(make().rsplit(b".", 1)), False),
    "a member of the header twice": (ES, make(b'{"alg":"ES256","alg":"ES256","kid":"ec"}'), False),
    "a header that is understood only with crit": (ES, make({"crit": ["exp"], "exp": 1}), False),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_signed_token_is_accepted_only_if_its_key_says_so(name: str) -> None:
    document, token, is_accepted = VECTORS[name]
    assert isinstance(judge(document, token), Caller) is is_accepted
