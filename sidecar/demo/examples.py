"""Policy files of the demonstrations: those of `policies/` in the repository, of which the wheel has a copy here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

INSTALLED: Final = Path(__file__).with_name("policies")
CHECKOUT: Final = Path(__file__).parents[2] / "policies"


def find(name: str) -> Path:
    """Return the path of a policy file, such as `demo.yaml` or `shop/web.yaml`."""
    return (INSTALLED if INSTALLED.is_dir() else CHECKOUT) / name
