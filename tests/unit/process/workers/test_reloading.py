"""Tests of the reload of several workers: all apply new policies or none, also if a worker hangs or dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.config import files
from sidecar.config.load import load
from sidecar.control.reload import DRAINING, FILE
from sidecar.process.workers.reloading import PREPARE_SECONDS, READY_SECONDS, Reloading
from sidecar.telemetry.metrics.registry import Registry
from tests.support.loop import virtual, virtual_env

POLICIES = """version: 1
listeners: {{inbound: {{address: "127.0.0.1:0"}}}}
process: {{workers: 2}}
upstreams: {{app: {{endpoints: ["http://app:80"]}}}}
routes: [{{name: {name}, match: {{path: /}}, upstream: app}}]
"""


class FakeWorker:
    """Worker that answers as a test says: `prepares` is a list of problems, or None for no answer."""

    def __init__(self, number: int, case: Case) -> None:
        self.number = number
        self.starts = 1
        self.case = case
        self.prepares: list[str] | None = []
        self.meanwhile: list[tuple[float, Callable[..., None], tuple[str, ...]]] = []
        """Calls after the message `prepare`: seconds, function and arguments."""
        self.heard: list[str] = []
        """Kinds of the messages to the process that runs."""
        self.kills = 0

    def send(self, kind: str, *rest: Any) -> None:
        self.heard.append(kind)
        if kind == "prepare":
            for seconds, call, arguments in self.meanwhile:
                self.case.env.call_later(seconds, call, *arguments)
        if kind == "prepare" and self.prepares is not None:
            self.say("reloaded", {"problems": self.prepares}) if self.prepares else self.say("prepared", "digest")
        elif kind == "commit":
            self.say("reloaded", {"result": "applied", "changed": ["b"]})

    def say(self, *message: Any) -> None:
        self.case.env.call_later(0.001, self.case.reloading.receive, self.number, list(message))

    def kill(self) -> None:
        self.kills += 1
        self.end()

    def end(self) -> None:
        """End as the supervisor sees it, and start again."""
        self.case.reloading.leave(self.number)
        self.starts += 1
        self.heard = []


class NoSockets:
    """Listening sockets of policies that open and close none."""

    keys: frozenset[str] = frozenset()

    async def open(self, specs: object) -> set[str]:
        return set()

    def send(self, *_: object) -> None:
        """Do nothing: there are none."""

    def close(self, keys: object) -> None:
        """Do nothing: there are none."""


class Workers(list[FakeWorker]):
    """All workers, which are ready unless a test says otherwise."""

    are_ready = True

    @property
    def ready(self) -> list[FakeWorker]:
        return list(self) if self.are_ready else []


class Case:
    """Two workers with the policies of one file."""

    def __init__(self, directory: Path) -> None:
        self.env = virtual_env()
        self.path = directory / "p.yaml"
        self.path.write_text(POLICIES.format(name="a"))
        sources = files.read(str(self.path))
        self.workers: Any = Workers(FakeWorker(number, self) for number in range(2))
        loaded, sockets = load(sources, {}), NoSockets()
        self.reloading = Reloading(
            str(self.path), sources, loaded, self.env, Registry(), self.workers, sockets,  # type: ignore[arg-type]
        )  # fmt: skip
        self.reloading.begin()

    async def reload(self) -> tuple[str, tuple[Any, ...]]:
        self.path.write_text(POLICIES.format(name="b"))
        done = await self.reloading.reload("signal")
        return done.result, tuple(done.problems)

    @property
    def routes(self) -> list[str]:
        return [route.name for route in self.reloading.spec.routes]


@virtual
async def test_policies_that_all_workers_can_apply_are_applied(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert await case.reload() == ("applied", ())
    assert [worker.heard for worker in case.workers] == [["prepare", "commit"]] * 2
    assert (case.routes, case.reloading.history[-1].changed) == (["b"], ("b",))


@virtual
async def test_policies_that_one_worker_rejects_change_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.workers[1].prepares = ["p.yaml:3:1: listeners: has no socket"]
    assert await case.reload() == ("rejected", ("p.yaml:3:1: listeners: has no socket",))
    assert [worker.heard for worker in case.workers] == [["prepare", "abandon"]] * 2
    assert case.routes == ["a"]
    case.workers[1].prepares = []
    assert (await case.reload())[0] == "applied"


@virtual
async def test_a_worker_that_hangs_while_it_prepares_is_replaced_and_the_next_reload_succeeds(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.workers[0].prepares = None
    began = case.env.now()
    assert await case.reload() == ("rejected", ("worker 1 has not prepared them within 60s",))
    assert case.env.now() - began < PREPARE_SECONDS + 1
    assert [worker.kills for worker in case.workers] == [1, 0], "its late answer would be taken for the next one"
    case.workers[0].prepares = []
    assert (await case.reload())[0] == "applied"


@virtual
async def test_a_worker_that_dies_while_it_prepares_rejects(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.workers[1].prepares = None
    case.workers[1].meanwhile = [(1.0, case.workers[1].end, ())]
    assert await case.reload() == ("rejected", ("worker 2 has ended",))


@virtual
async def test_a_worker_that_started_with_the_old_policies_meanwhile_is_replaced(tmp_path: Path) -> None:
    case = Case(tmp_path)
    first, slow = case.workers
    slow.prepares = None
    slow.meanwhile = [
        (1.0, first.end, ()),  # after it has prepared; its successor reads the old policies
        (2.0, slow.say, ("prepared", "digest")),
    ]
    assert await case.reload() == ("applied", ())
    assert [worker.kills for worker in case.workers] == [1, 0]
    assert case.routes == ["b"]


@virtual
async def test_a_second_reload_waits_for_the_first(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.path.write_text(POLICIES.format(name="b"))  # once: a thread reads it while the second reload begins
    found = await asyncio.gather(case.reloading.reload("signal"), case.reloading.reload("signal"))
    assert [done.result for done in found] == ["applied", "applied"]
    assert case.workers[0].heard == ["prepare", "commit"] * 2


@virtual
async def test_policies_wait_for_a_worker_that_can_prepare_them(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.workers.are_ready = False
    case.workers[1].prepares = ["no such certificate"]
    case.env.call_later(READY_SECONDS / 2, setattr, case.workers, "are_ready", True)
    assert await case.reload() == ("rejected", ("no such certificate",))
    case.workers.are_ready = False
    assert await case.reload() == ("applied", ()), "no worker can start with the policies in force"
    assert case.routes == ["b"]


@virtual
async def test_workers_that_drain_get_no_policies(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.reloading.close()
    assert await case.reload() == ("rejected", (DRAINING,))
    assert (await case.reloading.reload(FILE)).result == "unchanged"
    assert [worker.heard for worker in case.workers] == [[], []]
