"""Tests of the architecture's rules in the source: ranks, siblings, libraries, time, packages and their maps."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sidecar.stages import STAGES
from tests.support.cases import each

ROOT = Path(__file__).parents[1] / "sidecar"
RANKS = {
    "core": 0,
    "http2": 1, "grpc": 1, "engine": 1, "expression": 1, "transform": 1, "simulation": 1, "leases": 1,
    "limits": 1, "file_watch": 1, "certificate_dates": 1,
    "upstream": 2, "telemetry": 2, "store": 2,
    "identity": 3, "cache": 3, "rollout": 3,
    "stages": 4,
    "routing": 5,
    "config": 6,
    "lint": 7, "manifests": 7,
    "control": 8,
    "inspect": 9, "downstream": 9, "admin": 10,
    "process": 11,
    "app": 12, "demo": 12, "policytest": 12, "top": 12, "proto": 12, "starter": 12, "imports": 12,
    "command_line": 12,
    "replay": 12, "commands": 13, "cli": 14, "__main__": 15,
}  # fmt: skip
"""Rank of each package: a module imports from packages of lower rank and from its own."""

SPECS = {
    "core.spec",
    "core.units",
    "cache",
    "expression.spec",
    "identity.spec",
    "identity.outgoing.spec",
    "identity.verification",
    "limits.spec",
    "rollout.spec",
    "stages",
    "store.spec",
    "upstream",
    "telemetry.metrics.period",
    "telemetry.spec",
    "routing.match_spec",
    "config",
    "policytest",
}
"""Packages in which policy files become values; only they may import pydantic."""
LIBRARIES = {
    "pybreaker": {"stages.circuit_breaker.machine"},
    "tenacity": {"stages.retry.strategies"},
    "aiocache": {"cache.redis_client"},
    "redis": {"store.redis"},
    "jwt": {"identity.keys"},
    "cryptography": {"identity.keys"},
    "msgspec": {"transform", "upstream.discovery.slices"},
    "yaml": {"config.files", "manifests", "starter", "imports"},
    "aiodns": {"upstream.resolver"},
    "aiohappyeyeballs": {"upstream.resolver"},
    "aiohttp": {"admin", "upstream.balancing.health", "upstream.discovery.api", "demo"},
    "opentelemetry": {"telemetry"},
    "requests": {"telemetry.export.otlp_http"},
    "google": {"telemetry.export.otlp_http", "demo.prices"},
    "grpc": {"telemetry.export.otlp", "proto.reflection", "demo.prices"},
    "chaos": {"commands"},
    "click": {"commands", "command_line"},
    "rich": {"top"},
    "uvloop": {"app"},
    "pydantic": SPECS,
    "pydantic_core": SPECS,
}
"""Modules and packages that may import a third-party library; no other library may be imported."""

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
"""Names of asyncio that a stage may not use: its `Env` has them."""

POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{\d*,?\d*\})\+")

MOST_MODULES = 17
"""Most modules in one package, at one level."""

MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}

PACKAGES = sorted(path.parent for top in (ROOT, ROOT.with_name("chaos")) for path in top.rglob("__init__.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return every module that a file imports, also inside functions and under TYPE_CHECKING."""
    found: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides the direction of the arrow"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


@pytest.fixture(autouse=True, scope="module")
def _forgotten_trees() -> Iterator[None]:
    """Drop the syntax trees after the last test, since later garbage collections would visit all of their nodes."""
    yield
    for cached in (tree, nodes, imports):
        cached.cache_clear()


def package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@each(sorted(MODULES))
def test_imports_point_to_lower_ranks(module: str) -> None:
    for name in imports(MODULES[module]):
        top, _, rest = name.partition(".")
        if top != "sidecar" or rest == "__version__" or package(rest) == package(module):
            continue
        assert package(module) in RANKS, f"sidecar.{module} has no rank and may import nothing of ours"
        assert RANKS[package(rest)] < RANKS[package(module)], (
            f"sidecar.{module} imports {name}, which is not of lower rank"
        )


def test_nothing_outside_of_the_tests_imports_from_them() -> None:
    for tree in ("sidecar", "chaos", "bench", "docs"):
        for path in sorted((ROOT.parent / tree).rglob("*.py")):
            assert [name for name in imports(path) if name.split(".")[0] == "tests"] == [], path


@each(sorted(MODULES))
def test_stages_do_not_import_each_other(module: str) -> None:
    if package(module) == "stages" and not module.endswith("__init__"):
        own = f"sidecar.{'.'.join(module.split('.')[:2])}."
        names = imports(MODULES[module])
        siblings = [name for name in names if name.startswith("sidecar.stages") and not name.startswith(own)]
        assert siblings == []


@each(sorted(MODULES))
def test_each_library_has_one_owner(module: str) -> None:
    for name in imports(MODULES[module]):
        top = name.split(".", maxsplit=1)[0]
        if top == "sidecar" or top in sys.stdlib_module_names:
            continue
        owners = LIBRARIES.get(top, set())
        assert any(module == owner or module.startswith(f"{owner}.") for owner in owners), (
            f"sidecar.{module} imports {top}, which only {sorted(owners) or 'nobody'} may"
        )


@each(sorted(MODULES))
def test_stages_have_time_and_tasks_from_their_env(module: str) -> None:
    if package(module) not in ("stages", "core"):
        return
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncio":
            allowed = (module, node.attr) in {("core.promise", "get_running_loop"), ("core.env", "sleep")}
            assert allowed or node.attr not in CLOCKS, (
                f"sidecar.{module}:{node.lineno}: asyncio.{node.attr}: ask the Env"
            )


@each(sorted(MODULES))
def test_modules_say_what_they_are(module: str) -> None:
    assert ast.get_docstring(tree(MODULES[module])), f"sidecar.{module} does not say what it is"


@each(PACKAGES)
def test_packages_have_as_many_modules_as_one_remembers(package: Path) -> None:
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, f"{len(modules)} modules: find the subjects in {package}"


@each(PACKAGES)
def test_each_package_has_a_map(package: Path) -> None:
    """The docstring of `__init__`, or for the stages their table, names each module and each package beside it."""
    docstring = ast.get_docstring(tree(package / "__init__.py")) or ""
    if package == ROOT / "stages":
        docstring += " ".join(kind.name for kind in STAGES)
    names = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    names |= {path.parent.name for path in package.glob("*/__init__.py")}
    missing = sorted(name for name in names if not re.search(rf"\b{name}\b", docstring))
    assert not missing, f"the map in {package}/__init__.py does not name {', '.join(missing)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for annotations (under TYPE_CHECKING) and on demand (in functions) do not count."""
    graph = {
        f"sidecar.{name}".removesuffix(".__init__"): set(imported_at_start(path)) for name, path in MODULES.items()
    }
    left = {name: targets & graph.keys() - {name} for name, targets in graph.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other, or something that does: {sorted(left)}"


def imported_at_start(path: Path) -> Iterator[str]:
    """Yield the modules that an import of a file imports."""
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each(sorted(MODULES))
def test_names_are_the_fields_own(module: str) -> None:
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Util", "Utils", "Base")), (
                f"sidecar.{module}.{node.name}"
            )


@each(sorted(MODULES))
def test_no_possessive_quantifier_stands_on_a_group(module: str) -> None:
    """CPython before 3.11.5 matches possessive groups wrongly (gh-106052), so a grammar would not be strict."""
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            assert not POSSESSIVE_GROUP.search(text.replace("()*+,", "")), f"sidecar.{module}:{node.lineno}: {text!r}"


def compiled_modules() -> list[str]:
    """Return the modules that the build compiles, as `pyproject.toml` lists them."""
    return re.findall(r'"/(sidecar/[\w/]+\.py)"', (ROOT.parent / "pyproject.toml").read_text())


@each(compiled_modules())
def test_no_name_is_bound_to_errors_of_two_types(module: str) -> None:
    """Compiled code gives a name one type for a whole function, and refuses the second type when it is caught."""
    for function in ast.walk(ast.parse((ROOT.parent / module).read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        bound: dict[str, set[str]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
                bound.setdefault(node.name, set()).add(ast.unparse(node.type))
        assert [name for name, types in bound.items() if len(types) > 1] == [], function.name


@each(compiled_modules())
def test_a_named_tuple_names_no_class_that_stands_below_it(module: str) -> None:
    """Compiled code evaluates the fields' types when it makes the class, and crashes if one is not there yet."""
    classes = [node for node in ast.parse((ROOT.parent / module).read_text()).body if isinstance(node, ast.ClassDef)]
    later = {node.name for node in classes}
    for node in classes:
        later.discard(node.name)
        if any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases):
            fields = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
            named = {part.id for field in fields for part in ast.walk(field) if isinstance(part, ast.Name)}
            assert named & later == set(), node.name
