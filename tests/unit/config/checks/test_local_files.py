"""Tests of the check that local files exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.checks.local_files import check_local_files
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from tests.support.authority import Authority


def policies(listener: str = "", upstream: str = "", admin: str = "") -> PolicySpec:
    text = f"""\
version: 1
listeners: {{in: {{address: "127.0.0.1:0"{listener}}}}}
admin: {{address: "127.0.0.1:0"{admin}}}
upstreams: {{app: {{endpoints: ["https://app"]{upstream}}}}}
routes: [{{name: app, upstream: app}}]
"""
    loaded = load([Source("p.yaml", text.encode())], {})
    assert loaded.spec is not None, loaded.problems
    return loaded.spec


def tls(**files: str) -> str:
    return f", tls: {{{', '.join(f'{name}: {path}' for name, path in files.items())}}}"


def problems(new: PolicySpec, old: PolicySpec | None = None) -> list[str]:
    return [str(problem) for problem in check_local_files(new, old)]


def test_all_that_is_missing_is_told_with_its_place(tmp_path: Path) -> None:
    spec = policies(
        tls(cert="/no/cert", key="/no/key"), tls(ca="/no/ca"), admin=f", token: {{file: {tmp_path / 'token'}}}"
    )
    assert problems(spec) == [
        "p.yaml:2:54: listeners.in.tls.cert: /no/cert cannot be read: No such file or directory",
        "p.yaml:2:69: listeners.in.tls.key: /no/key cannot be read: No such file or directory",
        "p.yaml:4:57: upstreams.app.tls.ca: /no/ca cannot be read: No such file or directory",
        f"p.yaml:3:47: admin.token.file: {tmp_path / 'token'} cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"s3cret\n", "")],
    ids=["empty", "bytes", "good"],
)
def test_a_token_s_file_has_a_token(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "token").write_bytes(content)
    found = problems(policies(admin=f", token: {{file: {tmp_path / 'token'}}}"))
    assert bool(found) == bool(says)
    assert all(says in problem for problem in found)


def test_what_is_in_use_is_not_looked_at_again(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    pair = ca.sign("app")
    old = policies(tls(**pair), tls(ca=ca.ca_file))
    assert problems(old) == []
    Path(pair["cert"]).write_text("half of a certificate")
    assert problems(old, old) == []
    assert len(problems(policies(tls(**pair, client_ca=ca.ca_file)), old)) == 1, "its settings have changed"
