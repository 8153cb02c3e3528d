"""Build hook of a wheel whose request path is compiled: `HATCH_BUILD_HOOKS_ENABLE=1 pip wheel .`

Rules:

1. Everything that `pyproject.toml` lists is compiled, or the build fails: the modules by mypyc, `*.pyx` by Cython.
2. A copy of the sources is compiled.  Nothing is written into the checkout, and extensions that lie there are not used.
3. The wheel says what was compiled (`sidecar/engine/compiled.txt`), so an installation that is not whole can tell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECORD = "sidecar/engine/compiled.txt"
COLD = """
#include <Python.h>
__attribute__((cold)) void CPy_AddTraceback(const char *, const char *, int, PyObject *);
__attribute__((cold)) void CPy_TypeErrorTraceback(
    const char *, const char *, int, PyObject *, const char *, PyObject *);
__attribute__((cold)) void CPy_TypeError(const char *, PyObject *);
__attribute__((cold)) void CPyError_OutOfMemory(void);
__attribute__((cold)) PyAPI_FUNC(void) PyErr_SetString(PyObject *, const char *);
__attribute__((cold)) PyAPI_FUNC(void) PyErr_SetNone(PyObject *);
"""
"""Header with functions that only error paths of mypyc's code call.  Compilers then move these paths out of the way."""
FLAGS = ["-fvisibility=hidden", "-fno-plt", "-Wno-error"]
"""Options of gcc and clang.  Calls become direct, within an extension and from it to the interpreter.  Which warnings
inlined code gives differs between compilers, so none is an error."""
SETUP = """
from Cython.Build import cythonize
from mypyc.build import mypycify
from setuptools import setup

compiled = mypycify({arguments!r}, **{options!r})
for extension in compiled:
    extension.extra_compile_args = [*extension.extra_compile_args, *{flags!r}]
setup(
    name="compiled",
    packages=[],
    ext_modules=[*compiled, *cythonize({cython!r}, build_dir="../c")],
)
"""


class CompiledRequestPath(BuildHookInterface[Any]):
    """Compiles the request path and adds the extensions to the wheel."""

    _directory: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version == "editable":
            raise RuntimeError(
                "an editable install runs the sources; to have them compiled, install a wheel: pip install ."
            )
        modules = [name.lstrip("/") for name in self.config["include"]]
        if missing := [name for name in modules if not Path(self.root, name).is_file()]:
            raise RuntimeError(f"pyproject.toml lists modules to compile that are not there: {', '.join(missing)}")
        self._directory = TemporaryDirectory()
        place = Path(self._directory.name)
        try:
            built = self._compile(place, modules)
        except BaseException:
            self._directory.cleanup()
            raise
        record = place / "compiled.txt"
        record.write_text("".join(f"{name}\n" for name in sorted(modules)))
        build_data["infer_tag"] = True
        build_data["pure_python"] = False
        build_data["force_include"].update({str(path): path.relative_to(place / "built").as_posix() for path in built})
        build_data["force_include"][str(record)] = RECORD

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._directory is not None:
            self._directory.cleanup()

    def _compile(self, place: Path, modules: list[str]) -> list[Path]:
        """Compile a copy of the sources within `place`; return the extensions."""
        source, built = place / "source", place / "built"
        unwanted = shutil.ignore_patterns("__pycache__", *(f"*{suffix}" for suffix in EXTENSION_SUFFIXES))
        shutil.copytree(Path(self.root, "sidecar"), source / "sidecar", ignore=unwanted)
        python = [name for name in modules if name.endswith(".py")]
        options = {**self.config["options"], "target_dir": str(place / "mypyc")}
        setup = SETUP.format(
            arguments=[*self.config["mypy-args"], *python],
            options=options,
            flags=[*FLAGS, "-include", str(place / "cold.h")] if os.name == "posix" else [],
            cython=[name for name in modules if name.endswith(".pyx")],
        )
        (source / "setup.py").write_text(setup)
        (place / "cold.h").write_text(COLD)
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", f"--build-lib={built}", f"--build-temp={place / 'objects'}"],
            cwd=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the request path could not be compiled:\n{done.stdout}")
        found = [path for path in built.rglob("*") if path.suffix in (".so", ".pyd")]
        names = {path.relative_to(built).as_posix().partition(".")[0] for path in found}
        if missing := [name for name in modules if str(PurePosixPath(name).with_suffix("")) not in names]:
            raise RuntimeError(f"not compiled: {', '.join(missing)}\n{done.stdout}")
        return found
