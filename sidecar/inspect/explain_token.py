"""Text on a token or an API key: which identity of a route accepts it, and why others do not.

Nothing is fetched.  Keys that stand in a policy or in a file verify the signature; of keys from a URL, only those that
`keep` has written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sidecar.config.files import read_plain
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.core.exchange import Caller
from sidecar.identity.spec import ApiKeySpec, JwtSpec

if TYPE_CHECKING:
    from sidecar.identity.key_source import KeySet

Verdict = tuple[str, Caller | None]
"""Sentence on a token, and the caller that it names; None if it is refused or nothing is known."""


def token_text(spec: PolicySpec, route: RouteSpec, token: bytes, wall: float) -> Iterator[str]:
    """Yield a sentence on a token for each identity of a route; `wall` is the Unix time."""
    if route.blocks.get("authenticate") is None:
        yield "the route has no authenticate: everyone may call it"
        return
    for name, (sentence, _) in _judge(spec, route, token, wall):
        yield f"{name}: {sentence}"


def caller_of(spec: PolicySpec, route: RouteSpec, token: bytes, wall: float) -> Caller | None:
    """Return the caller that a token names; None if no identity of the route accepts it, as far as can be known."""
    return next((caller for _, (_, caller) in _judge(spec, route, token, wall) if caller is not None), None)


def _judge(spec: PolicySpec, route: RouteSpec, token: bytes, wall: float) -> Iterator[tuple[str, Verdict]]:
    """Yield the name of each identity of a route with its verdict."""
    for name in getattr(route.blocks.get("authenticate"), "any_of", ()):
        identity = spec.identities[name]
        if identity.jwt is not None:
            yield name, _signed(name, identity.jwt, token, wall)
        elif identity.api_key is not None:
            yield name, _key(name, identity.api_key, token)
        else:
            yield name, (f"only a running sidecar can tell ({identity.kind})", None)


def _signed(name: str, spec: JwtSpec, token: bytes, wall: float) -> Verdict:
    from sidecar.identity.claims import ClaimRules
    from sidecar.identity.jws import InvalidToken, parse_token

    rules = ClaimRules(spec)
    if len(token) > spec.max_token:
        return f"refused, the token has {len(token)} bytes, more than {spec.max_token}", None
    try:
        parsed = parse_token(token)
        algorithm, kid = rules.check_header(parsed.header)
        id, left = rules.check_claims(parsed.claims, wall)
    except InvalidToken as error:
        return f"refused, {error}", None
    claims = f"the caller is {id}, for {left:.0f} s more"
    caller = Caller(id, name, parsed.claims, b"authorization")
    try:
        listed = _keys(spec)
    except (OSError, ValueError) as error:
        return f"{claims}; the signature is not verified: {error}", caller
    if listed is None:
        return f"{claims}; the signature is not verified, because the keys are fetched by a running sidecar", caller
    keys = listed.find(algorithm, kid)
    if any(key.verify(algorithm, parsed.signature, parsed.signed) for key in keys):
        return f"accepted, {claims}", caller
    why = "the signature is wrong" if keys else f"no key has the ID {kid!r} and is for {algorithm}"
    return f"refused, {why}", None


def _keys(spec: JwtSpec) -> KeySet | None:
    """Return the keys that are on this machine; None if they must be fetched."""
    from sidecar.identity.key_source import KeySet, read_json_file
    from sidecar.identity.keys import read_keys

    keys = spec.keys
    if keys.inline is not None:
        return KeySet(read_keys(list(keys.inline), has_secrets=True)[0])
    path = keys.file or keys.keep
    if path is None or (keys.file is None and not os.path.exists(path)):
        return None
    return KeySet(read_keys(read_json_file(path), has_secrets=keys.file is not None)[0])


def _key(name: str, spec: ApiKeySpec, key: bytes) -> Verdict:
    from sidecar.identity.api_keys import find_key, read_api_keys

    try:
        keys = read_api_keys(read_plain(spec.file), name, b"")
    except (OSError, ValueError) as error:
        return f"the file of keys cannot be used: {error}", None
    found = find_key(keys, key)
    if found is None:
        return "refused, the key is unknown", None
    return f"accepted, the caller is {found.caller.id}", found.caller
