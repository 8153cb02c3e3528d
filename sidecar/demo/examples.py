"""Policy files of the demonstrations: `policies/` of the repository, or its copy in the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

INSTALLED: Final = Path(__file__).with_name("policies")
"""Directory in an installed package."""
CHECKOUT: Final = Path(__file__).parents[2] / "policies"
"""Directory in a checkout of the repository."""


def find(name: str) -> Path:
    """Return the path of a policy file, such as `demo.yaml` or `shop/web.yaml`."""
    return (INSTALLED if INSTALLED.is_dir() else CHECKOUT) / name
