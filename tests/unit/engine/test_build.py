"""Tests of the report whether an installation is pure, compiled or partly compiled."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from sidecar.engine.build import MARKS, PACKAGE, RECORD, describe_build

SUFFIX = EXTENSION_SUFFIXES[0]


def make(root: Path, modules: list[str], recorded: list[str]) -> Path:
    """Return an installation with the extensions of some modules, and a record of the compiled ones."""
    for name in modules:
        path = root / name.replace(".pyx", SUFFIX).replace(".py", SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    package = root / "sidecar"
    (package / RECORD).parent.mkdir(parents=True, exist_ok=True)
    if recorded:
        (package / RECORD).write_text("\n".join(recorded) + "\n")
    return package


@pytest.mark.parametrize(
    ("modules", "recorded", "said"),
    [
        ([], [], "pure"),
        (["sidecar/a.py", "sidecar/b.pyx"], ["sidecar/a.py", "sidecar/b.pyx"], "compiled"),
        (["sidecar/a.py"], ["sidecar/a.py", "sidecar/b.pyx"], "partly compiled: 1 of 2 modules"),
        ([], ["sidecar/a.py", "sidecar/b.pyx"], "partly compiled: 0 of 2 modules"),
        *(([mark], [], "partly compiled: extensions of another build lie beside the sources") for mark in MARKS),
    ],
)
def test_what_an_installation_says_it_is(tmp_path: Path, modules: list[str], recorded: list[str], said: str) -> None:
    assert describe_build(make(tmp_path, modules, recorded)) == said


def test_extensions_of_another_interpreter_do_not_count(tmp_path: Path) -> None:
    package = make(tmp_path, [], ["sidecar/a.py"])
    (package / "a.cpython-27-x86_64-linux-gnu.so").touch()
    assert describe_build(package) == "partly compiled: 0 of 1 modules"


def test_this_installation_is_one_or_the_other() -> None:
    assert describe_build() in ("pure", "compiled")
    for mark in MARKS:
        assert (PACKAGE.parent / mark).exists()
