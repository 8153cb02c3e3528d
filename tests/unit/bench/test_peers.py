"""What the benchmark compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bench.peers import Place, is_stale


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "sidecar" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"a.py": "1", "b/c.py": "2"}, False),
        ({"a.py": "1", "b/c.py": "2", "b/c.so": "compiled"}, False),
        ({"a.py": "1", "b/c.py": "3"}, True),
        ({"a.py": "1"}, True),
        ({"a.py": "1", "b/c.py": "2", "d.py": ""}, True),
    ],
)
def test_a_build_of_other_sources_is_stale(tmp_path: Path, made: dict[str, str], expected: bool) -> None:
    sources = tree(tmp_path / "sources", {"a.py": "1", "b/c.py": "2"})

    assert is_stale(tree(tmp_path / "compiled", made), sources) is expected


@pytest.mark.parametrize("traced", [False, True])
def test_envoy_traces_where_it_is_asked_to(tmp_path: Path, traced: bool) -> None:
    written = yaml.safe_load(Path(Place(1, 2, 3, tmp_path, traced).write("envoy.yaml")).read_text())

    (filters,) = written["static_resources"]["listeners"][0]["filter_chains"]
    tracing = filters["filters"][0]["typed_config"]["tracing"]
    assert (tracing is not None) is traced
    if traced:
        assert tracing["random_sampling"] == {"value": 1}
        assert "http://127.0.0.1:3/v1/traces" in json.dumps(tracing)


@pytest.mark.parametrize("traced", [False, True])
def test_the_sidecar_traces_where_it_is_asked_to(tmp_path: Path, traced: bool) -> None:
    names = {path.name for path in Path(Place(1, 2, 3, tmp_path, traced).policies()).iterdir()}

    assert ("traced.yaml" in names) is traced
