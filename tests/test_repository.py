"""Tests of files beside the code: the README's policies are valid, requirements are pinned and hashed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sidecar import __version__
from sidecar.config.files import Source
from sidecar.config.load import load

ROOT = Path(__file__).parents[1]
PINNED = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_policy_file_of_the_readme_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    loaded = load([Source("README.md", text.encode())], {})
    assert not loaded.problems
    assert loaded.spec is not None


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "bench").glob("*.md")), ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "--index" not in text
    packages = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert packages
    for package in packages:
        assert re.match(r"[A-Za-z0-9._-]+==[^ ]+ ", package), package
        assert "--hash=sha256:" in package, package


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("runtime.txt", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["speed"]),
        ("dev.txt", PROJECT["optional-dependencies"]["dev"]),
        ("bench.txt", PROJECT["optional-dependencies"]["bench"]),
        ("site.txt", (ROOT / "requirements" / "site.in").read_text().split()),
        ("compiled.txt", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["compiled"] + ["hatchling"]),
    ],
)
def test_every_dependency_is_pinned(name: str, wanted: list[str]) -> None:
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements" / name).read_text().lower(), re.MULTILINE))
    names = {re.split(r"[<>=!; \[]", requirement)[0].lower() for requirement in wanted}
    assert names <= pinned, f"run `make lock`: {names - pinned}"


def test_the_changelog_speaks_of_this_version() -> None:
    assert "[Unreleased]" in (text := (ROOT / "CHANGELOG.md").read_text()) or f"[{__version__}]" in text
