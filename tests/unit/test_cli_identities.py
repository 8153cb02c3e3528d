"""Tests of `sidecar key new` and `sidecar explain --token-file`."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.files import read_plain
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.unit.test_cli import run

POLICY = """\
version: 1
listeners: {{inbound: {{address: "127.0.0.1:8080"}}}}
upstreams: {{app: {{endpoints: ["http://127.0.0.1:9000"]}}}}
identities:
  here: {{jwt: {{issuer: "{issuer}", audiences: [orders], keys: {{inline: [{jwk}]}}}}}}
  away: {{jwt: {{issuer: "{issuer}", audiences: [orders]}}}}
  partners: {{api_key: {{file: {file}}}}}
  mesh: {{certificate: {{dns: "*.svc"}}}}
routes:
  - {{name: r, upstream: app, authenticate: {{any_of: [here, away, partners, mesh]}}}}
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


@pytest.fixture
def policy(tmp_path: Path, keys: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(POLICY.format(issuer=ISSUER, jwk=json.dumps(jwk(key())), file=keys))
    return path


def made(result: Any) -> str:
    assert result.exit_code == 0, result.output
    return str(result.stdout).splitlines()[0]


def test_a_key_is_printed_once_and_the_file_has_its_digest(keys: Path) -> None:
    first = made(run("key", "new", "a-1", "--owner", "a", "--file", str(keys)))
    second = made(run("key", "new", "a-2", "--owner", "a", "--file", str(keys)))
    assert first != second
    assert len(first) > 40
    entries = read_plain(str(keys))["keys"]
    assert [(each["name"], each["owner"]) for each in entries] == [("a-1", "a"), ("a-2", "a")]
    assert entries[1]["digest"] == f"sha256:{sha256(second.encode()).hexdigest()}"
    assert first not in keys.read_text()
    assert keys.stat().st_mode & 0o077 == 0


def test_without_a_file_the_entry_is_printed_too() -> None:
    result = run("key", "new", "a-1")
    assert made(result) not in result.stderr
    assert 'owner: "a-1"' in result.stderr


def test_a_file_of_another_form_is_left_alone(keys: Path) -> None:
    keys.write_text("routes: []\n")
    result = run("key", "new", "a", "--file", str(keys))
    assert result.exit_code == 1
    assert "add the entry by hand" in result.stderr
    assert keys.read_text() == "routes: []\n"
    assert run("key", "new", "a", "--file", str(keys.parent / "missing" / "k")).exit_code == 1
    assert run("key", "old", "a").exit_code == 2


def explained(policy: Path, token: bytes) -> str:
    file = policy.with_name("token")
    file.write_bytes(token + b"\n")
    result = run("explain", str(policy), "GET", "/a", "--token-file", str(file))
    assert result.exit_code == 0, result.output
    text = result.output.partition("\ntoken\n")[2]
    assert "\nauthenticate\n" in text, "what is said of the token comes before the values in force"
    result = run("explain", str(policy), "GET", "/a", "--token-file", str(file), "--json")
    assert "".join(f"    {each}\n" for each in json.loads(result.stdout)["token"]) == text.partition("\n\n")[0] + "\n"
    return text


def test_explain_says_who_accepts_a_token(policy: Path, keys: Path) -> None:
    good = sign(key(), {"exp": time.time() + 600})
    text = explained(policy, good)
    assert "here: accepted, the caller is alice" in text
    assert "away: the caller is alice" in text
    assert "the signature is not verified, because the keys are fetched by a running sidecar" in text
    assert "partners: the file of keys cannot be used" in text
    assert "mesh: only a running sidecar can tell" in text
    assert good.decode() not in text
    text = explained(policy, sign(key("EC", "forged"), {"exp": time.time() + 600}, kid="one"))
    assert "here: refused, the signature is wrong" in text
    assert "here: refused, the token expired" in explained(policy, sign(key(), {"exp": 1000}))
    api_key = made(run("key", "new", "a-1", "--owner", "acme", "--file", str(keys)))
    text = explained(policy, api_key.encode())
    assert "partners: accepted, the caller is acme" in text
    assert "here: refused, the token is not a signed token" in text
    assert "partners: refused, the key is unknown" in explained(policy, b"other")


def test_a_token_file_that_is_missing_is_a_mistake(policy: Path) -> None:
    assert run("explain", str(policy), "GET", "/a", "--token-file", "/nowhere").exit_code == 2
