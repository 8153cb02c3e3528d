"""Tests of `match.when`: conditions on a request's head beyond methods, headers and query."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.router import Router, ties
from sidecar.routing.rule import Rule
from tests.support.service import exchange

BETA = "request.headers['x-beta'] in ['on', 'yes']"


def rule(name: str, **match: object) -> Rule[str]:
    return Rule(MatchSpec.model_validate(match), name)


def test_a_route_with_a_condition_comes_before_one_without() -> None:
    router = Router([rule("all", path="/a"), rule("beta", path="/a", when=BETA)])
    assert router.match(exchange("GET", "/a", {"x-beta": "on"})) == "beta"
    assert router.match(exchange("GET", "/a", {"x-beta": "off"})) == "all"
    assert router.match(exchange("GET", "/a")) == "all"


def test_a_condition_alone_is_a_match() -> None:
    router = Router([rule("big", when="size(request.path) > 3 && request.method == 'GET'")])
    assert router.match(exchange("GET", "/abc")) == "big"
    assert router.match(exchange("GET", "/a")) is None
    assert router.match(exchange("POST", "/abc")) is None


@pytest.mark.parametrize(
    ("one", "two", "tie"),
    [
        (BETA, "request.query['beta'] == '1'", True),
        ("request.query['v'] == '1'", "request.query['v'] == '2' && true", False),
        (BETA, None, False),
    ],
)
def test_conditions_that_may_both_hold_tie(one: str, two: str | None, tie: bool) -> None:
    rules = [rule("one", path="/a", when=one), rule("two", path="/a", **({"when": two} if two else {}))]
    assert bool(list(ties(rules))) is tie


POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app:80"]}}
routes:
  - name: a
    match:
      path: /a
      when: request.pth == 'a'
    upstream: app
"""


def test_a_mistake_is_told_with_its_line_and_column() -> None:
    (problem,) = load([Source("p.yaml", POLICIES.encode())], {}).problems
    assert str(problem) == (
        "p.yaml:8:13: routes.a.match.when: is not a valid condition: column 9: `pth` is not a part of `request`; "
        "did you mean `path`?"
    )


def test_a_body_is_not_known_yet() -> None:
    text = POLICIES.replace("request.pth == 'a'", "request.body.a == 1")
    (problem,) = load([Source("p.yaml", text.encode())], {}).problems
    assert "is not known here: a route is chosen by the request's head alone" in str(problem)


def test_explain_says_which_condition_does_not_hold(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sidecar.commands import main

    path = tmp_path / "p.yaml"
    path.write_text(POLICIES.replace("request.pth == 'a'", BETA))
    result = CliRunner().invoke(main, ["explain", str(path), "GET", "/a"])
    assert f"the condition does not hold: {BETA}" in result.output
