"""Tests of values from environment variables: every printer shows the text of the file in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.telemetry.plain import Masks, Secrets
from tests.support.cases import each

SECRETS = {
    "HOST": "vault.internal.example",
    "KEY": "k3y-of-the-gold-tier",
    "PATH_": "/hidden-place",
    "REQUEST": "7654ms",
    "ATTEMPT": "9876ms",
    "TTL": "4321s",
    "AGENT": "Agent-0815-x",
    "QUERY": "q",
    "VALUE": "hunter2",
    "PIN": "17",
}
POLICIES = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams:
  app:
    endpoints: ["http://${HOST}:9000"]
    circuit_breaker: {open_for: "${REQUEST}"}
  named: {discover: {dns: "${HOST}", port: 80}}
routes:
  - name: gold
    match: {path_prefix: "${PATH_}", headers: {x-key: "${KEY}", x-pin: "${PIN}"}, query: {page: "${VALUE}"}}
    upstream: app
    timeout: {request: "${REQUEST}", attempt: "${ATTEMPT}"}
    retry: {max_attempts: 3}
    cache: {ttl: "${TTL}"}
    transform: {request: {headers: {set: {authorization: "Bearer ${VALUE}"}}}}
  - {name: named, match: {host: "${HOST}", path: /named}, upstream: named}
  - {name: deep, match: {path: "${PATH_}/deep"}, upstream: app}
  - name: wordy
    match: {path: /wordy, when: "request.headers['x-agent'] == '${AGENT}'"}
    upstream: app
"""


def assert_hidden(text: str) -> None:
    for name, value in SECRETS.items():
        if len(value) > 2:
            assert value.lower() not in text.lower(), f"{name} is shown in {text}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "p.yaml").write_text(POLICIES)
    return tmp_path / "p.yaml"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("check",), "timeout.request (${REQUEST})"),
        (("check", "--json"), "timeout.request (${REQUEST})"),
        (("routes",), "${PATH_}/* x-key: ${KEY} x-pin: ${PIN} ?page=${VALUE}"),
        (("routes",), '["http://${HOST}:9000"]'),
        (("routes",), "dns:${HOST}:80"),
        (("routes",), "Bearer ${VALUE}"),
        (("explain", "GET", "/x"), "the path is not ${PATH_}/deep"),
        (("explain", "GET", "/named"), "the host is not given, not ${HOST}"),
        (("explain", "GET", "/wordy"), "request.headers['x-agent'] == '${AGENT}'"),
        (("routes", "--json"), '"http://${HOST}:9000"'),
        (("routes", "--json"), '"dns": "${HOST}"'),
        (("routes", "--json"), '"authorization": "Bearer ${VALUE}"'),
        (("routes", "--json"), '"x-key": "${KEY}"'),
        (("explain", "GET", "/x", "--json"), '"the path is not ${PATH_}/deep"'),
        (("explain", "GET", "/wordy", "--json"), "does not hold: request.headers['x-agent'] == '${AGENT}'"),
    ],
)
def test_a_command_shows_the_text_of_the_file(here: Path, arguments: tuple[str, ...], shown: str) -> None:
    command, *rest = arguments
    result = CliRunner().invoke(main, [command, str(here), *rest])
    assert result.exit_code == 0, result.output
    assert_hidden(result.output)
    assert shown in result.output


def test_explain_shows_what_is_in_force_by_its_text(here: Path) -> None:
    url = f"{SECRETS['PATH_']}?page={SECRETS['VALUE']}"
    headers = ("-H", f"x-key: {SECRETS['KEY']}", "-H", f"x-pin: {SECRETS['PIN']}")
    result = CliRunner().invoke(main, ["explain", str(here), "GET", url, *headers])
    assert "takes the route gold" in result.output
    assert_hidden(result.output)
    assert "fresh for ${TTL} (ttl)" in result.output
    document = CliRunner().invoke(main, ["explain", str(here), "GET", url, *headers, "--json"])
    assert json.loads(document.output)["route"]["name"] == "gold"
    assert_hidden(document.output)
    without = CliRunner().invoke(main, ["explain", str(here), "GET", url, "-H", "x-pin: 18", *headers[:2]])
    assert "the header x-pin is 18, not ${PIN}" in without.output


def problems(text: str, **environ: str) -> list[str]:
    loaded = load([Source("p.yaml", text.encode())], environ)
    return [each.message for each in (*loaded.problems, *loaded.warnings)]


HEAD = 'version: 1\nlisteners: {inbound: {address: "127.0.0.1:8080"}}\n'
ROUTE = "upstreams: {app: {endpoints: ['http://a:1']}}\nroutes: [{name: r, upstream: app, %s}]\n"


CASES = [
        (HEAD + ROUTE % "timeout: {request: '${V}'}", "hunter2", "the environment variable V gave it"),
        (HEAD + "routes: [{name: r, upstream: '${V}'}]\n", "hunter2", "there is no `${V}`"),
        (HEAD + "upstreams: {a: {endpoints: ['http://${V}:1']}}\n", "hun ter2", "host '${V}'"),
        (HEAD + "upstreams: {a: {endpoints: ['http://a:${V}']}}\n", "80808", "the port '${V}'"),
        (HEAD + "upstreams: {a: {endpoints: ['${V}']}}\n", "http://me:pw@hunter2/x", "the environment"),
        (HEAD + "upstreams: {a: {endpoints: ['http://${V}:1', 'http://${V}:1']}}\n", "hunter2", "names http://${V}:1"),
        (HEAD + ROUTE % "retry: {methods: ['${V}']}", "hunter", "write it in capitals: ${V}"),
        ("version: 1\nlisteners: {inbound: {address: '${V}'}}\n", ":64738", "the environment variable V"),
        (
            "version: 1\nlisteners: {inbound: {address: 'a:1', trusted_proxies: ['${V}']}}\n", "hunter2/99", "${V}",
        ),
        (HEAD + ROUTE % "match: {when: '${V}'}", "hunter2(", "the environment variable V"),
        (HEAD + ROUTE % "match: {path_regex: '${V}'}", "hunter2(", "the environment variable V"),
        (HEAD + ROUTE % "retry: {on: ['${V}']}", "hunter2", "the environment variable V"),
        (HEAD + ROUTE % "retry: {on: ['${V}']}", "hun\nter2", "the environment variable V"),
        (HEAD + ROUTE % "fallback: {steps: [{response: {status: 200, body: 'x{path.${V}}'}}]}", "hunter2", "${V}"),
        ("version: 1\nlisteners: {a: {address: '${V}'}, b: {address: '${V}'}}\n", "198.51.100.9:80", "listens (${V})"),
]  # fmt: skip


@each(CASES)
def test_a_problem_names_the_variable_and_not_its_value(case: tuple[str, str, str]) -> None:
    text, value, shown = case
    found = problems(text, V=value)
    assert any(shown in message for message in found), found
    for word in {value, *value.replace("\n", "\\n").split("\\n"), "hunter2"}:
        assert word.lower() not in "\n".join(found).lower()


def test_a_default_is_shown_for_it_stands_in_the_file() -> None:
    (message, *_) = problems(HEAD + ROUTE % "timeout: {request: '${T:-3}'}")
    assert message.endswith("1h (T is not set, and its default is `3`)")


def test_a_file_that_is_missing_is_named_by_its_text(tmp_path: Path) -> None:
    from sidecar.config.checks.local_files import check_local_files

    text = "version: 1\nlisteners: {inbound: {address: 'a:1'}}\nadmin: {token: {file: '${DIR}/token'}}\n"
    loaded = load([Source("p.yaml", text.encode())], {"DIR": str(tmp_path)})
    assert loaded.spec is not None
    (problem,) = check_local_files(loaded.spec, None)
    assert "${DIR}/token cannot be read" in str(problem)
    assert str(tmp_path) not in str(problem)


# ----- output of the process


def spec_of(text: str, **environ: str) -> Secrets:
    loaded = load([Source("p.yaml", text.encode())], environ)
    assert loaded.spec is not None, loaded.problems
    secrets = Secrets()
    secrets.mask(loaded.spec.facts)
    return secrets


RUNNING = (
    HEAD
    + "upstreams: {app: {endpoints: ['${URL}', 'http://${ADDRESS}']}}\nroutes: [{name: '${NAME}', upstream: app}]\n"
)


def test_logs_and_state_show_the_text_of_the_file() -> None:
    secrets = spec_of(RUNNING, URL="http://Vault.Internal:80", ADDRESS="127.0.0.1:9000", NAME="orders")
    state = {"http://vault.internal:80": {"url": "http://vault.internal:80"}, "urls": ("http://127.0.0.1:9000",)}
    assert secrets.plain(state) == {"${URL}": {"url": "${URL}"}, "urls": ["http://${ADDRESS}"]}
    assert secrets.text("no address for vault.internal") == "no address for vault.internal"
    assert secrets.text("127.0.0.1:9000 orders http://127.0.0.1:90001") == (
        "127.0.0.1:9000 orders http://127.0.0.1:90001"
    ), "bare addresses, names, and longer texts stay"


def test_masks_outlive_a_reload_for_a_while_and_not_for_ever() -> None:
    secrets = Secrets()
    for number in range(20):
        secrets.mask(Masks({f"secret-{number}": "${X}"}))
        secrets.mask(Masks({f"secret-{number}": "${X}"}))
    assert secrets.text("secret-19 secret-12") == "${X} ${X}"
    assert secrets.text("secret-11") == "secret-11"


def test_a_policy_test_shows_no_secret(here: Path) -> None:
    request = {
        "path": f"{SECRETS['PATH_']}?page={SECRETS['VALUE']}",
        "headers": {"x-key": SECRETS["KEY"], "x-pin": "17"},
    }
    expect = {"upstream": [{"headers": {"authorization": "other"}}]}
    test = {"name": "t", "request": request, "upstream": [200], "expect": expect}
    (here.parent / "p.test.yaml").write_text(json.dumps({"tests": [test]}))
    result = CliRunner().invoke(main, ["test", str(here.parent)])
    assert "was Bearer ${VALUE}" in result.output.replace('"', ""), result.output
    assert_hidden(result.output)
