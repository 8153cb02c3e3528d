"""Tests of response heads as bytes, and of problem documents."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.http1 import Invalid
from sidecar.core.outcome import BAD_REQUEST, BREAKER_OPEN, RESET, TIMEOUT, Outcome, Refusal, failed
from sidecar.downstream.response_head import (
    DOCUMENTS,
    LONGEST_DOCUMENT,
    MOST_DOCUMENTS,
    STATUS_LINES,
    encode_head,
    make_problem,
    make_rejection,
)
from sidecar.telemetry.plain import Masks

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_lines_of_the_upstream_pass_unchanged() -> None:
    head = encode_head(Outcome(200, lines=b"ETag:x\r\nDate: d\r\n"), b"content-length: 0\r\n", DATE)
    assert head == b"HTTP/1.1 200 OK\r\nETag:x\r\nDate: d\r\ncontent-length: 0\r\n\r\n"


def test_answers_of_the_sidecar_get_a_date() -> None:
    assert b"\r\ndate: %b\r\n" % DATE in encode_head(Outcome(200, [(b"a", b"b")]), b"", DATE)
    dated = encode_head(Outcome(200, [(b"date", b"d")]), b"", DATE)
    assert dated == b"HTTP/1.1 200 OK\r\ndate: d\r\n\r\n"


def test_every_status_has_a_status_line() -> None:
    assert STATUS_LINES[404] == b"HTTP/1.1 404 Not Found\r\n"
    assert STATUS_LINES[599] == b"HTTP/1.1 599 \r\n"
    assert set(STATUS_LINES) == set(range(100, 600))


def test_a_problem_says_who_refused_and_when_to_come_back() -> None:
    x = Exchange(b"GET", b"/", [])
    x.route = SimpleNamespace(name="order", problem_fields=lambda _: [])
    x.request_id = b"abc"
    refusal = Refusal("circuit_breaker", "p.yaml:7", "Open.", limit=0.5, value=0.75, retry_after=0.2)
    answer = make_problem(x, failed(BREAKER_OPEN, refusal))
    headers = dict(answer.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-sidecar-reason"] == b"breaker_open"
    assert headers[b"retry-after"] == b"1"
    assert json.loads(answer.body) == {
        "type": "urn:sidecar:problem:breaker_open",
        "title": BREAKER_OPEN.title,
        "status": 503,
        "detail": "Open.",
        "route": "order",
        "policy": "circuit_breaker",
        "where": "p.yaml:7",
        "limit": 0.5,
        "value": 0.75,
        "request_id": "abc",
    }
    assert answer.failure is BREAKER_OPEN


@pytest.mark.parametrize("failure", [RESET, TIMEOUT, BAD_REQUEST])
def test_a_problem_without_details(failure: object) -> None:
    answer = make_problem(None, failed(failure), None)  # type: ignore[arg-type]
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    assert {"type", "title", "status"} <= set(document)
    assert b"retry-after" not in dict(answer.headers)


@pytest.mark.parametrize("details", [None, Masks({"http://10.0.0.1:80": "${APP}"})])
def test_endpoint_and_cause_are_told_only_where_details_are_allowed(details: Masks | None) -> None:
    x = Exchange(b"GET", b"/", [])
    attempt = Attempt(1, 0.0)
    attempt.upstream, attempt.endpoint = "app", "http://10.0.0.1:80"
    x.attempts.append(attempt)
    cause = "no route to http://10.0.0.1:80"
    document = json.loads(make_problem(x, failed(RESET, Refusal(where="p.yaml:7"), cause), details).body)
    shown = {} if details is None else {"endpoint": "${APP}", "detail": "no route to ${APP}", "where": "p.yaml:7"}
    told = {"type": "urn:sidecar:problem:reset", "title": RESET.title, "status": 502, "upstream": "app", "attempts": 1}
    assert document == told | shown


def test_equal_refusals_share_a_document_but_for_the_request_id() -> None:
    DOCUMENTS.clear()
    masks = Masks({"secret": "${KEY}"})

    def document(
        detail: str, id: bytes, route: str = "order", details: Masks | None = masks, value: float | None = None
    ) -> dict[str, Any]:
        x = Exchange(b"GET", b"/", [])
        x.route = SimpleNamespace(name=route, problem_fields=lambda _: [])
        x.request_id = id
        found: dict[str, Any] = json.loads(
            make_problem(x, failed(BREAKER_OPEN, Refusal("p", "f:1", detail, value=value)), details).body
        )
        return found

    first = document("A secret.", b"1")
    assert first["detail"] == "A ${KEY}."
    assert document("A secret.", b'2" \xe9') == {**first, "request_id": '2" \xe9'}
    assert document("A secret.", b"") == {name: first[name] for name in first if name != "request_id"}
    assert [document("A secret.", b"1", value=each) for each in (7, 0, 0.25)] == [
        {**first, "value": each} for each in (7, 0, 0.25)
    ]
    assert len(DOCUMENTS) == 1
    assert document("A secret.", b"1", "other")["route"] == "other"
    assert document("A secret.", b"1", details=Masks({}))["detail"] == "A secret."
    assert "where" not in document("A secret.", b"1", details=None)
    assert document("A value.", b"1")["detail"] == "A value."


def test_documents_are_kept_within_bounds() -> None:
    for number in range(2 * MOST_DOCUMENTS):
        make_problem(None, failed(BREAKER_OPEN, Refusal(detail=f"{number}")))
        assert len(DOCUMENTS) <= MOST_DOCUMENTS
    DOCUMENTS.clear()
    make_problem(None, failed(BREAKER_OPEN, Refusal(detail="x" * LONGEST_DOCUMENT)))
    assert not DOCUMENTS


def test_a_rejection_has_the_status_and_a_sentence() -> None:
    outcome = make_rejection(BAD_REQUEST, Invalid("the request head is too large", 431))
    assert (outcome.status, outcome.refusal.detail) == (431, "The request head is too large.")
