"""Tests of `sidecar routes` and `sidecar explain`, word for word.

`UPDATE_GOLDEN=1 pytest` writes the expected files: read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.inspect.effective import flow
from sidecar.inspect.explain import table

GOLDEN = Path(__file__).parent / "golden"
POLICIES = "policies.yaml"
OUT = ("--listener", "outbound")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("routes", ("routes", POLICIES)),
        ("explain-match", ("explain", POLICIES, "GET", "http://orders:8080/orders/a%20b?x=1")),
        ("explain-header", ("explain", POLICIES, "GET", "/orders/17", "-H", "X-Tier: gold")),
        (
            "explain-upstream",
            ("explain", POLICIES, "POST", "http://Payments.prod/v1/./x", "--listener", "outbound"),
        ),
        ("explain-405", ("explain", POLICIES, "DELETE", "http://payments.prod/v2", *OUT)),
        ("explain-404", ("explain", POLICIES, "GET", "http://payments/v1", *OUT)),
        ("explain-readings", ("explain", POLICIES, "GET", "/orders/a%2Fb")),
        ("explain-disguise", ("explain", POLICIES, "GET", "/orders/..%2Fb")),
    ],
)
def test_word_for_word(name: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(result.output)
    assert result.output == golden.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("GET", "orders/17"), "write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "/x", "--listener", "inbond"), "--listener: there is no listener `inbond`; did you mean `inbound`?"),
        (("GET", "/x", "-H", "x-tier"), "--header: `x-tier` has no colon; write -H 'name: value'"),
    ],
)
def test_what_is_asked_wrongly_is_said(arguments: tuple[str, ...], message: str) -> None:
    result = run("explain", str(GOLDEN / POLICIES), *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_policies_with_problems_are_not_explained(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 2")
    for arguments in (("routes",), ("explain", "GET", "/")):
        command, *rest = arguments
        result = run(command, str(tmp_path), *rest)
        assert result.exit_code == 1
        assert "p.yaml:1:10: version" in result.output


def test_values_on_one_line() -> None:
    assert flow({"a": [1, 2.0, None, True], "b": "x y", "c": "a: b", "d": {}, "e": ""}) == (
        '{a: [1, 2, null, true], b: x y, c: "a: b", d: {}, e: ""}'
    )


def test_a_long_value_leaves_other_rows_as_they_are() -> None:
    rows = [("short", "1s", "built-in"), ("long", "x" * 500, "a.yaml:1")]
    assert table(rows) == ["    short  1s  built-in", f"    long   {'x' * 500}  a.yaml:1"]
