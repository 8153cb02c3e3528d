"""Programs of Node that tests run, and the packages that these need.

`make node` installs the packages into `build/node`; others are found where `NODE_PATH` says, as for every program of
Node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

NODE: Final = shutil.which("node") or ""
"""Path of Node; empty if it is not installed."""
PACKAGES: Final = Path(__file__).parents[2] / "build" / "node" / "node_modules"
NODE_ENV: Final = {
    **os.environ, "NODE_PATH": os.pathsep.join(filter(None, [os.environ.get("NODE_PATH"), str(PACKAGES)])),
}  # fmt: skip
"""Environment in which programs find the packages."""


@cache
def has_package(name: str) -> bool:
    """True if Node and a package are installed."""
    resolve = [NODE, "-e", f"require.resolve('{name}')"]
    return bool(NODE) and subprocess.run(resolve, capture_output=True, check=False, env=NODE_ENV).returncode == 0


def needs_node_package(name: str) -> pytest.MarkDecorator:
    """Return the mark of tests that are skipped without a package."""
    return pytest.mark.skipif(not has_package(name), reason=f"there is no {name}; `make node` installs it")
