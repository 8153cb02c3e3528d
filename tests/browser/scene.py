"""Admin listener without a sidecar: every state that the live page can show, as data that a test changes."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView, Readiness
from sidecar.config.process_spec import AdminSpec
from sidecar.core.env import Env
from sidecar.core.outcome import Refusal
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.refusals import Refusals, observed

RUNNING: Final = Path(__file__).parents[2] / "policies" / "recommended.yaml"
"""Policies that the listener calls its own."""
WALL = 1_795_300_000.0
"""Wall clock at the loop's zero, as Unix time."""
PROBES = {"under_way": 1, "results": 1, "failed": 0, "slow": 0}


class Thing:
    """State object whose description is given."""

    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def describe(self) -> dict[str, Any]:
        return dict(self.facts)


class Breaker(Thing):
    """Breaker that can be forced open or closed."""

    def force(self, mode: str) -> None:
        self.facts |= {"state": "closed" if mode == "auto" else mode, "forced": mode != "auto"}
        self.facts["why"] = "an operator lets it decide again" if mode == "auto" else f"an operator holds it {mode}"


def breaker(state: str = "closed", why: str = "it is new", history: int = 0, **facts: Any) -> Breaker:
    """Return a breaker with the description of a real one."""
    past = [
        {"at": WALL + n, "before": "closed", "after": ("open", "half_open", "closed")[n % 3], "why": f"reason {n}"}
        for n in range(history)
    ]
    usual = {
        "forced": False,
        "calls": 120,
        "failed": 2,
        "slow": 0,
        "failure_rate": 0.0167,
        "slow_rate": 0.0,
        "failures_in_a_row": 0,
        "times_doubled": 0,
        "refused": 0,
        "opened_because": None,
        "since": WALL,
    }
    return Breaker(**(usual | {"state": state, "why": why, "history": past} | facts))


def endpoint(url: str, state: str = "up", **facts: Any) -> dict[str, Any]:
    usual = {"in_flight": 0, "consecutive_failures": 0, "ejections": 0, "ejected_for": 0.0}
    return usual | {"url": url, "state": state} | facts


class Reloaded:
    """Result of a reload."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def describe(self) -> dict[str, Any]:
        return {"result": "applied", "digest": "ab12cd34ef56"}


class Scene:
    """Admin listener and all objects that it shows."""

    def __init__(self, token: str | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.start = loop.time()
        self.registry = Registry()
        self.refusals = Refusals(self.wall, self.registry)
        self.states: dict[tuple[str, ...], Any] = {}
        self.routes: dict[str, Any] = {}
        self.reloads: list[dict[str, Any]] = [
            {"at": WALL, "trigger": "start", "result": "applied", "digest": "5ea39229a93f"}
        ]
        self.events: deque[dict[str, Any]] = deque(maxlen=200)
        self.problems: list[str] = []
        self.token = SecretStr(token) if token else None
        self.readiness = Readiness()
        self.readiness.obstacle = ""
        self.purged: list[str] = []
        self.expiring = ""
        """Sentence on files of the listener that expire."""
        env = Env.on(loop, wall=self.wall, rng=random.Random(0), emit=self.emit, meter=self.registry)
        self.view = AdminView(
            env=env,
            registry=self.registry,
            version="1.2.3",
            build="pure",
            started=self.start - 7000,
            readiness=self.readiness,
            reload=self.reload,
            states=lambda: self.states,
            recent=self.events,
            secrets=Secrets(),
            path=str(RUNNING),
            sections={
                "policies": lambda: {"service": "orders", "digest": "5ea39229a93f"},
                "reloads": lambda: self.reloads,
                "routes": lambda: self.routes,
                "listeners": lambda: {"inbound": {"certificates": {"problem": self.expiring}}},
                "refusals": self.refusals.describe,
                "observed": lambda: observed(self.registry),
            },
        )
        self.admin = AdminListener(self.view)
        self.url = ""

    def wall(self) -> float:
        return WALL + asyncio.get_running_loop().time() - self.start

    def emit(self, event: str, **attributes: Any) -> None:
        self.events.append({"time": "2026-11-21T22:26:40.000Z", "level": "info", "event": event, **attributes})

    async def reload(self) -> Reloaded:
        return Reloaded(self.problems)

    def requests(self, route: str, seconds: list[float], status: int = 200) -> None:
        """Count requests of a route."""
        metrics = RouteMetrics(self.registry, {"route": route, "http.route": f"/{route}"})
        for each in seconds:
            metrics.record(b"GET", status, "", each)

    def past(self, seconds: int) -> None:
        """Record so many seconds of past traffic, with a minute of slow and failed answers."""
        rng = random.Random(7)
        traffic = self.admin.feed.traffic
        for second in range(seconds):
            for number, route in enumerate(self.routes):
                slow = 8 if 150 < second < 190 and number == 1 else 1
                count = rng.randrange(20, 60) // (number + 1)
                self.requests(route, [rng.expovariate(30.0 / (number + 1)) * slow for _ in range(count)])
                if slow > 1:
                    self.requests(route, [0.4] * (count // 2), 503)
            traffic.sample(self.wall() - seconds + second)

    # ----- start and end

    async def __aenter__(self) -> Scene:
        await self.admin.open(AdminSpec(address="127.0.0.1:0", token=self.token))
        self.url = f"http://{self.admin.addresses[0]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.admin.close()


ADDRESS: dict[str, Any] = {
    "limit": "20 per second, with a burst of 20", "shared_by": "process", "keys": 500, "max_keys": 500,
    "mode": "enforce", "refused": 0, "observed": 0,
}  # fmt: skip
"""Rate limit with as many keys as it may have."""


def calm(scene: Scene) -> Scene:
    """Fill a scene with a healthy service."""
    scene.routes = {
        "order": {"upstream": "orders", "chain": []},
        "payment": {"upstream": "payments", "chain": []},
        "offer": {"upstream": "payments", "chain": []},
    }
    scene.states = {
        ("breaker", "upstream", "payments"): breaker(history=2, why="nothing tripped it during the ramp"),
        ("breaker", "route", "order"): breaker(),
        ("endpoints", "payments"): Thing(
            upstream="payments",
            endpoints=[endpoint("http://payments-1:8080", in_flight=3), endpoint("http://payments-2:8080")],
        ),
        ("endpoints", "orders"): Thing(upstream="orders", endpoints=[endpoint("http://127.0.0.1:9000", in_flight=7)]),
        ("concurrency", "route", "order"): Thing(
            active=12, limit=100, queue=50, waiting={"critical": 0, "default": 0, "sheddable": 0}
        ),
        ("rate_limit", "route", "order", "tenant", "in fleet"): Thing(
            limit="100 per second, with a burst of 50",
            shared_by="fleet",
            store="fleet",
            store_up=False,
            keys=812,
            max_keys=10_000,
            mode="enforce",
            refused=2310,
            observed=0,
        ),
        ("rate_limit", "route", "order", "address"): Thing(**ADDRESS, is_full=False),
        ("quota", "route", "order", "day", "in this process"): Thing(
            quota="10000 per day, from 06:00 in Europe/Berlin",
            shared_by="process",
            keys=3,
            max_keys=10_000,
            mode="observe",
            refused=0,
            observed=41,
        ),
        ("retry_budget", "payments"): Thing(
            tokens=52.4, first_attempts=140, retries=3, ratio=0.2, floor=30.0, window=10.0
        ),
        ("retry_worth", "order", "retry"): Thing(requests=9, rescued=8, attempts=10, is_useless=False, window=30.0),
        ("cache", "default"): Thing(
            entries=1204,
            bytes=9_400_000,
            max_bytes=67_108_864,
            redis={"up": True},
            lookups={"order": {"hit": 9210, "miss": 812, "stale": 44}},
        ),
        ("key_set", "corporate", "5c1f"): Thing(
            identity="corporate", keys=[{"id": "one"}, {"id": "two"}], age=131.0, failures=0, problem=""
        ),
        ("credentials", "payments", "9a02"): Thing(
            upstream="payments", kind="oauth2", has_token=True, age=600.0, left=3000.0, failures=0, problem=""
        ),
    }
    return scene


def broken(scene: Scene) -> Scene:
    """Fill a scene with every fault at once."""
    calm(scene)
    scene.expiring = "/etc/tls/revoked.pem expires at 2026-11-21 23:00:00 UTC, and then every client is refused"
    scene.states |= {
        ("rate_limit", "route", "order", "address"): Thing(**ADDRESS, is_full=True),
        ("breaker", "upstream", "payments"): breaker(
            "open",
            "12 of 20 calls failed in 10 s (60 %), 50 % opens it",
            7,
            next_probe_in=3.4,
            refused=2310,
            failed=12,
        ),
        ("breaker", "route", "order"): breaker(
            "half_open", "it was open for 5 s", 2, probes=PROBES, opened_because="10 failures in a row"
        ),
        ("breaker", "upstream", "ledger", "http://ledger-1:8080"): breaker(
            "open", "an operator holds it open", 1, forced=True, next_probe_in=None
        ),
        ("endpoints", "payments"): Thing(
            upstream="payments",
            endpoints=[
                endpoint("http://payments-1:8080", "ejected", ejected_for=14.2, ejections=3, consecutive_failures=5),
                endpoint("http://payments-2:8080", in_flight=31),
            ],
        ),
        ("concurrency", "route", "order"): Thing(
            active=100, limit=100, queue=50, waiting={"critical": 0, "default": 17, "sheddable": 4}
        ),
        ("store", "fleet"): Thing(up=False),
        ("throttle", "route", "order"): Thing(
            mode="observe", by_criticality={"default": {"attempts": 240, "refusal_probability": 0.62}}
        ),
        ("pacing", "upstream", "payments"): Thing(mode="observe", rate=29.4),
        ("retry_budget", "payments"): Thing(
            tokens=0.2, first_attempts=140, retries=58, ratio=0.2, floor=30.0, window=10.0
        ),
        ("retry_worth", "order", "retry"): Thing(requests=58, rescued=1, attempts=80, is_useless=True, window=30.0),
        ("cache", "default"): Thing(
            entries=1204,
            bytes=9_400_000,
            max_bytes=67_108_864,
            redis={"up": False},
            lookups={"order": {"hit": 9210, "miss": 812, "stale": 44}},
        ),
        ("key_set", "corporate", "5c1f"): Thing(
            identity="corporate",
            keys=[{"id": "one"}, {"id": "two"}],
            age=3720.0,
            failures=12,
            problem="https://id.example/keys: could not be reached",
        ),
        ("credentials", "payments", "9a02"): Thing(
            upstream="payments",
            kind="oauth2",
            has_token=False,
            left=0.0,
            failures=3,
            problem="https://id.example/token: answered with the status 401 (invalid_client)",
        ),
    }
    scene.reloads.append(
        {
            "at": WALL + 60,
            "trigger": "file",
            "result": "rejected",
            "digest": "77aa11bb22cc",
            "problems": [
                "policies/orders.yaml:31:7: routes[2].retry.max_atempts: is unknown; did you mean max_attempts?"
            ],
        }
    )
    where = "/etc/sidecar/policies/orders.yaml"
    for _ in range(2310):
        scene.refusals.note(
            "payment",
            "breaker_open",
            Refusal(
                "circuit_breaker", f"{where}:16", "The circuit is open: 12 of 20 calls failed in 10 s", None, None, 3
            ),
        )
    for _ in range(41):
        scene.refusals.note(
            "order",
            "overloaded",
            Refusal(
                "concurrency", f"{where}:48", "100 requests are in flight, 100 may be: the queue is full", 100, 100, 1
            ),
        )
    scene.refusals.note("", "no_route", Refusal())
    scene.emit("breaker.transition", level="warning", breaker="upstream:payments", before="closed", after="open")
    scene.emit("reload.rejected", level="error", trigger="file")
    scene.requests("payment", [0.02] * 60, 503)
    scene.requests("payment", [0.02] * 40)
    return scene
