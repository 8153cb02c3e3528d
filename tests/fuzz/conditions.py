"""Target: conditions, patterns and JSON bodies, their results and their numbers of steps.

Laws:

1. Only these are raised: `ExpressionError` with a column that is in the text, `ValueError` for a pattern, `InvalidBody`
   for a body.
2. An accepted condition gives True or False on any request, and the same value again.  It never holds together with
   its negation.
3. The steps of an accepted pattern are proportional to the length of hostile texts.
4. An accepted body has the value that `json` reads, except for half surrogate pairs, and is written again unchanged.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.core.pattern import MAX_INPUT, compile_pattern
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import EVERYTHING, Bodies
    from sidecar.expression.lexer import ExpressionError
    from sidecar.transform import jsonbody

from tests.support.service import exchange, response
from tests.support.steps import steps

X = exchange("POST", "/v1/orders/7", {"X-Tier": "gold", "x-many": "a"}, query=b"q=a%20b&r=1", authority=b"test:80")
BODY = b'{"id": 7, "qty": 1.5, "name": "Ada", "open": true, "note": null, "tags": ["a", "b"], "in": {"a": {"b": 1}}}'
HALF = re.compile("[\ud800-\udfff]")
SHORT = 24
"""Length of the shorter text for a pattern, beyond the pattern's own length, in characters.

A literal after a loose quantifier is compared at each place, so steps may grow with the text up to its length times
that of the literal.  Both texts are longer than that; faster growth between them is not linear.
"""


def check(data: bytes) -> None:
    """Check a condition, after a zero byte a body, or a pattern if the data begins with a slash."""
    first, zero, body = data.partition(b"\0")
    text = first.decode("utf-8", "replace")
    document = check_body(body) if zero else jsonbody.parse(BODY)
    if text.startswith("/"):
        check_pattern(text)
    else:
        check_condition(text, document)


def check_condition(text: str, document: jsonbody.Document | None) -> None:
    bodies = Bodies(document, document)
    try:
        condition = Condition(text, EVERYTHING)
    except ExpressionError as error:
        told(str(error), 1 <= error.column <= len(text) + 1)
        return
    outcome = response(200, b"", {"X-A": "b"})
    holds = condition.holds(X, outcome, bodies)
    assert holds in (True, False)
    assert condition.holds(X, outcome, bodies) == holds
    condition.holds(X)
    try:
        negation = Condition(f"!({text}\n)", EVERYTHING)
    except ExpressionError:
        return  # its negation may be too long or too deep, or it may have another type than a truth value
    assert not (holds and negation.holds(X, outcome, bodies)), text


def told(message: str, is_in_text: bool = True) -> None:
    """Assert that a refusal says why, and where in the text."""
    assert message
    assert is_in_text, message


def check_pattern(text: str) -> None:
    try:
        pattern = compile_pattern(text)
    except ValueError as error:
        told(str(error))
        return
    letters = sorted(set(text[:40]) | {"a", "/", "\xff"})
    for letter in letters:
        one = letter.encode("latin-1", "replace")
        for head, piece in ((text.encode()[:8], one), (b"", one), (b"", one + b"/")):
            pattern.fullmatch((head + piece * MAX_INPUT)[:MAX_INPUT])
            sizes = (len(text) + SHORT, 8 * (len(text) + SHORT))
            short, long = (steps(pattern, (head + piece * size)[:size]) for size in sizes)
            assert long <= 20 * short + 2000, (text, letter)


def check_body(body: bytes) -> jsonbody.Document | None:
    try:
        document = jsonbody.parse(body)
    except jsonbody.InvalidBody as error:
        told(str(error))
        return None
    json.loads(body)
    written = document.encoded()
    assert written == body.strip(jsonbody.SPACE) or json.loads(written) == mended(json.loads(body))
    return document


def mended(value: Any) -> Any:
    """Return a JSON value with U+FFFD for each lone half of a surrogate pair, as `jsonbody` reads it."""
    if isinstance(value, str):
        return HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [mended(each) for each in value]
    if isinstance(value, dict):
        return {mended(name): mended(each) for name, each in value.items()}
    return value


if __name__ == "__main__":
    fuzz("conditions", check)
