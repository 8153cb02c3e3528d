"""Signed tokens of other proxies' configurations, as identities and what the upstream learns of them.

Where the other proxies differ: they accept tokens without `exp` or `sub`, which are refused here.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sidecar.imports.access.rules import Access, Forward
from sidecar.imports.draft import Draft, Value, plain, put
from sidecar.imports.source import Part

ASYMMETRIC: Final = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA",
]  # fmt: skip
SYMMETRIC: Final = ["HS256", "HS384", "HS512"]
PAYLOAD: Final = "the claims as one field have no equal here; `forward.token` sends a signed token about the caller"


def jwks_keys(draft: Draft, part: Part | None, block: dict[str, Any], *, is_file: bool) -> str:
    """Add the keys of a text, or of a file, to an identity; return the reason for which they cannot be used."""
    if part is None:
        return "has no keys"
    if is_file:
        put(block, "keys.file", draft.value(part.text(), part.line))
        block["algorithms"] = Value([*ASYMMETRIC, *SYMMETRIC], "each that the keys are for")
        return ""
    try:
        found = json.loads(part.text())
        keys = found["keys"] if isinstance(found, dict) and "keys" in found else [found]
    except (ValueError, RecursionError):
        return "its keys are no JSON"
    if not isinstance(keys, list) or not keys or not all(isinstance(each, dict) for each in keys):
        return "its keys are no key set"
    put(block, "keys.inline", draft.value(keys, part.line))
    if any(each.get("kty") == "oct" for each in keys):
        block["algorithms"] = Value([*ASYMMETRIC, *SYMMETRIC], "each that the keys are for")
    return ""


class Tokens:
    """Identities of signed tokens, and what the upstream learns from each."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._forwards: dict[str, Forward] = {}

    def identity(self, name: str, block: dict[str, Any], forward: Forward) -> str:
        """Return the name of an identity, which is added if there is none with the same settings."""
        block.setdefault("algorithms", Value(ASYMMETRIC, "each that the keys are for"))
        known = next((key for key, each in self._draft.identities.items() if plain(each) == plain({"jwt": block})), "")
        found = known or self._draft.identity(name, {"jwt": block})
        self._forwards[found] = forward
        return found

    def ask(self, access: Access, identities: list[str], line: int, *, optional: bool) -> None:
        """Ask for a token of one of some identities."""
        forwards = [self._forwards[each] for each in identities]
        pairs = [{(claim, field): at for claim, field, at in each.claims} for each in forwards]
        common = {pair: at for pair, at in pairs[0].items() if all(pair in each for each in pairs)}
        single = {pair: at for each in pairs for pair, at in each.items() if pair not in common}
        for (claim, field), at in single.items():
            why = f"`{field}` would have the claim of each issuer here; no upstream gets it where several are accepted"
            self._draft.findings.lose(at, f"claim {claim}", why)
        drops = [each.drops_token for each in forwards]
        access.identify(identities, line, optional=optional, forward=Forward(
            tuple((claim, field, at) for (claim, field), at in common.items()),
            drops[0] if all(each is not None for each in drops) else None,
            (*dict.fromkeys(one for each in forwards for one in each.dropped_fields),
             *((field, at) for (_, field), at in single.items())),
            tuple(dict.fromkeys(one for each in forwards for one in each.dropped_parameters)),
        ))  # fmt: skip


def forward_of(
    part: Part, passes: Part | None, payload: Part | None, claims: list[tuple[Part, str, str]],
    parameters: tuple[tuple[str, int], ...] = (),
) -> Forward:  # fmt: skip
    """Return what the upstream learns of a token.

    `passes` states whether the token goes on, `payload` names a field with all claims, and `claims` are the part, the
    claim and the field of each single one.
    """
    dropped: list[tuple[str, int]] = []
    if payload is not None:
        payload.lose(PAYLOAD)
        dropped.append((payload.text(), payload.line))
    found: list[tuple[str, str, int]] = []
    for each, claim, field in claims:
        if "." in claim or any(claim == known for known, _, _ in found):
            each.lose("a claim within another one, or in a second field, has no equal here")
            dropped.append((field, each.line))
        else:
            found.append((claim, field, each.line))
    drops = None
    if passes is None or not passes.is_true():
        drops = Value("drop", "the token does not go on there", part.line if passes is None else passes.line)
    return Forward(tuple(found), drops, tuple(dropped), parameters)
