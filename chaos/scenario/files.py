"""Reader of scenario files, with the reader of policy files: YAML 1.2, every problem with its place and a remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chaos.scenario.spec import PolicyFault, Scenario
from sidecar.config.docstrings import DescribingGenerator
from sidecar.config.files import Source, parse
from sidecar.config.node import Mark, Node
from sidecar.config.report import Report
from sidecar.config.validate import validate
from sidecar.lint.recommended import VALUES, Values, with_values

HERE = Path(__file__).parents[1]
SCENARIOS = HERE / "scenarios"


class ScenarioError(Exception):
    """Raised for files that are not valid scenarios; one problem a line."""


class Loaded(NamedTuple):
    """Scenario with its name and its file.

    - `values`: values of the arm `recommended`, in place of those of the policies of each sidecar.
    """

    name: str
    path: Path
    scenario: Scenario
    values: Values = VALUES


def load(paths: Iterable[str | Path]) -> list[Loaded]:
    """Return the scenarios of files and directories.  Raises `ScenarioError` with all problems."""
    report = Report()
    found: list[Loaded] = []
    given = list(map(Path, paths))
    files = [file for path in given for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    for path in files:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ScenarioError(f"{path}: {error.strerror}; `chaos list` shows the known scenarios") from None
        node = parse(Source(str(path), text), {}, report)
        scenario = None if node is None else validate(Scenario, node, report)
        if scenario is not None and node is not None:
            loaded = Loaded(path.stem, path, scenario)
            found.append(loaded)
            _check_policies(loaded, node, report)
    if report.problems:
        raise ScenarioError("\n".join(map(str, report.problems)))
    if not found:
        raise ScenarioError(
            f"{', '.join(map(str, given))}: no scenario is there; name a *.yaml file or a directory of them"
        )
    return found


def _check_policies(loaded: Loaded, node: Node, report: Report) -> None:
    """Report policy files that cannot be read, and blocks that are in none of them, each at its place."""
    scenario, base = loaded.scenario, loaded.path.parent
    named = [
        (node.nearest("policies", s, n), name) for s, names in scenario.policies.items() for n, name in enumerate(names)
    ]
    for number, fault in enumerate(scenario.faults):
        if isinstance(fault, PolicyFault):
            named.append((node.nearest("faults", number, "file"), fault.file))
    missing = False
    for place, name in named:
        try:
            (base / name).read_bytes()
        except OSError as error:
            missing = True
            words = error.strerror or str(error)
            report.error_in(place, f"names {name}, which cannot be read ({words}); paths are relative to {base}")
    if missing:
        return
    for section in ("decisive", "credit"):
        for service, blocks in getattr(scenario, section).items():
            for number, path in enumerate(blocks):
                if block(loaded, service, path) is None:
                    place = node.nearest(section, service, number)
                    report.error_in(place, f"names the block {path}, which the policies of {service} do not have")


class AnyVariables(dict[str, str]):
    """Environment that has every variable, to read policies before their sidecars have addresses."""

    def get(self, key: str, default: Any = None) -> str:
        return "1"


def block(loaded: Loaded, service: str, path: str) -> Mark | None:
    """Return the place of a policy block of a service, such as `routes.order.retry`; None where there is none.

    The file of the place is its real path.
    """
    base = loaded.path.parent
    for source in policies(loaded, service):
        document = parse(source, AnyVariables(), Report())
        found = None if document is None else _find(document, path.split("."))
        if found is not None:
            return found.place._replace(file=os.path.normpath(base / source.name))
    return None


def _find(node: Node, path: list[str]) -> Node | None:
    """Return the first node at a path, as `remove` reads it."""
    if not path:
        return node
    step, *rest = path
    if isinstance(node.value, list):
        inner = [each for each in node.value if step in ("*", getattr(each.child("name"), "value", None))]
    elif step == "*":
        inner = list(node.items.values())
    else:
        inner = [child] if (child := node.child(step)) is not None else []
    return next((found for each in inner if (found := _find(each, rest)) is not None), None)


def policies(loaded: Loaded, service: str) -> list[Source]:
    """Return the policy files of a service's sidecar."""
    base = loaded.path.parent
    return [Source(name, (base / name).read_bytes()) for name in loaded.scenario.policies[service]]


def without(sources: list[Source], blocks: Iterable[str], environ: Mapping[str, str]) -> list[Source]:
    """Return the policies as one JSON document without some blocks, such as `routes.order.retry`.

    Variables have their values in it; what looks like one is escaped, since it is text by now.
    """
    document: dict[str, Any] = {}
    for source in sources:
        node = parse(source, environ, Report())
        if node is not None:
            for key, value in _escaped(node.plain()).items():
                known = document.get(key)
                if isinstance(known, dict):
                    known.update(value)
                elif isinstance(known, list):
                    known.extend(value)
                else:
                    document[key] = value
    for block in blocks:
        remove(document, block.split("."))
    return [Source("without.yaml", json.dumps(document, indent=1).encode())]


def recommended(sources: list[Source], environ: Mapping[str, str], values: Values = VALUES) -> list[Source]:
    """Return policies as one JSON document, with the recommended starting values, or others, in place of their own."""
    (whole,) = without(sources, (), environ)
    document = with_values(json.loads(whole.text), values)
    return [Source("recommended.yaml", json.dumps(document, indent=1).encode())]


def _escaped(value: Any) -> Any:
    """Return a value with escaped variables, so that a reader of policies takes it literally; keys have none."""
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_escaped(member) for member in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def remove(document: Any, path: list[str]) -> None:
    """Remove the member at a path, in which a list's items go by their `name` and `*` stands for all.

    Raises `KeyError` where there is no such member.
    """
    step, *rest = path
    if isinstance(document, list):
        chosen = [each for each in document if step in ("*", each.get("name"))]
        if not chosen:
            raise KeyError(f"no item is called {step}")
        for each in chosen:
            if step != "*" or rest[0] in each:
                remove(each, rest)
    elif step == "*":
        for each in document.values():
            if rest[0] in each:
                remove(each, rest)
    elif rest:
        remove(document[step], rest)
    else:
        del document[step]


def schema() -> str:
    """Return the JSON Schema of scenario files."""
    return json.dumps(Scenario.model_json_schema(by_alias=True, schema_generator=DescribingGenerator), indent=1) + "\n"
