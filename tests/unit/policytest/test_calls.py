"""Tests of policy tests with calls of gRPC and with upstreams that speak HTTP/2."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sidecar.policytest.run import Result, Unusable, run_file
from sidecar.policytest.spec import FAILURES

DESCRIPTORS = Path(__file__).parents[3] / "policies" / "proto" / "shop.binpb"
POLICIES = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams:
  app: {endpoints: ["http://app:80"], protocol: http2}
  tls: {endpoints: ["https://tls:443"]}
defaults: {timeout: {request: 10s}}
routes:
  - {name: call, match: {grpc: {service: shop.Orders, method: Get}}, upstream: app}
  - name: try
    match: {grpc: {service: shop.Orders, method: List}}
    upstream: app
    retry: {on: [unavailable], backoff: {jitter: none}}
  - {name: tls, match: {grpc: {service: shop.Orders, method: Place}}, upstream: tls}
  - {name: plain, match: {path: /plain}, upstream: app, retry: {on: [503], backoff: {jitter: none}}}
"""
GET = "request: {grpc: {service: shop.Orders, method: Get}}"


@pytest.fixture
def trial(tmp_path: Path) -> Any:
    """Return a function that runs one test of a file."""
    (tmp_path / "app.yaml").write_text(POLICIES)
    shutil.copy(DESCRIPTORS, tmp_path)

    def run(test: str, head: str = "descriptors: shop.binpb") -> Result:
        path = tmp_path / "app.test.yaml"
        lines = "".join(f"    {line}\n" for line in test.strip().splitlines())
        path.write_text(f"{head}\ntests:\n  - name: it\n{lines}")
        (result,) = run_file(str(path), {})
        return result

    return run


def lines(result: Result) -> list[str]:
    return [re.sub(r"^[^:]*/", "", difference) for difference in result.differences]


@pytest.mark.parametrize(
    ("expect", "expected"),
    [
        ("{answer: {grpc_status: ok}}", "grpc_status: expected ok, was not_found (no such order)"),
        ("{answer: {grpc_status: not_found, message: {}}}", "json /: expected {}, was []"),
        ("{upstream: {message: {name: b}}}", 'json /name: expected b, was a'),
        ("{upstream: {message: {}}}", 'json /name: expected no such member, was a'),
    ],
)  # fmt: skip
def test_differences_have_the_line_of_the_expectation(trial: Any, expect: str, expected: str) -> None:
    result = trial(
        "request: {grpc: {service: shop.Orders, method: Get}, message: {name: a}}\n"
        "upstream: {grpc_status: not_found, grpc_message: no such order}\n"
        f"expect: {expect}"
    )
    assert lines(result) == [f"app.test.yaml:6: {expected}"]


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_a_script_is_one_of_a_call(trial: Any, failure: str) -> None:
    status = {"timeout": "deadline_exceeded", "protocol_error": "internal"}.get(failure, "unavailable")
    assert lines(trial(f"{GET}\nupstream: {failure}\nexpect: {{answer: {{grpc_status: {status}}}}}")) == []


@pytest.mark.parametrize("failure", ["connect_failure", "reset", "{status: 503}", "{grpc_status: unavailable}"])
def test_an_attempt_that_gets_no_connection_finds_none(trial: Any, failure: str) -> None:
    result = trial(
        "request: {grpc: {service: shop.Orders, method: List}}\n"
        f"upstream: [{failure}, connect_failure, {{message: {{nextPageToken: x}}}}]\n"
        "expect: {answer: {grpc_status: ok, message: {nextPageToken: x}}, attempts: 3}"
    )
    assert lines(result) == []


def test_a_status_after_a_message_is_late_and_ends_the_answer(trial: Any) -> None:
    result = trial(
        f"{GET}\nupstream: {{message: [{{name: a}}, {{name: b}}], grpc_status: data_loss, after: 1s}}\n"
        "expect: {answer: {grpc_status: data_loss, message: [{name: a}, {name: b}]}, took: {min: 1s, max: 1.1s}}"
    )
    assert lines(result) == []


def test_calls_at_once_take_the_answers_in_their_order(trial: Any) -> None:
    result = trial(
        f"{GET}\nat_once: 20\nupstream: {{message: {{name: a}}, times: 20}}\n"
        "expect: {answer: {grpc_status: ok, message: {name: a}}, answers: {'200': 20}}"
    )
    assert lines(result) == []


def test_a_service_behind_tls_is_called_over_http2(trial: Any) -> None:
    result = trial(
        "request: {grpc: {service: shop.Orders, method: Place}, message: {parent: shops/7}}\n"
        "upstream: {grpc_status: ok}\nexpect: {answer: {grpc_status: ok, message: {}}, route: tls}"
    )
    assert lines(result) == []


def test_requests_that_are_no_calls_reach_an_upstream_over_http2_too(trial: Any) -> None:
    result = trial(
        "request: {path: /plain, headers: {x-a: b}}\nupstream: [503, {json: {id: 7}, headers: {x-c: d}}]\n"
        "expect: {answer: {status: 200, json: {id: 7}, headers: {x-c: d}}, upstream: {headers: {x-a: b}}}"
    )
    assert lines(result) == []


@pytest.mark.parametrize(
    ("test", "head", "expected"),
    [
        (f"{GET[:-1]}, message: {{nam: a}}}}", "descriptors: shop.binpb", "4: message: expected a message of"),
        (f"{GET[:-1]}, message: {{name: a}}}}", "environ: {}", "a message needs descriptors of the file"),
        (f"{GET}\nupstream: {{message: {{nam: a}}}}", "descriptors: shop.binpb", "upstream: expected a message"),
        (
            "request: {grpc: {service: shop.Orders, method: Got}, message: {}}", "descriptors: shop.binpb",
            "the descriptors of the file have no method shop.Orders/Got",
        ),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_made_is_a_difference(trial: Any, test: str, head: str, expected: str) -> None:
    assert expected in "\n".join(lines(trial(test, head)))


@pytest.mark.parametrize(
    ("test", "head", "expected"),
    [
        ("request: {}", "", "needs either a path or grpc"),
        ("request: {path: /, grpc: {service: a.B, method: C}}", "", "needs either a path or grpc"),
        ("request: {path: /, message: {}}", "", "has a message, but is no call"),
        ("request: {grpc: {service: a.B, method: C}, body: x}", "", "whose requests are POST and have a message"),
        ("request: {grpc: {service: a/B, method: C}}", "", "service"),
        (GET, "descriptors: gone.binpb", "descriptors: names gone.binpb, which cannot be read (No such file"),
        (GET, "descriptors: app.yaml", "descriptors: names app.yaml, which "),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_place(trial: Any, test: str, head: str, expected: str) -> None:
    with pytest.raises(Unusable, match=re.escape(expected)):
        trial(test, head)
