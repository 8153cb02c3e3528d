from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Message, parse_fields
from sidecar.core.outcome import BREAKER_OPEN, Outcome, Refusal, failed
from sidecar.core.template import Template
from sidecar.transform.headers import HeaderEdit, LineRemover, put

CONSTANTS = {"service": "orders", "route": "order", "upstream": "app"}


def edit(
    set_: dict[str, str] | None = None,
    add: dict[str, str] | None = None,
    remove: tuple[str, ...] = (),
    rename: dict[str, str] | None = None,
) -> HeaderEdit:
    made = [{k: Template(v, CONSTANTS) for k, v in (texts or {}).items()} for texts in (set_, add)]
    return HeaderEdit(made[0], made[1], remove, rename or {})


def applied(this: HeaderEdit, lines: bytes, outcome: Outcome | None = None) -> bytes:
    x = Exchange(b"GET", b"/", None, lines)
    this.apply(x, x, outcome)
    return x.lines


LINES = b"Accept: */*\r\nCookie: a=b\r\nX-User: ada\r\nx-internal-a: 1\r\ncookie: c=d\r\nX-INTERNAL-b: 2\r\n"


def test_each_operation_takes_what_it_names_and_leaves_the_rest_as_it_came() -> None:
    assert applied(edit(remove=("COOKIE", "x-internal-*")), LINES) == b"Accept: */*\r\nX-User: ada\r\n"
    assert applied(edit(rename={"x-user": "X-User-Id"}), LINES) == LINES.replace(b"X-User:", b"x-user-id:")
    assert applied(edit({"x-user": "eve"}), LINES).count(b"ser:") == 1
    assert applied(edit(add={"cookie": "e=f"}), LINES) == LINES + b"cookie: e=f\r\n"
    assert applied(edit({"x-new": "{service}/{route}"}), b"") == b"x-new: orders/order\r\n"


def test_a_name_within_another_or_within_a_value_is_not_meant() -> None:
    lines = b"x-cookie: 1\r\ncookies: 2\r\nx: cookie: 3\r\n"
    assert applied(edit(remove=("cookie",)), lines) == lines


def test_a_client_cannot_put_its_own_beside_what_is_renamed() -> None:
    this = edit(rename={"x-user": "x-user-id"})
    assert applied(this, b"x-user-id: eve\r\nx-user: ada\r\nx-user: bob\r\n") == b"x-user-id: ada\r\nx-user-id: bob\r\n"
    assert applied(this, b"a: 1\r\nX-User-Id:eve \r\nb: 2\r\n") == b"a: 1\r\nX-User-Id:eve \r\nb: 2\r\n"


def test_the_order_is_remove_rename_set_add() -> None:
    this = edit({"b": "set"}, {"b": "added"}, ("b",), {"a": "b"})
    assert applied(this, b"a: 1\r\nb: 2\r\n") == b"b: 1\r\nb: set\r\nb: added\r\n"


def test_several_renames_at_once() -> None:
    swap = edit(rename={"a": "b", "b": "a"})
    assert parse_fields(applied(swap, b"a: 1\r\nb: 2\r\n")) == [(b"b", b"1"), (b"a", b"2")]
    to_one = edit(rename={"x": "z", "y": "z"})
    assert applied(to_one, b"z: 0\r\ny: 2\r\nx: 1\r\n") == b"z: 2\r\nz: 1\r\n"
    assert applied(to_one, b"z: 0\r\n") == b"z: 0\r\n"


def test_values_of_a_request_cannot_end_a_field() -> None:
    x = Exchange(b"GET", b"/", None, b"x-a: 1\r\n")
    x.captures = {"id": "7\r\nx-admin: true\r\n\r\nGET / HTTP/1.1"}
    edit({"x-id": "{path.id}", "x-a": "[{header.x-a}]"}).apply(x, x)
    assert x.lines == b"x-id: 7x-admin: trueGET / HTTP/1.1\r\nx-a: [1]\r\n"


def test_a_template_that_comes_out_empty_leaves_its_field_out() -> None:
    this = edit({"retry-after": "{breaker.retry_after}", "x-user": "{header.x-user}"})
    assert applied(this, b"retry-after: 9\r\n") == b""
    assert applied(this, b"", failed(BREAKER_OPEN, Refusal(retry_after=2.1))) == b"retry-after: 3\r\n"


def test_octets_pass_through_a_template() -> None:
    assert applied(edit({"b": "{header.a}"}), b"a: caf\xc3\xa9\r\n") == b"a: caf\xc3\xa9\r\nb: caf\xc3\xa9\r\n"


def test_a_message_whose_fields_were_taken_apart_is_edited_too() -> None:
    x = Exchange(b"GET", b"/", [(b"cookie", b"a"), (b"x", b"1")])
    edit(remove=("cookie",)).apply(x, x)
    assert x.headers == [(b"x", b"1")]


NAMES = ["a", "b", "ab", "x-a", "x-b", "x-ab"]
FIELDS = st.lists(
    st.tuples(st.sampled_from([*NAMES, "A", "X-B"]), st.sampled_from(["", "1", "a: 2", "x-a:3"])), max_size=12
)


@given(
    FIELDS,
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["s", "t"]), max_size=2),
    st.lists(st.sampled_from([*NAMES, "x-*", "a*"]), max_size=3, unique=True),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["n1", "n2"]), max_size=2),
)
def test_it_does_what_a_list_of_pairs_would_say(
    fields: list[tuple[str, str]], set_: dict[str, str], remove: list[str], rename: dict[str, str]
) -> None:
    lines = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in fields)

    def is_removed(name: str) -> bool:
        return any(re.fullmatch(re.escape(word).replace(r"\*", ".*"), name) for word in remove) or name in set_

    kept = [(n.lower(), v) for n, v in fields if not is_removed(n.lower()) and n.lower() not in rename]
    moved = [(rename[old], v) for old in rename for n, v in fields if n.lower() == old]
    if any(is_removed(old) for old in rename):
        return  # removed and renamed at once: the stage's own order decides, shown above
    expected = sorted([*kept, *moved, *set_.items()])
    found = parse_fields(applied(edit(set_, {}, tuple(remove), rename), lines))
    assert sorted((n.decode(), v.decode()) for n, v in found) == expected


def test_many_lines_take_no_time() -> None:
    lines = b"x-user: 1\r\n" * 6000
    assert applied(edit({"x-user": "a"}), lines) == b"x-user: a\r\n"
    assert applied(edit(rename={"x-user": "y"}), lines) == b"y: 1\r\n" * 6000


def test_cut_and_put() -> None:
    message = Message.__new__(Message)
    message.lines = b"ETag: 1\r\na: 2\r\netag: 3\r\n"
    assert LineRemover(["b"], ["etag"])(message) == [b"1", b"3"]
    assert message.lines == b"a: 2\r\n"
    assert LineRemover(["b"], ["etag"])(message) == []
    assert LineRemover(["b", "a"])(message) == []
    assert message.lines == b""
    message.lines = b"A: 2\r\n"
    put(message, b"a", b"4")
    put(message, b"b", b"5")
    assert message.lines == b"a: 4\r\nb: 5\r\n"


# ----- twins: names that servers take for the same field

TWINS = b"X_User: eve\r\nx.user: eve\r\nX-User: eve\r\nx~user: eve\r\n"


@pytest.mark.parametrize("name", ["x-user", "X_User"])
def test_what_is_set_has_no_twin(name: str) -> None:
    assert applied(edit({name: "ada"}), b"a: 1\r\n" + TWINS) == b"a: 1\r\n%b: ada\r\n" % name.lower().encode()


def test_what_is_removed_has_no_twin_unless_the_twin_is_named() -> None:
    assert applied(edit(remove=("x-user",)), TWINS) == b""
    assert applied(edit(remove=("x-us*",)), TWINS + b"x_using: 1\r\ny: 2\r\n") == b"y: 2\r\n"
    assert applied(edit(remove=("x_user",)), TWINS) == TWINS.replace(b"X_User: eve\r\n", b"")


def test_what_is_renamed_has_no_twin() -> None:
    this = edit(rename={"x-user": "x-user-id"})
    assert applied(this, b"X_User_Id: eve\r\nx-user: ada\r\nx.user-id: eve\r\n") == b"x-user-id: ada\r\n"
    assert applied(edit(rename={"x_user": "x-user"}), b"x_user: ada\r\nx-user: eve\r\n") == b"x-user: ada\r\n"


def test_what_is_added_leaves_what_came() -> None:
    assert applied(edit(add={"x-user": "ada"}), TWINS) == TWINS + b"x-user: ada\r\n"


@pytest.mark.parametrize("name", [b"x-user", b"x_user", b"x-secret-a", b"x_secret.a", b"x-old", b"x-new", b"x_added"])
def test_trailers_do_not_bring_back_what_the_rules_cut_out_or_write(name: bytes) -> None:
    this = edit({"x-user": "ada"}, {"x-added": "1"}, ("x-secret-*",), {"x-old": "x-new"})
    x, outcome = Exchange(b"POST", b"/", None, b"a: 1\r\n"), Outcome(200, stream=Body())
    x.stream = Body()
    this.apply(x, x)
    this.apply(outcome, x, outcome)
    for body in (x.stream, outcome.stream):
        assert body is not None
        body.finish([(name, b"evil"), (b"x-checksum", b"1")])
        assert body.trailers == [(b"x-checksum", b"1")]


def test_put_leaves_no_twin() -> None:
    message = Exchange(b"POST", b"/", None, b"Content_Type: a/b\r\ncontent-type: c/d\r\n")
    put(message, b"content-type", b"e/f")
    assert message.lines == b"content-type: e/f\r\n"
