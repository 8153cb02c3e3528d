"""Tests of the facts that only `authorize` reads: the client's address and the captures of the path."""

from __future__ import annotations

import pytest

from sidecar.expression.condition import Condition
from sidecar.expression.facts import AUTHORIZE, MATCH, REQUEST, RESPONSE, WHOLE_REQUEST
from sidecar.expression.lexer import ExpressionError
from tests.support.service import exchange


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("client.address == '192.0.2.1'", True),
        ("client.address.startsWith('192.0.3.')", False),
        ("path.tenant == 'acme'", True),
        ("path.tenant != 'umbrella'", True),
        ("path.other != 'umbrella'", False),
        ("path.tenant in ['acme', 'umbrella'] && request.method == 'GET'", True),
    ],
)
def test_facts_of_authorize(text: str, is_met: bool) -> None:
    x = exchange(client_address="::ffff:192.0.2.1")
    x.captures = {"tenant": "acme"}
    assert Condition(text, AUTHORIZE).holds(x) is is_met


def test_captures_are_told_so_that_a_check_can_find_them() -> None:
    assert Condition("path.a == 'x' || path.b == caller.id", AUTHORIZE).captures == {"a", "b"}


@pytest.mark.parametrize("scope", [MATCH, REQUEST, RESPONSE, WHOLE_REQUEST])
@pytest.mark.parametrize("fact", ["client.address", "path.tenant"])
def test_other_blocks_do_not_read_them(scope: object, fact: str) -> None:
    with pytest.raises(ExpressionError, match="is known to `authorize` only"):
        Condition(f"{fact} == 'a'", scope)  # type: ignore[arg-type]
