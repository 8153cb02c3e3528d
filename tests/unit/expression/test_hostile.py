"""Tests of every condition in policies, README and docs with a hostile header, path, query and body of 64 KiB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.expression.condition import Condition
from sidecar.expression.facts import EVERYTHING, Bodies
from sidecar.transform.jsonbody import InvalidBody, parse
from tests.support.work import calls, grows_with

ROOT: Final = Path(__file__).parents[3]
SIZE: Final = 64 * 1024
TARGET: Final = 32 * 1024
"""Bytes of the longest query that `max_header_bytes` allows."""
MOST: Final = 150
"""Calls for a condition on any body: parsing and access read each byte a few times."""


LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Loader in C where PyYAML has it: all workers of pytest-xdist read all policies to collect the tests."""


def in_policies(value: Any) -> Iterator[str]:
    """Yield every `when` of a policy file."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key == "when" and isinstance(inner, str):
            yield inner
        else:
            yield from in_policies(inner)


def in_text(text: str) -> Iterator[str]:
    """Yield the code in a document that reads a fact."""
    found = re.findall(
        r"`((?:[^`\n]*[^`\n\w.])?(?:request|response)\.(?:method|path|query|headers|status|body)\b[^`\n]*)`", text
    )
    yield from (code for code in found if "when:" not in code)  # examples in the reference are those of policies
    yield from re.findall(r"^[\s-]*when: (.*)$", text, re.MULTILINE)


def conditions() -> list[str]:
    found = dict.fromkeys(
        expression
        for path in sorted((ROOT / "policies").rglob("*.yaml"))
        for expression in in_policies(yaml.load(path.read_text(), LOADER))
    )
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        found |= dict.fromkeys(in_text(path.read_text()))
    return list(found)


FOUND: Final = conditions()
OURS: Final = [
    "request.headers['x'].matches('^[a-z,]+$') || request.path.matches('^/[a-z]+$')",
    "request.headers['x'].contains('aab') || request.path.endsWith('b') || request.query['q'].startsWith('%')",
    "has(request.body.error.code) || response.body.error in ['a', 'b'] || 'error' in response.body",
    "size(response.body.error) > 3 || response.body.error.matches('^x+y')",
]
"""Conditions that no document shows."""


PIECES: Final = [b"a", b"aa", b"\xfe", b"a,", b"%61", b"%2e%2e/", b"/", b"'\"\\", b"x" * 99 + b" "]
BODIES: Final = {
    "a long text": b'{"error":"%b"}' % (b"x" * SIZE),
    "escapes": b'{"error":"%b"}' % (b"\\u0061" * (SIZE // 6)),
    "a long number": b'{"error":%b}' % (b"1" * SIZE),
    "many keys": b'{"error":{%b}}' % b",".join(b'"%05d":1' % n for n in range(SIZE // 10)),
    "one key again and again": b'{"error":{%b}}' % b",".join([b'"code":1'] * (SIZE // 9)),
    "a key twice at the end": b'{%b,"1":1,"1":1}' % b",".join(b'"k%05d":[]' % n for n in range(SIZE // 12)),
    "an escape among many keys": b'{"\\u0061":1,%b}' % b",".join(b'"k%05d":1' % n for n in range(SIZE // 12)),
    "deep": b'{"error":' * (SIZE // 9),
    "deep and whole": b'{"error":' * 400 + b"1" + b"}" * 400,
    "brackets": b"[" * SIZE,
    "a list": b'{"error":[%b0]}' % (b"0," * (SIZE // 2)),
    "white space": b'{"error"%b:1}' % (b" \n" * (SIZE // 2)),
    "not UTF-8": b'{"error":"%b\xff"}' % (b"x" * SIZE),
    "colons": b'{"error":"%b"}' % (b'\\":' * (SIZE // 3)),
}


def request(junk: bytes) -> Exchange:
    names = (b"x", b"x-beta", b"x-drill", b"x-tier")
    x = Exchange(b"POST", b"/" + junk, None, b"".join(b"%b: %b\r\n" % (name, junk) for name in names))
    x.query = b"q=" + junk[:TARGET]
    return x


def test_conditions_are_found() -> None:
    assert "response.status == 200 && response.body.error.code == 'not_found'" in FOUND
    assert "request.headers['x-beta'] in ['on', 'yes']" in FOUND
    assert len(FOUND) >= 8


@pytest.mark.parametrize("text", FOUND + OURS)
def test_a_header_a_path_and_a_query_take_work_in_proportion(text: str) -> None:
    condition = Condition(text, EVERYTHING)

    def ask(piece: bytes, size: int) -> Callable[[], object]:
        junk = (piece * (size // len(piece) + 1))[:size]
        x = request(junk)
        outcome = Outcome(200, lines=b"x: %b\r\ncontent-type: application/json\r\n" % junk)
        return lambda: condition.holds(x, outcome)

    for piece in PIECES:
        assert not grows_with(partial(ask, piece), SIZE // 8), piece


@pytest.mark.parametrize("text", FOUND + OURS)
def test_a_body_takes_few_calls(text: str) -> None:
    """The number includes the calls that read and check the body."""
    condition = Condition(text, EVERYTHING)
    x, outcome = request(b"a"), Outcome(200)

    def ask(data: bytes) -> None:
        with suppress(InvalidBody):
            document = parse(data)
            condition.holds(x, outcome, Bodies(document, document))

    for name, data in BODIES.items():
        assert calls(partial(ask, data)).total() <= MOST, name
