"""Shortened scenarios with real processes: verdicts as in virtual time, and no process is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from chaos.battery import run, simulated
from chaos.cluster import namespaces
from chaos.scenario.files import SCENARIOS, Loaded, load
from chaos.scenario.spec import PhasesSpec
from tests.support.process import restore_sigint

PATIENCE = 120.0
"""Seconds after which a test fails rather than hangs."""
SECONDS = ("latency", "recovery", "detection")
"""Measures that a busy machine changes."""
ROOT = Path(__file__).parents[3]


def shortened(name: str) -> Loaded:
    """Return a scenario with short phases and without expectations in seconds, which virtual time judges."""
    (loaded,) = load([SCENARIOS / f"{name}.yaml"])
    phases = PhasesSpec.model_validate({"warm_up": "1s", "before": "2s", "during": "3s", "after": "2s"})
    faults = [fault.model_copy(update={"for_": min(fault.for_, 3.0)}) for fault in loaded.scenario.faults]
    expect = loaded.scenario.expect.model_copy(
        update={
            name: [each for each in getattr(loaded.scenario.expect, name) if each.measure not in SECONDS]
            for name in ("cascade", "contained")
        }
    )
    scenario = loaded.scenario.model_copy(update={"phases": phases, "faults": faults, "expect": expect})
    return loaded._replace(scenario=scenario)


async def test_real_runs_agree_with_simulated_ones() -> None:
    chosen = [shortened(name) for name in ("hard_down_dependency", "slow_dependency")]
    real = await asyncio.gather(*(run(loaded, ["bare", "sidecar"], 1) for loaded in chosen))
    for loaded, result in zip(chosen, real, strict=True):
        virtual = await asyncio.to_thread(simulated, loaded, ["bare", "sidecar"], 1)
        assert virtual.passed
        assert result.passed, [(arm.name, [v for v in arm.verdicts if not v.passed]) for arm in result.arms]


async def test_a_captured_service_runs_in_network_namespaces() -> None:
    if reason := namespaces.obstacle():
        pytest.skip(reason)
    loaded = shortened("captured_tcp")
    scenario = loaded.scenario
    phases = PhasesSpec.model_validate({"warm_up": "500ms", "before": "500ms", "during": "2s", "after": "500ms"})
    faults = [fault.model_copy(update={"for_": 1.5}) for fault in scenario.faults if fault.at == 0]
    during = [each for each in scenario.expect.contained if getattr(each, "phase", "during") == "during"]
    expect = scenario.expect.model_copy(
        update={"contained": [each for each in during if each.measure in ("goodput", "peak")]}
    )
    scenario = scenario.model_copy(update={"phases": phases, "faults": faults, "expect": expect})
    result = await run(loaded._replace(scenario=scenario), ["sidecar"], 1)
    (arm,) = result.arms
    assert result.passed, [v for v in arm.verdicts if not v.passed]
    called = {call.node for call in arm.recording.calls if call.status == 200 and call.caller == "shop"}
    assert called == {"catalogue", "ledger", "mailer"}
    assert {each.facts["protocol"] for each in arm.recording.events if each.name == "capture.ended"} == {"tcp"}


async def test_the_guard_stops_a_run_that_exceeds_its_bounds() -> None:
    loaded = shortened("hard_down_dependency")
    guard = loaded.scenario.guard.model_copy(update={"memory": 2**20})
    loaded = loaded._replace(scenario=loaded.scenario.model_copy(update={"guard": guard}))
    result = await run(loaded, ["bare"], 1)
    assert not result.passed
    assert "more than the guard allows" in result.arms[0].recording.trouble


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent was killed")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_no_process_stays_behind(how: signal.Signals, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos.cli", "run", str(SCENARIOS / "slow_dependency.yaml"),
        cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)}, preexec_fn=restore_sigint,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        while len(children(process.pid)) < 6:
            await asyncio.sleep(0.1)
    started = children(process.pid)
    process.send_signal(how)
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode != 0
    assert (b"stopped: faults are undone" in said) == (how == signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        while any(is_alive(pid) for pid in started):
            await asyncio.sleep(0.1)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


async def test_the_exit_code_tells_that_a_scenario_failed(tmp_path: Path) -> None:
    """A run without the decisive policies, in a process of its own."""
    out = tmp_path / "out.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos.cli", "simulate", "--arm", "sidecar", "--without-decisive", "--json", str(out),
        str(SCENARIOS / "hard_down_dependency.yaml"), cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 1
    assert b"FAIL hard_down_dependency" in output
    assert json.loads(out.read_text())["results"][0]["passed"] is False
