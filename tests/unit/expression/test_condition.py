from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.exchange import Caller
from sidecar.core.outcome import Outcome
from sidecar.expression.condition import Condition
from sidecar.expression.facts import EVERYTHING, MATCH, NO_BODIES, REQUEST, RESPONSE, WHOLE_REQUEST, Bodies
from sidecar.expression.lexer import ExpressionError
from sidecar.transform.jsonbody import parse
from tests.support.service import exchange, response
from tests.support.work import grows_with

ORDER = parse(
    b'{"id": 12345678901234567890123, "qty": 3, "price": 1.10, "name": "Ada", "open": true, "note": null,'
    b' "tags": ["a", "b"], "items": [{"sku": "x"}, {"sku": "y"}], "one": 1, "yes": "true"}'
)
X = exchange(
    "POST",
    "/v1/%61dmin/caf%c3%a9",
    {"X-Tier": "gold", "X-Many": "a", "x-many": "b", "x-number": "5"},
    query=b"q=a%20b&r=1&r=2&%65=x&empty",
    authority=b"API.example.com:8443",
)


def holds(text: str, outcome: Outcome | None = None, bodies: Bodies = NO_BODIES) -> bool:
    return Condition(text, EVERYTHING).holds(X, outcome, bodies)


@pytest.mark.parametrize(
    "text",
    [
        "request.method == 'POST'",
        'request.method != "GET"',
        "request.path == '/v1/admin/caf%C3%A9'",
        "request.path.startsWith('/v1/') && request.path.endsWith('%C3%A9')",
        "request.path.contains('admin')",
        "request.host == 'api.example.com:8443'",
        "request.headers['x-tier'] == 'gold'",
        "request.headers['X-TIER'] == 'gold'",
        "request.headers['x-many'] == 'a, b'",
        "request.query['q'] == 'a b'",
        "request.query['e'] == 'x'",
        "request.query.empty == ''",
        "request.method in ['PUT', 'POST']",
        "'x-tier' in request.headers && !('x-other' in request.headers)",
        "'r' in request.query",
        "has(request.headers['x-tier']) && !has(request.headers['nope'])",
        "size(request.method) == 4 && request.method.size() == 4",
        "request.path.matches('^/v[12]/')",
        "request.path.matches('adm.n')",
        "request.path.matches(r'v\\d')",
        "matches(request.path, '%C3%A9$')",
        "response.status >= 500 && response.status < 600",
        "response.status in [502, 503]",
        "response.headers['retry-after'] == '5'",
        "503 == response.status",
        "'a' < 'b' && 1 < 2.5 && -1 < 0 && 0x10 == 16 && 1e3 == 1000.0 && false < true",
        "!(1 > 2) && !!true",
        "true || false && false",
        "(true || false) && true",
        "[1, 2] == [1, 2.0]",
        "'\\u0041\\x42\\n\\'' == \"AB\\n'\"",
    ],
)
def test_what_holds(text: str) -> None:
    assert holds(text, response(503, headers={"Retry-After": "5"}))


@pytest.mark.parametrize(
    "text",
    [
        "request.body.id > 9223372036854775807 && request.body.id < 1.3e22",
        "request.body.qty == 3 && request.body.qty == 3.0 && request.body['qty'] >= 3",
        "request.body.price == 1.1 && request.body.price > 1",
        "request.body.items[1].sku == 'y'",
        "'a' in request.body.tags && !('z' in request.body.tags)",
        "request.body.tags == ['a', 'b']",
        "size(request.body.items) == 2",
        "request.body.open && !(!request.body.open)",
        "request.body.note == null && has(request.body.note)",
        "!has(request.body.missing) && !has(request.body.items[2]) && !has(request.body.items.sku)",
        "has(request.body) && !has(response.body)",
        "request.body.name.startsWith('A') && request.body.name.matches('^A[a-z]+$')",
        "'name' in request.body",
        "request.body.one != true && request.body.yes != true",
        "request.body.qty != '3'",
    ],
)
def test_what_holds_of_a_json_body(text: str) -> None:
    assert holds(text, None, Bodies(request=ORDER))


MISSING = "request.headers['nope'] == 'a'"


@pytest.mark.parametrize(
    "text",
    [
        MISSING,
        f"!({MISSING})",
        "request.headers['nope'] != 'a'",
        "size(request.headers['nope']) >= 0",
        "request.headers['nope'] in ['a']",
        "request.headers['nope'] in [request.headers['nope']]",
        "request.headers['nope'].contains('a')",
        f"{MISSING} && true",
        f"{MISSING} || false",
        f"!({MISSING} && true)",
        "request.query['r'] == '1'",
        "request.query['r'] != '3'",
        "response.status != 200",
        "request.body.qty == 3",
        "request.body.name < 5",
        "request.body.name > 5",
        "request.body.qty && true",
        "request.body.qty in request.body.name",
        "size(request.body.qty) == 1",
        "request.body.qty.startsWith('3')",
        "request.body.items.matches('x')",
    ],
)
def test_what_has_no_value_does_not_hold_and_neither_does_its_opposite(text: str) -> None:
    assert not holds(text, None, Bodies(request=ORDER) if "body.name" in text else NO_BODIES)


@pytest.mark.parametrize("sides", [(MISSING, "true"), ("true", MISSING)])
def test_or_and_and_absorb_what_has_no_value(sides: tuple[str, str]) -> None:
    assert holds(" || ".join(sides))
    assert holds(f"!({' && '.join(sides).replace('true', 'false')})")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "the end stands where a value is expected"),
        ("request.pth == 'a'", 9, "did you mean `path`?"),
        ("reqest.path == 'a'", 1, "did you mean `request`?"),
        ("request.path = 'a'", 14, "compare with `==`"),
        ("request.path.startWith('/a')", 14, "did you mean `startsWith`?"),
        ("response.status == '5'", 17, "compares int with string"),
        ("request.method == 'a' & true", 23, "and is `&&`"),
        ("request.path == 'a' &&", 23, "the end stands where a value"),
        ("(request.path=='a'", 19, "`)` is expected"),
        ("request.path == 'a')", 20, "`)` stands where an operator"),
        ("request.method", 1, "of type string; compare it"),
        ("!request.method", 2, "of type string; compare it"),
        ("1 < 2 < 3", 7, "a < b && b < c"),
        ("request.headers == 1", 9, "request.headers['x']"),
        ("request.headers.x.y == 'a'", 19, "`y` is not a member: a string has none"),
        ("request.headers[1] == 'a'", 17, "a name in quotes"),
        ("request.headers['x'].matches('a+b')", 30, "let it begin with `^`"),
        ("request.headers['x'].matches('^(a+)+$')", 30, "exponential"),
        ("request.path.matches(request.method)", 22, "its pattern in quotes"),
        ("'abc", 1, "has no closing quote"),
        ("1 + 1 == 2", 3, "no arithmetic"),
        ("true ? 1 : 2", 6, "no `? :`"),
        ("request.path == '\\q'", 18, "is not an escape"),
        ("request.path == '\\ud83d'", 18, "half of a character"),
        ("request.path.matches('^/a)b(c$')", 22, "closes nothing"),
        ("99999999999999999999 == 1", 1, "beyond 64 bits"),
        ("12ab == 1", 1, "not a number"),
        ("5u == 5", 1, "not a number"),
        ("response.status < null", 17, "compares int with null"),
        ("[1] < [2]", 5, "no meaning for list"),
        ("request.path in request.headers", 1, "a name in quotes"),
        ("'a' in request.path", 5, "takes a list"),
        ("has(request.path)", 1, "always present"),
        ("has('a')", 1, "`has` takes"),
        ("has(request.body.a, 1)", 1, "takes 1 and has 2"),
        ("request.path.startsWith()", 14, "takes 2 and has 1"),
        ("request.path.startsWith(1)", 25, "takes a string"),
        ("size(1) == 1", 6, "takes a string"),
        ("request", 1, "name a part of it"),
        ("request.path[0] == 'a'", 14, "a string has none"),
        ("'a'.b == 1", 5, "have members"),
        ("request.headers[request.method] == 'a'", 17, "a text in quotes"),
        ("-'a' == 1", 1, "before a number only"),
        ("{'a': 1} == 1", 1, "there are no maps"),
        ("!" * 40 + "true", 32, "at most 32 deep"),
        ("(" * 40 + "true" + ")" * 40, 33, "at most 32 deep"),
        ("true || " * 300 + "true", 2049, "at most 2048 characters"),
        ("1 in [" + ",".join("1" * 300) + "]", 519, "at most 256 members"),
    ],
)
def test_errors_say_where_and_what_would_be_right(text: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(message)) as caught:
        Condition(text, EVERYTHING)
    assert caught.value.column == column
    assert f"column {column}:" in str(caught.value)


def test_a_chain_is_no_nesting() -> None:
    assert holds(" && ".join(["true"] * 200))


@pytest.mark.parametrize(
    ("scope", "text"),
    [(REQUEST, "request.body.a == 1"), (REQUEST, "response.status == 1"), (WHOLE_REQUEST, "response.status == 1"),
     (RESPONSE, "request.body.a == 1")],
)  # fmt: skip
def test_what_is_not_known_where_a_condition_stands_is_an_error(scope: Any, text: str) -> None:
    with pytest.raises(ExpressionError, match="is not known here"):
        Condition(text, scope)


def test_what_a_condition_needs() -> None:
    assert Condition("request.method == 'GET'", EVERYTHING).needs == {"request"}
    assert Condition("response.body.a == 1 || true", EVERYTHING).needs == {"response.body"}


@pytest.mark.parametrize(
    ("one", "two", "excludes"),
    [
        ("request.headers['x'] == 'a'", "request.headers['X'] == 'b'", True),
        ("request.method == 'A' && request.query['q'] == '1'", "'2' == request.query['q']", True),
        ("request.headers['x'] == 'a'", "request.headers['y'] == 'b'", False),
        ("request.headers['x'] == 'a' || true", "request.headers['x'] == 'b'", False),
        ("request.headers['x'] == 'a'", "request.headers['x'] == 'a'", False),
    ],
)
def test_conditions_that_exclude_each_other_are_seen(one: str, two: str, excludes: bool) -> None:
    assert Condition(one, REQUEST).excludes(Condition(two, REQUEST)) is excludes


SCALARS = st.one_of(st.integers(-(2**62), 2**62), st.booleans(), st.none(), st.text("abc'\\ é", max_size=5))
OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


@given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from(sorted(OPERATORS)))
def test_numbers_compare_as_numbers_do(one: int, two: int, name: str) -> None:
    assert holds(f"{one} {name} {two}") is OPERATORS[name](one, two)


@given(SCALARS, SCALARS)
def test_values_of_different_types_are_never_equal(one: Any, two: Any) -> None:
    body = Bodies(request=parse(b'{"a":1}'))
    body.request.box[0] = {"one": one, "two": two}  # type: ignore[union-attr]
    expected = type(one) is type(two) and one == two
    assert holds("request.body.one == request.body.two", None, body) is expected
    assert holds("request.body.one != request.body.two", None, body) is not expected
    assert holds(f"request.body.one == {literal(two)}", None, body) is expected


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    with suppress(ExpressionError):
        Condition(text, EVERYTHING)


HOSTILE = [b"a", b"\xfe", b"a,", b"%61", b"/"]
EXAMPLES = [
    "request.headers['x'] == 'a' || request.headers['x'].contains('aab') || 'y' in request.headers",
    "request.headers['x'].matches('^[a-z]+$') || request.path.matches('aab')",
    "request.query['q'] == 'a' || has(request.query['zz']) || request.path.endsWith('b')",
    "request.path.contains(request.headers['x'])",
    "size(request.headers['x']) == 1 || request.headers['x'] in ['a', 'b']",
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_hostile_input_takes_work_in_proportion(text: str) -> None:
    condition = Condition(text, REQUEST)

    def ask(piece: bytes, size: int) -> Callable[[], object]:
        junk = (piece * size)[:size]
        x = exchange("GET", "/", query=b"&".join([junk[: size // 4], b"q=" + junk[: size // 4]]))
        x.path = b"/" + junk
        x.lines = b"x: %b\r\n" % junk
        return lambda: condition.holds(x)

    for piece in HOSTILE:
        assert not grows_with(partial(ask, piece), 8192), piece


CLAIMS = {"tenant": "acme", "roles": ["reader", "writer"], "level": 3, "org": {"id": "x"}}


@pytest.mark.parametrize(
    "text",
    [
        "caller.id == 'alice'",
        "caller.identity == 'corporate'",
        "caller.claims.tenant == 'acme'",
        "caller.claims['tenant'].startsWith('ac')",
        "'writer' in caller.claims.roles",
        "caller.claims.roles[1] == 'writer'",
        "caller.claims.level >= 3",
        "caller.claims.org.id == 'x'",
        "has(caller.claims.tenant) && !has(caller.claims.other)",
    ],
)
def test_facts_about_the_caller(text: str) -> None:
    x = exchange()
    x.caller = Caller("alice", "corporate", CLAIMS)
    assert Condition(text, REQUEST).holds(x)
    assert not Condition(text, REQUEST).holds(exchange()), "an anonymous request has no caller"


@pytest.mark.parametrize(
    "text", ["caller.claims.roles[7] == 'a'", "caller.claims.org.name == 'x'", "caller.claims.tenant.x == 'y'"]
)
def test_absent_claims_have_no_value(text: str) -> None:
    x = exchange()
    x.caller = Caller("alice", "corporate", CLAIMS)
    assert not Condition(text, REQUEST).holds(x)
    assert not Condition(f"!({text})", REQUEST).holds(x)


def test_a_route_is_chosen_before_its_caller_is_known() -> None:
    with pytest.raises(ExpressionError, match=r"caller\.id.* is not known here"):
        Condition("caller.id == 'a'", MATCH)
