"""Test files found, checked and run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config import files
from sidecar.config.load import load
from sidecar.config.node import Mark, Node
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec
from sidecar.config.validate import validate
from sidecar.control.compiler import CompileError
from sidecar.policytest.compare import Difference, compare
from sidecar.policytest.spec import FileSpec, StepSpec, TestSpec
from sidecar.policytest.world import World
from sidecar.simulation.network import MemoryLoop

SUFFIXES: Final = (".test.yaml", ".test.yml")


class Result(NamedTuple):
    """How one test went."""

    file: str
    name: str
    mark: Mark
    differences: tuple[str, ...]
    """Each one a line; none where it passed."""

    @property
    def passed(self) -> bool:
        return not self.differences


class Unusable(Exception):  # noqa: N818 - the finding of a run, not an error of ours
    """A test file that cannot be run, and why: each problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def find(path: str) -> list[str]:
    """The test files at a path: itself, or all in a directory.  Raises `OSError` with a message for the user."""
    if not os.path.isdir(path):
        if os.path.exists(path) and not path.endswith(SUFFIXES):
            raise OSError(f"{path} is not a test file; its name ends in .test.yaml")
        return [path]
    found = []
    for directory, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [os.path.join(directory, name) for name in sorted(names) if _is_test(name)]
    if not found:
        raise FileNotFoundError(f"{path}: the directory has no *.test.yaml file")
    return found


def _is_test(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def run_file(path: str, environ: Mapping[str, str], words: Sequence[str] = ()) -> Iterator[Result]:
    """Run the tests of one file, one after the other; with `words` those that have one in their names.  Raises
    `Unusable`, `OSError`."""
    report = Report()
    (source,) = files.read(path)
    root = files.parse(source, environ, report)
    spec = validate(FileSpec, root, report) if root is not None else None
    if spec is None or root is None:
        raise Unusable([str(problem) for problem in report.problems] or [f"{path}: holds no tests"])
    policies = _policies(path, spec, {**environ, **spec.environ})
    tests = root.nearest("tests")
    for index, test in enumerate(spec.tests):
        node = tests.nearest(index)
        if words and not any(word in test.name for word in words):
            continue
        with asyncio.Runner(loop_factory=MemoryLoop) as runner:
            found = runner.run(_run(test, node, policies))
        yield Result(path, test.name, node.place, tuple(dict.fromkeys(map(str, found))))


def _policies(path: str, spec: FileSpec, environ: Mapping[str, str]) -> PolicySpec:
    """The policies that a file tests."""
    here = Path(path).parent
    own = here / f"{Path(path).name.split('.test.')[0]}.yaml"
    target = here / spec.policies if spec.policies is not None else own if own.exists() else here
    loaded = load(files.read(str(target)), environ)
    if loaded.spec is None:
        raise Unusable([str(problem) for problem in loaded.problems])
    return loaded.spec


async def _run(test: TestSpec, node: Node, policies: PolicySpec) -> list[Difference]:
    """One test; it ends at the first step that went wrong, since the others build on it."""
    try:
        world = World(policies, test.seed)
    except CompileError as error:
        return [Difference(node.place, "the policies", "to be usable", str(error))]
    steps = [(node.nearest("steps", index), step) for index, step in enumerate(test.steps)] or [(node, test)]
    for place, step in steps:
        async for found in _step(step, place, world):
            return found
    return []


async def _step(step: StepSpec, node: Node, world: World) -> AsyncIterator[list[Difference]]:
    """One step; yields what differs, if anything does."""
    if step.wait is not None:
        world.script.begin(step.upstream)
        await world.env.sleep(step.wait)
    if step.request is None:
        await world.settle()
        if found := list(compare(step, node, (), world)):
            yield found
        return
    listener = step.listener or world.listener
    if listener not in world.snapshot.spec.listeners:
        known = ", ".join(world.snapshot.spec.listeners)
        yield [Difference(node.nearest("listener").place, "listener", f"one of {known}", listener or "none named")]
        return
    for _ in range(step.times):
        world.script.begin(step.upstream)
        happened = await asyncio.gather(*(world.ask(listener, step.request) for _ in range(step.at_once)))
        if found := list(compare(step, node, happened, world)):
            yield found
            return
