"""Keys that verify signatures (RFC 7517, RFC 7518): the adapter to PyJWT and cryptography.

Rules:

1. A key is used only with the algorithms of its own type and curve, and only with its own `alg` if it has one.  So a
   public key is never the secret of an HMAC, and there is no algorithm `none` (RFC 8725 3.1 and 3.2).
2. Keys for other uses (`use`, `key_ops`), private keys, and keys that are too weak or too expensive are left out, with
   the reason.  Secrets (`oct`) come from files and policies only.
3. An algorithm and a key ID name one key of a set at most, and a set has either secrets or public keys.  A set that
   breaks this rule is refused as a whole, because nobody can tell which key its issuer means (RFC 7517 4.5).
4. Keys that take long for an event loop are marked as slow.  `verification.py` bounds the CPU that verification takes.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from math import gcd, prod
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from sidecar.identity.tokens import Validity

Verify = Callable[[bytes, bytes], bool]
"""Function of signature and signed bytes; True if the signature is right."""

HASHES: Final = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
"""Algorithm of each curve (RFC 7518 3.4)."""
PUBLIC: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}
"""Members that define a public key or a secret, by key type."""
MEMBER: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
"""Matches a number or a secret in base64url; some issuers pad it."""
LONGEST_ID: Final = 256
"""Longest key ID, in characters; the log tells the IDs of new keys."""
MOST_KEYS: Final = 100
"""Most keys of a set."""
LEAST_DIFFERENT: Final = 8
"""Least number of different bytes of a secret.  Random ones practically always have more, placeholders have fewer."""
RSA_BITS: Final = (2048, 8192)
"""Least and most bits of an RSA modulus (RFC 7518 3.3)."""
MOST_EXPONENT: Final = 2**32
"""Largest exponent of an RSA key; with a larger one verification would take long."""
FAST_BITS: Final = 4096
USUAL_EXPONENT: Final = 65537
"""Largest modulus and exponent of an RSA key that verifies on the event loop."""
FAST_CURVE: Final = "P-256"
"""Curve that OpenSSL has fast code for; with the others a verification takes several times as long."""

LEAST_FACTOR: Final = 752
"""Least prime factor of an RSA modulus (NIST SP 800-89 5.3.3)."""
SMALL_PRIMES: Final = prod(n for n in range(2, LEAST_FACTOR) if all(n % divisor for divisor in range(2, n)))
"""Product of the smaller primes."""
FIELD: Final = 2**255 - 19
"""Prime of Ed25519 (RFC 8032 5.1)."""
ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER: Final = (0, 1, FIELD - 1, ORDER_8, FIELD - ORDER_8)
"""Second coordinates of the points of Ed25519 whose order is 8 at most."""
ROCA_PRIMES: Final = (
    11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157,
)  # fmt: skip
"""Primes for which the powers of 65537 are few among the residues."""


class Signer:
    """Key pair that signs the tokens of policy tests."""

    ALGORITHM: Final = "ES256"

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """Public key as a JSON Web Key."""
        numbers = self._private.public_key().public_numbers()
        x, y = (encode(number.to_bytes(32, "big")).decode() for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "kid": "test", "x": x, "y": y}

    def sign(self, claims: dict[str, Any], typ: str) -> bytes:
        """Return a token with these claims."""
        header = {"alg": self.ALGORITHM, "kid": "test", "typ": typ}
        signed = b".".join(encode(json.dumps(each).encode()) for each in (header, claims))
        r, s = decode_dss_signature(self._private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return signed + b"." + encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


class SigningKey:
    """Ed25519 key pair that signs tokens about callers for upstreams (RFC 8037).  The state store has it."""

    ALGORITHM: Final = "EdDSA"

    def __init__(self, pem: bytes | None = None) -> None:
        """Take the private key from a file's content in PEM, or make one.  Raises `ValueError`."""
        self._private = Ed25519PrivateKey.generate() if pem is None else _private_key(pem)
        x = encode(self._private.public_key().public_bytes_raw()).decode()
        thumbprint = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))  # RFC 7638
        self.id = encode(sha256(thumbprint.encode()).digest()).decode()
        """Key ID: the thumbprint of the key."""
        self.jwk = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.id, "use": "sig", "alg": self.ALGORITHM}
        """Public key as a JSON Web Key."""
        header = {"alg": self.ALGORITHM, "kid": self.id, "typ": "JWT"}
        self._header = encode(json.dumps(header, separators=(",", ":")).encode())

    def sign(self, claims: dict[str, Any]) -> bytes:
        """Return a token with these claims."""
        signed = self._header + b"." + encode(json.dumps(claims, separators=(",", ":")).encode())
        return signed + b"." + encode(self._private.sign(signed))

    def describe(self) -> dict[str, Any]:
        """Return the ID as a JSON-ready value."""
        return {"key": self.id}


def _private_key(pem: bytes) -> Ed25519PrivateKey:
    try:
        found = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is not a private key in PEM without a password") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise ValueError("has a key of another type; make one with `openssl genpkey -algorithm ed25519`")
    return found


def encode(data: bytes) -> bytes:
    """Return data in base64url without padding (RFC 7515 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


class Key:
    """Key that verifies signatures."""

    __slots__ = ("_verifiers", "digest", "id", "is_slow", "kind", "material", "validity")

    def __init__(
        self,
        id: str | None,
        kind: str,
        digest: bytes,
        verifiers: dict[str, Verify],
        material: bytes = b"",
        *,
        is_slow: bool = False,
    ) -> None:
        self.id = id
        """Member `kid`; None without one."""
        self.kind = kind
        """Key type and curve or size, for people."""
        self.digest = digest
        """Digest of the key with its ID and algorithm; equal digests mean equal keys."""
        self.material = material
        """Digest of the public key or secret alone."""
        self.is_slow = is_slow
        """True if a verification takes long for an event loop."""
        self.validity = Validity()
        """Validity of the verdicts that rest on the key."""
        self._verifiers = verifiers

    @property
    def is_current(self) -> bool:
        """False once the key has left its set."""
        return self.validity.is_current

    @is_current.setter
    def is_current(self, is_current: bool) -> None:
        self.validity.is_current = is_current

    @property
    def is_secret(self) -> bool:
        """True if the key is a secret that issuer and verifier share."""
        return any(name.startswith("HS") for name in self._verifiers)

    @property
    def algorithms(self) -> list[str]:
        """Algorithms that the key may be used with."""
        return list(self._verifiers)

    def verify(self, algorithm: str, signature: bytes, signed: bytes) -> bool:
        """True if the signature is right."""
        return self._verifiers[algorithm](signature, signed)

    def __repr__(self) -> str:
        return f"<Key {self.id} {self.kind}>"


def read_keys(document: Any, *, has_secrets: bool) -> tuple[list[Key], list[str]]:
    """Return the usable keys of a key set or of a list of keys, and a reason for each other key.

    `has_secrets` permits keys of the type `oct`.  Raises `ValueError` if the document is no key set, or is ambiguous.
    """
    listed = document.get("keys") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise ValueError("is not a key set: it has no list `keys`")
    if len(listed) > MOST_KEYS:
        raise ValueError(f"has {len(listed)} keys; at most {MOST_KEYS} are read")
    keys: list[Key] = []
    problems: list[str] = []
    for number, each in enumerate(listed, 1):
        try:
            keys.append(read_key(each, has_secrets=has_secrets))
        except ValueError as error:
            name = each.get("kid") if isinstance(each, dict) else None
            problems.append(f"key {str(name)[:80] if name else number} {error}")
    _check_set(keys)
    return keys, problems


def _check_set(keys: list[Key]) -> None:
    """Raise `ValueError` if the keys of a set are ambiguous."""
    if len({key.is_secret for key in keys}) > 1:
        raise ValueError("has secrets (oct) beside public keys; write two identities, each with one kind of key")
    owners: dict[tuple[str, str], bytes] = {}
    for key in keys:
        if key.id is None:
            continue
        for algorithm in key.algorithms:
            if owners.setdefault((key.id, algorithm), key.material) != key.material:
                raise ValueError(f"has two keys for {algorithm} with the kid {key.id[:80]!r}; give each its own kid")


def read_key(jwk: Any, *, has_secrets: bool) -> Key:
    """Return the key of a JSON Web Key.  Raises `ValueError` with the reason if it cannot be used."""
    if not isinstance(jwk, dict):
        raise ValueError("is not an object")
    kty, kid, alg, use, ops = (jwk.get(name) for name in ("kty", "kid", "alg", "use", "key_ops"))
    if not isinstance(kty, str) or kty not in PUBLIC:
        raise ValueError(f"has the type {kty!r}; known are {', '.join(PUBLIC)}")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("has a kid that is no text")
    if kid is not None and len(kid) > LONGEST_ID:
        raise ValueError(f"has a kid of {len(kid)} characters; at most {LONGEST_ID} are allowed")
    if use not in (None, "sig"):
        raise ValueError(f"is for the use {use!r}, not for signatures")
    if alg is not None and not isinstance(alg, str):
        raise ValueError("has an alg that is no text")
    if ops is not None and not (isinstance(ops, list) and "verify" in ops):
        raise ValueError("is not for the operation verify")
    if ops is not None and any(not isinstance(each, str) or ops.count(each) > 1 for each in ops):
        raise ValueError("has key_ops that are no list of different texts")  # RFC 7517 4.3
    if kty == "oct" and not has_secrets:
        raise ValueError("is a secret, which must not come from a URL")
    if kty != "oct" and "d" in jwk:
        raise ValueError("is a private key; give the public one")
    public = {name: jwk.get(name) for name in PUBLIC[kty]}
    if not all(isinstance(value, str) and value.isascii() for value in public.values()):
        raise ValueError(f"lacks one of {', '.join(public)}")
    for name, value in public.items():
        if name != "crv" and MEMBER.fullmatch(str(value)) is None:  # PyJWT ignores other characters
            raise ValueError(f"has {name} that is not base64url")
    verifiers, kind, is_slow = _verifiers({"kty": kty, **public})
    if alg is not None:
        if alg not in verifiers:
            raise ValueError(f"is for the algorithm {alg!r}, which a key {kind} is not used with")
        verifiers = {alg: verifiers[alg]}
    digests = [sha256(json.dumps(each, sort_keys=True).encode()).digest() for each in ([kid, alg, kty, public], public)]
    return Key(kid, kind, digests[0], verifiers, digests[1], is_slow=is_slow)


def _verifiers(public: dict[str, Any]) -> tuple[dict[str, Verify], str, bool]:
    """Return the function of each algorithm for a public key or secret, the key's kind for people, and True if it is
    slow."""
    kty, crv = public["kty"], public.get("crv")
    names = {"RSA": "RS256", "EC": CURVES.get(str(crv)), "OKP": "EdDSA" if crv == "Ed25519" else None, "oct": "HS256"}
    if (first := names[kty]) is None:
        raise ValueError(f"has the curve {crv!r}; known are {', '.join((*CURVES, 'Ed25519'))}")
    try:
        key: Any = PyJWK(public, first).key
    except (PyJWTError, ValueError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    if isinstance(key, RSAPublicKey):
        least, most = RSA_BITS
        exponent = key.public_numbers().e
        if not least <= key.key_size <= most:
            raise ValueError(f"has {key.key_size} bits; {least} to {most} are allowed")
        if has_roca_form(key.public_numbers().n):
            raise ValueError("was made by a flawed chip (CVE-2017-15361), so that anyone can find its private half")
        if gcd(key.public_numbers().n, SMALL_PRIMES) > 1:
            raise ValueError("has a modulus with a small factor, so that anyone can find its private half")
        if not 3 <= exponent <= MOST_EXPONENT or exponent % 2 == 0:
            raise ValueError("has an unusual exponent; 65537 is common")
        found: dict[str, Verify] = {}
        for bits, kind in HASHES.items():
            salt = padding.PSS(padding.MGF1(kind), kind.digest_size)
            found[f"RS{bits}"] = _rsa(key, padding.PKCS1v15(), kind)
            found[f"PS{bits}"] = _rsa(key, salt, kind)
        return found, f"RSA of {key.key_size} bits", key.key_size > FAST_BITS or exponent > USUAL_EXPONENT
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {first: _ecdsa(key, HASHES[first[2:]])}, f"EC {crv}", crv != FAST_CURVE
    if isinstance(key, Ed25519PublicKey):
        if int.from_bytes(key.public_bytes_raw(), "little") % 2**255 % FIELD in SMALL_ORDER:
            raise ValueError("has a point of small order, so that anyone can sign; make a key pair anew")
        verify = _eddsa(key)
        return {"Ed25519": verify, "EdDSA": verify}, "OKP Ed25519", False  # RFC 9864 and RFC 8037
    if isinstance(key, bytes):
        usable = {f"HS{bits}": _hmac(key, f"sha{bits}") for bits, h in HASHES.items() if len(key) >= h.digest_size}
        if not usable:
            raise ValueError(f"has {len(key)} bytes; a secret has at least 32 (RFC 7518 3.2)")
        if len(set(key)) < LEAST_DIFFERENT:
            raise ValueError(
                "repeats few bytes, so that anyone can guess it; make one with `openssl rand`"
            )  # RFC 8725 3.5
        return usable, f"oct of {len(key)} bytes", False
    raise ValueError("is not a public key")


def has_roca_form(modulus: int) -> bool:
    """True if an RSA modulus has the form that a flawed chip gives it (Nemec et al., "The Return of Coppersmith's
    Attack", 2017): its residue modulo each small prime is a power of 65537.

    Hardly any other modulus has it by chance.
    """
    return all(modulus % prime in powers for prime, powers in ROCA_RESIDUES)


def _powers(prime: int) -> frozenset[int]:
    """Return the residues of all powers of 65537 modulo a prime."""
    return frozenset(pow(65537, exponent, prime) for exponent in range(prime - 1))


def _rsa(key: RSAPublicKey, how: Any, kind: hashes.HashAlgorithm) -> Verify:
    length = (key.key_size + 7) // 8

    def verify(signature: bytes, signed: bytes) -> bool:
        if len(signature) != length:
            return False
        try:
            key.verify(signature, signed, how, kind)
        except InvalidSignature:
            return False
        return True

    return verify


def _ecdsa(key: ec.EllipticCurvePublicKey, kind: hashes.HashAlgorithm) -> Verify:
    half = (key.curve.key_size + 7) // 8
    how = ec.ECDSA(kind)

    def verify(signature: bytes, signed: bytes) -> bool:
        if len(signature) != 2 * half:  # RFC 7518 3.4: two numbers of fixed length, no DER
            return False
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        if not r or not s:
            return False
        try:
            key.verify(encode_dss_signature(r, s), signed, how)
        except InvalidSignature:
            return False
        return True

    return verify


def _eddsa(key: Ed25519PublicKey) -> Verify:
    def verify(signature: bytes, signed: bytes) -> bool:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return verify


def _hmac(secret: bytes, name: str) -> Verify:
    def verify(signature: bytes, signed: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signed, name), signature)

    return verify


ROCA_RESIDUES: Final = tuple((prime, _powers(prime)) for prime in ROCA_PRIMES)
"""Residues of moduli of a flawed chip, by prime."""
