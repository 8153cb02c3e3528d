"""The architecture's rules, read off the source: ranks, siblings, libraries, time, and files that stay short."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "sidecar"
RANKS = {
    "core": 0,
    "cache": 1, "expression": 1, "transform": 1, "simulation": 1,
    "upstream": 2, "telemetry": 2,
    "stages": 3,
    "routing": 4,
    "config": 5,
    "control": 6,
    "inspect": 7, "downstream": 7, "admin": 8,
    "process": 9,
    "app": 10, "demo": 10, "policytest": 10, "top": 10,
    "cli": 11, "__main__": 12,
}  # fmt: skip
"""A module imports from packages of lower rank and from its own."""

SPECS = {
    "core.spec",
    "core.units",
    "cache",
    "expression.spec",
    "stages",
    "upstream",
    "telemetry.spec",
    "routing.match_spec",
    "config",
    "policytest",
}
"""Where policy files become values."""
LIBRARIES = {
    "pybreaker": {"stages.circuit_breaker"},
    "tenacity": {"stages.retry"},
    "aiocache": {"cache"},
    "redis": {"cache"},
    "msgspec": {"transform"},
    "yaml": {"config.files"},
    "aiohttp": {"admin", "process.lifecycle", "upstream.balancing.health", "demo"},
    "opentelemetry": {"telemetry"},
    "requests": {"telemetry.export.otlp_http"},
    "google": {"telemetry.export.otlp_http"},
    "grpc": {"telemetry.export.otlp"},
    "click": {"cli"},
    "rich": {"top"},
    "uvloop": {"app", "cli"},
    "pydantic": SPECS,
    "pydantic_core": SPECS,
}
"""Who may import a third-party library; one that is not named here belongs to nobody."""

CLOCKS = {
    "sleep",
    "timeout",
    "timeout_at",
    "wait_for",
    "get_event_loop",
    "get_running_loop",
    "create_task",
    "ensure_future",
}
"""Of asyncio: what a stage has through its `Env`."""

POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{\d*,?\d*\})\+")

MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides the direction of the arrow"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.fixture(params=sorted(MODULES))
def module(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_imports_point_to_lower_ranks(module: str) -> None:
    for name in imports(MODULES[module]):
        top, _, rest = name.partition(".")
        if top != "sidecar" or rest == "__version__" or package(rest) == package(module):
            continue
        assert package(module) in RANKS, f"sidecar.{module} has no rank and may import nothing of ours"
        assert RANKS[package(rest)] < RANKS[package(module)], (
            f"sidecar.{module} imports {name}, which is not of lower rank"
        )


def test_stages_do_not_import_each_other(module: str) -> None:
    if package(module) == "stages" and not module.endswith("__init__"):
        own = f"sidecar.{'.'.join(module.split('.')[:2])}."  # a stage may be a package
        names = imports(MODULES[module])
        siblings = [name for name in names if name.startswith("sidecar.stages") and not name.startswith(own)]
        allowed = {"stages.cache": ("sidecar.stages.freshness", "sidecar.stages.store")}.get(module, ())
        assert [name for name in siblings if not name.startswith(allowed or ("-",))] == []


def test_each_library_has_one_owner(module: str) -> None:
    for name in imports(MODULES[module]):
        top = name.split(".", maxsplit=1)[0]
        if top == "sidecar" or top in sys.stdlib_module_names:
            continue
        owners = LIBRARIES.get(top, set())
        assert any(module == owner or module.startswith(f"{owner}.") for owner in owners), (
            f"sidecar.{module} imports {top}, which only {sorted(owners) or 'nobody'} may"
        )


def test_stages_have_time_and_tasks_from_their_env(module: str) -> None:
    if package(module) not in ("stages", "core"):
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncio":
            allowed = module == "core.promise" and node.attr == "get_running_loop"
            assert allowed or node.attr not in CLOCKS, (
                f"sidecar.{module}:{node.lineno}: asyncio.{node.attr}: ask the Env"
            )


def test_files_are_short_and_say_what_they_are(module: str) -> None:
    text = MODULES[module].read_text()
    lines = text.count("\n")
    assert lines <= 300, f"sidecar.{module} has {lines} lines: split it by responsibility"
    assert ast.get_docstring(ast.parse(text)), f"sidecar.{module} does not say what it is"


def test_names_are_the_fields_own(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Util", "Utils", "Base")), (
                f"sidecar.{module}.{node.name}"
            )


def test_no_possessive_quantifier_stands_on_a_group(module: str) -> None:
    """CPython before 3.11.5 matches those wrongly (gh-106052): a grammar that is strict elsewhere is not so there."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            assert not POSSESSIVE_GROUP.search(text.replace("()*+,", "")), f"sidecar.{module}:{node.lineno}: {text!r}"
