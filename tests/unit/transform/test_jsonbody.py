from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.transform.jsonbody import Document, InvalidBody, parse, plain
from tests.support.work import calls


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Return a strategy for JSON values with these texts and keys."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


VALUES = values(st.text(st.characters(codec="utf-8"), max_size=8))


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_what_is_not_touched_stays_byte_for_byte(value: Any, indent: Any, ascii_: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode()
    if b"\\ud" in data.lower():
        return
    assert parse(data).encoded() == data


@pytest.mark.parametrize(
    "text",
    [
        "12345678901234567890123",
        "-0",
        "1.10",
        "1E2",
        "1e400",
        "-1.0e-999",
        "0.1000000000000000055511151231257827",
        "[1.0,2]",
    ],
)
def test_numbers_keep_their_spelling(text: str) -> None:
    document = parse(b'{"a": %b, "b": 1}' % text.encode())
    assert document.encoded() == b'{"a": %b, "b": 1}' % text.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":2}', 'the key "a" twice'),
        (b'{"a":{"b":[{"x":1,"y":2,"x":3}]}}', 'the key "x" twice'),
        (b'{"a" : 1, "a"\n:2}', 'the key "a" twice'),
        (b'{"a":1,"\\u0061":2}', 'the key "a" twice'),
        (b'{"a\\"":1,"a\\"":2,"c":"\\\\"}', "twice"),
        (b'{"a":"\\u003a","b":1,"b":2}', 'the key "b" twice'),
        (b'{"a":":","b":1,"b":2}', 'the key "b" twice'),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"\xc3":1}', "not UTF-8"),
        (b"NaN", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":1}{"b":2}', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON"),
        (b"{}\xef\xbb\xbf", "not JSON"),
        (b"\xef\xbb\xbf", "is empty"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\\ud800', "not JSON"),
        (b'["\\ud800", 01]', "not JSON"),
        (b'{"\\ud800": 1, "\\udfff": 2}', "twice"),
        (b'{"a":"\x01"}', "not JSON"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
    ],
)
def test_what_is_no_one_json_text_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(InvalidBody, match=message):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":":","b":"\\":","c":" :"}',
        b'[{"a":1},{"a":2}]',
        b'{"a":{"a":{"a":1}}}',
        b'{"a":1,"A":2,"":3}',
        b'{":":":", "::":"::"}',
        b'{"a":"\\"b\\":1,\\"b\\":2"}',
        b'{"a":"\\u0022b\\u0022:1"}',
    ],
)
def test_what_only_looks_like_a_repeated_key_is_none(data: bytes) -> None:
    assert parse(data).encoded() == data


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ":", 'c"', "\\", ""]), st.integers(0, 3)), max_size=5))
def test_repeated_keys_are_found_in_every_spelling(pairs: list[tuple[str, int]]) -> None:
    for separator, ascii_ in ((":", True), (" : ", False)):
        inner = ", ".join(f"{json.dumps(key, ensure_ascii=ascii_)}{separator}{value}" for key, value in pairs)
        data = b'{"x": [{%b}], "y": "\\u003a"}' % inner.encode()
        if len(dict(pairs)) == len(pairs):
            assert parse(data).encoded() == data
        else:
            with pytest.raises(InvalidBody, match="twice"):
                parse(data)


spelled = st.lists(
    st.sampled_from(
        ["a", "\\u0061", '\\"', "\\u0022", "\\\\", "\\u005c", "\\n", "\\u000A", "é", "\\u00e9", "u0022", "\\/"]
    ),
    max_size=3,
).map(lambda parts: '"' + "".join(parts) + '"')


@given(st.lists(st.tuples(spelled, spelled), min_size=1, max_size=5))
def test_repeated_keys_are_found_however_their_letters_are_escaped(pairs: list[tuple[str, str]]) -> None:
    data = "[{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}]"
    if len({json.loads(key) for key, _ in pairs}) == len(pairs):
        assert parse(data.encode()).encoded() == data.encode()
    else:
        with pytest.raises(InvalidBody, match="twice"):
            parse(data.encode())


@pytest.mark.parametrize(
    ("steps", "value"),
    [((), {"a": [1, {"b": 2.5}], "c": None}), (("a", 1, "b"), 2.5), (("c",), None), (("a",), [1, {"b": 2.5}])],
)
def test_values_are_found_by_their_steps(steps: tuple[str | int, ...], value: Any) -> None:
    document = parse(b' { "a" : [1, {"b": 2.5}], "c" : null } ')
    assert document.at(steps) == value


@pytest.mark.parametrize("steps", [("x",), ("a", 2), ("a", "0"), ("c", "d"), ("a", 0, "x"), (0,)])
def test_what_is_not_there_is_not_found(steps: tuple[str | int, ...]) -> None:
    with pytest.raises(LookupError):
        parse(b'{"a":[1],"c":null}').at(steps)


def test_plain_values() -> None:
    assert plain(Document({"a": [1, "x", None, True]}).box[0]) == {"a": [1, "x", None, True]}
    assert parse(b"1e400").at(()) == float("inf")


def test_a_key_twice_in_a_long_text_is_refused_without_a_search() -> None:
    text = b"{%b}" % b",".join(b'"k%d":1' % n for n in range(3_000))
    assert parse(text).at(("k7",)) == 1
    with pytest.raises(InvalidBody, match="a key twice"):
        parse(text[:-1] + b',"k7":1}')


HOSTILE = [
    b'{"a":1,' * 9_000,
    b"[" + b"[]," * 20_000 + b"1]",
    b"{" + b",".join(b'"k%d":%d' % (i, i) for i in range(5_000)) + b"}",
    b'{"a":"' + b"\\u003a" * 10_000 + b'"}',
    b'["\\u0041",' + b",".join(b'{"%d":1}' % i for i in range(9_000)) + b"]",
    b"[" + b"1" * 4_000 + b",1]",
    b"1" * 65_536,
    b"0." + b"1" * 65_536,
    b'"' + b'\\"' * 32_000 + b'"',
    b"[" * 65_536,
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_take_few_calls(data: bytes) -> None:
    def once() -> None:
        with suppress(InvalidBody):
            parse(data).encoded()

    assert calls(once).total() <= 50, "each reads the bytes a few times, whatever they are"


@pytest.mark.parametrize("data", [b'{"a":1}', b"[]", b" 1", b'"\\ud800"'])
def test_a_byte_order_mark_is_ignored(data: bytes) -> None:
    assert plain(parse(b"\xef\xbb\xbf" + data).box[0]) == plain(parse(data).box[0])


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (r"\ud800", "\ufffd"),
        (r"\uDFFF", "\ufffd"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
        (r"\ud800\ud83d\ude00\udc00", "\ufffd\U0001f600\ufffd"),
        (r"\ud800x", "\ufffdx"),
        (r"\ud800\n", "\ufffd\n"),
        (r"\ud800\\", "\ufffd\\"),
        (r"\\ud800\ud800", r"\ud800" + "\ufffd"),
        (r"\uD83D\uDE00", "\U0001f600"),
    ],
)
def test_half_of_a_surrogate_pair_is_a_replacement_character(text: str, meaning: str) -> None:
    document = parse(b'{"a":["%b"],"n":1.10}' % text.encode())
    assert document.at(("a", 0)) == meaning
    assert document.encoded().endswith(b'"n":1.10}')
    assert plain(document.box[0])["a"] == [meaning]


@given(st.lists(st.sampled_from(["\\ud800", "\\udfff", "\\ud83d\\ude00", "x", "\\\\", '\\"', "\\u0041", "\\n", "u"])))
def test_any_mixture_of_halves_means_what_others_take_it_for(pieces: list[str]) -> None:
    text = '["' + "".join(pieces) + '"]'
    meant = json.loads(text)[0]
    document = parse(text.encode())
    assert document.at((0,)) == "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in meant)
