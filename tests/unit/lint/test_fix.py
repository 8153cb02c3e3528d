"""Tests of safe corrections in files."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.lint.fix import fixed
from tests.support.cases import each
from tests.unit.lint.examples import FILE, completed, names, run

TEXT = "routes: [{name: r, upstream: app, timeout: {request: 5s, attempt: 2s}, retry: {max_attempts: 4}}]  # kept"


def test_only_the_value_changes() -> None:
    source = completed(TEXT)
    changed, applied = fixed([source], run(TEXT).findings)
    assert changed == [Source(FILE, source.text.replace(b"max_attempts: 4", b"max_attempts: 2"))]
    assert [each.rule for each in applied] == ["R001"]
    assert names(changed[0].text.decode().split("\n", 3)[3]) == set()


@each(["none", "'none'", '"none"'])
def test_quotes_stay(value: str) -> None:
    text = f"routes: [{{name: r, upstream: app, timeout: {{request: 5s}}, retry: {{backoff: {{jitter: {value}}}}}}}]"
    changed, _ = fixed([completed(text)], run(text).findings)
    assert changed[0].text == completed(text.replace("none", "full")).text


def test_a_default_a_variable_and_one_fitting_try_are_not_fixed() -> None:
    for text in (
        "routes: [{name: r, upstream: app, timeout: {request: 5s, attempt: 2s}, retry: {}}]",
        "routes: [{name: r, upstream: app, timeout: {request: 3s, attempt: 2s}, retry: {max_attempts: 3}}]",
    ):
        result = run(text)
        assert [each.rule for each in result.findings] == ["R001"]
        assert fixed([completed(text)], result.findings) == ([completed(text)], [])


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(completed(TEXT).text)
    result = CliRunner().invoke(main, ["lint", "--fix", str(path)])
    assert (result.exit_code, result.stdout) == (0, f"{path}: nothing found\n")
    assert result.stderr == f"{path}:4:94: routes.r.retry.max_attempts: fixed R001: 4 to 2\n"
    assert b"max_attempts: 2}}]  # kept" in path.read_bytes()
