"""Tests of configurations in YAML that are hostile or wrong: one message with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.commands.writing import IMPORTS
from sidecar.imports.findings import Findings, TranslationError
from sidecar.imports.source import MOST_TEXT, read_documents
from sidecar.imports.translate import KINDS, translate
from tests.support.cases import each

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join(['*' + chr(97 + at)] * 10)}]\n" for at in range(8)
)


@each([
    ("a: [", "source:1:5: is no YAML: "),
    ("a: b: c", "source:1:5: is no YAML: "),
    ("a: 1\nb: {c: 1, c: 2}", "source:2:14: b.c: stands twice; leave one of them"),
    ("x" * (MOST_TEXT + 1), "source: has more than "),
    ("[" * 5000, "source: is nested too deeply"),
    ("a: " + "[" * 150 + "]" * 150, "is beyond the limit of 100 levels"),
    (BOMB, "is beyond the limit of 100000 values"),
    ("a: &a [*a]", "is beyond the limit of 100 levels"),
    ("a: &a {<<: *a}", "source:1:4: a: merges (`<<`) something that is no mapping"),
    ("{[a]: 1}", "has a key that is no single value"),
    ("- a", "source:1:1: the document: is a list; a mapping would be right"),
    ("a: \x00", "source:"),
    ("a: !!python/object:os.system x\nclusters: 3", "source:2:11: clusters: is a single value; a list would be right"),
    ("clusters: [3]", "source:1:12: clusters[0]: is a single value; a mapping with `name` would be right"),
    ("clusters: [{name: [a]}]", "clusters[0].name: is a list; a single value would be right"),
    ("clusters: [{name: a, load_assignment: {endpoints: {}}}]", "endpoints: is a mapping; a list would be right"),
    ("", "source: has nothing that `sidecar import envoy` translates; name a file of envoy"),
    ("services: {a: {}}", "source: has nothing that"),
])  # fmt: skip
def test_a_hostile_file(case: tuple[str, str]) -> None:
    with pytest.raises(TranslationError) as raised:
        translate("envoy", "source", case[0])
    assert case[1] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_nobody_reads_is_reported_with_its_line() -> None:
    findings = Findings("source")
    part = read_documents(findings, "a: {b: 1,\n  c: &c {d: 1, e: 2}}\nf: *c\ng: [{h: 1},\n {i: {j: 1}}]\n")[0]
    part.number("a", "c", "d")
    for each_item in part.items("g"):
        each_item.text("h")
    part.text("f", "d")
    part.report_unread()
    assert findings.lines() == [
        "source:1: not translated: a.b: has no equal here",
        "source:2: not translated: c.e: has no equal here",
        "source:2: not translated: f.e: has no equal here",
        "source:5: not translated: g[1].i: has no equal here",
    ]


def test_merges_are_read_as_own_members() -> None:
    part = read_documents(Findings("source"), "a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")[0]
    assert (part.number("d", "b"), part.number("d", "c")) == (3, 2)


def test_the_command(tmp_path: Path) -> None:
    source, target = tmp_path / "envoy.yaml", tmp_path / "policies.yaml"
    source.write_text("clusters: [{name: a, load_assignment: {endpoints: []}}, {name: b, lb_policy: MAGLEV, "
                      "load_assignment: {endpoints: ["
                      "{lb_endpoints: [{endpoint: {address: {pipe: {path: /s}}}}]}]}}]")  # fmt: skip
    shown = CliRunner().invoke(main, ["import", "envoy", str(source)])
    assert shown.exit_code == 0
    assert "envoy.yaml:1: not translated: clusters[1].lb_policy: `MAGLEV` has no equal here" in shown.stderr
    assert shown.stdout.startswith("# From envoy.yaml (envoy).")
    written = CliRunner().invoke(main, ["import", "envoy", str(source), "-o", str(target)])
    assert written.exit_code == 0
    assert target.read_text() == shown.stdout
    again = CliRunner().invoke(main, ["import", "envoy", str(source), "-o", str(target)])
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)
    source.write_text("clusters: 3")
    wrong = CliRunner().invoke(main, ["import", "envoy", str(source)])
    assert (wrong.exit_code, "envoy.yaml:1:11: clusters: is a single value" in wrong.stderr) == (1, True)


def test_the_command_knows_every_kind() -> None:
    assert set(IMPORTS) == set(KINDS)
