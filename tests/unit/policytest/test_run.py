"""Tests of policy tests: accepted files, display of differences, and sources of policies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.policytest.run import Result, Unusable, find, run_file
from sidecar.policytest.spec import FAILURES

POLICIES = Path(__file__).parents[3] / "policies"

PLAIN = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams:
  app: {endpoints: ["http://app:80", "http://app-2:80"]}
  other: {endpoints: ["unix:/run/other.sock"]}
defaults: {timeout: {request: 10s}}
routes:
  - {name: app, upstream: app}
  - {name: try, match: {path: /try}, upstream: app, retry: {backoff: {jitter: none}}}
  - {name: other, match: {path: /other}, upstream: other}
  - {name: wait, match: {path: /wait}, upstream: app, timeout: {request: off, idle: off}}
"""


@pytest.mark.parametrize("path", find(str(POLICIES)), ids=lambda path: Path(path).name)
def test_the_examples_do_what_their_tests_say(path: str) -> None:
    for result in run_file(path, {}):
        assert result.passed, "\n".join(result.differences)


def test_every_example_has_tests() -> None:
    policies = {path.stem for path in POLICIES.rglob("*.yaml") if not path.name.endswith(".test.yaml")}
    assert policies == {path.name.split(".")[0] for path in POLICIES.rglob("*.test.yaml")}


@pytest.fixture
def trial(tmp_path: Path) -> Any:
    """Return a function that runs one test of a file."""
    (tmp_path / "app.yaml").write_text(PLAIN)

    def run(test: str, **environ: str) -> Result:
        path = tmp_path / "app.test.yaml"
        path.write_text("tests:\n  - name: it\n" + "".join(f"    {line}\n" for line in test.strip().splitlines()))
        (result,) = run_file(str(path), environ)
        return result

    return run


def lines(result: Result) -> list[str]:
    return [re.sub(r"^[^:]*/", "", difference) for difference in result.differences]


@pytest.mark.parametrize(
    ("test", "differences"),
    [
        ("request: {path: /}\nupstream: [200]", []),
        (
            "request: {path: /}\nupstream: [{status: 404}]\nexpect:\n  answer:\n    status: 200\n  attempts: 2",
            ["app.test.yaml:7: status: expected 200, was 404", "app.test.yaml:8: attempts: expected 2, was 1"],
        ),
        ("request: {path: /}", ["app.test.yaml:2: upstream: expected 0 attempts, was 1; no answer was left for app"]),
        (
            "request: {path: /}\nupstream: [200, 200]",
            ["app.test.yaml:4: upstream: expected 2 attempts, was 1; the other answers were not used"],
        ),
        (
            "request: {path: /other}\nupstream: [{upstream: app}]",
            ["app.test.yaml:4: upstream: expected an attempt on app, was one on other"],
        ),
        (
            "request: {path: /}\nupstream: [{headers: {a: b}}]\nexpect: {answer: {headers: {a: c, d: e, date: null}}}",
            [
                "app.test.yaml:5: headers a: expected c, was b",
                "app.test.yaml:5: headers d: expected e, was nothing",
                "app.test.yaml:5: headers date: expected no such field, was Sun, 15 Jun 2025 15:06:40 GMT",
            ],
        ),
        (
            "request: {path: /}\nupstream: [{body: '{\"a\":[1,2.50],\"b\":true}'}]\n"
            "expect:\n  answer:\n    json:\n      a: [1, 2]\n      b: 1\n      c: x",
            [
                "app.test.yaml:8: json /a/1: expected 2, was \"2.50\"",
                "app.test.yaml:9: json /b: expected 1, was true",
                'app.test.yaml:10: json /c: expected x, was missing',
            ],
        ),
        (
            "request: {path: /}\nupstream: [{body: no}]\nexpect: {answer: {json: 1}}",
            ["app.test.yaml:5: json: expected a JSON body, was no"],
        ),
        (
            "request: {method: POST, path: /a?b, form: {c: d e}}\nupstream: [200]\n"
            "expect: {upstream: {method: PUT, path: /a, form: {c: d}, upstream: other}}",
            [
                "app.test.yaml:5: upstream: expected other, was app",
                "app.test.yaml:5: method: expected PUT, was POST",
                "app.test.yaml:5: path: expected /a, was /a?b",
                'app.test.yaml:5: form: expected {"c": "d"}, was {"c": "d e"}',
            ],
        ),
        (
            "request: {path: /try}\nupstream: [503, 200]\nexpect: {upstream: [{path: /try}]}",
            ["app.test.yaml:5: requests upstream: expected 1, was 2: GET /try, GET /try"],
        ),
        (
            "request: {path: /try}\nupstream: [503, 200]\nexpect: {took: {max: 10ms}, route: app, cache: hit}",
            [
                "app.test.yaml:5: route: expected app, was try",
                "app.test.yaml:5: cache: expected hit, was nothing",
                "app.test.yaml:5: took: expected 0s to 0.01s, was 0.025s",
            ],
        ),
        (
            "request: {path: /}\nat_once: 3\nupstream: [{times: 2}, 503]\nexpect: {answers: {200: 3}}",
            ['app.test.yaml:6: answers: expected {"200": 3}, was {"200": 2, "503": 1}'],
        ),
        (
            "request: {path: /}\nupstream: [cut]",
            ["app.test.yaml:2: answer: expected a complete one, was cut off in its body"],
        ),
        (
            "request: {path: /}\nupstream: [200]\nexpect: {breakers: {app: open}}",
            ["app.test.yaml:5: breakers app: expected open, was no such breaker"],
        ),
        (
            "request: {path: /}\nupstream: [reset]\nexpect: {answer: {status: 200}}",
            ["app.test.yaml:5: status: expected 200, was 502 (reset: connection reset by peer)"],
        ),
        (
            "request: {path: /wait}\nupstream: [timeout]",
            ["app.test.yaml:2: answer: expected a complete one, was none"],
        ),
        (
            "listener: outbound\nrequest: {path: /}\nupstream: [200]",
            ["app.test.yaml:3: listener: expected one of inbound, was outbound"],
        ),
    ],
)  # fmt: skip
def test_differences_are_shown_with_their_places(trial: Any, test: str, differences: list[str]) -> None:
    assert lines(trial(test)) == differences


CALLS = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams:
  app: {endpoints: ["http://app:80"], protocol: http2}
  old: {endpoints: ["http://old:80"]}
  safe: {endpoints: ["https://safe:443"]}
defaults: {timeout: {request: 10s}}
routes:
  - {name: app, upstream: app}
  - {name: try, match: {grpc: {service: shop.Orders, method: List}}, upstream: app, retry: {on: [unavailable]}}
  - {name: old, match: {path: /old}, upstream: old}
  - {name: safe, match: {grpc: {service: shop.Safe}}, upstream: safe}
"""
GET = "request: {grpc: {service: shop.Orders, method: Get}}\n"


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Return a function that runs one test of calls, and returns its differences."""
    (tmp_path / "calls.yaml").write_text(CALLS)

    def run(test: str) -> list[str]:
        path = tmp_path / "calls.test.yaml"
        indented = "".join(f"    {line}\n" for line in test.strip().splitlines())
        path.write_text(f"descriptors: {POLICIES / 'proto' / 'shop.binpb'}\ntests:\n  - name: it\n{indented}")
        (result,) = run_file(str(path), {})
        return lines(result)

    return run


@pytest.mark.parametrize(
    ("test", "differences"),
    [
        (f"{GET}upstream: [OK]\nexpect: {{answer: {{grpc_status: OK, message: {{}}}}}}", []),
        (
            f"{GET}upstream: [{{grpc_status: ABORTED, grpc_message: 50 % off}}]\n"
            "expect: {answer: {grpc_status: OK, grpc_message: x}}",
            ["calls.test.yaml:6: grpc_status: expected OK, was ABORTED (50 % off)"],
        ),
        (
            f"{GET}upstream: [{{grpc_status: ABORTED, grpc_message: 50 % off}}]\n"
            "expect: {answer: {grpc_status: ABORTED, grpc_message: x}}",
            ["calls.test.yaml:6: grpc_message: expected x, was 50 % off"],
        ),
        (
            f"{GET}upstream: [{{message: {{name: a, state: PAID}}}}]\nexpect:\n  answer:\n    message:\n"
            "      name: b\n      labels: {}",
            [
                "calls.test.yaml:9: message /name: expected b, was a",
                "calls.test.yaml:10: message /labels: expected {}, was missing",
                'calls.test.yaml:8: message /state: expected no such member, was PAID',
            ],
        ),
        (
            f"{GET}upstream: [UNAVAILABLE]\nexpect: {{answer: {{message: {{}}}}}}",
            ["calls.test.yaml:6: message: expected one message, was 0"],
        ),
        (
            f"{GET}upstream: [{{messages: [{{}}, {{name: b}}]}}]\n"
            "expect: {answer: {messages: [{}, {name: c}]}}",
            ["calls.test.yaml:6: messages /1/name: expected c, was b"],
        ),
        (
            f"{GET}upstream: [{{grpc_status: OK, trailers: {{a: b}}}}]\nexpect: {{answer: {{trailers: {{a: c}}}}}}",
            ["calls.test.yaml:6: trailers a: expected c, was b"],
        ),
        (
            "request: {grpc: {service: shop.Orders, method: Get, message: {name: a}}}\nupstream: [OK]\n"
            "expect: {upstream: {path: /shop.Orders/Get, message: {name: b}, headers: {te: x}}}",
            [
                "calls.test.yaml:6: headers te: expected x, was trailers",
                "calls.test.yaml:6: message /name: expected b, was a",
            ],
        ),
        (
            "request: {grpc: {service: shop.Orders, method: Get, message: {nme: a}}}\nupstream: [OK]",
            [
                "calls.test.yaml:4: grpc: expected messages that can be made, was a shop.GetOrderRequest in which "
                "nme is not a field"
            ],
        ),
        (
            "request: {grpc: {service: shop.Bills, method: Get, message: {nme: a}}}\nupstream: [OK]",
            [
                "calls.test.yaml:4: grpc: expected messages that can be made, was messages of shop.Bills/Get, which "
                "no descriptor set has; write `descriptors: FILE` in the test file"
            ],
        ),
        (
            f"{GET}upstream: [{{message: {{state: LOST}}}}]",
            [
                "calls.test.yaml:5: upstream: expected an answer that can be sent, was a shop.Order in which "
                "state is not a value of shop.State"
            ],
        ),
        (
            "request: {path: /old}\nupstream: [OK]",
            [
                "calls.test.yaml:5: upstream: expected an answer that can be sent, was an answer of gRPC from old, "
                "which speaks HTTP/1.1; write `protocol: http2` there"
            ],
        ),
        (
            f"{GET}at_once: 3\nupstream: [{{grpc_status: OK, times: 2}}, ABORTED]\nexpect: {{answers: {{OK: 3}}}}",
            ['calls.test.yaml:7: answers: expected {"OK": 3}, was {"OK": 2, "ABORTED": 1}'],
        ),
        (GET, ["calls.test.yaml:3: upstream: expected 0 attempts, was 1; no answer was left for app"]),
        (
            f"{GET}upstream: [OK, OK]",
            ["calls.test.yaml:5: upstream: expected 2 attempts, was 1; the other answers were not used"],
        ),
    ],
)  # fmt: skip
def test_differences_of_calls_are_shown_with_their_places(call: Any, test: str, differences: list[str]) -> None:
    assert call(test) == differences


@pytest.mark.parametrize(
    "answer", ["UNAVAILABLE", "{message: {nextPageToken: a}, grpc_status: UNAVAILABLE}", *FAILURES[:3]]
)
def test_attempts_of_a_call_take_the_answers_in_their_order(call: Any, answer: str) -> None:
    test = f"request: {{grpc: {{service: shop.Orders, method: List}}}}\nupstream: [{answer}, {answer}, OK]\n"
    assert call(f"{test}expect: {{attempts: 3, answer: {{grpc_status: OK}}}}") == []


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_a_script_has_its_reason_over_http2(call: Any, failure: str) -> None:
    status = {"timeout": "DEADLINE_EXCEEDED", "connect_timeout": "UNAVAILABLE", "protocol_error": "INTERNAL"}
    answer = f"{{grpc_status: {status.get(failure, 'UNAVAILABLE')}, reason: {failure}}}"
    differences = ["calls.test.yaml:6: answer: expected a complete one, was cut off in its body"]
    found = call(f"{GET}upstream: [{failure}]\nexpect: {{answer: {answer}}}")
    assert found == (differences if failure == "cut" else [])


def test_requests_of_http_reach_an_upstream_over_http2(call: Any) -> None:
    test = "request: {method: PUT, path: /a, json: {b: 1}}\nupstream: [{status: 201, json: [2], headers: {x-c: d}}]\n"
    seen = "{method: PUT, path: /a, json: {b: 1}, headers: {content-type: application/json}}"
    answer = "{status: 201, json: [2], headers: {x-c: d, content-length: '3'}}"
    assert call(f"{test}expect: {{upstream: {seen}, answer: {answer}}}") == []
    assert call("request: {method: HEAD, path: /a}\nupstream: [{body: abc}]\nexpect: {answer: {body: ''}}") == []


def test_upstreams_over_tls_speak_http2_to_calls(call: Any) -> None:
    test = "request: {grpc: {service: shop.Safe, method: Get}}\nupstream: [OK]\n"
    assert call(f"{test}expect: {{route: safe, answer: {{grpc_status: OK}}}}") == []


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_a_script_has_its_reason(trial: Any, failure: str) -> None:
    status = {"timeout": 504, "connect_timeout": 504}.get(failure, 502)
    answer = f"{{status: {status}, reason: {failure}}}"
    result = trial(f"request: {{path: /}}\nupstream: [{failure}]\nexpect: {{answer: {answer}}}")
    if failure == "cut":
        assert lines(result) == ["app.test.yaml:5: answer: expected a complete one, was cut off in its body"]
    else:
        assert result.passed, result.differences


def test_a_test_ends_at_the_first_step_that_goes_wrong(trial: Any) -> None:
    step = "- {request: {path: /}, upstream: [200], expect: {answer: {status: 404}}}"
    assert len(trial(f"steps:\n  {step}\n  {step}").differences) == 1


def test_virtual_time_passes_exactly(trial: Any) -> None:
    step = "{wait: 30m, request: {path: /}, upstream: [{after: 9s}], expect: {took: {min: 9s, max: 9s}}}"
    assert trial(f"seed: 5\nsteps: [{step}]").passed


def test_whole_urls_hosts_and_bodies(trial: Any) -> None:
    test = (
        "request: {method: POST, path: 'http://Shop.example.com/a?b=c', headers: {X-A: d}, json: {e: [1]}}\n"
        "upstream: [{status: 201, json: f}]\n"
        "expect:\n"
        "  upstream: {path: '/a?b=c', headers: {host: Shop.example.com, x-a: d, content-type: application/json}}\n"
        "  answer: {json: f, headers: {content-type: application/json, content-length: '3'}}\n"
    )
    result = trial(test)
    assert result.passed, result.differences


def unusable(tmp_path: Path, text: str, policies: str = PLAIN) -> list[str]:
    (tmp_path / "app.yaml").write_text(policies)
    path = tmp_path / "app.test.yaml"
    path.write_text(text)
    with pytest.raises(Unusable) as caught:
        list(run_file(str(path), {}))
    return [re.sub(r"^[^:]*/", "", problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "tests:\n  - name: a\n    reqest: {path: /}\n",
            "app.test.yaml:3:5: tests.a.reqest: is not a known key; did you mean `request`?",
        ),
        (
            "tests:\n  - name: a\n    request: {path: x}\n",
            "app.test.yaml:3:21: tests.a.request.path: is neither a path nor a URL",
        ),
        ("tests:\n  - name: a\n", "app.test.yaml:2:5: tests.a: needs either a request or steps"),
        ("tests:\n  - {name: a, request: {path: /}, upstream: [rest]}\n", "is not an answer; write a status"),
        ("tests:\n  - {name: a, request: {path: /}, upstream: [99]}\n", "must be at least 200"),
        ("tests:\n  - {name: a, request: {path: /, json: 1, body: x}}\n", "has more than one of json, form and body"),
        ("tests:\n  - {name: a, request: {}}\n", "needs a path, or a call in grpc"),
        (
            "tests:\n  - {name: a, request: {path: /, grpc: {service: a.B, method: C}}}\n",
            "has grpc beside a method, a path or a body",
        ),
        (
            "tests:\n  - {name: a, request: {grpc: {service: a.B, method: C, message: {}, messages: []}}}\n",
            "has both message and messages",
        ),
        ("tests:\n  - {name: a, request: {path: /}, upstream: [{message: {}, json: 1}]}\n", "keep one of them"),
        ("tests:\n  - {name: a, request: {path: /}, upstream: [{grpc_status: OK, status: 200}]}\n", "keep one of them"),
        ("tests:\n  - {name: a, request: {path: /}, upstream: [{trailers: {a: b}}]}\n", "add grpc_status"),
        (
            "tests:\n  - {name: a, request: {path: /}, expect: {answer: {grpc_status: ok}}}\n",
            "is not a gRPC status; write one of OK,",
        ),
        ("descriptors: x\ntests:\n  - {name: a, request: {path: /}}\n", "x: No such file or directory; name the file"),
        ("descriptors: .\ntests:\n  - {name: a, request: {path: /}}\n", "app.test.yaml:1"),
        (
            "descriptors: app.yaml\ntests:\n  - {name: a, request: {path: /}}\n",
            "app.yaml: is no descriptor set",
        ),
        ("tests: []\n", "has too few items; at least 1"),
        ("", "holds no tests"),
        ("tests: [", "is not valid YAML"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_reported_with_the_place(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in unusable(tmp_path, text))


def test_problems_of_policies_are_reported_as_by_check(tmp_path: Path) -> None:
    policies = PLAIN.replace("upstream: other}", "upstream: othr}")
    problems = unusable(tmp_path, "tests: [{name: a, request: {path: /}, upstream: [200]}]", policies)
    assert any("did you mean `other`?" in problem and problem.startswith("app.yaml:") for problem in problems)


def test_policies_are_the_file_of_that_name_or_the_directory_or_those_named(tmp_path: Path) -> None:
    test = "tests: [{name: a, request: {path: /}, upstream: [200], expect: {route: app}}]\n"
    (tmp_path / "one.yaml").write_text(PLAIN.partition("routes:")[0])
    (tmp_path / "two.yaml").write_text("routes:\n  - {name: app, upstream: app}\n")
    (tmp_path / "all.test.yaml").write_text(test)
    (tmp_path / "one.test.yaml").write_text("policies: .\nenviron: {UNUSED: x}\n" + test)
    for path in find(str(tmp_path)):
        assert [result.passed for result in run_file(path, {})] == [True]


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(PLAIN)
    good = "{name: good, request: {path: /}, upstream: [200]}"
    bad = "{name: bad one, request: {path: /}, upstream: [200], expect: {attempts: 3}}"
    (tmp_path / "app.test.yaml").write_text(f"tests:\n  - {good}\n  - {bad}\n")
    run = CliRunner().invoke
    result = run(main, ["test", str(tmp_path)])
    assert result.exit_code == 1
    assert re.search(r"^ok +\S+app.test.yaml:2  good$", result.output, re.MULTILINE)
    assert re.search(
        r"^FAIL +\S+app.test.yaml:3  bad one\n +\S+:3: attempts: expected 3, was 1$", result.output, re.MULTILINE
    )
    assert result.output.endswith("1 test passed, 1 failed\n")
    result = run(main, ["test", str(tmp_path / "app.test.yaml"), "-k", "good"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "1 test passed")
    assert "is not a test file" in run(main, ["test", str(tmp_path / "app.yaml")]).output
    missing = run(main, ["test", str(tmp_path / "missing")])
    assert missing.exit_code == 1
    remedy = "name a *.test.yaml file, or a directory that has some"
    assert missing.output.endswith(f"missing: No such file or directory; {remedy}\n")
    nothing = run(main, ["test", str(tmp_path), "-k", "nobody"])
    assert (nothing.exit_code, nothing.output) == (1, f"{tmp_path}: no test has `nobody` in its name; try another -k\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "app.test.yaml").write_text(f"policies: ../app.yaml\ntests:\n  - {good}\n")
    assert run(main, ["test", str(tmp_path)]).output.endswith("2 tests passed, 1 failed\n")
    (tmp_path / "inner" / "app.test.yaml").unlink()
    (tmp_path / "app.test.yaml").unlink()
    assert "has no *.test.yaml" in run(main, ["test", str(tmp_path)]).output
    assert run(main, ["check", str(tmp_path)]).exit_code == 0


def test_a_field_of_several_lines_has_the_value_of_each_and_of_all(tmp_path: Path) -> None:
    limits = "rate_limit: [{name: a, rate: 1/s, burst: 1}, {name: b, rate: 1/m, burst: 9}]"
    (tmp_path / "app.yaml").write_text(PLAIN.replace("upstream: app}", f"upstream: app, {limits}}}", 1))
    path = tmp_path / "app.test.yaml"
    wanted = ['"a";r=1;t=1', '"b";r=9;t=60', '"a";r=1;t=1, "b";r=9;t=60', '"c"']
    expected = "expect: {{answer: {{headers: {{ratelimit: '{}'}}}}}}"
    test = f"  - {{{{name: it, request: {{{{path: /}}}}, upstream: [200], {expected}}}}}\n"
    path.write_text("tests:\n" + "".join(map(test.format, wanted)))
    results = list(run_file(str(path), {}))
    assert [result.passed for result in results] == [True, True, True, False]
    assert lines(results[-1]) == ['app.test.yaml:5: headers ratelimit: expected "c", was "a";r=1;t=1, "b";r=9;t=60']


def test_a_cache_with_a_condition_serves_only_whom_it_is_for(tmp_path: Path) -> None:
    route = "{name: app, upstream: app, cache: {ttl: 60s, when: \"!('x-fresh' in request.headers)\"}}"
    (tmp_path / "app.yaml").write_text(PLAIN.replace("{name: app, upstream: app}", route))
    steps = [
        "{request: {path: /a}, upstream: [{json: 1}], expect: {cache: miss}}",
        "{request: {path: /a, headers: {x-fresh: y}}, upstream: [{json: 2}], expect: {answer: {json: 2}}}",
        "{request: {path: /a}, expect: {cache: hit, answer: {json: 1}}}",
        "{request: {method: PUT, path: /a, headers: {x-fresh: y}}, upstream: [204]}",
        "{request: {path: /a}, upstream: [{json: 2}], expect: {cache: miss}}",
    ]
    path = tmp_path / "app.test.yaml"
    path.write_text("tests:\n  - name: it\n    steps:\n" + "".join(f"      - {step}\n" for step in steps))
    (result,) = run_file(str(path), {})
    assert result.passed, result.differences
