"""Tests of the flood of forged tokens: its tokens, and its verdict."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bench.identity import AUDIENCE, ISSUER, issuer
from bench.token_flood import CONTROL, FLOOD, GROWTH, HONEST, forged, judge, quantile, unread
from sidecar.identity.verdict import Rejection
from tests.support.service import exchange
from tests.unit.identity.test_jwt import ask, identity


def test_each_token_is_another_one_and_only_its_signature_is_wrong() -> None:
    (jwk,) = json.loads(issuer().key_set())["keys"]
    found = identity(jwk, issuer=ISSUER, audiences=[AUDIENCE])
    tokens = [request.partition(b"Bearer ")[2].strip() for request in forged(3)]
    assert len(set(tokens)) == 3
    for token in tokens:
        verdict = ask(found, token)
        assert isinstance(verdict, Rejection)
        assert verdict.cause == "the token's signature is wrong"


def test_the_control_is_as_long_as_the_flood_and_has_no_token() -> None:
    sent, controls = forged(3), unread(3)
    assert {len(each) for each in controls} == {len(each) for each in sent}
    (jwk,) = json.loads(issuer().key_set())["keys"]
    found = identity(jwk, issuer=ISSUER, audiences=[AUDIENCE])
    for request in controls:
        lines = request.partition(b"\r\n")[2].removesuffix(b"\r\n")
        assert found.authenticate(exchange(), lines, b"\n" + lines.lower(), 1000.0) is None


@pytest.mark.parametrize(
    ("ratio", "growth", "honest", "flood", "control", "code"),
    [
        (1.1, 1000, {"200": 9}, {"401": 5, "503": 4}, {"401": 9}, 0),
        (1.3, 1000, {"200": 9}, {"401": 9}, {"401": 9}, 1),
        (1.1, GROWTH + 1, {"200": 9}, {"401": 9}, {"401": 9}, 1),
        (1.1, 1000, {"200": 8, "503": 1}, {"401": 9}, {"401": 9}, 1),
        (1.1, 1000, {"200": 9}, {"401": 8, "200": 1}, {"401": 9}, 1),
        (1.1, 1000, {"200": 9}, {"401": 9}, {"401": 8, "503": 1}, 1),
    ],
)
def test_the_verdict(
    ratio: float, growth: int, honest: dict[str, int], flood: dict[str, int], control: dict[str, int], code: int
) -> None:
    statuses = {HONEST: Counter(honest), FLOOD: Counter(flood), CONTROL: Counter(control)}
    assert judge(ratio, growth, statuses) == code


def test_percentiles() -> None:
    assert quantile([], 99) == 0
    assert quantile([3.0, 1.0, 2.0], 50) == 2
    assert quantile([float(number) for number in range(200)], 99) == 198
