"""Tests of gRPC statuses, of their fields, and of their mapping to HTTP."""

from __future__ import annotations

import pytest

from sidecar.core.outcome import FAILURES, GRPC_STATUSES, STATUS_TO_COME, grpc_code, grpc_verdict
from sidecar.grpc.status import (
    decode_message,
    encode_message,
    is_grpc,
    parse_pushback,
    parse_status,
    split_path,
    status_fields,
    status_from_http,
    status_to_http,
)


@pytest.mark.parametrize(
    ("value", "code"),
    [(b"0", 0), (b"14", 14), (b"16", 16), (b"17", 2), (b"99", 2), (b"-1", 2), (b"", 2), (b"014", 2), (b"x", 2)],
)
def test_a_value_that_is_no_code_is_unknown(value: bytes, code: int) -> None:
    assert parse_status(value) == code


def test_the_verdicts_of_codes_are_told_apart_from_http_statuses() -> None:
    verdicts = [grpc_verdict(code) for code in range(len(GRPC_STATUSES))]
    assert len(set(verdicts)) == len(GRPC_STATUSES)
    assert STATUS_TO_COME not in verdicts
    assert not set(verdicts[1:]) & set(range(100, 600))
    failures = {GRPC_STATUSES[code] for code, verdict in enumerate(verdicts) if verdict >= 500}
    assert failures == {"unknown", "deadline_exceeded", "internal", "unavailable", "data_loss"}
    assert [grpc_code(verdict) for verdict in verdicts[1:]] == list(range(1, 17))
    assert {grpc_code(status) for status in (100, 200, 503, 599, STATUS_TO_COME)} == {-1}


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/GRPC;charset=utf-8", True),
        (b"application/grpc ; x=1", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_content_types(content_type: bytes, expected: bool) -> None:
    assert is_grpc(content_type) is expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("all is well", b"all is well"),
        ("100%", b"100%25"),
        ("\t", b"%09"),
        ("two\r\nlines", b"two%0D%0Alines"),
        ("schön 🎉", b"sch%C3%B6n %F0%9F%8E%89"),
        ("", b""),
    ],
)
def test_messages_are_percent_encoded(text: str, value: bytes) -> None:
    assert encode_message(text) == value
    assert decode_message(value) == text


def test_a_message_that_is_badly_encoded_is_kept() -> None:
    assert decode_message(b"50% off, %zz and %C3 alone") == "50% off, %zz and \ufffd alone"


def test_fields_have_a_message_only_if_there_is_one() -> None:
    assert status_fields(0) == [(b"grpc-status", b"0")]
    assert status_fields(14, "später") == [(b"grpc-status", b"14"), (b"grpc-message", b"sp%C3%A4ter")]


def test_http_answers_have_the_codes_of_grpcs_table() -> None:
    table = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
    assert {status: status_from_http(status) for status in table} == table
    assert {status_from_http(status) for status in (200, 302, 409, 500, 501)} == {2}


def test_codes_have_the_http_statuses_of_the_table() -> None:
    """The comments of `google/rpc/code.proto`."""
    found = [status_to_http(code) for code in range(len(GRPC_STATUSES))]
    assert found == [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401]


def test_every_failure_of_ours_has_a_code() -> None:
    found = {code: GRPC_STATUSES[failure.grpc] for code, failure in FAILURES.items()}
    assert found == {
        "connect_failure": "unavailable",
        "connect_timeout": "unavailable",
        "reset": "unavailable",
        "timeout": "deadline_exceeded",
        "protocol_error": "internal",
        "breaker_open": "unavailable",
        "overloaded": "unavailable",
        "no_endpoint": "unavailable",
        "transform_failed": "internal",
        "answer_too_large": "internal",
        "part_failed": "unavailable",
        "fault_injected": "unavailable",
        "no_route": "unimplemented",
        "origin_refused": "permission_denied",
        "forbidden": "permission_denied",
        "loop": "internal",
        "client_closed": "cancelled",
        "client_timeout": "cancelled",
        "bad_request": "internal",
        "internal_error": "internal",
        "rate_limited": "resource_exhausted",
        "unauthenticated": "unauthenticated",
        "bad_credentials": "unauthenticated",
        "unverifiable": "unavailable",
        "no_credentials": "unavailable",
    }


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"0", 0.0), (b"250", 0.25), (b"-1", None), (b"soon", None), (b"", None), (b"1" * 11, None)]
)
def test_pushback(value: bytes, seconds: float | None) -> None:
    assert parse_pushback(value) == seconds


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"/shop.Orders/Place", ("shop.Orders", "Place")),
        (b"/Orders/Place", ("Orders", "Place")),
        (b"/a/b/C", ("a/b", "C")),
        (b"/Place", None),
        (b"/shop.Orders/", None),
        (b"//Place", None),
        (b"*", None),
    ],
)
def test_service_and_method_of_a_path(path: bytes, parts: tuple[str, str] | None) -> None:
    assert split_path(path) == parts
