"""Commands as a user and a pipeline run them: `sidecar check` reports all problems, and exit codes are reliable."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.forked import run_all
from tests.support.process import COMMAND

ROUTES = 200


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def many(routes: int) -> str:
    block = {
        "timeout": {"request": "3s", "attempt": "1s"},
        "retry": {"max_attempts": 3},
        "hedge": {"after": "200ms"},
        "circuit_breaker": {"min_calls": 20, "failure_rate": "50%"},
        "concurrency": {"max": 100, "queue": 50, "queue_timeout": "100ms"},
        "fallback": [{"response": {"status": 503, "json": {"error": "unavailable"}}}],
    }
    policies = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:8080"}},
        "upstreams": {f"u{n}": {"endpoints": [f"http://10.0.0.{n}:80"]} for n in range(40)},
        "routes": [
            {"name": f"r{n}", "match": {"path": f"/r{n}/items/{{id}}"}, "upstream": f"u{n % 40}", **block}
            for n in range(routes)
        ],
    }
    return json.dumps(policies, indent=2)


def test_two_hundred_routes_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(many(ROUTES))
    done = run("check", path)
    assert (done.returncode, done.stdout) == (0, f"{path}: ok, 200 routes, 40 upstreams, 1 listener\n")


def test_problems_are_told_to_people_and_to_pipelines(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\nroutes:\n  - {name: a, upstream: b, timeout: {request: 3}}\n")
    told = run("check", path)
    assert told.returncode == 1
    assert f"{path}:3:47: routes.a.timeout.request: is a number without a unit; write a duration such as" in told.stdout
    piped = run("check", path, "--json")
    assert piped.returncode == 1
    document = json.loads(piped.stdout)
    assert not document["ok"]
    first = next(problem for problem in document["problems"] if problem["path"] == "routes.a.timeout.request")
    assert (first["file"], first["line"], first["column"], first["severity"]) == (str(path), 3, 47, "error")


def test_exit_codes(tmp_path: Path) -> None:
    """The table of exit codes, for all commands that end by themselves at once."""
    good, bad, tests = (tmp_path / name for name in ("good.yaml", "bad.yaml", "good.test.yaml"))
    good.write_text(many(1))
    bad.write_text("version: 2")
    one = "{name: one, request: {path: /r0/items/1}, upstream: [200], expect: {answer: {status: %d}}}"
    tests.write_text(f"tests: [{one % 200}]")
    (tmp_path / "fails").mkdir()
    (tmp_path / "fails" / "a.test.yaml").write_text(f"policies: ../good.yaml\ntests: [{one % 201}]")
    explain = ("GET", "/nowhere")
    wanted = (
        (0, "check", good), (1, "check", bad), (1, "check", tmp_path / "nowhere"), (2, "check"),
        (0, "routes", good), (1, "routes", bad), (2, "routes", good, "x"),
        (0, "explain", good, *explain), (1, "explain", bad, *explain), (2, "explain", good, "GET"),
        (0, "test", tests), (1, "test", tmp_path / "fails"), (1, "test", tests, "-k", "two"), (2, "test", "-k"),
        (0, "schema"), (2, "schema", "x"),
        (0, "completion", "bash"), (2, "completion", "csh"),
        (1, "run", bad), (1, "run", tmp_path / "nowhere"), (2, "run"), (2, "run", ""),
        (1, "top", "--once", "127.0.0.1:1"), (2, "top", "x"),
        (2, "demo", "x"),
        (0, "--help"), (0, "--version"), (2,), (2, "chek"), (2, "--x"),
    )  # fmt: skip
    for (code, *arguments), done in zip(wanted, run_all([arguments for _, *arguments in wanted]), strict=True):
        assert done.returncode == code, (arguments, done)


def test_a_command_that_is_wrong_says_what_would_be_right(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(many(1))
    wanted = (
        (2, ("explain", path, "GET", "orders"), "write it such as http://"),
        (2, ("explain", path, "GET", "/", "--listener", "door"), "there is no listener `door`; known are inbound"),
        (2, ("explain", path, "GET", "/", "-H", "x-user"), "-H 'name: value'"),
        (2, ("chek", path), "did you mean `check`?"),
        (1, ("check", tmp_path / "nowhere"), "No such file"),
    )
    for (code, _, says), done in zip(wanted, run_all([each[1] for each in wanted]), strict=True):
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
