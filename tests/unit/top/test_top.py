"""Tests of `sidecar top`: the live page's stream in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from sidecar.commands import main
from sidecar.top.stream import Model, Sum
from sidecar.top.view import divide, screen
from sidecar.top.words import bar, duration, plain, sparkline
from tests.browser.scene import Scene, broken, calm

PATIENCE = 60.0
"""Seconds after which a test fails rather than hangs."""


@pytest.fixture
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    scene = calm(Scene(getattr(request, "param", None)))
    scene.past(60)
    async with scene:
        yield scene


async def top(scene: Scene, *options: str, **env: str) -> Result:
    arguments = ["top", scene.url.removeprefix("http://"), "--once", *options]
    env = {"COLUMNS": "160", "LINES": "80", **env}
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def test_a_calm_service(scene: Scene) -> None:
    result = await top(scene)
    assert result.exit_code == 0
    for words in ("orders  ready  up 117 min", "payment", "upstream:payments", "closed", "12 of 100", "52.4 left"):
        assert words in result.output, words


async def test_everything_that_is_wrong(scene: Scene) -> None:
    output = (await top(broken(scene))).output
    for words in (
        "the policies on disk are not in force: policies/orders.yaml:31:7", "3.4 s", "2,310", "open, forced",
        "ejected, 14 s",
        "in store fleet, which is away", "812 of 10,000", "in each process", "41 observed",
        "100 of 100", "circuit_breaker policies/orders.yaml:16", "upstream:ledger:http://ledger-1:8080",
    ):  # fmt: skip
        assert words in output, words
    assert output.index("upstream:payments") < output.index("route:order"), "what is open comes first"


def test_a_breaker_that_is_only_observed_says_so() -> None:
    model = crowded(2)
    model.parts["state.breaker"]["upstream:u0"] = {"name": "u", "state": "open", "observed": True, "refused": 4}
    assert any("open, observed" in line for line in drawn(model, 120, 40))


def test_connections_have_their_streams_over_http2() -> None:
    model = crowded(3)
    model.parts["state.pools"] = {
        "u": {
            "pools": {
                "http://10.0.0.0:80": {"open": 7},
                "http://10.0.0.1:80": {"open": 2, "streams": 15, "max_streams": 200},
            }
        }
    }
    rows = {line.split()[1]: line.rstrip() for line in drawn(model, 160, 80) if "http://10.0.0." in line}
    assert rows["http://10.0.0.0:80"].endswith(" 7")
    assert rows["http://10.0.0.1:80"].endswith(" 2, 15 of 200 streams")
    assert rows["http://10.0.0.2:80"].endswith(" 0")


@pytest.mark.parametrize("scene", ["t0ken"], indirect=True)
async def test_the_token(scene: Scene) -> None:
    result = await top(scene)
    assert result.exit_code == 1
    assert "--token or in SIDECAR_ADMIN_TOKEN" in result.output
    assert (await top(scene, SIDECAR_ADMIN_TOKEN="t0ken")).exit_code == 0


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "no admin listener answers"), ("9901", "is not an address"), ("unix:/x", "Unix socket")],
)
def test_what_cannot_be_watched(address: str, words: str) -> None:
    result = CliRunner().invoke(main, ["top", address, "--once"])
    assert result.exit_code in (1, 2)
    assert words in result.output


def test_the_model_is_bounded() -> None:
    model = Model()
    model.take("full", {"parts": {"a": 1, "b": 2}, "bounds": [1.0], "keep": 3, "seconds": [[1, {}]]})
    for n in range(10):
        model.take("tick", {"second": [n, {"r": [1, 2, 0, 4]}], "parts": {"a": None}})
    assert (model.parts, len(model.seconds), model.now) == ({"b": 2}, 3, 9)
    assert model.rates(2) == [4, 4]
    assert (model.recent(60)["r"].calls, model.recent(60)["r"].errors) == (12, 3)


def test_percentiles() -> None:
    total = Sum([1.0, 2.0])
    assert total.percentile(0.5) is None
    total.add([0, 0, 0, 50, 1, 50])
    assert (total.percentile(0.25), total.percentile(0.5), total.percentile(0.99)) == (0.5, 0.5, 1.5)
    total.add([0, 0, 2, 900])
    assert total.percentile(0.9) == 2.0, "beyond the last bound nothing is known"


def test_words() -> None:
    assert [duration(s) for s in (0.0025, 0.5, 3.44, 60, 700, 90000, 200000, None)] == [
        "2.5 ms", "500 ms", "3.4 s", "60 s", "12 min", "25 h", "2 d", "–",
    ]  # fmt: skip
    assert sparkline([0, 4, 8]) == " ▄█"
    assert bar(0.5, 4) == "██░░"
    assert plain("a\x1b[2Jb") == "a·[2Jb"


# ----- rows that do not fit


def crowded(routes: int) -> Model:
    """Return a model of many routes, breakers and endpoints; the last route has errors, the one before it traffic."""
    model = Model()
    names = [f"route-{n}" for n in range(routes)]
    breaker = {"state": "closed", "why": "nothing tripped it during the ramp, and that is a long sentence to show"}
    endpoint = {"state": "up", "in_flight": 0, "consecutive_failures": 0}
    parts = {
        "about": {"ready": True, "uptime_seconds": 5},
        "routes": {name: {"upstream": "u"} for name in names},
        "state.breaker": {f"upstream:u{n}": breaker for n in range(routes)},
        "state.endpoints": {
            "u": {"endpoints": [{**endpoint, "url": f"http://10.0.0.{n}:80"} for n in range(routes)]},
        },
    }  # fmt: skip
    second = {names[-1]: [3, 0, 0, 5], names[-2]: [0, 0, 0, 9]}
    model.take("full", {"parts": parts, "bounds": [1.0], "keep": 3, "seconds": [[1, second]]})
    return model


def drawn(model: Model, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None, markup=False)
    console.print(screen(model, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (120, 40), (100, 60)])
def test_a_table_that_is_cut_says_how_much_it_leaves_out(width: int, height: int) -> None:
    lines = drawn(crowded(30), width, height)
    assert len(lines) <= height, "nothing falls off the screen"
    shown = [line for line in lines if line.startswith("route-")]
    (more,) = [line for line in lines if line.startswith("… and ")][:1]
    assert int(more.split()[2]) == 30 - len(shown)
    assert sum(line.startswith("… and ") for line in lines) == 3, "routes, breakers and endpoints"
    assert [line.split()[0] for line in shown[:2]] == ["route-29", "route-28"][: len(shown)]


def test_what_fits_is_not_cut() -> None:
    lines = drawn(crowded(2), 80, 24)
    assert not [line for line in lines if line.startswith("Rate limit")], "a table without rows, which is optional"
    assert not [line for line in lines if line.startswith("…")]
    assert {line.split()[0] for line in lines if line.startswith("route-")} == {"route-0", "route-1"}


def test_rows_are_shared_evenly() -> None:
    assert divide([30, 2, 30], 12) == [5, 2, 5]
    assert divide([1, 1], 10) == [1, 1]
    assert divide([4, 4], 0) == [0, 0]
    assert divide([4, 4], -3) == [0, 0]


async def test_once_shows_every_route(scene: Scene) -> None:
    scene.routes |= {f"route-{n}": {"upstream": "u", "chain": []} for n in range(40)}
    await asyncio.sleep(1.1)
    output = (await top(scene, LINES="24")).output
    assert all(f"route-{n}" in output for n in range(40))


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"])
async def test_a_key_ends_it(scene: Scene, key: bytes) -> None:
    front, back = pty.openpty()
    before = termios.tcgetattr(back)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "top", scene.url.removeprefix("http://"),
        stdin=back, stdout=back, stderr=back, start_new_session=True, env={**os.environ, "TERM": "xterm"},
        preexec_fn=attach_to_terminal,
    )  # fmt: skip
    try:
        seen = b""
        while b"q quits" not in seen:
            seen += await asyncio.to_thread(os.read, front, 65536)
        os.write(front, key)
        reading = asyncio.create_task(asyncio.to_thread(drain, front))
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        assert termios.tcgetattr(back) == before, "the terminal is as it was"
    finally:
        if process.returncode is None:
            process.kill()
        os.close(back)
        await reading
        os.close(front)


def attach_to_terminal() -> None:
    """Make standard input the controlling terminal of a child that ignores SIGINT, as in a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def drain(fd: int) -> None:
    """Read a terminal's output until its other end is closed."""
    with contextlib.suppress(OSError):
        while os.read(fd, 65536):
            pass


def test_a_route_with_parts_has_their_names_in_place_of_an_upstream() -> None:
    model = crowded(2)
    model.parts["routes"]["route-1"] = {"upstream": "", "parts": {"user": "page:user", "offers": "offers"}}
    assert any("user + offers" in line for line in drawn(model, 120, 40))
