"""Tests of the admin listener over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from click.testing import CliRunner
from pydantic import SecretStr

from sidecar.admin import advice, subcommand, what_if
from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView, Readiness
from sidecar.commands import main
from sidecar.config.process_spec import AdminSpec, LimitsSpec
from sidecar.core import events, metrics
from sidecar.identity.keys import SigningKey
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.period import read_history
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Masks, Secrets
from tests.support.clock import FakeEnv
from tests.support.loop import virtual_env
from tests.unit.telemetry.metrics.exposition import read

RUNNING = Path(__file__).parents[3] / "policies" / "recommended.yaml"


class Breaker:
    def __init__(self) -> None:
        self.mode = "auto"

    def force(self, mode: str) -> None:
        self.mode = mode

    def describe(self) -> dict[str, Any]:
        return {"state": "closed", "mode": self.mode, "open_for": float("inf"), "token": "s3cret"}


class Reloaded:
    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def describe(self) -> dict[str, Any]:
        return {"digest": "ab12", "added": ["order"]}


class World:
    """Members of the admin listener, for a test to change."""

    def __init__(self) -> None:
        self.env: FakeEnv = virtual_env()  # on the running loop, a real one here
        self.registry = Registry()
        self.readiness = Readiness()
        self.readiness.obstacle = ""
        self.limits: dict[str, Any] = {}
        self.problems: list[str] = []
        self.reloads = 0
        self.states: dict[tuple[str, ...], Any] = {
            ("breaker", "upstream", "payments"): Breaker(),
            ("breaker", "route", "order"): Breaker(),
            ("breaker", "upstream", "payments", "http://payments-1:8080"): Breaker(),
            ("retry_budget", "payments"): Breaker(),
            ("silent", "one"): object(),
        }
        self.recent = [{"event": "ready"}]
        self.sections: dict[str, Any] = {"policies": lambda: {"digest": "ab12"}}
        self.turns = 0
        secrets = Secrets()
        secrets.hide(["hunter2"])

        async def sleep(seconds: float) -> None:
            self.turns += 1
            await asyncio.sleep(seconds)

        self.env.sleep = sleep
        self.view = AdminView(
            env=self.env,
            registry=self.registry,
            version="1.2.3",
            build="pure",
            started=self.env.now() - 60,
            readiness=self.readiness,
            reload=self.reload,
            limits=lambda: LimitsSpec.model_validate(self.limits),
            states=lambda: self.states,
            recent=self.recent,
            sections=self.sections,
            secrets=secrets,
            path=str(RUNNING),
        )
        self.url = ""
        self.client: ClientSession

    async def reload(self) -> Reloaded:
        self.reloads += 1
        return Reloaded(self.problems)

    async def get(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.get(path, headers=fields(headers))

    async def post(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.post(path, headers=fields(headers))


def fields(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World()
    listener = AdminListener(world.view)
    token = SecretStr(param) if (param := getattr(request, "param", None)) else None
    await listener.open(AdminSpec(address="127.0.0.1:0", token=token))
    world.url = f"http://{listener.addresses[0]}"
    async with ClientSession(world.url) as world.client:
        yield world
    await listener.close()


async def problem(response: ClientResponse, status: int) -> dict[str, Any]:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = json.loads(await response.text())
    assert document["status"] == status
    assert document["title"]
    return document


async def test_alive_and_ready(world: World) -> None:
    response = await world.get("/livez")
    assert (response.status, await response.text()) == (200, "alive\n")
    assert (await world.get("/readyz")).status == 200
    world.readiness.obstacle = "the sidecar is draining"
    assert (await problem(await world.get("/readyz"), 503))["detail"] == "the sidecar is draining"
    assert (await world.get("/livez")).status == 200


async def test_metrics(world: World) -> None:
    for i in range(120):
        RouteMetrics(world.registry, {"route": f"r{i}"}).record(b"GET", 200, "", 0.1)
    response = await world.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "http_server_request_duration_seconds" in read(await response.text())
    assert world.turns >= 3, "the loop has had turns in between"


async def test_head(world: World) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/state"):
        response = await world.client.head(path)
        assert response.status == 200
        assert await response.read() == b""


async def test_state(world: World) -> None:
    world.sections["listeners"] = lambda: {"inbound": "redis://u:p@h hunter2"}
    response = await world.get("/state")
    text = await response.text()
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert text.startswith('{\n  "version": "1.2.3",\n  "build": "pure"')
    assert text.endswith("}\n")
    state = json.loads(text)
    assert 60 <= state["uptime_seconds"] < 90
    assert state["ready"] is True
    assert state["process"]["rss_bytes"] > 0
    assert state["policies"] == {"digest": "ab12"}
    assert state["listeners"] == {"inbound": "redis://[hidden]@h [hidden]"}
    assert list(state["state"]) == ["breaker", "retry_budget"]
    assert list(state["state"]["breaker"]) == [
        "upstream:payments",
        "route:order",
        "upstream:payments:http://payments-1:8080",
    ]
    assert state["state"]["breaker"]["route:order"] == {
        "state": "closed",
        "mode": "auto",
        "open_for": "inf",
        "token": "[hidden]",
    }
    assert state["events"] == [{"event": "ready"}]


async def test_a_large_state_is_written_in_pieces(world: World) -> None:
    for i in range(1000):
        world.states["breaker", "route", f"r{i}"] = Breaker()
    assert len((await (await world.get("/state")).json())["state"]["breaker"]) == 1003
    assert world.turns >= 50


async def test_reload(world: World) -> None:
    response = await world.post("/reload")
    assert (response.status, await response.json()) == (200, {"digest": "ab12", "added": ["order"]})
    world.problems = ["policies/a.yaml:3:5: routes[0].retry: hunter2", "policies/b.yaml:1:1: no"]
    document = await problem(await world.post("/reload"), 422)
    assert document["problems"] == ["policies/a.yaml:3:5: routes[0].retry: [hidden]", "policies/b.yaml:1:1: no"]
    assert "2 problem(s)" in document["detail"]
    assert world.reloads == 2


@pytest.mark.parametrize(("action", "mode"), [("open", "open"), ("close", "closed"), ("auto", "auto")])
@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("upstream:payments", ("breaker", "upstream", "payments")),
        ("upstream:payments:http://payments-1:8080", ("breaker", "upstream", "payments", "http://payments-1:8080")),
        (
            "upstream:payments:http%3A%2F%2Fpayments-1:8080",
            ("breaker", "upstream", "payments", "http://payments-1:8080"),
        ),
    ],
)
async def test_breakers_by_hand(world: World, path: str, key: tuple[str, ...], action: str, mode: str) -> None:
    world.states[key].mode = "?"
    response = await world.post(f"/breakers/{path}/{action}")
    assert response.status == 200
    assert (await response.json())["name"] == ":".join(key[1:])
    assert {k for k, breaker in world.states.items() if getattr(breaker, "mode", "auto") != "auto"} <= {key}
    assert world.states[key].mode == mode


async def test_an_unknown_breaker_gets_the_names_of_those_there_are(world: World) -> None:
    document = await problem(await world.post("/breakers/upstream:payment/open"), 404)
    assert document["detail"] == "there is no breaker 'upstream:payment'; did you mean 'upstream:payments'?"
    assert document["breakers"] == ["route:order", "upstream:payments", "upstream:payments:http://payments-1:8080"]
    document = await problem(await world.post("/breakers/upstream:payments/smash"), 404)
    assert document["detail"] == "'smash' is not an action on a breaker; known are open, close, auto"


async def test_breakers_go_by_the_names_that_the_state_shows(world: World) -> None:
    world.view.secrets.mask(Masks({"http://payments-1:8080": "${PAYMENTS}"}))
    shown = (await (await world.get("/state")).json())["state"]["breaker"]
    assert sorted(shown) == ["route:order", "upstream:payments", "upstream:payments:${PAYMENTS}"]
    response = await world.post("/breakers/upstream:payments:${PAYMENTS}/open")
    assert (await response.json())["mode"] == "open"
    assert world.states["breaker", "upstream", "payments", "http://payments-1:8080"].mode == "open"


async def test_unknown_paths_and_methods(world: World) -> None:
    assert "/state" in (await problem(await world.get("/stat"), 404))["detail"]
    response = await world.get("/reload")
    assert (await problem(response, 405))["detail"] == "/reload takes POST, not GET"
    assert response.headers["Allow"] == "POST"
    await problem(await world.post("/state"), 405)


async def test_a_bug_is_a_problem_and_is_told(world: World) -> None:
    world.sections["broken"] = lambda: 1 / 0
    document = await problem(await world.get("/state"), 500)
    assert "division" not in json.dumps(document)
    ((event, attributes),) = world.env.events
    assert (event, attributes["where"]) == (events.BUG, "admin GET /state")
    assert isinstance(attributes["error"], ZeroDivisionError)
    assert world.env.meter.value(metrics.BUGS, where="admin") == 1


async def test_pages_of_other_sites_change_nothing(world: World) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "null"}):
        await problem(await world.post("/reload", **headers), 403)
        await problem(await world.post("/breakers/route:order/open", **headers), 403)
    rebound = {"Host": "evil.example:9901", "Origin": "http://evil.example:9901"}
    await problem(await world.post("/reload", **rebound), 421)
    assert world.reloads == 0
    own = world.url
    assert (await world.post("/reload", Origin=own, Sec_Fetch_Site="same-origin")).status == 200
    assert (await world.get("/state", Origin="https://evil.example")).status == 200, (
        "reading is for the browser to guard"
    )


@pytest.mark.parametrize("world", ["t0ken"], indirect=True)
async def test_a_token_is_asked_for_everywhere_but_by_probes(world: World) -> None:
    for path in ("/metrics", "/state", "/nowhere"):
        response = await world.get(path)
        await problem(response, 401)
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="admin"'
        await problem(await world.get(path, Authorization="Bearer wrong"), 401)
    await problem(await world.post("/reload"), 401)
    assert world.reloads == 0
    for path in ("/livez", "/readyz"):
        assert (await world.get(path)).status == 200
    world.states["signing_key", "process"] = (signer := SigningKey())
    keys = await world.get("/keys")
    assert (keys.status, await keys.json()) == (200, {"keys": [signer.jwk]}), "services verify tokens without a token"
    for path in ("/metrics", "/state"):
        assert (await world.get(path, Authorization="Bearer t0ken")).status == 200
    assert (await world.post("/reload", Authorization="Bearer t0ken")).status == 200


# ----- trials of policies

CHANGED = RUNNING.read_text().replace("request: 1s", "request: 4s")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give trials more time than a busy machine takes, and the priority of tests."""
    monkeypatch.setattr(subcommand, "SECONDS", 600.0)
    monkeypatch.setattr(subcommand, "LOWEST", 0)


async def tried(world: World, **members: Any) -> dict[str, Any]:
    response = await world.client.post("/what-if", json={"policies": CHANGED, **members})
    assert response.status == 200, await response.text()
    found: dict[str, Any] = await response.json()
    return found


@pytest.mark.usefixtures("patient")
async def test_policies_are_tried_beside_those_that_run(world: World) -> None:
    found = await tried(world, method="GET", url="/orders/7")
    assert [each["severity"] for each in found["problems"] if each["severity"] == "error"] == []
    assert any("worst latency" in each["sentence"] for each in found["diff"]["subjects"])
    assert "orders" in found["explained"]
    assert (found["cascades"], world.reloads) == (None, 0)


@pytest.mark.usefixtures("patient")
async def test_cascades_are_simulated_in_a_process_of_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [b'[{"scenario": "one", "title": "One", "missed": []}]', b"Traceback\nCompileError: no"]
    asked: list[tuple[Any, ...]] = []

    async def output_of(env: Any, directory: str, module: str, arguments: list[str]) -> bytes:
        asked.append((module, *arguments))
        return said.pop(0) if module == "chaos.cli" else b'{"ok": true, "problems": [], "subjects": []}'

    monkeypatch.setattr(what_if, "output_of", output_of)
    assert (await tried(world, cascades=True))["cascades"][0]["scenario"] == "one"
    assert asked[-1] == ("chaos.cli", "verdicts", "--json", "policies.yaml")
    response = await world.client.post("/what-if", json={"policies": CHANGED, "cascades": True})
    assert (await problem(response, 503))["detail"].endswith("with these values: CompileError: no")


@pytest.mark.usefixtures("patient")
async def test_a_trial_with_problems_says_where(world: World) -> None:
    found = await tried(world, policies="version: 1\nroutes: [{nam: x}]\n", url="/")
    assert any(each["line"] == 2 and "nam" in each["path"] for each in found["problems"])
    assert (found["diff"], found["explained"]) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"version: 1",
        b'{"policies": 1}',
        b'{"policies": "", "deep": 1}',
        b'{"policies": "", "cascades": 1}',
        b'{"policies": "", "url": "--help"}',
    ],
)
async def test_what_is_no_trial(world: World, body: bytes) -> None:
    document = await problem(await world.client.post("/what-if", data=body), 400)
    assert document["detail"].startswith("send JSON such as ")


async def test_trials_have_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subcommand, "LOWEST", 0)
    large = b'{"policies": "' + b"x" * what_if.MOST_TEXT + b'"}'
    assert (await world.client.post("/what-if", data=large)).status == 413
    monkeypatch.setattr(subcommand, "MOST_OUTPUT", 10)
    document = await problem(await world.client.post("/what-if", json={"policies": CHANGED}), 503)
    assert "too long" in document["detail"]
    monkeypatch.setattr(subcommand, "SECONDS", 0.0)
    document = await problem(await world.client.post("/what-if", json={"policies": CHANGED}), 503)
    assert "has taken more than" in document["detail"]


@pytest.mark.usefixtures("patient")
async def test_trials_run_one_at_a_time(world: World) -> None:
    first, second = await asyncio.gather(*(world.client.post("/what-if", json={"policies": CHANGED}) for _ in range(2)))
    assert sorted((first.status, second.status)) == [200, 503]


# ----- figures of the last hours, and what they suggest


async def test_the_history_is_a_document_that_recommend_reads(world: World) -> None:
    response = await world.get("/history")
    assert response.content_type == "application/json"
    assert read_history(await response.read()).periods == ()
    result = await asyncio.to_thread(
        CliRunner().invoke, main, ["recommend", str(RUNNING), "--admin", world.url.removeprefix("http://")]
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith("0 requests in 0 s\n")


@pytest.mark.parametrize("world", ["s3cret"], indirect=True)
async def test_the_history_needs_the_token(world: World) -> None:
    await problem(await world.get("/history"), 401)
    await problem(await world.get("/advice"), 401)


@pytest.mark.usefixtures("patient")
async def test_the_advice_is_computed_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = await asyncio.gather(*(world.get("/advice") for _ in range(2)))
    first, second = [await each.json() for each in answers]
    assert first == second
    assert (first["origin"], first["suggestions"], "patch" in first) == ("figures", [], False)
    calls: list[str] = []

    async def failing(*arguments: Any) -> bytes:
        calls.append(arguments[2])
        return b"p.yaml: the reason\n"

    monkeypatch.setattr(advice, "output_of", failing)
    assert (await world.get("/advice")).status == 200
    assert calls == [], "the result is a moment old"
    monkeypatch.setattr(advice, "FRESH", -1.0)
    world.env.now = lambda: asyncio.get_running_loop().time() + 100
    assert (await problem(await world.get("/advice"), 503))["detail"] == "p.yaml: the reason"
