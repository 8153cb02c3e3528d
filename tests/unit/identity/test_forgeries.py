"""Corpus of forged, malformed and valid tokens, each sent through the stage `authenticate` before and after the valid
tokens are cached.  No forged token may name a caller, and every valid one must.

The signatures are made by `cryptography` directly, so that a token may be wrong in any respect.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Wait
from sidecar.identity.keys import ROCA_PRIMES, encode, has_roca_form, read_key
from sidecar.stages import BY_NAME
from tests.support.cases import each
from tests.support.clock import WALL, make_env
from tests.support.service import context, exchange
from tests.unit.identity.test_jwt import identity

ISSUER = "https://id.example"
CLAIMS = {"iss": ISSUER, "aud": "orders", "sub": "alice", "exp": WALL + 3600}
RSA, EC, P384, ED = (
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
EVIL_RSA, EVIL_EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
SECRET = b"a secret of the issuer, which nobody else has got, 64 bytes.... "
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of P-256."""
ED_ORDER = 2**252 + 27742317777372353535851937790883648493
SHA256 = hashes.SHA256()
Headers = list[tuple[bytes, bytes]]


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big")).decode()


def public(key: Any, kid: str | None) -> dict[str, Any]:
    """Return a public key as a JSON Web Key."""
    named = {} if kid is None else {"kid": kid}
    found = key.public_key()
    if isinstance(found, rsa.RSAPublicKey):
        numbers = found.public_numbers()
        return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **named}
    if isinstance(found, ec.EllipticCurvePublicKey):
        point, size = found.public_numbers(), (found.key_size + 7) // 8
        x, y = number(point.x, size), number(point.y, size)
        return {"kty": "EC", "crv": f"P-{found.key_size}", "x": x, "y": y, **named}
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(found.public_bytes_raw()).decode(), **named}


KEYS = [
    public(RSA, "rsa"),
    public(EC, "ec"),
    public(P384, "p384"),
    public(ED, "ed"),
    {"kty": "oct", "k": b64(SECRET).decode(), "kid": "hs"},
]
SIGNERS: dict[str, Any] = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED, "HS256": SECRET}
KIDS = {"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "EdDSA": "ed", "HS256": "hs"}


def signature(alg: str, signed: bytes, key: Any = None) -> bytes:
    key = SIGNERS[alg] if key is None else key
    match alg:
        case "HS256":
            return hmac.digest(key, signed, "sha256")
        case "RS256":
            return bytes(key.sign(signed, padding.PKCS1v15(), SHA256))
        case "PS256":
            return bytes(key.sign(signed, padding.PSS(padding.MGF1(SHA256), 32), SHA256))
        case "ES256":
            return pair(key.sign(signed, ec.ECDSA(SHA256)), (key.key_size + 7) // 8)
    return bytes(key.sign(signed))


def pair(der: bytes, size: int = 32) -> bytes:
    r, s = decode_dss_signature(der)
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def make(header: Any = None, claims: Any = None, alg: str = "ES256", key: Any = None) -> bytes:
    """Return a token that is signed with an algorithm, whatever its header says.  None takes a member out."""
    if not isinstance(header, bytes):
        whole = {"alg": alg, "kid": KIDS[alg], **(header or {})}
        header = {name: value for name, value in whole.items() if value is not ...}
    if not isinstance(claims, bytes):
        claims = {name: value for name, value in {**CLAIMS, **(claims or {})}.items() if value is not ...}
    signed = b64(text(header)) + b"." + b64(text(claims))
    return signed + b"." + b64(signature(alg, signed, key))


def resign(sign: Any, alg: str = "ES256", **header: Any) -> bytes:
    """Return a token with the signature that `sign` makes of the signed bytes."""
    signed = make(header, alg=alg).rpartition(b".")[0]
    return signed + b"." + b64(sign(signed))


@cache
def valid_token(alg: str = "ES256") -> bytes:
    return make(alg=alg)


# ----- forged and malformed tokens


def without_algorithm() -> Iterator[tuple[str, bytes]]:
    names = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "none ",
        " none",
        "",
        "n\u043ene",
        "none\x00",
        None,
        [],
        ["none"],
        {},
        0,
        True,
        ...,
    ]
    parts = valid_token().split(b".")
    for alg in [
        *names,
        ["ES256"],
        "es256",
        "ES256 ",
        "ES256K",
        "ES384",
        "HS1",
        "RSA-OAEP",
        "dir",
        "A256GCM",
        "HS384",
        "HS512",
    ]:
        header = {"kid": "ec"} if alg is ... else {"alg": alg, "kid": "ec"}
        head = b64(text(header))
        yield f"alg {alg!r} unsigned", b".".join((head, parts[1], b""))
        yield f"alg {alg!r} with a signature of nothing", b".".join((head, parts[1], b64(b"\0" * 64)))
        yield f"alg {alg!r} signed by the issuer's key", make({"alg": alg})


def public_keys_as_secrets() -> Iterator[tuple[str, bytes]]:
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    for name, key in (("rsa", RSA), ("ec", EC), ("ed", ED)):
        found, jwk = key.public_key(), public(key, name)
        plain = found.public_bytes(pem, spki)
        forms = {
            "PEM": plain,
            "PEM without its last line feed": plain.rstrip(b"\n"),
            "PEM with CRLF": plain.replace(b"\n", b"\r\n"),
            "PEM without its frame": b"".join(plain.splitlines()[1:-1]),
            "DER": found.public_bytes(der, spki),
            "JWK": json.dumps(jwk).encode(),
            "JWK in short": json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode(),
            "JWK set": json.dumps({"keys": KEYS[:4]}).encode(),
            "member in base64": (jwk.get("n") or jwk["x"]).encode(),
            "member in bytes": base64.urlsafe_b64decode((jwk.get("n") or jwk["x"]) + "=="),
            "kid": name.encode(),
        }
        if name == "rsa":
            pkcs1 = serialization.PublicFormat.PKCS1
            forms |= {"PKCS1 PEM": found.public_bytes(pem, pkcs1), "PKCS1 DER": found.public_bytes(der, pkcs1)}
        if name == "ec":
            x962, kinds = serialization.Encoding.X962, serialization.PublicFormat
            forms["point"] = found.public_bytes(x962, kinds.UncompressedPoint)
            forms["point in short"] = found.public_bytes(x962, kinds.CompressedPoint)
        for form, secret in forms.items():
            for kid in (name, "hs", ...):
                yield f"{name} as {form}, kid {kid}", make({"kid": kid}, alg="HS256", key=secret)
    for secret in (b"", b"\0", b"\0" * 32, b"secret", b64(SECRET), SECRET[:-1], SECRET + b"\0"):
        yield f"secret {secret[:8]!r} of {len(secret)} bytes", make(alg="HS256", key=secret)
    for size in (0, 1, 16, 31, 33, 64):
        full = hmac.digest(SECRET, make(alg="HS256").rpartition(b".")[0], "sha512")
        yield (
            f"{size} bytes of an HMAC",
            resign(lambda s, n=size, f=full: (hmac.digest(SECRET, s, "sha256") + f)[:n] if n else b"", "HS256"),
        )


def elliptic() -> Iterator[tuple[str, bytes]]:
    for r in (0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1):
        for s in (0, 1, ORDER - 1, ORDER, 2**256 - 1):
            yield f"r={r:x} s={s:x}", resign(lambda _, r=r, s=s: r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    good = lambda signed: signature("ES256", signed)  # noqa: E731
    changes = {
        "DER": lambda s: EC.sign(s, ec.ECDSA(SHA256)),
        "one byte less": lambda s: good(s)[:-1],
        "one byte more": lambda s: good(s) + b"\0",
        "one zero before": lambda s: b"\0" + good(s),
        "zeros before both": lambda s: b"\0" + good(s)[:32] + b"\0" + good(s)[32:],
        "only r": lambda s: good(s)[:32],
        "twice": lambda s: good(s) * 2,
        "r and s swapped": lambda s: good(s)[32:] + good(s)[:32],
        "bytes reversed": lambda s: good(s)[::-1],
        "r negated": lambda s: (ORDER - int.from_bytes(good(s)[:32], "big")).to_bytes(32, "big") + good(s)[32:],
        "of another text": lambda s: good(s + b"."),
        "of the payload alone": lambda s: good(s.partition(b".")[2]),
        "with SHA-384": lambda s: pair(EC.sign(s, ec.ECDSA(hashes.SHA384()))),
        "by another key": lambda s: signature("ES256", s, EVIL_EC),
        "of P-384": lambda s: signature("ES256", s, P384),
        "of P-384, cut": lambda s: signature("ES256", s, P384)[:64],
        "with the text in place": lambda s: s[:64],
    }
    for name, change in changes.items():
        yield f"ES256 {name}", resign(change)
        yield f"ES256 {name}, without kid", resign(change, kid=...)
    yield "P-384 under ES256 with its own kid", resign(lambda s: signature("ES256", s, P384), kid="p384")
    yield "P-256 under the kid of P-384", make({"kid": "p384"})


def rsa_and_edwards() -> Iterator[tuple[str, bytes]]:
    n = RSA.public_key().public_numbers().n
    pkcs = padding.PKCS1v15()
    pss = lambda size, how=SHA256: padding.PSS(padding.MGF1(how), size)  # noqa: E731
    by_rsa = {
        "PS256 under RS256": ("RS256", lambda s: signature("PS256", s)),
        "RS256 under PS256": ("PS256", lambda s: signature("RS256", s)),
        "RS256 under ES256": ("ES256", lambda s: signature("RS256", s)),
        "ES256 under RS256": ("RS256", lambda s: signature("ES256", s)),
        "EdDSA under RS256": ("RS256", lambda s: signature("EdDSA", s)),
        "HS256 under RS256": ("RS256", lambda s: signature("HS256", s)),
        "SHA-1": ("RS256", lambda s: RSA.sign(s, pkcs, hashes.SHA1())),
        "SHA-512": ("RS256", lambda s: RSA.sign(s, pkcs, hashes.SHA512())),
        "no salt": ("PS256", lambda s: RSA.sign(s, pss(0), SHA256)),
        "longest salt": ("PS256", lambda s: RSA.sign(s, pss(222), SHA256)),
        "mask by SHA-1": ("PS256", lambda s: RSA.sign(s, pss(32, hashes.SHA1()), SHA256)),  # type: ignore[arg-type]
        "another key": ("RS256", lambda s: signature("RS256", s, EVIL_RSA)),
        "another key, PSS": ("PS256", lambda s: signature("PS256", s, EVIL_RSA)),
        "zero before": ("RS256", lambda s: b"\0" + signature("RS256", s)),
        "byte less": ("RS256", lambda s: signature("RS256", s)[1:]),
        "plus modulus": ("RS256", lambda s: (int.from_bytes(signature("RS256", s), "big") + n).to_bytes(257, "big")),
        "minus": ("RS256", lambda s: (n - int.from_bytes(signature("RS256", s), "big")).to_bytes(256, "big")),
    }
    for title, value in {"0": 0, "1": 1, "n - 1": n - 1, "n": n, "2^2048 - 1": 2**2048 - 1}.items():
        for alg in ("RS256", "PS256"):
            by_rsa[f"{alg} value {title}"] = (alg, lambda _, v=value: v.to_bytes(256, "big"))
    for name, (alg, change) in by_rsa.items():
        yield f"RSA {name}", resign(change, alg)
    small = [
        (1).to_bytes(32, "little"),
        b"\0" * 32,
        (2**255 - 20).to_bytes(32, "little"),
        b"\0" * 31 + b"\x80",
        (1 | 1 << 255).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        b"\xff" * 32,
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    ]
    for point in small:
        for scalar in (0, 1, ED_ORDER, ED_ORDER - 1):
            edwards = point + scalar.to_bytes(32, "little")
            yield f"point {point.hex()[:8]} scalar {scalar % 97}", resign(lambda _, e=edwards: e, "EdDSA")
    good = lambda signed: signature("EdDSA", signed)  # noqa: E731
    plus = lambda e: e[:32] + (int.from_bytes(e[32:], "little") + ED_ORDER).to_bytes(32, "little")  # noqa: E731
    changes = {
        "plus the order": lambda s: plus(good(s)),
        "cut": lambda s: good(s)[:63],
        "longer": lambda s: good(s) + b"\0",
        "halves swapped": lambda s: good(s)[32:] + good(s)[:32],
        "highest bit": lambda s: good(s)[:63] + bytes((good(s)[63] | 0x80,)),
        "other text": lambda s: good(s + b" "),
    }
    for name, change in changes.items():
        yield f"EdDSA {name}", resign(change, "EdDSA")


def headers() -> Iterator[tuple[str, bytes]]:
    kids: list[Any] = [
        "../../../dev/null",
        "/dev/null",
        "/etc/passwd\x00",
        "' OR '1'='1",
        "ec' UNION SELECT 'x",
        "",
        " ec",
        "ec ",
        "EC",
        "ec\x00",
        "ec\n",
        "\u0435c",
        "x" * 5000,
        "http://evil.example/key",
        "|id",
        "${jndi:ldap://evil}",
        "rsa",
        "hs",
        "ed",
        0,
        1,
        True,
        False,
        [],
        ["ec"],
        {},
        {"kid": "ec"},
        1.5,
    ]
    for kid in kids:
        yield f"kid {str(kid)[:30]!r}", make({"kid": kid})
        yield f"kid {str(kid)[:30]!r} of another key", make({"kid": kid}, key=EVIL_EC)
    evil, url = public(EVIL_EC, "ec"), "https://evil.example/keys"
    for name, value in {
        "jwk": evil,
        "jku": url,
        "x5u": url,
        "x5c": [base64.b64encode(b"cert").decode()],
        "x5t": "AAAA",
        "x5t#S256": "AAAA",
        "keys": [evil],
        "pem": "-----BEGIN PUBLIC KEY-----",
        "key": evil,
        "epk": evil,
    }.items():
        for kid in ("ec", "evil", ...):
            yield f"{name} in the header, kid {kid}", make({name: value, "kid": kid}, key=EVIL_EC)
    yield (
        "a secret in the header",
        make({"jwk": {"kty": "oct", "k": b64(b"known").decode(), "kid": "hs"}}, alg="HS256", key=b"known"),
    )
    for crit in (["exp"], ["b64"], ["http://example.com/x"], [], "exp", None, {}, [7], ["alg"], ["crit"]):
        yield f"crit {crit}", make({"crit": crit})
        yield f"crit {crit} and b64", make({"crit": crit, "b64": False})
    for member in ({"b64": False}, {"b64": True}, {"b64": None}, {"zip": "DEF"}, {"zip": "GZ"}, {"enc": "A128GCM"}):
        yield f"header {member}", make(member)
    payload = json.dumps(CLAIMS, separators=(",", ":")).encode().replace(b".", b"")
    signed = b64(text({"alg": "ES256", "kid": "ec", "b64": False, "crit": ["b64"]})) + b"." + payload
    yield "payload without encoding", signed + b"." + b64(signature("ES256", signed))
    for cty in ("JWT", "jwt", "application/jwt", "application/JWT"):
        yield f"cty {cty}", make({"cty": cty})
        yield f"nested, cty {cty}", make({"cty": cty}, valid_token())
    for typ in (
        "dpop+jwt",
        "logout+jwt",
        "JOSE",
        "JOSE+JSON",
        "at+jwt;x",
        "x/at+jwt",
        "at-jwt",
        "",
        " JWT",
        "secevent+jwt",
        "id_token",
        "JWE",
        7,
        [],
        ["JWT"],
        {},
        True,
    ):
        yield f"typ {typ!r}", make({"typ": typ})


def documents() -> Iterator[tuple[str, bytes]]:
    head, claims = text({"alg": "ES256", "kid": "ec"}), text(CLAIMS)
    for name, value in {
        "alg twice": b'{"alg":"none","alg":"ES256","kid":"ec"}',
        "alg twice, escaped": b'{"al\\u0067":"none","alg":"ES256","kid":"ec"}',
        "kid twice": b'{"alg":"ES256","kid":"evil","kid":"ec"}',
        "equal kids": b'{"alg":"ES256","kid":"ec","kid":"ec"}',
        "nested twice": b'{"alg":"ES256","kid":"ec","x":{"a":1,"a":1}}',
        "BOM": b"\xef\xbb\xbf" + head,
        "UTF-16": head.decode().encode("utf-16"),
        "rest": head + b"{}",
        "NUL": head + b"\0",
        "comment": head[:-1] + b"/**/}",
        "comma": head[:-1] + b",}",
        "list": b"[" + head + b"]",
        "text": b'"ES256"',
        "null": b"null",
        "empty": b"",
        "single quotes": head.replace(b'"', b"'"),
        "deep": head[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}",
        "very deep": head[:-1] + b',"x":' + b"[" * 4000 + b"]" * 4000 + b"}",
        "NaN": head[:-1] + b',"x":NaN}',
        "invalid UTF-8": head[:-1] + b',"x":"\xff"}',
    }.items():
        yield f"header {name}", make(value)
    short = claims[:-1]
    for name, value in {
        "sub twice": short + b',"sub":"root"}',
        "sub twice, escaped": short + b',"\\u0073ub":"root"}',
        "exp twice": short + b',"exp":9999999999}',
        "iss twice": b'{"iss":"https://evil.example",' + claims[1:],
        "aud twice": short + b',"aud":"payments"}',
        "nested twice": short + b',"x":[{"a":1,"a":2}]}',
        "BOM": b"\xef\xbb\xbf" + claims,
        "UTF-16": claims.decode().encode("utf-16-le"),
        "UTF-32": claims.decode().encode("utf-32"),
        "invalid UTF-8": short + b',"x":"\xc3\x28"}',
        "overlong UTF-8": short + b',"x":"\xc0\xaf"}',
        "surrogate in UTF-8": short + b',"x":"\xed\xa0\x80"}',
        "control in a text": short + b',"x":"\n"}',
        "NaN": short + b',"x":NaN}',
        "Infinity": short + b',"x":-Infinity}',
        "exp NaN": claims.replace(text(CLAIMS["exp"]), b"NaN"),
        "exp Infinity": claims.replace(text(CLAIMS["exp"]), b"Infinity"),
        "exp 1e400": claims.replace(text(CLAIMS["exp"]), b"1e400"),
        "exp of 5000 digits": claims.replace(text(CLAIMS["exp"]), b"9" * 5000),
        "exp of 300 digits": claims.replace(text(CLAIMS["exp"]), b"9" * 300),
        "deep": short + b',"x":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        "very deep": short + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "rest": claims + b" x",
        "two": claims * 2,
        "NUL": claims + b"\0",
        "list": b"[" + claims + b"]",
        "text": text(claims.decode()),
        "number": b"7",
        "empty": b"",
        "object": b"{}",
        "huge": short + b',"x":"' + b"a" * 20_000 + b'"}',
    }.items():
        yield f"payload {name}", make(None, value)


def claims() -> Iterator[tuple[str, bytes]]:
    late: list[Any] = ["9999999999", str(WALL + 60), None, True, [], {}, [WALL + 60], "", "never"]
    wrong: dict[str, list[Any]] = {
        "exp": [*late, ..., 0, -1, -1e14, 1e16, 1e300, -1e300, WALL - 31, WALL - 30, int(WALL) - 3600],
        "nbf": [*late, WALL + 31, WALL * 2, 1e16, 1e14],
        "iat": [*late, WALL + 31, WALL * 2, 1e16, 1e14],
        "aud": [
            [],
            "",
            ["payments"],
            "payments",
            None,
            ...,
            7,
            True,
            {},
            {"orders": True},
            ["orders", 7],
            [["orders"]],
            "Orders",
            "orders ",
            "orders,payments",
            "orders payments",
            [None],
            "https://orders",
        ],
        "iss": [
            ISSUER + "/",
            ISSUER.upper(),
            ISSUER[:-1],
            ISSUER + ".evil.example",
            "http://id.example",
            [ISSUER],
            None,
            ...,
            "",
            7,
            {"iss": ISSUER},
            ISSUER + "\x00",
            " " + ISSUER,
            ISSUER + "#",
            "https://id.example@evil.example",
        ],
        "sub": [
            ...,
            None,
            "",
            7,
            True,
            [],
            ["alice"],
            {},
            "a\r\nx-admin: 1",
            "a\x00",
            "a\x7f",
            "a" * 300,
            "\ud800",
            "a\u2028b",
        ],
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} {'absent' if value is ... else repr(value)[:40]}", make(None, {name: value})


def spellings() -> Iterator[tuple[str, bytes]]:
    token = make(None, {"x": "?>~" * 7})
    head, payload, end = token.split(b".")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for name, text_ in (("header", head), ("payload", payload), ("signature", end)):
        swap = lambda new, old=text_: token.replace(old, new)  # noqa: E731
        yield f"{name} padded", swap(text_ + b"=" * (-len(text_) % 4 or 4))
        yield f"{name} with one =", swap(text_ + b"=")
        yield f"{name} with white space", swap(text_[:4] + b" " + text_[4:])
        yield f"{name} with a tab", swap(text_[:4] + b"\t" + text_[4:])
        yield f"{name} percent-encoded", swap(b"%%%02X" % text_[0] + text_[1:])
        yield f"{name} with a foreign character", swap(text_ + b"!")
        yield f"{name} with a byte beyond ASCII", swap(text_ + b"\xe9")
        yield f"{name} cut", swap(text_[:-1])
        yield f"{name} one more", swap(text_ + b"A")
        yield f"{name} absent", swap(b"")
        if len(text_) % 4:
            other = alphabet[alphabet.index(text_[-1]) ^ 1]
            yield f"{name} with unused bits", swap(text_[:-1] + bytes((other,)))
    yield "payload in the other alphabet", token.replace(payload, payload.translate(bytes.maketrans(b"-_", b"+/")))
    other = make(None, {"sub": "root"}, key=EVIL_EC).split(b".")
    for name, parts in {
        "payload of another": (head, other[1], end),
        "header of another algorithm": (make(alg="RS256").split(b".")[0], payload, end),
        "signature of another": (head, payload, valid_token().split(b".")[2]),
        "four parts": (head, payload, end, end),
        "five parts, as a JWE": (head, b"", b"", payload, end),
        "two parts": (head, payload),
        "one part": (head,),
        "payload detached": (head, b"", end),
        "part before": (b"", head, payload, end),
        "part behind": (head, payload, end, b""),
        "dots": (b"", b"", b""),
    }.items():
        yield name, b".".join(parts)
    words = {"protected": head.decode(), "payload": payload.decode(), "signature": end.decode()}
    yield "flattened JSON", text(words)
    yield "flattened JSON, encoded", b64(text(words))
    signatures = [{"protected": head.decode(), "signature": end.decode()}]
    yield "general JSON", text({"payload": payload.decode(), "signatures": signatures})
    yield "JSON in three parts", b".".join((text(words),) * 3)
    yield "in quotes", b'"' + token + b'"'
    yield "twice", token + b" " + token
    yield "twice with a comma", token + b", Bearer " + token
    yield "with a parameter", token + b', realm="x"'
    yield "huge", b"A" * 60_000
    yield "of dots", b"." * 9_000


def fields() -> Iterator[tuple[str, Headers]]:
    token, bad = valid_token(), make(key=EVIL_EC)
    good = b"Bearer " + token
    for name in (b"authorization", b"AUTHORIZATION", b"Authorization", b"aUTHORIZATION"):
        yield f"{name!r} twice", [(name, good), (b"Authorization", good)]
        yield f"{name!r} beside a forged one", [(name, good), (b"authorization", b"Bearer " + bad)]
        yield f"{name!r} behind a forged one", [(b"authorization", b"Bearer " + bad), (name, good)]
        yield f"{name!r} and Basic", [(b"Authorization", good), (name, b"Basic YTpi")]
        yield f"{name!r} and an empty one", [(b"Authorization", good), (name, b"")]
    for value in (
        token,
        b"Basic " + token,
        b"DPoP " + token,
        b"Token " + token,
        b"Bearer",
        b"Bearer ",
        b"Bearer:" + token,
        b"Bearer=" + token,
        b"Bearer\t" + token,
        b"Bearer,Bearer " + token,
        b"Bearertoken " + token,
        b"X" + good,
        b'Bearer "' + token + b'"',
        good + b"," + good,
        good + b" x",
        b"Bearer " + good,
        b"Bearer \t" + token,
        b"Bearer token=" + token,
        b"Bearer\xa0" + token,
        b"bearer\x0b" + token,
    ):
        yield f"value {value[:16]!r}", [(b"Authorization", value)]
    for name in (
        b"X-Authorization",
        b"Proxy-Authorization",
        b"Authorization-",
        b"Authorization_",
        b"Cookie",
        b"Authorisation",
        b"X-Access-Token",
        b"access_token",
    ):
        yield f"in {name!r}", [(name, good)]
        yield f"in {name!r} before a forged one", [(name, good), (b"Authorization", b"Bearer " + bad)]


FORGED: dict[str, Headers] = {}
for group in (
    without_algorithm,
    public_keys_as_secrets,
    elliptic,
    rsa_and_edwards,
    headers,
    documents,
    claims,
    spellings,
):
    for title, token in group():
        FORGED[f"{group.__name__}: {title}"] = [(b"Authorization", b"Bearer " + token)]
FORGED |= {f"fields: {title}": lines for title, lines in fields()}

# ----- valid tokens

VALID: dict[str, Headers] = {}
for title, token in {
    **{alg: make(alg=alg) for alg in SIGNERS},
    **{f"{alg} without kid": make({"kid": ...}, alg=alg) for alg in SIGNERS},
    **{f"typ {typ}": make({"typ": typ}) for typ in ("JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt")},
    **{f"header {name}": make({name: "x"}) for name in ("jku", "x5u", "x5t", "cty", "kid2", "Alg", "iss")},
    "jwk of another ignored": make({"jwk": public(EVIL_EC, "ec")}),
    "audiences": make(None, {"aud": ["payments", "orders"]}),
    "exp with a fraction": make(None, {"exp": WALL + 0.5}),
    "exp within the leeway": make(None, {"exp": WALL - 29}),
    "nbf within the leeway": make(None, {"nbf": WALL + 29, "iat": WALL + 29}),
    "zero nbf": make(None, {"nbf": 0, "iat": 0}),
    "white space in JSON": make(b' {"alg" : "ES256",\n"kid":"ec"} ', json.dumps(CLAIMS, indent=4).encode()),
    "text beyond ASCII": make(None, json.dumps({**CLAIMS, "name": "Ünïcode \U0001f511"}, ensure_ascii=False).encode()),
    "nested claims": make(None, {"realm": {"roles": [{"a": [1, 2, {"b": None}]}]}}),
    "large": make(None, {"x": "a" * 8000}),
}.items():
    VALID[title] = [(b"Authorization", b"Bearer " + token)]
for title, value in {
    "bearer": b"bearer %b",
    "BEARER": b"BEARER %b",
    "spaces": b"Bearer   %b",
    "space behind": b"Bearer %b ",
    "tab behind": b"Bearer %b\t",
}.items():
    VALID[title] = [(b"Authorization", value % valid_token())]
VALID["name in small letters"] = [(b"authorization", b"Bearer " + valid_token())]
VALID["name in capitals"] = [(b"AUTHORIZATION", b"Bearer " + valid_token())]
VALID["other field before"] = [(b"X-Authorization", b"Bearer x"), (b"Authorization", b"Bearer " + valid_token())]


@cache
def stage(*, is_warm: bool) -> Any:
    """Return the stage with the identity of the issuer, and all valid tokens in its cache if it is warm."""
    found = identity(*KEYS, algorithms=list(SIGNERS))
    kind = BY_NAME["authenticate"]
    resources = {
        ("identity", "corporate"): found,
        ("caller_fields", "order"): frozenset({b"x-caller"}),
        ("criticality", "order"): {},
    }
    spec = kind.spec.model_validate({"any_of": ["corporate"], "forward": {"caller": "x-caller"}})
    built = kind.build(spec, context(make_env(), resources=resources))
    if is_warm:
        for each in VALID.values():
            send(built, each)
    return built


addresses = iter(range(100_000))


def send(built: Any, lines: Headers, query: bytes | None = None) -> tuple[Outcome | None, Exchange]:
    x = exchange(client_address=f"10.{next(addresses)}")
    x.lines = b"".join(b"%b: %b\r\n" % each for each in [(b"Host", b"orders"), (b"X-Caller", b"root"), *lines])
    x.query = query
    outcome = built.admit(x)
    if isinstance(outcome, Wait):  # the key is slow
        outcome = asyncio.run(outcome.awaited)
    return outcome, x


@each(FORGED)
def test_no_forged_token_names_a_caller(name: str) -> None:
    for is_warm in (False, False, True, True):  # the second time from the cache
        outcome, x = send(stage(is_warm=is_warm), FORGED[name])
        assert outcome is not None
        assert outcome.status in (400, 401)
        assert x.caller is None


@each(VALID)
def test_every_valid_token_names_its_caller(name: str) -> None:
    for _ in range(3):
        outcome, x = send(stage(is_warm=False), VALID[name])
        assert outcome is None
        assert x.caller is not None
        assert x.caller.id == "alice"
        assert [value for field, value in x.headers if field == b"x-caller"] == [b"alice"]


@pytest.mark.parametrize("query", [b"access_token=%b", b"token=%b", b"authorization=Bearer+%b", b"jwt=%b"])
def test_a_token_in_the_query_is_no_credential(query: bytes) -> None:
    outcome, x = send(stage(is_warm=True), [], query % valid_token())
    assert outcome is not None
    assert (outcome.status, x.caller) == (401, None)


def test_the_corpus_is_large() -> None:
    assert len(FORGED) > 500
    assert len(VALID) > 30


SMALL = [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18] + [
    int.from_bytes(bytes.fromhex(point), "little")
    for point in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]
"""Points of Ed25519 under which a signature of zeros is right for many texts, without their sign."""


def test_keys_that_anyone_can_sign_for_are_left_out() -> None:
    for point in [*SMALL, *(point | 1 << 255 for point in SMALL)]:
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(point.to_bytes(32, "little")).decode()}
        with pytest.raises(ValueError, match="small order"):
            read_key(jwk, has_secrets=False)
    for modulus in (2**2048 - 2, 3**1293, math.prod((RSA.public_key().public_numbers().n, 751))):
        with pytest.raises(ValueError, match="small factor"):
            read_key({"kty": "RSA", "e": "AQAB", "n": number(modulus)}, has_secrets=False)
    read_key(public(ED, None), has_secrets=False)


def test_a_key_of_a_flawed_chip_is_left_out() -> None:
    product = math.prod(ROCA_PRIMES)
    modulus = pow(65537, 12345, product) + product * (3 << (2047 - product.bit_length()))
    modulus += product * (modulus % 2 == 0)  # a modulus is odd
    flawed = {"kty": "RSA", "e": "AQAB", "n": encode(modulus.to_bytes(256)).decode()}
    with pytest.raises(ValueError, match="CVE-2017-15361"):
        read_key(flawed, has_secrets=False)
    assert has_roca_form(modulus)
    assert not has_roca_form(rsa.generate_private_key(65537, 2048).public_key().public_numbers().n)
