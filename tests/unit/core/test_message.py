"""Fields taken out of a head, again and again."""

from __future__ import annotations

from sidecar.core import message
from sidecar.core.message import LINE, LINES, Selection


def lines(*fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in fields)


def take(chosen: Selection, head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    kept, taken, noticed = chosen.take(b"*" + head + b"\r\n", 1, 1 + len(head))
    assert not noticed
    return kept, taken


def test_what_is_named_is_taken_in_any_spelling_and_the_rest_passes_as_it_is() -> None:
    chosen = Selection(frozenset((b"connection", b"te")))
    head = lines(b"Host: a", b"CONNECTION: \tclose ", b"te:", b"X-Te: connection")
    for _ in range(2):  # the second time from memory
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


def test_memory_is_bounded() -> None:
    chosen = Selection(frozenset((b"a",)))
    for number in range(3 * LINES):
        take(chosen, lines(b"a: %d" % number, b"b: %d" % number))
    assert len(chosen._known) <= LINES


def test_neither_long_lines_nor_secrets_are_remembered() -> None:
    chosen = Selection(frozenset((b"a", b"cookie")))
    take(chosen, lines(b"a: " + b"x" * LINE, *(b"%b: y" % name.title() for name in message.SECRETS)))
    assert set(chosen._known) <= {b""}
