"""Translations whose policy is checked: it has no problem, and each finding has its place."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.imports.translate import translate
from sidecar.lint.run import lint

ALARMS = {"R020": "originals that repeat writes after the upstream may have acted on them, as Dapr does by default"}
"""Rules of severity error that may find something in a translation, with what is right about that."""
PLACE = re.compile(r"source:[0-9]+: (?:not translated|differs): \S.*")


class Checked(NamedTuple):
    """Translation as values."""

    policy: dict[str, Any]
    text: str
    findings: list[str]

    def route(self, at: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.policy["routes"][at]
        return found

    def upstream(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.policy["upstreams"][name]
        return found

    def said(self, words: str) -> bool:
        return any(words in each for each in self.findings)


def checked(kind: str, text: str, file: str = "source") -> Checked:
    """Return the translation of a configuration, whose policy passes `check`, and `lint` without a false alarm."""
    translation = translate(kind, file, text)
    sources = [Source("policies.yaml", translation.policy.encode())]
    loaded = load(sources, {})
    assert loaded.problems == []
    errors = [each for each in lint(loaded, sources).findings if each.severity == "error"]
    assert [each.text for each in errors if each.rule not in ALARMS] == []
    assert all(PLACE.fullmatch("source" + each.removeprefix(file)) for each in translation.findings), (
        translation.findings
    )
    read = yaml.safe_load(translation.policy.replace(": off ", ": 'off' "))  # YAML 1.1 takes it for false
    return Checked(read, translation.policy, translation.findings)
