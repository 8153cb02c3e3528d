"""Servers that are asked about each request, as `external` identities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sidecar.core.message import fold
from sidecar.identity.spec import FRAMING
from sidecar.imports.access.rules import Access, Forward
from sidecar.imports.draft import Draft, Value

FROM_CLIENT: Final = ("authorization", "cookie")
"""Fields with the credentials of clients."""
IS_FRAMING: Final = "says how a message is read, and so no server is asked with it"


def ask(
    draft: Draft, access: Access, block: dict[str, Any], fields: Iterable[str], told: Iterable[str], line: int,
    dropped: Iterable[str] = (),
) -> None:  # fmt: skip
    """Ask a server whether requests may pass.

    `block` has its URL, `fields` are those of a request that it gets, and `told` those of its answer that go on.
    `dropped` are those that it writes there and not here, so that no client may write them.
    """
    for key, names in (("headers", fields), ("forward", told)):
        wanted = [each.lower() for each in names]
        for name in (each for each in wanted if fold(each.encode()) in FRAMING):
            draft.findings.lose(line, f"field {name}", IS_FRAMING)
        found = list(dict.fromkeys(each for each in wanted if fold(each.encode()) not in FRAMING))
        if found:
            block[key] = draft.value(found, line)
    block.setdefault("headers", Value(list(FROM_CLIENT), "credentials of clients"))
    forward = Forward(dropped_fields=tuple((each.lower(), line) for each in dropped))
    access.identify([draft.identity("external", {"external": block})], line, optional=False, forward=forward)
