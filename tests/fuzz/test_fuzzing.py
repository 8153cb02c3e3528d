"""Test that runs each target under the fuzzer briefly, from the kept corpus and with a fixed seed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.test_corpus import CHECKS

RUNS = 500


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_new_is_found(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for some versions of CPython on Linux alone")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{name}", f"runs={RUNS}"],
        cwd=Path(__file__).parents[2],
        env={"TMPDIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    assert found is not None
    assert int(found[1]) >= RUNS
