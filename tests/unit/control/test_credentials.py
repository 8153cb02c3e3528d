"""Credentials of the sidecar in compiled policies: every pipeline to the upstream has them, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.control.compiler import CompileError, Snapshot
from sidecar.control.state import StateStore
from sidecar.core.promise import Run
from tests.support.clock import make_env
from tests.support.service import exchange
from tests.unit.control.test_compiler import compiled, script

POLICIES = """\
upstreams:
  pay:
    endpoints: ["http://127.0.0.1:9000"]
    credentials: {header: {name: x-api-key, value: "k"}}
  spare: {endpoints: ["http://127.0.0.1:9001"]}
"""
ROUTES = """
routes:
  - {name: pay, match: {path: /pay}, upstream: pay, retry: {max_attempts: 2, on: [503]}, fallback: [{upstream: spare}]}
  - {name: spare, match: {path: /spare}, upstream: spare, fallback: [{upstream: pay}]}
"""


def ask(snapshot: Snapshot, route: str) -> int:
    done: list[Run[Any]] = []
    Run(snapshot.routes[route].pipeline(exchange(headers={"X_Api-Key": "c"}, deadline=1e9)), done.append)  # type: ignore[arg-type]
    assert done[0].error is None
    return int(done[0].value.status)


def keys(snapshot: Snapshot, upstream: str) -> list[Any]:
    return [dict(x.headers).get(b"x-api-key") for x in script(snapshot, upstream).exchanges]


def test_only_the_upstream_gets_its_credential_also_as_a_fallback() -> None:
    snapshot = compiled(POLICIES, ROUTES)
    seen: list[bytes] = []

    def note(x: Any) -> int:
        seen.append(x.lines)
        return 200

    script(snapshot, "pay").script = [note]
    assert ask(snapshot, "pay") == 200
    assert seen == [b"x-api-key: k\r\n"]
    assert [link.policy for link in snapshot.routes["pay"].chain][-1] == "credentials"
    script(snapshot, "pay").script = [503]
    assert ask(snapshot, "pay") == 200, "the fallback has answered"
    assert keys(snapshot, "spare") == [None]
    assert dict(script(snapshot, "spare").exchanges[0].headers) == {b"x_api-key": b"c"}
    script(snapshot, "spare").script = [503]
    script(snapshot, "pay").script = [note]
    assert ask(snapshot, "spare") == 200
    assert seen[-1] == b"x-api-key: k\r\n"


def test_a_token_server_is_an_upstream_of_its_own_that_survives_a_reload() -> None:
    store, env = StateStore(), make_env()
    token = "{oauth2: {token_url: 'https://id.example/token', client: {id: a, secret: s3cret}}}"
    text = POLICIES.replace('{header: {name: x-api-key, value: "k"}}', token)
    compiled(text, ROUTES, store=store, env=env)
    first = {key: state for key, state in store.objects().items() if "credentials" in key[0]}
    assert ("endpoints", "credentials:pay") in store.objects()
    assert ("breaker", "upstream", "credentials:pay") in store.objects()
    compiled(text, ROUTES, store=store, env=env)
    assert {key: state for key, state in store.objects().items() if "credentials" in key[0]} == first
    assert len(first) == 1
    assert "s3cret" not in repr(store.describe())
    assert [each["kind"] for each in store.describe()["credentials"].values()] == ["oauth2"]


def test_a_secret_that_cannot_be_read_is_a_problem_with_its_place(tmp_path: Path) -> None:
    text = POLICIES.replace('"k"', f"{{file: {tmp_path}/none}}")
    with pytest.raises(
        CompileError, match=r"p\.yaml:\d+:5: upstreams\.pay\.credentials: .*/none cannot be read: No such"
    ):
        compiled(text, ROUTES)


@pytest.mark.parametrize("is_exposed", [True, False])
def test_warnings(tmp_path: Path, is_exposed: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o644 if is_exposed else 0o600)
    scheme = "http" if is_exposed else "https"
    token = f"{{oauth2: {{token_url: '{scheme}://id.example/t', client: {{id: a, secret: {{file: {secret}}}}}}}}}"
    text = POLICIES.replace('{header: {name: x-api-key, value: "k"}}', token)
    head = 'version: 1\nlisteners: {inbound: {address: "127.0.0.1:8080"}}\n'
    loaded = load([Source("p.yaml", (head + text + ROUTES).encode())], {})
    found = [str(each) for each in loaded.warnings if "credentials" in str(each)]
    assert len(found) == (2 if is_exposed else 0)
    if is_exposed:
        assert any("can be read by every user" in each and "secret.file" in each for each in found)
        assert any("gets the secret over plain http" in each for each in found)
