"""Forks of an exchange: one more try of the same request."""

from __future__ import annotations

import ast
from pathlib import Path

import sidecar
from sidecar.core.exchange import SHARED, Exchange


def test_a_fork_begins_with_all_that_is_known_and_goes_its_own_way() -> None:
    x = Exchange(b"PUT", b"/a", None, b"a: b\r\n")
    for number, name in enumerate(SHARED):
        if type(known := getattr(x, name)) in (bytes, str, int, float):
            setattr(x, name, type(known)(number))
    x.request_id = b"6"
    twin = x.fork(2, "retry:503")
    assert (twin.method, twin.path, twin.lines, twin.attempt, twin.why) == (b"PUT", b"/a", b"a: b\r\n", 2, "retry:503")
    assert [getattr(twin, name) for name in SHARED] == [getattr(x, name) for name in SHARED]
    assert twin.attempts is x.attempts
    twin.add(b"c", b"d")
    twin.request_id = b"7"
    assert (x.lines, x.request_id, x.attempt) == (b"a: b\r\n", b"6", 1)


def test_nothing_that_an_exchange_knows_is_forgotten_by_its_forks() -> None:
    tree = ast.parse((Path(sidecar.__file__).parent / "core" / "exchange.py").read_text())
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Exchange"]
    assigned = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    annotated = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    names = {node.id for node in [*assigned, *annotated] if isinstance(node, ast.Name)}
    own = {"path", "attempt", "why", "errand", "speaks_to_caches", "has_escapes"}  # it may ask for something else
    assert names - own == set(SHARED)
