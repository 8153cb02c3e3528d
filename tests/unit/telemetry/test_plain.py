"""Tests of plain values: bounded, JSON-ready, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.telemetry.plain import HIDDEN, MAX_DEPTH, MAX_ITEMS, MAX_TEXT, Secrets


def plain(value: Any) -> Any:
    result = Secrets().plain(value)
    json.dumps(result, allow_nan=False)
    return result


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (b"caf\xe9", "café"),
        ((1, {2}, [3]), [1, [2], [3]]),
        ({("breaker", "x"): 1}, {"('breaker', 'x')": 1}),
        (ValueError("bad"), "ValueError: bad"),
        (Unprintable(), "<Unprintable that cannot be shown>"),
        ({Unprintable(): 1}, {"<Unprintable that cannot be shown>": 1}),
    ],
)
def test_anything_becomes_json(value: Any, expected: Any) -> None:
    assert plain(value) == expected


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "cookies", "password", "redis_password",
        "token", "admin.token", "accessToken", "client_secret", "api_key", "X-Api-Key", "apikey", "private-key",
        "credentials",
    ],
)  # fmt: skip
def test_a_field_that_says_it_is_secret_is_hidden(name: str) -> None:
    assert plain({name: "hunter2"}) == {name: HIDDEN}
    assert plain({name: [b"hunter2"]}) == {name: HIDDEN}
    assert plain({"headers": {name: "hunter2"}}) == {"headers": {name: HIDDEN}}


def test_numbers_and_sections_of_such_a_name_are_shown() -> None:
    value = {"tokens": 3.5, "token": 3, "secret": {"mounted": True}, "token_bucket": "full", "monkey": "banana"}
    assert plain(value) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@cache:6379/0", f"redis://{HIDDEN}@cache:6379/0"),
        ("redis://:p@ss@cache and http://a@b/c", f"redis://{HIDDEN}@cache and http://{HIDDEN}@b/c"),
        ("http://host/path?mail=a@b", "http://host/path?mail=a@b"),
        ("sent Authorization: Bearer abc.def-123==", f"sent Authorization: Bearer {HIDDEN}"),
        ("basic dXNlcjpwYXNz", f"basic {HIDDEN}"),
    ],
)
def test_secrets_inside_text_are_hidden(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_known_secrets_are_hidden_wherever_they_stand() -> None:
    secrets = Secrets()
    secrets.hide(["hunter2", "hunter2-long", "abc", ""])
    assert secrets.plain({"a": "x hunter2-long y hunter2 z abc"}) == {"a": f"x {HIDDEN} y {HIDDEN} z abc"}
    assert secrets.plain(RuntimeError("hunter2")) == f"RuntimeError: {HIDDEN}"
    secrets.hide(["other"])
    assert secrets.text("hunter2 other") == f"hunter2 {HIDDEN}"
    secrets.hide([])
    assert secrets.text("other") == "other"


def test_size_is_bounded() -> None:
    assert len(plain("x" * 10**6)) == MAX_TEXT + 1
    assert len(plain(list(range(10**5)))) == MAX_ITEMS
    assert len(plain({i: i for i in range(10**4)})) == MAX_ITEMS
    loop: list[Any] = []
    loop.append(loop)
    assert json.dumps(plain(loop)).count("[") == MAX_DEPTH
