"""Tests of the flood of forged tokens: its tokens, and its verdict."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bench.identity import AUDIENCE, ISSUER, issuer
from bench.token_flood import FLOOD, GROWTH, HONEST, forged, judge
from sidecar.identity.verdict import Rejection
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


@pytest.mark.parametrize(
    ("ratio", "growth", "honest", "flood", "code"),
    [
        (1.1, 1000, {"200": 9}, {"401": 5, "503": 4}, 0),
        (1.3, 1000, {"200": 9}, {"401": 9}, 1),
        (1.1, GROWTH + 1, {"200": 9}, {"401": 9}, 1),
        (1.1, 1000, {"200": 8, "503": 1}, {"401": 9}, 1),
        (1.1, 1000, {"200": 9}, {"401": 8, "200": 1}, 1),
    ],
)
def test_the_verdict(ratio: float, growth: int, honest: dict[str, int], flood: dict[str, int], code: int) -> None:
    assert judge(ratio, growth, {HONEST: Counter(honest), FLOOD: Counter(flood)}) == code
