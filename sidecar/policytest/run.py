"""Runner of test files: finds and reads them, and runs each test step by step on its own virtual loop."""

from __future__ import annotations

import asyncio
import os
import re
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
from sidecar.policytest.messages import Messages, read_messages
from sidecar.policytest.spec import FileSpec, StepSpec, TestSpec
from sidecar.policytest.world import World
from sidecar.simulation.loop import VirtualLoop
from sidecar.telemetry.plain import Masks

VARIABLE: Final = re.compile(r"\$\{(\w+)")
SUFFIXES: Final = (".test.yaml", ".test.yml")


class Result(NamedTuple):
    """Outcome of one test.

    - `mark`: file and line of the test.
    - `differences`: one line each; empty if the test passed.
    """

    file: str
    name: str
    mark: Mark
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences


class Unusable(Exception):  # noqa: N818 - the finding of a run, not an error of ours
    """Raised for a test file that cannot be run; one problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def find(path: str) -> list[str]:
    """Return the test files at a path: the file itself, or all files below the directory.

    Raises `OSError` with a message for the user.
    """
    if not os.path.isdir(path):
        if os.path.exists(path) and not path.endswith(SUFFIXES):
            raise OSError(f"{path}: is not a test file; the name of one ends in .test.yaml")
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
    """Run the tests of one file and yield their results in order.

    With `words`, only tests with one of these words in their names are run.  Raises `Unusable` if the file or its
    policies have problems, and `OSError` if a file cannot be read.
    """
    report = Report()
    (source,) = files.read(path)
    root = files.parse(source, environ, report)
    spec = validate(FileSpec, root, report) if root is not None else None
    if spec is None or root is None:
        raise Unusable([str(problem) for problem in report.problems] or [f"{path}: holds no tests"])
    policies = _policies(path, spec, {**environ, **spec.environ})
    try:
        messages = read_messages(None if spec.descriptors is None else Path(path).parent / spec.descriptors, policies)
    except ValueError as error:
        raise Unusable([f"{root.nearest('descriptors').place}: {error}"]) from None
    shown = {**report.origins.message_masks().replacements, **policies.masks.replacements}
    masks = Masks({word: text for word, text in shown.items() if not _is_spelt_out(text, spec.environ)})
    tests = root.nearest("tests")
    for index, test in enumerate(spec.tests):
        node = tests.nearest(index)
        if words and not any(word in test.name for word in words):
            continue
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            found = runner.run(_run(test, node, policies, messages))
        yield Result(path, test.name, node.place, tuple(dict.fromkeys(masks.text(str(each)) for each in found)))


def _is_spelt_out(text: str, environ: Mapping[str, str]) -> bool:
    """True if the test file itself sets all variables in a text, so that their values are no secrets."""
    return set(VARIABLE.findall(text)) <= environ.keys()


def _policies(path: str, spec: FileSpec, environ: Mapping[str, str]) -> PolicySpec:
    """Return the policies under test.

    These are the policies that the test file names, or else the policy file of the same name, or else the directory.
    """
    here = Path(path).parent
    own = here / f"{Path(path).name.split('.test.')[0]}.yaml"
    target = here / spec.policies if spec.policies is not None else own if own.exists() else here
    loaded = load(files.read(str(target)), environ)
    if loaded.spec is None:
        raise Unusable([str(problem) for problem in loaded.problems])
    return loaded.spec


async def _run(test: TestSpec, node: Node, policies: PolicySpec, messages: Messages) -> list[Difference]:
    """Run one test and return its differences; it ends at the first step with a difference."""
    try:
        world = World(policies, test.seed, messages)
    except CompileError as error:
        return [Difference(node.place, "the policies", "to be usable", str(error))]
    steps = [(node.nearest("steps", index), step) for index, step in enumerate(test.steps)] or [(node, test)]
    for place, step in steps:
        async for found in _step(step, place, world):
            return found
    return []


async def _step(step: StepSpec, node: Node, world: World) -> AsyncIterator[list[Difference]]:
    """Run one step as often as it says, and yield a list of differences at the first run that has some."""
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
        try:
            observed = await asyncio.gather(*(world.ask(listener, step.request) for _ in range(step.at_once)))
        except ValueError as error:
            what = "caller" if step.request.grpc is None or step.request.caller is not None else "grpc"
            expected = "a caller that can be made" if what == "caller" else "messages that can be made"
            yield [Difference(node.nearest("request", what).place, what, expected, str(error))]
            return
        if found := list(compare(step, node, observed, world)):
            yield found
            return
