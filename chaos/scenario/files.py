"""Scenario files, read by the reader of policy files: YAML 1.2, every problem with its place and a remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chaos.scenario.spec import Scenario
from sidecar.config.docstrings import DescribingGenerator
from sidecar.config.files import Source, parse
from sidecar.config.report import Report
from sidecar.config.validate import validate

HERE = Path(__file__).parents[1]
SCENARIOS = HERE / "scenarios"


class ScenarioError(Exception):
    """Raised for files that are not valid scenarios; one problem a line."""


class Loaded(NamedTuple):
    """Scenario with its name and its file."""

    name: str
    path: Path
    scenario: Scenario


def load(paths: Iterable[str | Path]) -> list[Loaded]:
    """Return the scenarios of files and directories.  Raises `ScenarioError` with all problems."""
    report = Report()
    found: list[Loaded] = []
    files = [file for path in map(Path, paths) for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    for path in files:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ScenarioError(f"{path}: {error.strerror}; `chaos list` shows the known scenarios") from None
        node = parse(Source(str(path), text), {}, report)
        scenario = None if node is None else validate(Scenario, node, report)
        if scenario is not None:
            found.append(Loaded(path.stem, path, scenario))
    if report.problems:
        raise ScenarioError("\n".join(map(str, report.problems)))
    if not found:
        raise ScenarioError("no scenarios found; name a *.yaml file or a directory of them")
    return found


def policies(loaded: Loaded, service: str) -> list[Source]:
    """Return the policy files of a service's sidecar."""
    base = loaded.path.parent
    return [Source(name, (base / name).read_bytes()) for name in loaded.scenario.policies[service]]


def without(sources: list[Source], blocks: Iterable[str], environ: Mapping[str, str]) -> list[Source]:
    """Return the policies as one JSON document without some blocks, such as `routes.order.retry`."""
    document: dict[str, Any] = {}
    for source in sources:
        node = parse(source, environ, Report())
        if node is not None:
            for key, value in node.plain().items():
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
