"""Tests of forks of an exchange, and of facts that a stage changes and restores."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import sidecar
from sidecar.core.body import Body
from sidecar.core.exchange import Attempt, Caller, Exchange, RequestCopy
from tests.support.service import response

OWN = {"path", "attempt", "why", "call", "shared_fetch", "speaks_to_caches", "has_escapes", "parts"}
"""Attributes that a fork has of its own, since its request may differ."""


def declared() -> set[str]:
    """Return the attributes' names from the source of the constructor, since a compiled class has no list of them."""
    tree = ast.parse((Path(sidecar.__file__).parent / "core" / "exchange.py").read_text())
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Exchange"]
    [made] = [node.body for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    assigned = [target for node in made if isinstance(node, ast.Assign) for target in node.targets]
    annotated = [node.target for node in made if isinstance(node, ast.AnnAssign)]
    names = {node.attr for node in [*assigned, *annotated] if isinstance(node, ast.Attribute)}
    return names - {"method", "parsed", "raw"}


VALUES: dict[str, Any] = {
    "route": object(),
    "query": b"a=1",
    "stream": Body(),
    "captured_by": object(),
    "_captures": {"id": "7"},
    "upgrade": b"websocket",
    "guard_trailer": lambda name: True,
    "interim": lambda status, lines: None,
    "client_certificate": {"subject": "orders"},
    "caller": Caller("orders", "corporate", {}),
    "sensitive": frozenset((b"x-a",)),
    "avoid": frozenset(("http://10.0.0.1",)),
    "attempts": [Attempt(1, 0.0)],
    "stale": lambda: response(200),
    "replaced": response(503),
    "trace": object(),
}
"""Values for attributes other than numbers, texts and truth values."""


def other_than(value: Any, number: int) -> Any:
    return not value if isinstance(value, bool) else type(value)(number)


def test_a_fork_begins_with_all_that_is_known_and_goes_its_own_way() -> None:
    x = Exchange(b"PUT", b"/a", None, b"a: b\r\n")
    shared = sorted(declared() - OWN)
    for number, name in enumerate(shared, 20):
        value = VALUES[name] if name in VALUES else other_than(getattr(x, name), number)
        assert value != getattr(x, name)
        setattr(x, name, value)
    twin = x.fork(2, "retry:503")
    assert (twin.method, twin.path, twin.lines, twin.attempt, twin.why) == (b"PUT", b"/a", b"a: b\r\n", 2, "retry:503")
    assert {name: getattr(twin, name) for name in shared} == {name: getattr(x, name) for name in shared}
    assert twin.attempts is x.attempts
    assert twin.captures == {"id": "7"}
    twin.add(b"c", b"d")
    twin.request_id = b"7"
    assert (x.lines, x.attempt) == (b"a: b\r\n", 1)
    assert x.request_id != b"7"


def test_a_fork_makes_no_fetch_for_others() -> None:
    x = Exchange(b"GET", b"/")
    x.shared_fetch = fetch = Fetch()
    assert x.fork(2, "hedge").shared_fetch is None
    assert x.shared_fetch is fetch


class Fetch:
    def detach_client(self, run: Any) -> bool:
        return True


def test_facts_that_a_stage_changes_are_restored() -> None:
    x = Exchange(b"POST", b"/a", None, b"a: b\r\n")
    x.query, x.authority, x.body, x.stream, x.expects_continue = b"q", b"host", b"body", None, True
    facts = RequestCopy(x)
    x.method, x.path, x.query, x.authority, x.body, x.stream = b"GET", b"/b", None, b"", b"", Body()
    x.expects_continue = False
    x.forwarding = b"x-forwarded-host: other\r\n"
    x.headers = [(b"c", b"d")]
    x.refused_by = "cache"
    facts.restore(x)
    assert (x.method, x.target, x.authority, x.lines) == (b"POST", b"/a?q", b"host", b"a: b\r\n")
    assert x.forwarding == b""
    assert (x.body, x.stream, x.expects_continue, x.is_raw) == (b"body", None, True, True)
    assert x.refused_by == "cache", "what stages note is no fact of the request"
