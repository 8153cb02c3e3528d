"""Routes whose original keeps requests out: here they refuse all requests until someone writes who may pass.

An access rule that is not translated must not leave its route open.  `check` warns that such a route allows nothing.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.imports.draft import Draft, Value
from sidecar.imports.source import Part

WORDS: Final = (
    "rbac", "authz", "authn", "oauth", "oidc", "jwt", "basicauth", "digestauth", "forwardauth", "apikeyauth", "extauth",
    "externalauth", "authpolicy", "authorization", "authentication", "securitypolicy", "ipallow", "ipwhite", "hmac",
)  # fmt: skip
"""Words in the names of filters, middlewares and policies that keep requests out."""
EVERYONE: Final = ["0.0.0.0/0", "::/0"]
REFUSED: Final = "keeps requests out there; all are refused here, until `authenticate` or `authorize` says who may pass"


def keeps_out(name: str) -> bool:
    """True if a filter, middleware or policy of this name keeps requests out."""
    plain = name.lower().replace("_", "").replace("-", "").replace(".", "")
    return any(word in plain for word in WORDS)


NAMES: Final = ("name", "@type", "type_url", "phase")
"""Keys of extensions whose values say what they do."""


def has_guard(part: Part) -> bool:
    """True if an extension within a value keeps requests out, as far as its name or its type says so."""
    for key, each in (part.children or {}).items():
        if (key in NAMES and each.scalar is not None and keeps_out(each.scalar)) or has_guard(each):
            return True
    return any(map(has_guard, part.list or []))


def refusal(draft: Draft, line: int, what: str) -> dict[str, Any]:
    """Return the block that refuses all requests, with the reason."""
    comment = f"{draft.findings.place(line)}: {what}: only some requests pass there; say here which"
    return {"authorize": [{"deny": {"networks": Value(EVERYONE, comment, line)}}]}


def closed(draft: Draft, line: int, what: str) -> dict[str, Any]:
    """Return the block of a route whose original answers by itself."""
    comment = f"{draft.findings.place(line)}: {what}: no request of it gets to an upstream there"
    return {"authorize": [{"deny": {"networks": Value(EVERYONE, comment, line)}}]}
