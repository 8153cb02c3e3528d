"""Tests of reports on policy files: problems in readable form."""

from __future__ import annotations

from sidecar.config.files import Source
from sidecar.config.load import load

FILE = """version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {u: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  - {name: a, upstream: u, match: {path: "/{a\\nb\\e[1m"}}
  - {name: b, upstream: u, "time\\nout": 3s}
"""


def test_a_problem_is_one_line_whatever_it_quotes() -> None:
    problems = [str(problem) for problem in load([Source("p.yaml", FILE.encode())], {}).problems]
    assert len(problems) == 2
    assert all(problem.isprintable() for problem in problems)
    assert "p.yaml:5:42: routes.a.match.path: has `{a\\nb\\x1b[1m`: a capture is a whole segment" in problems[0]
    assert "routes.b.time\\nout" in problems[1]
