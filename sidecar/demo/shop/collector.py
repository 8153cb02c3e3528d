"""OpenTelemetry collector for the shop: Rotel (https://rotel.dev), if it is installed (`pip install rotel`).

Its Python package contains a binary, but only for some platforms.
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


def find_agent() -> Path | None:
    """Return the path of the binary; None if the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name("rotel-agent")
    return path if path.exists() else None


def obstacle() -> str:
    """Return why the collector cannot be used; empty if it can."""
    path = find_agent()
    if path is None:
        return f"the package {PACKAGE} is not installed"
    ran = subprocess.run([path, "start", "--help"], capture_output=True, text=True, timeout=10, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip()


def received(log: Path) -> int:
    """Return the number of spans that a collector has received, according to its log."""
    return sum(map(int, RECEIVED.findall(ESCAPES.sub("", log.read_text(errors="replace")))))


def command(grpc: str, http: str, verbosity: str = "basic") -> list[str]:
    """Return the command that runs a collector on these addresses; it logs received traces and stores nothing."""
    return [
        str(find_agent()), "start", "--exporter", "blackhole",
        "--debug-log", "traces", "--debug-log-verbosity", verbosity,
        "--otlp-grpc-endpoint", grpc, "--otlp-http-endpoint", http,
    ]  # fmt: skip
