"""Tests of the command that imports public files, on a repository of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.neighbours import public_files

TEXT = "server { listen 80; root /srv; location / { proxy_pass http://a; deny all; } }\n"


def test_files_are_read_from_clones_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "owner" / "name"
    clone.mkdir(parents=True)
    (clone / "site.conf").write_text(TEXT)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(public_files, "COMMITS", {"owner/name": "HEAD"})
    for numbers, code in (("1 1 1 2", 0), ("1 0 0 2", 1)):
        monkeypatch.setattr(public_files, "TABLE", f"nginx owner/name site.conf {numbers}")
        assert public_files.main(tmp_path, writes=False) == code
    told = capsys.readouterr()
    assert told.out == "nginx owner/name site.conf: (1, 1, 1, 2) in place of (1, 0, 0, 2)\n"
    assert "1 files, of which 1 differ" in told.err


def test_the_table_has_ten_files_of_each_kind() -> None:
    found = [row.kind for row in public_files.rows()]
    kinds = ("envoy", "istio", "dapr", "nginx", "traefik", "gateway-api")
    assert all(found.count(kind) >= 10 for kind in kinds)
    assert all(len(row.numbers) == 4 and row.repository in public_files.COMMITS for row in public_files.rows())
