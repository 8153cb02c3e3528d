"""Tests of the example policies: each is valid, says what it shows, and has the editor's schema comment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.config.files import read
from sidecar.config.load import load
from sidecar.stages import STAGES

ROOT = Path(__file__).parents[2] / "policies"
FILES = sorted(path for path in ROOT.glob("*.yaml") if not path.name.endswith(".test.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_has_neither_problems_nor_warnings(path: Path) -> None:
    loaded = load(read(str(path)), {})
    assert [str(problem) for problem in (*loaded.problems, *loaded.warnings)] == []
    assert loaded.spec is not None
    assert loaded.spec.routes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_explained_and_known_to_editors(path: Path) -> None:
    hint, comment, *_ = path.read_text().splitlines()
    assert hint == "# yaml-language-server: $schema=./schema.json"
    assert comment.startswith("# ")


def test_every_policy_of_the_readme_has_an_example() -> None:
    """The examples in the specs of all policies are checked by `tests/contract/test_laws.py`."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT.parent / "README.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} & {kind.name for kind in STAGES}
    shown = set()
    for path in FILES:
        spec = load(read(str(path)), {}).spec
        assert spec is not None
        shown |= {name for route in spec.routes for name in route.blocks}
        shown |= {name for each in spec.upstreams.values() for name in named if getattr(each, name, None) is not None}
    assert named - shown == set()
    assert named
