"""Cause of a verdict: the sentence that says which line of which policy contained the failure.

The blocks are those that the scenario names: `decisive`, which `--without-decisive` puts to the proof, else `credit`.
Where a bad policy was pushed, it is the line that the sidecar refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.scenario.files import Loaded, block
from chaos.scenario.spec import PolicyFault
from sidecar.core.events import RELOAD_REJECTED

if TYPE_CHECKING:
    from chaos.battery import Arm


def cause(loaded: Loaded, arms: list[Arm]) -> str:
    """Return the sentence for a scenario whose arms were judged."""
    arm = next((arm for arm in arms if arm.name == "sidecar"), None)
    named = _join(list(_blocks(loaded)))
    if not named:
        refused = "" if arm is None else _refused(loaded, arm)
        if refused:
            return f"It was contained by the sidecar itself, which refused {refused} and kept the policies before."
        return "The scenario names no policy block that contains it; name those that do under `decisive`."
    if arm is None:
        return f"With sidecars it is contained by {named}."
    if arm.passed:
        return f"It was contained by {named}."
    if arm.recording.without:
        return f"It was not contained, because these were taken out: {named}."
    return f"It was not contained, although it should have been by {named}."


def _blocks(loaded: Loaded) -> Iterator[str]:
    scenario = loaded.scenario
    for service, paths in (scenario.decisive or scenario.credit).items():
        for path in paths:
            found = block(loaded, service, path)
            place = f" ({display_path(Path(found.file))}:{found.line})" if found is not None else ""
            yield f"`{path}` of {service}{place}"


def _refused(loaded: Loaded, arm: Arm) -> str:
    """Return the place in the pushed policy that the sidecar of an arm has refused; empty where it refused none."""
    pushed = [loaded.path.parent / fault.file for fault in loaded.scenario.faults if isinstance(fault, PolicyFault)]
    for event in arm.recording.events:
        if event.name == RELOAD_REJECTED:
            for path in pushed:
                if found := re.search(rf"{re.escape(path.name)}:(\d+)", str(event.facts.get("problems"))):
                    return f"{display_path(path)}:{found[1]}"
    return ""


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def display_path(path: Path) -> str:
    """Return a path relative to the working directory if it is below that, else absolute."""
    whole, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(whole, here) if Path(whole).is_relative_to(here) else whole
