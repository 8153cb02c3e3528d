"""Tests of fields that are taken out of heads repeatedly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import message
from sidecar.core.message import LINE, LINES, Selection, fold


def lines(*fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in fields)


def take(chosen: Selection, head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    kept, taken, noticed = chosen.take(b"*" + head + b"\r\n", 1, 1 + len(head))
    assert not noticed
    return kept, taken


def test_what_is_named_is_taken_in_any_spelling_and_the_rest_passes_as_it_is() -> None:
    chosen = Selection(frozenset((b"connection", b"te")))
    head = lines(b"Host: a", b"CONNECTION: \tclose ", b"te:", b"X-Te: connection")
    for _ in range(2):  # the second time from the kept lines
        assert take(chosen, head) == (lines(b"Host: a", b"X-Te: connection"), [(b"connection", b"close"), (b"te", b"")])


def test_selections_do_not_share_what_they_remember() -> None:
    one, other = Selection(frozenset((b"a",))), Selection(frozenset((b"b",)))
    head = lines(b"a: 1", b"b: 2")
    for _ in range(2):
        assert take(one, head) == (b"b: 2\r\n", [(b"a", b"1")])
        assert take(other, head) == (b"a: 1\r\n", [(b"b", b"2")])


def test_some_that_pass_are_noticed() -> None:
    chosen = Selection(frozenset((b"a",)), frozenset((b"b", b"cookie")))
    for head in (lines(b"a: 1", b"B:2", b"c: 3"), lines(b"Cookie: x", b"a: 1")):
        for _ in range(2):
            kept, taken, noticed = chosen.take(head + b"\r\n", 0, len(head))
            assert (kept, taken, noticed) == (head.replace(b"a: 1\r\n", b""), [(b"a", b"1")], True)


def test_names_that_may_be_twins_are_noticed_where_there_are_others() -> None:
    for others in (frozenset((b"b",)), frozenset[bytes]()):
        chosen = Selection(frozenset((b"a",)), frozenset((b"c",)), others=others)
        for name in (b"X_Y", b"x.y", b"X-Y_Z", b"x~y"):
            for value in (b"1", b"2" * LINE):
                head = lines(b"%b: %b" % (name, value))
                assert chosen.take(head + b"\r\n", 0, len(head)) == (head, [], bool(others))
        assert chosen.take(b"X-Y: 1\r\n\r\n", 0, 8) == (b"X-Y: 1\r\n", [], False)


def test_memory_is_bounded() -> None:
    chosen = Selection(frozenset((b"a",)))
    for number in range(3 * LINES):
        take(chosen, lines(b"a: %d" % number, b"b: %d" % number))
    assert len(chosen._known) <= LINES


def test_the_memory_of_names_is_bounded() -> None:
    chosen = Selection(frozenset((b"a",)))
    for number in range(3 * LINES):
        take(chosen, lines(b"b-%d: 1" % number))
    take(chosen, lines(b"c" * 10 * LINE + b": 1"))
    assert len(chosen._kinds) <= LINES
    assert max(map(len, chosen._kinds)) <= LINE


def test_twins_of_all_names_that_count_are_taken_and_no_others() -> None:
    chosen = Selection(frozenset((b"a-b",)), frozenset((b"c-d",)), (b"e-",), frozenset((b"f-g",)))
    passing = lines(b"c-d: 1", b"f-g: 1", b"A_c: 1", b"h_i: 1")
    taken = [b"a-b", b"A_B", b"a.b", b"C_D", b"c~d", b"e-x", b"E_X", b"f_g", b"F.G"]
    for value in (b"1", b"2" * LINE):
        head = passing + lines(*(b"%b: %b" % (name, value) for name in taken))
        for _ in range(2):
            kept, found, noticed = chosen.take(head + b"\r\n", 0, len(head))
            assert (kept, noticed) == (passing, True)
            assert found == [(name.lower(), value) for name in taken]


@given(st.text("aB-_.~9", min_size=1))
def test_folding_is_what_servers_do(name: str) -> None:
    assert fold(name.encode()).decode() == "".join(c.lower() if c.isalnum() else "-" for c in name)


def test_neither_long_lines_nor_secrets_are_remembered() -> None:
    chosen = Selection(frozenset((b"a", b"cookie")))
    take(chosen, lines(b"a: " + b"x" * LINE, *(b"%b: y" % name.title() for name in message.SECRETS)))
    assert not chosen._known


@pytest.mark.parametrize("line", [b"", b"a", b": b", b"a : b", b" a: b", b"a: b\0", b"a: b\r", b"a: b\n", b"a\xff: b"])
def test_what_is_no_field_line_is_never_split_nor_remembered(line: bytes) -> None:
    chosen = Selection(frozenset((b"a",)))
    for _ in range(2):
        assert chosen.select([b"b: c", line]) is None
    assert set(chosen._known) == {b"b: c"}
