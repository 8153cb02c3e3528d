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
from sidecar.identity.spec import ApiKeySpec, JwtSpec

if TYPE_CHECKING:
    from sidecar.identity.key_source import KeySet


def token_text(spec: PolicySpec, route: RouteSpec, token: bytes, wall: float) -> Iterator[str]:
    """Yield a sentence on a token for each identity of a route; `wall` is the Unix time."""
    block = route.blocks.get("authenticate")
    if block is None:
        yield "the route has no authenticate: everyone may call it"
        return
    for name in getattr(block, "any_of", ()):
        identity = spec.identities[name]
        if identity.jwt is not None:
            yield f"{name}: {_signed(identity.jwt, token, wall)}"
        elif identity.api_key is not None:
            yield f"{name}: {_key(name, identity.api_key, token)}"
        else:
            yield f"{name}: only a running sidecar can tell ({identity.kind})"


def _signed(spec: JwtSpec, token: bytes, wall: float) -> str:
    from sidecar.identity.claims import ClaimRules
    from sidecar.identity.jws import InvalidToken, parse_token

    rules = ClaimRules(spec)
    if len(token) > spec.max_token:
        return f"refused, the token has {len(token)} bytes, more than {spec.max_token}"
    try:
        parsed = parse_token(token)
        algorithm, kid = rules.check_header(parsed.header)
        caller, left = rules.check_claims(parsed.claims, wall)
    except InvalidToken as error:
        return f"refused, {error}"
    claims = f"the caller is {caller}, for {left:.0f} s more"
    try:
        listed = _keys(spec)
    except (OSError, ValueError) as error:
        return f"{claims}; the signature is not verified: {error}"
    if listed is None:
        return f"{claims}; the signature is not verified, because the keys are fetched by a running sidecar"
    keys = listed.find(algorithm, kid)
    if any(key.verify(algorithm, parsed.signature, parsed.signed) for key in keys):
        return f"accepted, {claims}"
    return "refused, the signature is wrong" if keys else f"refused, no key has the ID {kid!r} and is for {algorithm}"


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


def _key(name: str, spec: ApiKeySpec, key: bytes) -> str:
    from sidecar.identity.api_keys import find_key, read_api_keys

    try:
        keys = read_api_keys(read_plain(spec.file), name, b"")
    except (OSError, ValueError) as error:
        return f"the file of keys cannot be used: {error}"
    found = find_key(keys, key)
    return f"accepted, the caller is {found.caller.id}" if found is not None else "refused, the key is unknown"
