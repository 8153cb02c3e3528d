"""Addresses of listeners: each has its own, and others cannot reach an unprotected admin listener."""

from __future__ import annotations

from itertools import combinations
from typing import Final

from sidecar.config.listen_address import ListenAddress
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec
from sidecar.core.message import CLAIM_PREFIXES, CLAIMS, fold

ANY: Final = {"0.0.0.0": ".", "::": ":"}  # noqa: S104 - recognised, not bound
"""Addresses that stand for all of their family, with a character that each address of that family has."""


def check_listeners(spec: PolicySpec, report: Report) -> None:
    """Report listeners that share an address; warn of an admin listener that others can reach without a token, and
    of fields that need no leave to pass."""
    for name, listener in spec.listeners.items():
        for index, field in enumerate(listener.untrusted.pass_):
            folded = fold(field.encode())
            if folded not in CLAIMS and not folded.startswith(CLAIM_PREFIXES):
                node = spec.node.nearest("listeners", name, "untrusted", "pass", index)
                report.warn(node, f"names {field}, which passes from everyone anyway; take it out")
    places: list[tuple[str, tuple[str, ...], ListenAddress]]
    places = [(name, ("listeners", name), listener.address) for name, listener in spec.listeners.items()]
    if spec.admin is not None:
        places.append(("admin", ("admin",), spec.admin.address))
        if not spec.admin.address.is_loopback and spec.admin.token is None:
            node = spec.node.nearest("admin", "address")
            report.warn(
                node, "others can reach the admin listener and force breakers; give it a token, or a loopback address"
            )
    for (first, _, one), (_, path, two) in combinations(places, 2):
        if overlap(one, two):
            node = spec.node.nearest(*path, "address")
            report.at(node, f"is also where `{first}` listens ({one}); give each listener a port of its own")


def overlap(one: ListenAddress, two: ListenAddress) -> bool:
    """True if only one of two addresses can be bound."""
    if one.path or two.path:
        return one.path == two.path
    if one.port != two.port or one.port == 0:
        return False
    return one.host == two.host or any(ANY.get(a.host, "\0") in b.host for a, b in ((one, two), (two, one)))
