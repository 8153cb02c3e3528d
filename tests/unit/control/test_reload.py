from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import files
from sidecar.config.files import Source
from sidecar.config.process_spec import ListenerSpec
from sidecar.control import reload
from sidecar.control.compiler import Snapshot
from sidecar.control.reload import HISTORY, Control, PolicySource
from sidecar.control.state import StateStore
from sidecar.control.watch import POLL_SECONDS, SETTLE_SECONDS
from sidecar.core import events, metrics
from tests.support.clock import FakeEnv
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import exchange
from tests.unit.config.policies import HEAD, ScriptedUpstream
from tests.unit.control.test_watch import config_map

GOOD = (
    HEAD
    + """\
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
routes:
  - {name: a, upstream: app, match: {path: /a}, circuit_breaker: {open_for: 5s}}
  - {name: b, upstream: app, match: {path: /b}}
"""
)
OTHER = GOOD.replace("name: b", "name: c").replace("open_for: 5s", "open_for: 7s")
BAD = GOOD.replace("open_for: 5s", "open_for: 5")


class Disk:
    """Files in a dict, with a count of their reads."""

    def __init__(self, text: str = GOOD) -> None:
        self.files = {"p.yaml": text}
        self.reads = 0
        self.error: OSError | None = None

    def read(self, _: str) -> list[Source]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return [Source(name, text.encode()) for name, text in self.files.items()]

    def look(self, _: str) -> object:
        return (tuple(self.files.items()), self.error)


class Sockets:
    """Listeners that record their calls."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.error: OSError | None = None
        self.gate: asyncio.Event | None = None

    async def prepare(self, specs: dict[str, ListenerSpec]) -> Any:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.log.append(("prepare", sorted(specs)))
        return "bound"

    def apply(self, snapshot: Snapshot, bound: Any) -> None:
        assert bound == "bound"
        self.log.append(("apply", snapshot))

    def abandon(self, bound: Any) -> None:
        self.log.append(("abandon", bound))


class Setup:
    """Control plane over a dict of files, on a virtual loop."""

    def __init__(self, text: str = GOOD, **more: Any) -> None:
        self.env: FakeEnv = virtual_env()
        self.disk = Disk(text)
        self.store = StateStore()
        self.sockets = Sockets()
        origin = PolicySource("p.yaml", {}, self.disk.read, self.disk.look, self.at_once)
        self.control = Control(self.env, self.store, origin, self.sockets, **{"make": ScriptedUpstream, **more})

    @staticmethod
    async def at_once(function: Callable[[], Any]) -> Any:
        return function()

    @property
    def breaker(self) -> Any:
        return self.store.objects()["breaker", "route", "a"]

    def picture(self) -> tuple[Any, ...]:
        """Return all state that a failed reload must not change."""
        return self.control.snapshot, self.store.objects(), self.store.describe()


@virtual
async def test_the_first_policies_are_put_in_force() -> None:
    setup = Setup()
    assert setup.control.snapshot is None
    done = await setup.control.reload("start")
    snapshot = setup.control.snapshot
    assert (done.result, done.problems, done.digest) == ("applied", (), files.digest(setup.disk.read("")))
    assert snapshot is not None
    assert setup.sockets.log == [("prepare", ["inbound"]), ("apply", snapshot)]
    assert [upstream.starts for upstream in snapshot.upstreams.values()] == [1]  # type: ignore[attr-defined]
    assert snapshot.listeners["inbound"].match(exchange("GET", "/a")) is snapshot.routes["a"]
    assert setup.env.emitted(events.RELOAD_APPLIED) == [{"trigger": "start", "digest": done.digest[:12]}]


@virtual
async def test_imports_are_done_before_the_first_policies_are_compiled() -> None:
    made: list[str] = []

    def make(*args: Any) -> ScriptedUpstream:
        made.append("upstream")
        return ScriptedUpstream(*args)

    setup = Setup(BAD, make=make, imported=lambda: made.append("imported"))
    await setup.control.reload("start")
    assert made == [], "there is nothing to compile"
    setup.disk.files["p.yaml"] = GOOD
    await setup.control.reload("signal")
    assert made == ["imported", "upstream"]
    setup.disk.files["p.yaml"] = OTHER
    await setup.control.reload("signal")
    assert made == ["imported", "upstream", "upstream"], "only the first time"


@virtual
async def test_what_stages_need_later_is_imported_once_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[object] = []
    monkeypatch.setattr(reload, "import_rest", imported.append)
    setup = Setup()
    await setup.control.reload("start")
    watch = setup.env.spawn(setup.control.watch())
    await asyncio.sleep(POLL_SECONDS / 2)
    assert imported == []
    await asyncio.sleep(3 * POLL_SECONDS)
    assert [spec is setup.control.snapshot.spec for spec in imported] == [True]  # type: ignore[union-attr]
    setup.disk.files["p.yaml"] = OTHER
    await asyncio.sleep(3 * POLL_SECONDS)
    assert len(imported) == 2
    watch.cancel()


@virtual
async def test_new_policies_keep_the_state_and_old_requests_their_route() -> None:
    setup = Setup()
    await setup.control.reload("start")
    before, breaker = setup.control.snapshot, setup.breaker
    setup.disk.files["p.yaml"] = OTHER
    done = await setup.control.reload("signal")
    assert (done.result, done.added, done.changed, done.removed) == ("applied", ("c",), ("a",), ("b",))
    assert setup.breaker is breaker
    assert before is not None
    assert before.routes["b"].name == "b"
    assert setup.control.snapshot is not before
    assert [reload.trigger for reload in setup.control.history] == ["start", "signal"]
    assert [line.split(":")[0] for line in done.meaning][-1:] == ["route b"]
    assert setup.control.history[0].meaning == ()
    assert done.describe() == {
        "at": done.at, "trigger": "signal", "result": "applied", "digest": done.digest[:12],
        "added": ["c"], "changed": ["a"], "removed": ["b"], "meaning": list(done.meaning),
    }  # fmt: skip


@virtual
async def test_moving_lines_or_changing_an_upstream() -> None:
    setup = Setup()
    await setup.control.reload("start")
    setup.disk.files["p.yaml"] = "# a comment\n" + GOOD
    done = await setup.control.reload("file")
    assert (done.result, done.changed) == ("applied", ())
    assert setup.control.snapshot is not None
    assert setup.control.snapshot.routes["a"].chain[0].where == "p.yaml:7"
    setup.disk.files["p.yaml"] = GOOD.replace("9000", "9001")
    assert (await setup.control.reload("file")).changed == ("a", "b")


@virtual
async def test_a_bad_file_changes_nothing() -> None:
    setup = Setup()
    await setup.control.reload("start")
    before = setup.picture()
    setup.disk.files["p.yaml"] = BAD
    done = await setup.control.reload("request")
    assert done.result == "rejected"
    assert done.problems == (
        "p.yaml:6:77: routes.a.circuit_breaker.open_for: is a number without a unit; write a duration such as "
        "250ms, 2s, 5m or 1h",
    )
    assert setup.picture() == before
    assert setup.env.emitted(events.RELOAD_REJECTED)[0]["problems"] == list(done.problems)
    assert setup.env.meter.value(metrics.RELOADS, result="rejected") == 1


@pytest.mark.parametrize("step", ["make", "prepare", "retune", "read", "metrics"])
@virtual
async def test_whatever_fails_before_the_swap_changes_nothing(step: str) -> None:
    failing = False

    def fail() -> None:
        if failing:
            raise OSError(98, f"{step} failed") if step != "metrics" else RuntimeError(f"{step} failed")

    def make(*args: Any) -> ScriptedUpstream:
        if step == "make":
            fail()
        return ScriptedUpstream(*args)

    setup = Setup(make=make, metrics=lambda _: fail() if step == "metrics" else None)
    await setup.control.reload("start")
    before, retunes = setup.picture(), []
    setup.disk.files["p.yaml"] = OTHER
    failing = True
    if step == "prepare":
        setup.sockets.error = OSError(98, "prepare failed")
    elif step == "read":
        setup.disk.error = OSError(98, "read failed")
    elif step == "retune":
        retune = setup.breaker.retune

        def refuse(spec: Any) -> None:
            retunes.append(spec.open_for)
            retune(spec)
            if spec.open_for == 7.0:
                raise OSError(98, "retune failed")

        setup.breaker.retune = refuse
    done = await setup.control.reload("signal")
    assert done.result == "rejected"
    assert f"{step} failed" in done.problems[0]
    assert setup.picture() == before
    assert retunes == ([7.0, 5.0] if step == "retune" else [])
    assert ("abandon", "bound") in setup.sockets.log or step != "retune"
    assert bool(setup.env.emitted(events.BUG)) == (step == "metrics")
    failing, setup.sockets.error, setup.disk.error = False, None, None
    if step == "retune":
        del setup.breaker.retune
    assert (await setup.control.reload("signal")).result == "applied"


@virtual
async def test_what_fails_after_the_swap_is_a_bug_and_not_a_rejection() -> None:
    class Stuck(ScriptedUpstream):
        def start(self) -> None:
            raise RuntimeError("stuck")

    setup = Setup(make=Stuck)
    assert (await setup.control.reload("start")).result == "applied"
    assert setup.control.snapshot is not None
    assert str(setup.env.emitted(events.BUG)[0]["error"]) == "stuck"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("service: orders", "service: invoices", "p.yaml:2:10: service: differs from its value"),
        (
            "service: orders",
            'service: orders\nadmin: {address: "127.0.0.1:9"}',
            "p.yaml:3:1: admin: differs from its value",
        ),
    ],
)
@virtual
async def test_what_only_a_restart_changes_is_refused(old: str, new: str, message: str) -> None:
    setup = Setup()
    await setup.control.reload("start")
    setup.disk.files["p.yaml"] = OTHER.replace(old, new)
    done = await setup.control.reload("file")
    assert done.result == "rejected"
    assert done.problems[0].startswith(message)
    assert "restart the sidecar" in done.problems[0]


@virtual
async def test_the_watch_applies_what_changes_and_reports_what_is_bad_once() -> None:
    setup = Setup()
    await setup.control.reload("start")
    watching = asyncio.ensure_future(setup.control.watch())
    results = []

    async def write(text: str) -> None:
        setup.disk.files["p.yaml"] = text
        await asyncio.sleep(3 * POLL_SECONDS)
        results.append([reload.result for reload in setup.control.history])
        setup.control.history.clear()

    for text in (GOOD, OTHER, BAD, BAD, OTHER, BAD, BAD + "# more\n", GOOD):
        await write(text)
    assert results == [
        ["applied"], ["applied"], ["rejected"], [], [], ["rejected"], ["rejected"], ["applied"],
    ]  # fmt: skip
    assert setup.disk.reads == 7
    watching.cancel()


@virtual
async def test_half_of_a_file_is_not_put_in_force() -> None:
    setup = Setup()
    await setup.control.reload("start")
    watching = asyncio.ensure_future(setup.control.watch())
    half = OTHER[: OTHER.rindex("  - {name")]
    for text in ("", half, OTHER):  # a program cuts the file off and writes it in pieces
        setup.disk.files["p.yaml"] = text
        await asyncio.sleep(POLL_SECONDS if text == "" else SETTLE_SECONDS)
        assert [reload.result for reload in setup.control.history] == ["applied"]
    await asyncio.sleep(2 * SETTLE_SECONDS)
    assert [(reload.result, reload.removed) for reload in setup.control.history][1:] == [("applied", ("b",))]
    assert setup.disk.reads == 2
    setup.disk.files["p.yaml"] = half
    await asyncio.sleep(2 * POLL_SECONDS)
    assert setup.control.history[-1].removed == ("c",), "a whole file with these routes is valid"
    watching.cancel()


@pytest.mark.parametrize(("changes", "routes", "reads"), [(1, ["a", "c"], 2), (9, ["a"], 3)])
@virtual
async def test_files_that_change_while_they_are_read_are_read_again(
    changes: int, routes: list[str], reads: int
) -> None:
    setup = Setup(GOOD[: GOOD.rindex("  - {name")])
    read = setup.disk.read

    def slow(path: str) -> list[Source]:
        found = read(path)
        if setup.disk.reads <= changes:
            setup.disk.files["p.yaml"] = OTHER if setup.disk.reads == changes else f"{setup.disk.files['p.yaml']}#\n"
        return found

    setup.control._watch._read = slow
    await setup.control.reload("signal")
    assert setup.control.snapshot is not None
    assert list(setup.control.snapshot.routes) == routes
    assert setup.disk.reads == reads, "the watch reads what changes again and again"


@virtual
async def test_the_same_bad_content_under_a_new_time_is_not_reported_again() -> None:
    setup = Setup()
    await setup.control.reload("start")
    setup.disk.files["p.yaml"] = BAD
    assert [(await setup.control.reload("file")).result for _ in range(3)] == ["rejected", "unchanged", "unchanged"]
    assert (await setup.control.reload("signal")).result == "rejected"  # a requested reload always reports its result
    assert len(setup.control.history) == 3


@virtual
async def test_a_file_that_goes_away_and_comes_back() -> None:
    setup = Setup()
    await setup.control.reload("start")
    watching = asyncio.ensure_future(setup.control.watch())
    setup.disk.error = FileNotFoundError(2, "p.yaml: No such file or directory")
    await asyncio.sleep(5 * POLL_SECONDS)
    assert [reload.problems for reload in setup.control.history][1:] == [("p.yaml: No such file or directory",)]
    setup.disk.error = None
    await asyncio.sleep(5 * POLL_SECONDS)
    assert [reload.result for reload in setup.control.history] == ["applied", "rejected", "unchanged"]
    setup.disk.files["p.yaml"] = OTHER
    await asyncio.sleep(2 * POLL_SECONDS)
    assert [reload.result for reload in setup.control.history] == ["applied", "rejected", "unchanged", "applied"]
    watching.cancel()


@virtual
async def test_the_swap_of_a_config_map_is_applied(tmp_path: Path) -> None:
    config_map(tmp_path, "..v1", GOOD)
    env = virtual_env()
    origin = PolicySource(str(tmp_path), {}, in_thread=Setup.at_once)
    control = Control(env, StateStore(), origin, Sockets(), make=ScriptedUpstream)
    assert (await control.reload("start")).result == "applied"
    watching = asyncio.ensure_future(control.watch())
    await asyncio.sleep(5 * POLL_SECONDS)
    assert len(control.history) == 1
    config_map(tmp_path, "..v2", OTHER)
    await asyncio.sleep(2 * POLL_SECONDS)
    assert control.snapshot is not None
    assert list(control.snapshot.routes) == ["a", "c"]
    assert control.history[-1].trigger == "file"
    watching.cancel()


@virtual
async def test_one_reload_at_a_time() -> None:
    setup = Setup()
    await setup.control.reload("start")
    setup.sockets.gate = asyncio.Event()
    setup.disk.files["p.yaml"] = OTHER
    first = asyncio.ensure_future(setup.control.reload("signal"))
    await settle()
    setup.disk.files["p.yaml"] = GOOD
    second = asyncio.ensure_future(setup.control.reload("request"))
    await settle()
    assert setup.disk.reads == 2
    setup.sockets.gate.set()
    assert [(await first).added, (await second).added] == [("c",), ("b",)]
    assert setup.control.snapshot is not None
    assert list(setup.control.snapshot.routes) == ["a", "b"]


@virtual
async def test_a_reload_that_is_cancelled_gives_up_what_it_has_made() -> None:
    setup = Setup()
    await setup.control.reload("start")
    before = setup.picture()
    setup.sockets.gate = asyncio.Event()
    setup.disk.files["p.yaml"] = OTHER
    reload = asyncio.ensure_future(setup.control.reload("signal"))
    await settle()
    reload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reload
    assert setup.picture() == before
    setup.sockets.gate.set()
    assert (await setup.control.reload("signal")).result == "applied"


@virtual
async def test_the_history_is_bounded() -> None:
    setup = Setup()
    for _ in range(HISTORY + 10):
        await setup.control.reload("signal")
    assert len(setup.control.history) == HISTORY


@virtual
async def test_reading_new_policies_pauses_where_requests_are_served_meanwhile() -> None:
    pauses: list[int] = []
    setup = Setup()
    setup.control._origin.pace = lambda: pauses.append(1)
    await setup.control.reload("start")
    assert not pauses
    setup.disk.files["p.yaml"] = OTHER
    await setup.control.reload("signal")
    assert len(pauses) >= 3, "while parsing, for each route, and while checking"


@pytest.mark.parametrize("trouble", ["bad", "missing", "unreadable"])
def test_files_that_are_put_back_end_the_alarm(trouble: str) -> None:
    @virtual
    async def test() -> None:
        setup = Setup()
        await setup.control.reload("start")
        watching = setup.env.spawn(setup.control.watch())
        for round_ in (1, 2):
            if trouble == "unreadable":
                setup.disk.error = PermissionError(13, "Permission denied")
            else:
                setup.disk.files = {"p.yaml": BAD if trouble == "bad" else ""}
            await asyncio.sleep(3 * POLL_SECONDS)
            assert setup.control.describe_reloads()[-1]["result"] == "rejected"
            assert setup.env.meter.value(metrics.POLICIES_REJECTED) == 1
            assert len(setup.env.emitted(events.RELOAD_REJECTED)) == round_, "the same again is news again"
            setup.disk.error = None
            setup.disk.files = {"p.yaml": GOOD}
            await asyncio.sleep(3 * POLL_SECONDS)
            assert setup.control.describe_reloads()[-1]["result"] == "unchanged"
            assert setup.env.meter.value(metrics.POLICIES_REJECTED) == 0
            assert len(setup.env.emitted(events.RELOAD_RESTORED)) == round_
        assert setup.env.meter.value(metrics.RELOADS, result="applied") == 1, "nothing was applied again"
        watching.cancel()

    test()


@virtual
async def test_files_that_never_were_bad_leave_no_entry() -> None:
    setup = Setup()
    await setup.control.reload("start")
    watching = setup.env.spawn(setup.control.watch())
    setup.disk.files = dict(setup.disk.files)
    setup.control._seen = None
    await asyncio.sleep(3 * POLL_SECONDS)
    assert [each.result for each in setup.control.history] == ["applied"]
    watching.cancel()
