"""Tests of the build hook of compiled wheels: it compiles all listed modules or fails, and leaves no files behind."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONFIG = TOOLS["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
WHEELS = TOOLS["cibuildwheel"]
MODULE = "def double(number: int) -> int:\n    return number * 2\n"
READER = "# cython: language_level=3\ndef half(int number):\n    return number // 2\n"


def make_hook(root: Path, include: list[str]) -> Any:
    """Return the build hook of a project."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / CONFIG["path"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {**CONFIG, "include": include}
    return module.CompiledRequestPath(str(root), config, None, None, str(root / "dist"), "wheel")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of two modules, with an extension that another build has left."""
    root = tmp_path / "project"
    package = root / "sidecar" / "engine"
    package.mkdir(parents=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").touch()
    (package.parent / "module.py").write_text(MODULE)
    (package / "reader.pyx").write_text(READER)
    (package / "old.so").touch()
    return root


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_to_be_compiled_is_there_and_said_once() -> None:
    include = CONFIG["include"]
    assert len(set(include)) == len(include)
    assert [name for name in include if not (ROOT / name.lstrip("/")).is_file()] == []
    assert [name for name in include if name.endswith(".pyx")] == ["/sidecar/engine/head.pyx"]
    assert CONFIG["enable-by-default"] is False


def test_a_wheel_has_every_extension_and_a_list_of_them(project: Path) -> None:
    for tool in ("Cython", "mypyc", "setuptools"):
        pytest.importorskip(tool, reason="what compiles is not installed (requirements/compiled.txt)")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    before = files(project)
    hook = make_hook(project, ["/sidecar/module.py", "/sidecar/engine/reader.pyx"])
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize("standard", data)
    target = shutil.copytree(project, project.parent / "installed")
    for source, name in data["force_include"].items():
        shutil.copy(source, target / name)
    hook.finalize("standard", data, "")
    assert files(project) == before
    assert not any(Path(source).exists() for source in data["force_include"])
    assert (data["infer_tag"], data["pure_python"]) == (True, False)
    names = {name.partition(".")[0] for name in data["force_include"].values()}
    assert {"sidecar/module", "sidecar/engine/reader", "sidecar/engine/compiled"} <= names
    recorded = (target / "sidecar/engine/compiled.txt").read_text()
    assert recorded.split() == ["sidecar/engine/reader.pyx", "sidecar/module.py"]
    script = "from sidecar.module import double; from sidecar.engine.reader import half; print(double(2), half(2))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False, env={})
    assert (done.stdout, done.stderr) == ("4 1\n", "")


@pytest.mark.parametrize(("path", "text"), [("module.py", "def f(:\n"), ("engine/reader.pyx", "def f(:\n")])
def test_a_build_that_fails_says_so_and_leaves_nothing(project: Path, path: str, text: str) -> None:
    (project / "sidecar" / path).write_text(text)
    before = files(project)
    hook = make_hook(project, ["/sidecar/module.py", "/sidecar/engine/reader.pyx"])
    data: dict[str, Any] = {"force_include": {}}
    with pytest.raises(RuntimeError, match="could not be compiled"):
        hook.initialize("standard", data)
    assert files(project) == before
    assert data == {"force_include": {}}


def test_a_module_that_is_not_there_and_an_editable_install_are_refused(project: Path) -> None:
    hook = make_hook(project, ["/sidecar/module.py", "/sidecar/gone.py"])
    with pytest.raises(RuntimeError, match=r"not there: sidecar/gone\.py"):
        hook.initialize("standard", {"force_include": {}})
    with pytest.raises(RuntimeError, match="an editable install runs the sources"):
        hook.initialize("editable", {"force_include": {}})


def test_the_workflow_that_makes_wheels_is_one() -> None:
    path = ROOT / ".github" / "workflows" / "wheels.yml"
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    matrix = yaml.safe_load(path.read_text())["jobs"]["compiled"]["strategy"]["matrix"]
    assert [entry["machine"] for entry in matrix["include"]] == ["x86_64", "aarch64"]
    assert [name.split("-")[0] for name in WHEELS["build"]] == ["cp311", "cp312", "cp313", "cp314"]
    assert WHEELS["environment"] == {"HATCH_BUILD_HOOKS_ENABLE": "1"}
