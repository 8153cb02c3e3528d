"""Scenarios of `chaos/scenarios`, loaded once: to check them against their policies takes longer than most tests."""

from __future__ import annotations

from typing import Final

from chaos.scenario.files import SCENARIOS, Loaded, load

ALL: Final[dict[str, Loaded]] = {loaded.name: loaded for loaded in load([SCENARIOS])}
