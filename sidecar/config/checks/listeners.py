"""Check of listeners: addresses differ, and an admin listener that others can reach has a token."""

from __future__ import annotations

from typing import Final

from sidecar.config.listen_address import ListenAddress
from sidecar.config.process_spec import CaptureSpec, ListenerSpec
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec
from sidecar.core.message import CLAIM_PREFIXES, CLAIMS, fold

ANY: Final = {"0.0.0.0": ".", "::": ":"}  # noqa: S104 - recognised, not bound
"""Wildcard addresses, each with a character that every address of its family contains."""


def check_listeners(spec: PolicySpec, report: Report) -> None:
    """Report listeners that share an address.

    Warn of an admin listener that others can reach without a token, and of names in `untrusted.pass` that have no
    effect.
    """
    for name, listener in spec.listeners.items():
        _check_capture(name, listener, spec, report)
        for index, field in enumerate(listener.untrusted.pass_):
            folded = fold(field.encode())
            if folded not in CLAIMS and not folded.startswith(CLAIM_PREFIXES):
                node = spec.node.nearest("listeners", name, "untrusted", "pass", index)
                report.warn(node, f"names {field}, which passes from all clients anyway; take it out")
    places: list[tuple[str, tuple[str, ...], ListenAddress]]
    places = [(name, ("listeners", name), listener.address) for name, listener in spec.listeners.items()]
    if spec.admin is not None:
        places.append(("admin", ("admin",), spec.admin.address))
        if not spec.admin.address.is_loopback and spec.admin.token is None:
            node = spec.node.nearest("admin", "address")
            report.warn(
                node, "others can reach the admin listener and force breakers; give it a token, or a loopback address"
            )
    firsts: dict[object, tuple[str, tuple[str, ...], ListenAddress]] = {}
    for place in places:
        _, path, address = place
        asked, own = _groups(address)
        known = next((firsts[group] for group in asked if group in firsts), None)
        if known is not None:
            other = spec.node.printable(str(known[2]), *known[1], "address")
            node = spec.node.nearest(*path, "address")
            report.error_in(node, f"is also where `{known[0]}` listens ({other}); give each listener a port of its own")
        for group in own:
            firsts.setdefault(group, place)


def _check_capture(name: str, listener: ListenerSpec, spec: PolicySpec, report: Report) -> None:
    """Report a listener that cannot take redirected connections, or has settings for them without taking any."""
    place = spec.node.nearest("listeners", name, "original_destination")
    if not listener.original_destination:
        if listener.capture != CaptureSpec.built_in():
            node = spec.node.nearest("listeners", name, "capture")
            report.error_in(node, "holds for redirected connections only; add original_destination: true")
        return
    if listener.address.path:
        report.error_in(place, "needs a TCP address, since only TCP can be redirected; write such as 127.0.0.1:15001")
    if listener.tls is not None:
        report.error_in(
            place, "stands beside `tls`, but TLS of clients is for their own servers; leave one of them out"
        )
    if listener.address.port == 0:
        report.warn(place, "has port 0, which `sidecar capture` cannot know; write a fixed port such as 15001")


def _groups(address: ListenAddress) -> tuple[list[object], list[object]]:
    """Return two lists of keys for finding conflicts between addresses.

    An address conflicts with every other one that has a key of the first list in its second list.
    """
    host, port = address.host, address.port
    if address.path:
        return [address.path], [address.path]
    if port == 0:
        return [], []
    asked: list[object] = [(port, host)]
    own: list[object] = [(port, host)]
    for wildcard, letter in ANY.items():
        if host == wildcard:
            asked.append((port, letter, "each"))
        if letter in host:
            asked.append((port, wildcard))
            own.append((port, letter, "each"))
    return asked, own
