"""Tests of the table of stages: a directory for each block; specs are imported at once, stages on demand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import sidecar
from sidecar.core.spec import Block
from sidecar.stages import BY_NAME, STAGES

ROOT = Path(sidecar.__file__).parent / "stages"


def test_each_directory_is_one_line_of_the_table() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {kind.name for kind in STAGES}
    assert list(BY_NAME.values()) == list(STAGES)


def test_a_spec_is_a_block_with_examples() -> None:
    for kind in STAGES:
        assert issubclass(kind.spec, Block)
        assert kind.spec.__module__ == f"sidecar.stages.{kind.name}.spec"
        assert isinstance(kind.examples, tuple)


def loaded_after(program: str) -> list[str]:
    """Return the modules of stages and their libraries that a program imports, without specs and maps."""
    watched = ("sidecar.stages.", "pybreaker", "tenacity", "aiocache", "redis")
    program += f"""
import json, sys
print(json.dumps(sorted(name for name in sys.modules if name.startswith({watched!r}))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return [
        name for name in names
        if not name.endswith((".spec", ".fields")) and name.removeprefix("sidecar.stages.") not in BY_NAME
    ]  # fmt: skip


def test_checking_policies_needs_no_stage_and_no_library_of_one() -> None:
    assert loaded_after("import sidecar.config.load, sidecar.config.schema") == []


def test_the_compiler_imports_the_stages_that_policies_have() -> None:
    assert loaded_after("import sidecar.control.reload") == []
    policies: Any = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:0"}},
        "upstreams": {"app": {"endpoints": ["http://127.0.0.1:1"], "concurrency": {"max": 1}}},
        "routes": [{"name": "order", "match": {"path": "/"}, "upstream": "app", "timeout": {"request": "1s"}}],
    }
    program = f"""
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.control.compiler import import_stages
import_stages(load([Source("p.yaml", {json.dumps(policies).encode()!r})], {{}}).spec)
"""
    stages = [name for name in loaded_after(program) if name.endswith(".stage")]
    assert stages == ["sidecar.stages.concurrency.stage", "sidecar.stages.timeout.stage"]


def test_a_library_of_transitions_is_imported_when_there_is_time() -> None:
    program = "from sidecar.stages import BY_NAME; kind = BY_NAME['circuit_breaker']; "
    assert "pybreaker" not in loaded_after(program + "kind.load()")
    assert "pybreaker" in loaded_after(program + "kind.load_rest()")
