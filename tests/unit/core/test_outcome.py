"""Failures, and the conditions by which policies name them."""

from __future__ import annotations

import pytest

from sidecar.core import outcome as outcomes
from sidecar.core.conditions import Conditions
from sidecar.core.outcome import (
    BREAKER_OPEN,
    CLIENT_CLOSED,
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    DEADLINE,
    FAILURES,
    PROTOCOL,
    RESET,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Refusal,
    failed,
)
from tests.support.service import response


@pytest.mark.parametrize(
    ("words", "hits", "misses"),
    [
        (["connect_failure"], [failed(CONNECT_FAILURE), failed(CONNECT_TIMEOUT)], [failed(RESET), response(502)]),
        (["reset"], [failed(RESET), failed(STALE_CONNECTION)], [failed(CONNECT_FAILURE)]),
        (["timeout"], [failed(TIMEOUT)], [failed(DEADLINE), failed(CONNECT_TIMEOUT), response(504)]),
        (["protocol_error"], [failed(PROTOCOL)], [failed(RESET)]),
        (["5xx"], [response(500), response(599)], [response(499), failed(BREAKER_OPEN), failed(RESET)]),
        (["4xx", 503], [response(400), response(503)], [response(502), response(200)]),
        ([], [], [response(500), failed(RESET), response(999)]),
    ],
)
def test_conditions(words: list[str | int], hits: list[outcomes.Outcome], misses: list[outcomes.Outcome]) -> None:
    conditions = Conditions(words)
    assert [o for o in hits if not conditions.match(o)] == []
    assert [o for o in misses if conditions.match(o)] == []


def test_a_failed_outcome_bears_the_status_a_client_would_see() -> None:
    outcome = failed(BREAKER_OPEN, Refusal("circuit_breaker", retry_after=3))
    assert (outcome.status, outcome.reason, outcome.refusal.retry_after) == (503, "breaker_open", 3)


def test_breakers_learn_only_from_the_upstream() -> None:
    assert response(503).is_judged
    assert failed(RESET).is_judged
    assert not failed(BREAKER_OPEN).is_judged
    assert not failed(DEADLINE).is_judged
    assert not failed(CLIENT_CLOSED).is_judged


def test_the_table_names_every_code() -> None:
    rows = [value for value in vars(outcomes).values() if isinstance(value, Failure)]
    assert {row.code for row in rows} == set(FAILURES)
    assert all(400 <= row.status <= 599 for row in rows)
