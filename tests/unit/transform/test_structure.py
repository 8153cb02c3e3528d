"""Tests of `transform.structure`: what passes and what does not, at every split of the text."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.transform.jsonbody import InvalidBody
from sidecar.transform.structure import DEEPEST, Structure
from tests.support.cases import each
from tests.support.work import grows_with


def problem(*pieces: bytes) -> str:
    """Return the problem of a text in pieces; empty without one."""
    structure = Structure()
    try:
        for piece in pieces:
            structure.feed(piece)
        structure.finish()
    except InvalidBody as error:
        return str(error)
    return ""


SOUND = [
    b"", b" \n", b"{}", b"[]", b' [1, -2.5e+7, true, false, null] \r\n', b'{"a": {"b": [{}, []]}}',
    rb'["\"", "\\", "\\\"]"]', b'{"}": "{[", "\xc3\xa9": "\\u00e9"}', b'["' + b"\\\\" * 50 + b'"]',
    b"[" * DEEPEST + b"]" * DEEPEST, b'["%b"]' % (b'\\"' * 40_000),
]  # fmt: skip
BROKEN = [
    (b'"a"', "neither an object nor a list"), (b"1", "neither"), (b"\xef\xbb\xbf{}", "is no JSON"),
    (b"<a>", "is no JSON"), (b"{", "ends within"), (b'["a', "ends within"), (b'["a\\', "ends within"),
    (b"[}", "do not match"), (b"]", "neither"), (b"{}}", "goes on"), (b"[] []", "goes on"),
    (b'{}, "admin": true', "goes on"), (b'[] "', "goes on"), (b"[]\n1", "goes on"), (b'[1, "a", x]', "is no JSON"),
    (b"[\\]", "is no JSON"), (b'["\0"]', "octet 0"), (b"[" * (DEEPEST + 1), "too deep"), (b'{"a": 1]', "do not match"),
    (b'{"a": "\\"}', "ends within"),
]  # fmt: skip


@each(SOUND)
def test_a_sound_text_passes_at_every_split(text: bytes) -> None:
    splits = range(len(text) + 1) if len(text) < 200 else range(0, len(text) + 1, len(text) // 20)
    assert {problem(text[:at], text[at:]) for at in splits} == {""}
    assert len(text) > 10_000 or problem(*[bytes((octet,)) for octet in text]) == ""


@each(BROKEN)
def test_a_broken_text_is_found_at_every_split(case: tuple[bytes, str]) -> None:
    text, message = case
    splits = range(len(text) + 1) if len(text) < 200 else range(0, len(text) + 1, len(text) // 20)
    found = {problem(text[:at], text[at:]) for at in splits} | {problem(*[bytes((octet,)) for octet in text])}
    assert "" not in found
    assert message in problem(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=15,
)


@given(st.lists(VALUES, max_size=4), st.booleans(), st.lists(st.integers(0, 200), max_size=4))
def test_whatever_json_there_is_passes_in_pieces(values: list[Any], is_ascii: bool, cuts: list[int]) -> None:
    text = json.dumps(values, ensure_ascii=is_ascii).encode("utf-8", "replace")
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert problem(*[text[start:end] for start, end in pairwise(at)]) == ""


def test_what_passes_cannot_change_what_stands_around_it() -> None:
    """Any text that passes leaves the members of an object around it as they are, if the whole is JSON at all."""
    draw = random.Random(7)
    for _ in range(20_000):
        text = b"".join(draw.choices([b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"1", b'"a":', b" "], k=9))
        at = draw.randrange(10)
        if problem(text[:at], text[at:]) == "" and text.strip():
            try:
                found = json.loads(b'{"x":%b,"y":2}' % text)
            except ValueError:
                continue
            assert list(found) == ["x", "y"]


@each([b"\\", b'"', b"[", b'\\"', b'["', b"a"])
def test_the_work_grows_with_the_text(unit: bytes) -> None:
    def make(size: int) -> object:
        return lambda: problem(b'["' + unit * (size // len(unit)))

    assert grows_with(make) == ""  # type: ignore[arg-type]
