"""Tests of lifetimes from observed changes: the estimate against known rates, the suggestion, and what is left out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.core import metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.lint.facts import Policies
from sidecar.replay.advice import Advice, advise
from sidecar.replay.cached import CacheFigures
from sidecar.replay.changes import Changes, longest_lifetime, stale_share
from sidecar.replay.evidence import LogOrigin
from sidecar.replay.figures import FiguresOrigin
from sidecar.replay.record import Record
from sidecar.telemetry.metrics.history import PERIOD, History
from sidecar.telemetry.metrics.period import Calls, HistoryDocument, Period, Refreshed, read_history
from sidecar.telemetry.metrics.registry import Registry
from tests.support.cases import each
from tests.support.clock import make_env
from tests.unit.replay.truth import POLICIES, Truth, logged, policies, traffic
from tests.unit.stages.cache.world import World


class Changing:
    """Upstream whose answers change at random, a cache before it, and clients that ask at random.

    `every` is the mean time between two changes of one answer, `ask_every` that between two requests; both in seconds.
    """

    def __init__(
        self,
        every: float,
        *,
        paths: int = 20,
        ask_every: float = 1.0,
        seed: int = 0,
        skewed: bool = False,
        **block: str,
    ) -> None:
        self.rng = random.Random(f"changes:{seed}")
        self.env = make_env()
        self.registry = Registry()
        self.env.meter = self.registry
        self.world = World(self.answer, env=self.env, route="orders", **block)
        self.every, self.ask_every = every, ask_every
        self.weights = [1 / (n + 1) ** skewed for n in range(paths)]
        self.changes = [[0.0] for _ in range(paths)]
        """Instants at which each answer changed."""
        self.hits = self.stale = 0

    def version(self, path: int) -> int:
        """Return the number of changes of an answer so far."""
        times, now = self.changes[path], self.env.now()
        while times[-1] <= now:
            times.append(times[-1] + self.rng.expovariate(1 / self.every))
        return len(times)

    async def answer(self, x: Exchange) -> Outcome:
        return Outcome(200, None, b"%d" % self.version(int(x.path[1:])), lines=b"")

    async def run(self, count: int) -> HistoryDocument:
        """Return the figures of so many requests."""

        async def turn() -> None:
            """Wait for nothing."""

        history = History(self.registry, 10**7)
        due = PERIOD
        for _ in range(count):
            self.env.advance(self.rng.expovariate(1 / self.ask_every))
            while self.env.now() >= due:
                await history.end_period(due, PERIOD, turn)
                due += PERIOD
            (path,) = self.rng.choices(range(len(self.weights)), self.weights)
            outcome = await self.world.get(f"/{path}")
            if outcome.header(b"age") is not None:
                self.hits += 1
                self.stale += int(outcome.body) != self.version(path)
        await history.end_period(due, PERIOD, turn)
        return read_history(history.document())


def advised(document: HistoryDocument, cache: str, max_stale: float = 0.05) -> list[Advice]:
    spec = policies(f"cache: {{{cache}}}")
    return list(advise(FiguresOrigin(Policies(spec), document, max_stale)))


def seconds(text: str) -> float:
    """Return a suggested duration in seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise AssertionError(text)


@pytest.mark.parametrize(
    ("every", "ttl", "skewed"),
    [(120.0, "1m", False), (600.0, "5m", True), (3600.0, "10m", False)],
)
async def test_the_true_rate_is_found_and_the_suggested_lifetime_keeps_its_promise(
    every: float, ttl: str, skewed: bool
) -> None:
    """Skewed: some answers are asked for seldom, so that the ages at a refresh differ widely."""
    world = Changing(every, ttl=ttl, skewed=skewed)
    document = await world.run(8_000)
    route = Policies(policies()).routes[0]
    rate = CacheFigures(Policies(policies()), document).changes(route).rate()
    assert 1 / rate.likely == pytest.approx(every, rel=0.15)
    assert rate.least < rate.likely < rate.most
    assert world.stale / world.hits == pytest.approx(stale_share(1 / every, seconds(ttl)), rel=0.2)
    (found,) = advised(document, f"ttl: {ttl}")
    assert (found.place, found.old) == ("routes.orders.cache.ttl", "10min" if ttl == "10m" else f"{seconds(ttl):g}s")
    new = Changing(every, ttl=found.new, skewed=skewed, seed=1)
    await new.run(8_000)
    assert new.stale / new.hits == pytest.approx(0.05, abs=0.02)


async def test_the_expected_hit_ratio_is_close_to_the_one_that_follows() -> None:
    world = Changing(600.0, ttl="5m")
    (found,) = advised(await world.run(4000), "ttl: 5m")
    expected = float(found.why.rpartition("now, about ")[2].partition("%")[0]) / 100
    new = Changing(600.0, ttl=found.new, seed=1)
    await new.run(4000)
    assert new.hits / 4000 == pytest.approx(expected, abs=0.02)


# ----- suggestions


def figures(
    changed: tuple[int, int],
    unchanged: tuple[int, int],
    *,
    periods: int = 60,
    lifetime: str = "policy",
    hits: int = 500,
) -> HistoryDocument:
    """Return figures with so many refreshed answers in each minute, with their age together."""
    calls = Calls(
        refreshes={lifetime: Refreshed(changed=changed, unchanged=unchanged)},
        lookups={"hit": hits, "miss": changed[0] + unchanged[0]},
    )
    each = [Period(at=60.0 * n, seconds=60.0, routes={"orders": calls}) for n in range(periods)]
    return HistoryDocument(version=1, bounds=metrics.BOUNDS, periods=tuple(each))


CASES: dict[str, tuple[HistoryDocument, str, dict[str, float]]] = {
    "far too long": (figures((5, 250), (5, 150)), "ttl: 30s", {"ttl": 5.2}),
    "long enough": (figures((5, 250), (95, 2800)), "ttl: 50s", {}),
    "stale answers are accepted": (figures((1, 40), (9, 270)), "ttl: 30s", {}),
    "nothing changed within the hour": (figures((0, 0), (10, 300)), "ttl: 30s", {"ttl": 360.0}),
    "nothing to gain": (figures((0, 0), (10, 300), hits=10_000), "ttl: 30s", {}),
    "all had changed": (figures((10, 300), (0, 0)), "ttl: 30s", {"ttl": 0.54}),
    "no lifetime yet": (figures((1, 40), (99, 2000)), "", {"ttl": 160.0}),
    "a window of stale use too": (
        figures((5, 250), (5, 150)), "ttl: 20s, stale_while_revalidate: 10s",
        {"ttl": 3.5, "stale_while_revalidate": 1.7},
    ),
    "no lifetime yet, but a window": (
        figures((1, 40), (99, 2000)), "stale_while_revalidate: 10s", {"ttl": 81.0, "stale_while_revalidate": 81.0},
    ),
    "lifetimes by Last-Modified": (figures((5, 250), (5, 150)), "heuristic: 10%", {}),
    "no lifetime is short enough": (figures((10, 1), (0, 0)), "ttl: 1s", {}),
    "few answers": (figures((5, 250), (5, 150), periods=9), "ttl: 30s", {}),
    "answers that state their lifetime": (figures((5, 250), (5, 150), lifetime="answer"), "ttl: 30s", {}),
    "no figures": (figures((0, 0), (0, 0)), "ttl: 30s", {}),
}  # fmt: skip


@each(CASES)
def test_suggested_lifetimes(name: str) -> None:
    document, cache, expected = CASES[name]
    found = {advice.path[1]: seconds(advice.new) for advice in advised(document, cache)}
    assert found == pytest.approx(expected, rel=0.05), found


def test_what_the_figures_cannot_tell_is_said() -> None:
    def told(document: HistoryDocument, route: str = "cache: {ttl: 30s}") -> str:
        return "; ".join(FiguresOrigin(Policies(policies(route)), document).unknown())

    assert "lifetimes of cached answers of orders: fewer than 100" in told(figures((5, 250), (5, 150), periods=9))
    stated = told(figures((5, 250), (5, 150), lifetime="answer"))
    assert "`ttl` of orders has no effect" in stated
    assert "300 of 600 had changed" in stated
    assert "so a max-age of 4." in stated
    hopeless = told(figures((10, 1), (0, 0)), "cache: {ttl: 1s}")
    assert "a lifetime of orders: 600 of 600 answers had changed" in hopeless
    assert "600 of 600 had changed" in told(figures((10, 300), (0, 0), lifetime="answer"))
    assert "cached" not in told(figures((5, 250), (5, 150)))
    assert "cached" not in told(figures((0, 0), (0, 0)), "")


def test_a_log_needs_figures_beside_it_for_lifetimes() -> None:
    facts = Policies(policies("cache: {ttl: 30s}"))
    alone = LogOrigin(facts, Record())
    assert advise(alone) == []
    assert any("--history" in each for each in alone.unknown())
    beside = LogOrigin(facts, Record(), CacheFigures(facts, figures((5, 250), (5, 150))))
    assert [each.place for each in advise(beside)] == ["routes.orders.cache.ttl"]
    assert not any("--history" in each for each in beside.unknown())


def test_the_command_replays_a_lifetime_if_figures_stand_beside_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(POLICIES % ("", ", timeout: {request: 1s}, cache: {ttl: 30s}"))
    lines = logged(policies("timeout: {request: 1s}, cache: {ttl: 30s}"), Truth(), traffic(1000, 5.0), 1)[1]
    Path("access.jsonl").write_bytes(b"".join(lines))
    Path("history.json").write_text(figures((5, 250), (5, 150)).model_dump_json())
    options = ["--log", "access.jsonl", "--history", "history.json", "--max-stale", "10", "--write", "p.patch"]
    result = CliRunner().invoke(main, ["recommend", "p.yaml", *options])
    assert result.exit_code == 0, result.output
    assert "p.yaml:6: routes.orders.cache.ttl: 30s -> 10s\n    300 of 600 answers had changed" in result.output
    assert "with this\n    replay: " in result.output
    assert "cache hit ratio" in result.output
    assert "cache: {ttl: 10s}" in Path("p.patch").read_text()


def test_a_larger_accepted_share_gives_a_longer_lifetime() -> None:
    document = figures((5, 250), (5, 150))
    strict, loose = (seconds(advised(document, "ttl: 30s", share)[0].new) for share in (0.01, 0.1))
    assert loose == pytest.approx(10 * strict, rel=0.1)


def test_shares_and_lifetimes_are_inverse() -> None:
    for rate in (1e-6, 0.01, 5.0):
        for share in (0.001, 0.05, 0.5, 0.9):
            assert stale_share(rate, longest_lifetime(rate, share)) == pytest.approx(share, rel=1e-6)
    assert stale_share(0.0, 60.0) == 0.0
    assert stale_share(float("inf"), 60.0) == 1.0


def test_a_minute_with_the_fraction_of_an_older_one_is_no_age_of_zero() -> None:
    """Ages are whole seconds, so a minute may have an answer whose age is counted with the next."""
    halves = [Refreshed(changed=(1, n % 2), unchanged=(1, n % 2)) for n in range(400)]
    assert Changes(halves, 400 * 60.0).rate().likely == pytest.approx(2 * 0.693, rel=0.05)
