"""Commands as a user and a pipeline run them: `sidecar check` reports all problems, and exit codes are reliable."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.process import COMMAND

ROUTES = 200
FORKS = """
import gc, json, os, sys, tempfile
import sidecar.commands, sidecar.config.load, sidecar.config.schema, sidecar.control.compiler
import sidecar.inspect.explain, sidecar.policytest.run
from sidecar.cli import main
gc.freeze()
for words in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+") as errors:
        if not os.fork():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            sys.argv = ["sidecar", *words]
            code = 0
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.wait()[1])
        errors.seek(0)
        print(json.dumps([code, errors.read()]), flush=True)
"""
"""Program that runs each command in a process of its own, forked after the imports, which would be most of the time."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def run_all(commands: list[list[str]]) -> list[tuple[int, str]]:
    """Return the exit code and the standard error of each command."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(commands)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    results = [(code, errors) for code, errors in map(json.loads, done.stdout.splitlines())]
    assert len(results) == len(commands), done.stderr
    return results


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
    cases: list[tuple[Any, ...]] = [
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
    ]  # fmt: skip
    commands = [[str(word) for word in arguments] for _, *arguments in cases]
    for (code, *_), words, result in zip(cases, commands, run_all(commands), strict=True):
        assert result[0] == code, (words, result)


def test_a_command_that_is_wrong_says_what_would_be_right(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(many(1))
    cases = [
        (["explain", str(path), "GET", "orders"], "write it such as http://"),
        (["explain", str(path), "GET", "/", "--listener", "door"], "there is no listener `door`; known are inbound"),
        (["explain", str(path), "GET", "/", "-H", "x-user"], "-H 'name: value'"),
        (["chek", str(path)], "did you mean `check`?"),
    ]
    for (words, says), (code, errors) in zip(cases, run_all([words for words, _ in cases]), strict=True):
        assert (code, says in errors) == (2, True), (words, errors)
    done = run("check", tmp_path / "nowhere")
    assert (done.returncode, "No such file" in done.stderr) == (1, True), done.stderr
