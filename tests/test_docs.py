"""Tests of the documentation: generated pages are current, links have targets, commands and names exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from chaos.scenario.files import schema as scenario_schema
from docs.generate import FILES, instruments
from docs.references import EXIT_CODES, GROUPS, all_commands, policy_test_schema
from docs.tables import load, mapping
from sidecar.commands import main
from sidecar.config.schema import schema
from sidecar.core import metrics
from sidecar.core.outcome import FAILURES
from sidecar.telemetry.metrics.prometheus import metric_name
from sidecar.telemetry.metrics.registry import Metric

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_generated_files_are_current(path: Path) -> None:
    assert path.read_text() == FILES[path](), "run `make docs`"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, fragment in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if fragment and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert fragment in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_commands_and_metrics_exist(page: Path) -> None:
    text = page.read_text()
    commands = set(re.findall(r"(?:`|^ {4})sidecar ([a-z]+)", text, re.MULTILINE))
    assert commands <= main.commands.keys()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z]+)`", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    known = set()
    for name, (kind, _) in instruments().items():
        known.add(metric_name(Metric(name, kind, metrics.METRICS[name].unit, "", [])))  # type: ignore[arg-type]
    used = set(re.findall(r"`((?:sidecar_|process_|http_(?:client|server)_)[a-z_]+)", text))
    assert used <= known, used - known


@pytest.mark.parametrize(
    ("page", "make_schema"),
    [
        ("policy-reference", schema),
        ("policy-tests", policy_test_schema),
        ("scenarios", lambda: json.loads(scenario_schema())),
    ],
)
def test_every_key_has_an_example_that_is_valid(page: str, make_schema: Callable[[], dict[str, Any]]) -> None:
    whole = make_schema()
    text = (ROOT / "docs" / f"{page}.md").read_text()
    known = whole["$defs"]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0]
        for key, example in re.findall(r"^\| `(\w+)` \|.*\|(?: `(.*)`)? \|$", section, re.MULTILINE):
            block = mapping(known.get(name, whole))
            if block is None or key not in block["properties"]:
                continue
            assert example, f"{name}.{key} has no example"
            value = load(example.replace(r"\|", "|"))
            validator = Draft202012Validator({"$defs": known, **block["properties"][key]})
            forms = (value[key], [value[key]])  # a list of one is written short in some places
            assert any(not list(validator.iter_errors(form)) for form in forms), f"{name}: {example}"


def test_every_command_has_an_example_and_its_exit_codes() -> None:
    names = {name for program, group in GROUPS.items() for name, _ in all_commands(program, group)}
    assert names == EXIT_CODES.keys()
    text = (ROOT / "docs" / "commands.md").read_text()
    for section in text.partition("## Exit codes")[0].split("\n### ")[1:]:
        assert f"\n    {section.partition(chr(10))[0]}" in section, section


def test_every_reason_has_its_section() -> None:
    sections = set(re.findall(r"^## (\w+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE))
    assert FAILURES.keys() <= sections, FAILURES.keys() - sections
    assert {name for name in sections if "_" in name} <= FAILURES.keys()


def test_every_metric_that_is_made_is_described_and_the_other_way_round() -> None:
    assert instruments().keys() == metrics.METRICS.keys()
