"""Tests of failures, and of the conditions by which policies name them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sidecar
from sidecar.core import outcome as outcomes
from sidecar.core.body import CANCELLED, Body
from sidecar.core.conditions import Conditions
from sidecar.core.outcome import (
    BREAKER_OPEN,
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


def test_the_rest_of_a_body_is_given_up() -> None:
    streamed = response(200, stream=Body())
    streamed.discard()
    assert streamed.stream is not None
    assert streamed.stream.state == CANCELLED
    response(200, b"whole").discard()


def test_every_failure_is_raised_somewhere() -> None:
    """Each row of the table is imported by a module that can raise it."""
    root = Path(sidecar.__file__).parent
    used = {
        alias.name
        for path in root.rglob("*.py")
        if "sidecar.core.outcome" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module == "sidecar.core.outcome"
        for alias in node.names
    }
    rows = {name for name, value in vars(outcomes).items() if isinstance(value, Failure)}
    assert rows - used == set()


def test_the_table_names_every_code() -> None:
    rows = [value for value in vars(outcomes).values() if isinstance(value, Failure)]
    assert {row.code for row in rows} == set(FAILURES)
    assert all(400 <= row.status <= 599 for row in rows)
