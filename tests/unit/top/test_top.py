"""`sidecar top`: the same stream in a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.top.stream import Model, Sum
from sidecar.top.words import bar, duration, plain, sparkline
from tests.browser.scene import Scene, broken, calm


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
        "the policies on disk are not in force: policies/orders.yaml:31:7", "3.4 s", "2,310", "open, held",
        "ejected, 14 s",
        "100 of 100", "circuit_breaker policies/orders.yaml:16", "upstream:ledger:http://ledger-1:8080",
    ):  # fmt: skip
        assert words in output, words
    assert output.index("upstream:payments") < output.index("route:order"), "what is open comes first"


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
