"""Tests that adapters use only documented parts of libraries: no private attribute, no exemption from types."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sidecar

STAGES = Path(sidecar.__file__).parent / "stages"
ADAPTERS = ("circuit_breaker/machine.py", "retry/strategies.py")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_reads_nothing_private_but_its_own(adapter: str) -> None:
    text = (STAGES / adapter).read_text()
    assert "type: ignore" not in text
    private = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    ]
    assert private
    assert [name for name in private if not name.startswith("self._")] == []


def test_an_adapter_overrides_nothing_private() -> None:
    for adapter in ADAPTERS:
        for node in ast.walk(ast.parse((STAGES / adapter).read_text())):
            if isinstance(node, ast.ClassDef) and node.bases:
                methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                assert [name for name in methods if name.startswith("_") and not name.endswith("__")] == []
