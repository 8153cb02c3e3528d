"""A real collector for the shop: Rotel (https://rotel.dev), where its package is installed (`pip install rotel`).

It comes as a binary inside a Python package, for some platforms only; `missing()` says why it cannot be used.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Final

PACKAGE: Final = "rotel"
ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
RECEIVED: Final = re.compile(r"\bspans=(\d+)")


def agent() -> Path | None:
    """The binary, where the package is installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name("rotel-agent")
    return path if path.exists() else None


def missing() -> str:
    """Why it cannot be used; empty where it can."""
    path = agent()
    if path is None:
        return f"the package {PACKAGE} is not installed"
    ran = subprocess.run([path, "start", "--help"], capture_output=True, text=True, timeout=10, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip()


def received(log: Path) -> int:
    """How many spans it says to have received."""
    return sum(map(int, RECEIVED.findall(ESCAPES.sub("", log.read_text(errors="replace")))))


def command(grpc: str, http: str, verbosity: str = "basic") -> list[str]:
    """What runs it in the foreground on these addresses, saying what it receives and keeping nothing."""
    return [
        str(agent()), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", verbosity,
        "--otlp-grpc-endpoint", grpc, "--otlp-http-endpoint", http,
    ]  # fmt: skip
