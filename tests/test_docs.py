"""Tests of the documentation: generated pages are current, links have targets, commands and names exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from docs import generate
from docs.generate import FILES
from sidecar.commands import main
from sidecar.core import metrics
from sidecar.core.outcome import FAILURES
from sidecar.telemetry.metrics.prometheus import metric_name
from sidecar.telemetry.metrics.registry import Metric

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
instruments = cache(generate.instruments)


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


def test_every_reason_has_its_section() -> None:
    sections = set(re.findall(r"^## (\w+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE))
    assert FAILURES.keys() <= sections, FAILURES.keys() - sections
    assert {name for name in sections if "_" in name} <= FAILURES.keys()


def test_every_metric_that_is_made_is_described_and_the_other_way_round() -> None:
    assert instruments().keys() == metrics.METRICS.keys()
