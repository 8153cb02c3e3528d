"""Tests of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar import __version__
from sidecar.commands import main
from sidecar.config.schema import text
from sidecar.engine.build import describe_build
from tests.support.work import grows_with

GOOD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
routes: [{name: r, upstream: app}]
"""


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    return path


def test_version_and_help() -> None:
    assert run("--version").output == f"sidecar {__version__} ({describe_build()})\n"
    for command in ("run", "check", "schema"):
        assert command in run("--help").output


def test_check_says_in_a_line_what_is_there(policy: Path) -> None:
    result = run("check", str(policy))
    assert (result.exit_code, result.output) == (0, f"{policy}: ok, 1 route, 1 upstream, 1 listener\n")


def test_check_tells_every_problem_and_fails(policy: Path) -> None:
    policy.write_text(GOOD.replace("upstream: app", "upstream: ap, retri: {}, timeout: {request: 1s, attempt: 2s}"))
    result = run("check", str(policy))
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{policy}:4:30: routes.r.upstream: names no upstream: there is no `ap`; did you mean `app`?",
        f"{policy}:4:34: routes.r.retri: is not a known key; did you mean `retry`?",
        f"{policy}:3:13: upstreams.app: warning: no route uses the upstream `app`; use it or take it out",
        "2 problems, 1 warning",
    ]


def test_warnings_do_not_fail(policy: Path) -> None:
    policy.write_text(GOOD + "policies: {b: {}}\n")
    result = run("check", str(policy))
    assert result.exit_code == 0
    assert "5:12: policies.b: warning: no route uses the bundle `b`" in result.output
    assert "ok, 1 route" in result.output


def test_json_for_machines(policy: Path) -> None:
    policy.write_text(GOOD.replace("[{name: r", "[{nam: r") + "policies: {b: {}}\n")
    result = run("check", "--json", str(policy))
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["ok"] is False
    assert [(each["severity"], each["line"], each["column"], each["path"]) for each in found["problems"]] == [
        ("error", 4, 11, "routes[0].nam"),
        ("warning", 5, 12, "policies.b"),
    ]
    assert json.loads(run("check", "--json", str(policy.parent)).output)["problems"][0]["file"] == str(policy)


def test_json_of_what_is_well(policy: Path) -> None:
    result = run("check", "--json", str(policy))
    assert (result.exit_code, json.loads(result.output)) == (0, {"ok": True, "problems": []})


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert "none.yaml: No such file or directory" in result.output
    assert "has no *.yaml or *.yml file" in run("check", str(tmp_path)).output


def test_the_environment_is_read(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.write_text(GOOD.replace("127.0.0.1:8080", "${LISTEN}"))
    assert "needs the environment variable LISTEN" in run("check", str(policy)).output
    monkeypatch.setenv("LISTEN", "127.0.0.1:1")
    assert run("check", str(policy)).exit_code == 0


def test_schema() -> None:
    assert run("schema").output == text()


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    heavy = ("pydantic", "yaml", "aiohttp", "asyncio")
    code = f"import sys, sidecar.commands; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["sidecar", "sidecar.cli", "sidecar.commands"])
def test_each_module_that_is_named_after_the_command_is_it(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sidecar ")


def test_check_does_not_load_the_data_plane(policy: Path) -> None:
    code = (
        "import sys; from sidecar.commands.files import load_policies; "
        "load_policies(sys.argv[1]); print('aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(policy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_policy_tests_look_no_name_up() -> None:
    """Virtual time would jump past a real look-up.  `reports` of this example has a `resolve` block."""
    code = (
        "import sys, atexit; from sidecar.commands import main; "
        "atexit.register(lambda: print({'aiodns', 'aiohappyeyeballs'} & {*sys.modules})); main()"
    )
    examples = str(Path(__file__).parents[2] / "policies/load-balancing.test.yaml")
    done = subprocess.run([sys.executable, "-c", code, "test", examples], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["4 tests passed", "set()"]


def many(routes: int) -> str:
    """Return policies in which every route has most of the blocks."""
    lines = [
        GOOD.partition("routes")[0],
        "policies: {b: {retry: {max_attempts: 2}}}",
        "defaults: {timeout: {request: 5s}}",
        "routes:",
    ]
    for n in range(routes):
        lines += [
            f"  - name: r{n}",
            f"    match: {{methods: [GET], path: '/r{n}/{{id}}'}}",
            "    upstream: app",
            "    use: [b]",
            f"    retry: {{backoff: {{base: {n + 1}ms}}}}",
            f"    circuit_breaker: {{min_calls: {n + 1}, slow_calls: {{longer_than: 500ms, rate: 80%}}}}",
            "    concurrency: {max: 100, queue: 50}",
            "    fallback: [{response: {status: 503, json: {error: unavailable}}}]",
        ]
    return "\n".join(lines)


def test_check_takes_work_in_proportion_to_the_routes(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"

    def check(routes: int) -> Callable[[], object]:
        path.write_text(many(routes))
        result = run("check", str(path))
        assert result.output.endswith(f"\n{path}: ok, {routes} routes, 1 upstream, 1 listener\n")
        return lambda: run("check", str(path))

    assert not grows_with(check, 25)
