"""Tests of the live page in a real browser: display of each state, buttons, and cost."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from sidecar.admin import subcommand
from sidecar.core.metrics import FALLBACKS, WOULD_REFUSE
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from tests.browser.conftest import HERE, Window
from tests.browser.scene import RUNNING, WALL, Scene, Thing, breaker, broken, endpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURES = os.environ.get("SIDECAR_SCREENSHOTS")
"""Directory for screenshots of each state; None: no screenshots."""


def script(name: str) -> str:
    """Return a script to evaluate in the page.

    `contrast` returns the texts below WCAG 2 AA (4.5), `nameless` the elements without a name for screen readers,
    `hour` plays so many ticks without waiting between them.
    """
    return Path(HERE, f"{name}.js").read_text()


async def text(page: Page, selector: str) -> str:
    return re.sub(r"\s+", " ", await page.inner_text(selector))


async def test_a_calm_service(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    await expect(page.locator("#verdict-text")).to_have_text("Nothing is wrong")
    assert await page.title() == "orders"
    assert await text(page, "#breakers-sum") == "2 breakers, none open"
    assert await text(page, "#endpoints-sum") == "3 of 3 up"
    rows = await page.locator("#routes tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["order", "payment", "offer"]
    assert "91.9 %" in await text(page, "#caches"), "stale answers are hits of a sort: 9254 of 10066"
    assert "Nothing has been refused." in await text(page, "#refusals")
    own = await text(page, "#keys")
    assert "2 keys" in own
    assert "50 min" in own, "the end of the token"
    assert window.noise == [], "no errors, and nothing that its content security policy refused"


async def test_everything_that_is_wrong_is_said_first(scene: Scene, window: Window) -> None:
    broken(scene)
    page = await window.open(scene.url)
    await expect(page.locator("#problems li")).to_have_count(17)
    problems = await page.locator("#problems li").all_inner_texts()
    assert [p.split()[0] for p in problems] == ["problem"] * 4 + ["warning"] * 13
    everything = await text(page, "#problems")
    for words in (
        "Breaker upstream:payments is open: 12 of 20 calls failed",
        "next probe in 4 s",
        "half-open",
        "held open by hand",
        "1 of 2 endpoints out",
        "budget of payments is spent",
        "order: a retry hardly ever helps: 1 of 58 requests rescued in 30 s",
        "at its limit of 100 in flight, 21 wait",
        "cannot reach its Redis",
        "Store fleet cannot be reached",
        "62 % of the default ones would be refused (mode: observe)",
        "29.4 per second would be sent at most (mode: observe)",
        "Rate limit route:order:address has all 500 keys in use: further ones share one count",
        "Identity corporate uses its last good keys: https://id.example/keys: could not be reached",
        "no token for it: https://id.example/token: answered with the status 401 (invalid_client)",
        "policies on disk are not in force",
        "Listener inbound: /etc/tls/revoked.pem expires at",
    ):
        assert words in everything, words
    assert (await page.title()).startswith("(4) ")
    first = await page.locator(".breaker .name").first.inner_text()
    assert first == "upstream:payments", "open ones come first"
    assert "circuit_breaker policies/orders.yaml:16" in await text(page, "#refusals")
    assert "2,310" in await text(page, "#refusals")
    rates = await text(page, "#rates")
    for words in (
        "route:order:tenant",
        "in store fleet, which is away",
        "812 of 10,000",
        "in each process",
        "41 observed",
    ):
        assert words in rates, words
    assert "did you mean max_attempts?" in await text(page, "#reloads")
    await page.locator(".breaker summary").first.click()
    await expect(page.locator(".breaker").first.locator("ol li")).to_have_count(7)
    assert window.noise == []


async def test_it_follows(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    before = await page.locator("#routes tbody tr").count()
    scene.routes["refund"] = {"upstream": "payments", "chain": []}
    scene.requests("refund", [0.2] * 30)
    scene.readiness.obstacle = "draining since SIGTERM"
    await expect(page.locator("#routes tbody tr")).to_have_count(before + 1)
    await expect(page.locator("#problems")).to_contain_text("Not ready for traffic: draining since SIGTERM")
    latency = re.compile("19[0-9] ms|20[0-9] ms")
    await expect(page.locator("#routes tr", has_text="refund")).to_contain_text(latency)
    await page.get_by_role("button", name="refund").click()
    await expect(page.locator("#scope")).to_have_value("refund")
    await expect(page.locator("#plot-requests output")).to_have_text(re.compile(r"\d"))


async def test_policies_are_tried_before_they_are_in_force(
    scene: Scene, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subcommand, "SECONDS", 600.0)
    monkeypatch.setattr(subcommand, "LOWEST", 0)
    page = await window.open(scene.url)
    note = page.locator("#what-if-note")
    await page.fill("#what-if-text", RUNNING.read_text().replace("request: 1s", "request: 4s"))
    await page.fill("#what-if-url", "/orders/7")
    await page.check("#what-if-cascades")
    await page.click("#what-if-try")
    await expect(note).to_have_text(re.compile("change.* to what runs"), timeout=60_000)
    assert "worst latency" in await text(page, "#what-if-lines")
    assert "orders" in await text(page, "#what-if-route")
    assert "cascade retry_storm" in await text(page, "#what-if-lines")
    await page.fill("#what-if-text", "version: 1\nroutes: [{nam: x}]")
    await page.click("#what-if-try")
    await expect(note).to_have_text(re.compile("error"), timeout=60_000)
    assert "line 2: routes" in await text(page, "#what-if-lines")
    assert await page.locator("#what-if-route").is_hidden()


async def test_what_the_data_says_stands_beside_the_policies(
    scene: Scene, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subcommand, "SECONDS", 600.0)
    monkeypatch.setattr(subcommand, "LOWEST", 0)
    attempts, history = AttemptMetrics(scene.registry), scene.admin.keeper.history
    assert history is not None
    for number in range(600):
        attempts.record("payments", "http://payments-1:8080", b"GET", 200, "", 0.02 + number / 1e5)
    await history.end_period(WALL, 60.0, lambda: asyncio.sleep(0))
    scene.routes["payments"] = {"upstream": "payments", "chain": []}
    page = await window.open(scene.url)
    await page.click("#advice-ask")
    await expect(page.locator("#advice-note")).to_contain_text("values from", timeout=60_000)
    row = page.locator("#advice tbody tr", has_text="routes.payments.timeout.attempt")
    await expect(row).to_contain_text("99% of 600 good answers came within")
    assert "a replay needs the requests one by one" in await text(page, "#advice-unknown")
    await expect(page.locator("#budgets")).to_contain_text("the data says 5%")
    says = page.locator("#routes tr", has=page.get_by_role("button", name="payments")).locator(".says")
    await expect(says).to_contain_text(re.compile("timeout.attempt .*, the data says"))


async def test_breakers_by_hand(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    row = page.locator(".breaker", has_text="upstream:payments")
    await row.get_by_role("button", name="Open").click()
    await expect(page.locator("#ask-text")).to_contain_text("until it is set to auto")
    await page.keyboard.press("Escape")
    assert scene.states["breaker", "upstream", "payments"].facts["state"] == "closed", "a question that is not answered"
    await row.get_by_role("button", name="Open").click()
    await page.get_by_role("button", name="Hold open").click()
    await expect(page.locator("#toast")).to_have_text("upstream:payments is open, held by hand")
    await expect(row.locator(".badge").first).to_have_text("open, held")
    await row.get_by_role("button", name="Auto").click()
    await expect(row.locator(".badge").first).to_have_text("closed")


async def test_reload(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    await page.get_by_role("button", name="Reload policies").click()
    await expect(page.locator("#toast")).to_have_text("Policies applied: ab12cd34ef56")
    scene.problems = ["a.yaml:3:5: routes[0].retry: is unknown"]
    await page.get_by_role("button", name="Reload policies").click()
    await expect(page.locator("#toast")).to_contain_text("a.yaml:3:5: routes[0].retry: is unknown")


@pytest.mark.parametrize("scene", ["t0ken"], indirect=True)
async def test_the_token(scene: Scene, window: Window) -> None:
    page = window.page
    await page.goto(scene.url)
    for given in ("wrong", "t0ken"):
        await page.locator("#ask-input").fill(given)
        await page.get_by_role("button", name="Continue").click()
    await expect(page.locator("#link")).to_have_text("live")
    assert "t0ken" not in page.url
    assert await page.evaluate("document.cookie") == ""
    await page.get_by_role("button", name="Reload policies").click()
    await expect(page.locator("#toast")).to_contain_text("Policies applied")
    await page.reload()
    await expect(page.locator("#link")).to_have_text("live")


async def test_texts_of_others_stay_texts(scene: Scene, window: Window) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    scene.states["breaker", "upstream", evil] = scene.states["breaker", "upstream", "payments"]
    scene.emit("library.x", message=evil)
    page = await window.open(scene.url)
    await expect(page.locator("#events")).to_contain_text(evil)
    assert await page.locator("main img, main script").count() == 0
    assert window.noise == []


async def test_a_lost_connection_is_seen_and_made_again(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    await page.route("**/live", lambda route: route.abort())
    await scene.admin.feed.stop()
    await expect(page.locator("#link")).to_contain_text("connection lost")
    await expect(page.locator("main")).not_to_have_css("opacity", "1")


FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Script that waits for two frames; the plots take the new width of a window in the first."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["calm", "broken"])
async def test_it_fits(scene: Scene, browser: Browser, scheme: str, state: str) -> None:
    if state == "broken":
        broken(scene)
    context = await browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = await Window(await context.new_page()).open(scene.url)
    assert await page.evaluate("document.documentElement.dataset.theme") == scheme
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    for width in (390, 800, 1400):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.evaluate(FRAMES)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert await page.evaluate(cut) == [], width
        assert await page.evaluate(script("contrast")) == [], width
        if PICTURES:
            await page.screenshot(path=f"{PICTURES}/{state}-{width}-{scheme}.png", full_page=True)
    await context.close()


async def test_everything_has_a_name(scene: Scene, window: Window) -> None:
    broken(scene)
    page = await window.open(scene.url)
    assert await page.evaluate(script("nameless")) == []
    assert await page.evaluate("document.querySelectorAll('h1').length") == 1
    assert await page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0


async def test_the_first_paint_waits_for_the_styles_alone_and_they_are_small(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    waited = "performance.getEntriesByType('resource').filter(e => e.renderBlockingStatus != 'non-blocking')"
    found = await page.evaluate(f"{waited}.map(e => [e.name, e.encodedBodySize])")
    assert sorted(name.rpartition("/")[2] for name, _ in found) == ["page.css", "uplot.css"]
    document = await page.evaluate("performance.getEntriesByType('navigation')[0].encodedBodySize")
    assert document + sum(size for _, size in found) < 24 * 1024


async def test_an_hour_leaves_nothing_behind(scene: Scene, window: Window) -> None:
    """3600 ticks go through the page's own code, without waiting between them."""
    page = await window.open(scene.url)
    before = await page.evaluate(script("hour"), 400)
    after = await page.evaluate(script("hour"), 3600)
    assert after == before
    assert after[1] == 300


async def test_fifty_pages_are_sent_the_same_bytes(scene: Scene) -> None:
    """Fifty readers get the same events, without a browser."""
    host, port = scene.url.removeprefix("http://").split(":")
    readers = [await asyncio.open_connection(host, port, limit=2**22) for _ in range(50)]
    for _, writer in readers:
        writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for reader, _ in readers:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
    ticks = set()
    for reader, _ in readers:
        await reader.readuntil(b"event: full\n")
        await reader.readuntil(b"event: tick\n")
        ticks.add(await reader.readuntil(b"\n\n"))
    assert len(ticks) == 1
    for _, writer in readers:
        writer.close()


async def test_fallbacks_dead_endpoints_and_waiting_breakers_are_seen(scene: Scene, window: Window) -> None:
    waits = "it was open for 5 s and waits for traffic to probe with"
    scene.states |= {
        ("breaker", "route", "order"): breaker("half_open", waits, 1, next_probe_in=0, opened_because="5 in a row"),
        ("endpoints", "orders"): Thing(
            upstream="orders",
            endpoints=[endpoint("http://127.0.0.1:9000", "failing", consecutive_failures=7)],
        ),
        ("pools", "orders"): Thing(
            upstream="orders",
            pools={"http://127.0.0.1:9000": {"open": 2, "max": 100, "streams": 15, "max_streams": 200}},
        ),
    }
    page = await window.open(scene.url)
    scene.requests("order", [0.01] * 10)
    scene.registry.counter(FALLBACKS, route="order", step="response").add(4)
    problems = page.locator("#problems")
    await expect(problems).to_contain_text(re.compile(r"Route order: a fallback answered [\d.]+ % of"))
    await expect(problems).to_contain_text(f"Breaker route:order is half-open: {waits}")
    await expect(problems).to_contain_text("Upstream orders: 1 of 1 endpoint out (http://127.0.0.1:9000 failing)")
    await expect(page.locator("#endpoints .badge", has_text="failing")).to_have_attribute("data-tone", "bad")
    await expect(page.locator("#endpoints tbody tr", has_text="9000")).to_contain_text("2 of 100, 15 of 200 streams")
    await expect(page.locator("#routes tbody tr", has_text="order").first.locator("td").nth(5)).to_contain_text("%")
    await expect(page.locator(".breaker", has_text="route:order")).to_contain_text("had opened because: 5 in a row")
    assert window.noise == []


async def test_what_an_upstream_asks_for_is_seen(scene: Scene, window: Window) -> None:
    def ranks(**refused: float) -> dict[str, Any]:
        return {name: {"attempts": 100, "accepts": 20, "refusal_probability": share} for name, share in refused.items()}

    few = ranks(critical=0.0, default=0.2, sheddable=0.9)
    none = {"sheddable": {"attempts": 0, "accepts": 0, "refusal_probability": 0.5}}
    scene.states |= {
        ("throttle", "route", "order"): Thing(mode="enforce", refused=7, by_criticality=few),
        ("throttle", "route", "offer"): Thing(mode="observe", refused=0, by_criticality=ranks(default=0.5) | none),
        ("pacing", "upstream", "orders"): Thing(mode="enforce", rate=70.0),
        ("pacing", "route", "offer"): Thing(mode="observe", rate=0.025),
        ("pacing", "route", "order"): Thing(mode="enforce", rate=None),
    }
    page = await window.open(scene.url)
    await expect(page.locator("#problems li")).to_have_count(4)
    everything = await text(page, "#problems")
    for words in (
        "Throttle route:order: the upstream accepts too few attempts, 20 % of the default ones, 90 % of the sheddable "
        "ones are refused",
        "Throttle route:offer: the upstream accepts too few attempts, 50 % of the default ones would be refused "
        "(mode: observe)",
        "Pacing upstream:orders: the upstream has asked for less, 70 per second are sent at most",
        "Pacing route:offer: the upstream has asked for less, 1.5 per minute would be sent at most (mode: observe)",
    ):
        assert words in everything, everything
    assert window.noise == []


async def test_endpoints_that_start_and_end_are_no_problem_while_others_serve(scene: Scene, window: Window) -> None:
    states = ["up", "draining", "not_ready"]
    endpoints = [endpoint(f"http://10.0.0.{n}:80", state) for n, state in enumerate(states)]
    many = [endpoint(f"http://10.1.0.{n}:80", "ejected") for n in range(7)]
    source = {"source": "kubernetes orders", "problem": "the API server cannot be reached", "stale_for": 7.0}
    scene.states |= {
        ("endpoints", "orders"): Thing(upstream="orders", endpoints=endpoints, subset={"size": 3, "of": 40}),
        ("endpoints", "stock"): Thing(upstream="stock", endpoints=many),
        ("discovery", "orders", "kubernetes"): Thing(upstream="orders", **source),
    }
    page = await window.open(scene.url)
    problems = page.locator("#problems")
    await expect(problems).to_contain_text("orders:kubernetes: the API server cannot be reached")
    await expect(problems).to_contain_text("10.1.0.4:80 ejected, …)")
    await expect(problems).not_to_contain_text("Upstream orders")
    await expect(page.locator("#endpoints-sum")).to_contain_text("up, 37 left to other sidecars")
    assert window.noise == []


async def test_policies_that_are_put_back_are_no_problem_any_more(scene: Scene, window: Window) -> None:
    scene.reloads.append({"at": WALL, "trigger": "file", "result": "rejected", "digest": "77aa", "problems": ["p"]})
    page = await window.open(scene.url)
    await expect(page.locator("#problems")).to_contain_text("not in force")
    scene.reloads.append({"at": WALL + 5, "trigger": "file", "result": "unchanged", "digest": "5ea3"})
    await expect(page.locator("#verdict-text")).to_have_text("Nothing is wrong")


async def test_answers_that_broke_off_are_errors(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    metrics = RouteMetrics(scene.registry, {"route": "order", "http.route": "/order"})
    for _ in range(6000):
        metrics.record(b"GET", 200, "timeout", 0.01)
    await expect(page.locator("#problems")).to_contain_text(re.compile(r"Route order: \d+.* failed in the last minute"))


def rollout(returned: dict[str, object] | None = None, share: float = 0.05) -> Thing:
    """Return a rollout with the description of a real one."""
    test = {"pairs": 400, "worse": 21, "better": 2, "evidence": 2.55, "threshold": 5.1}
    candidate = {
        "name": "offer@v2",
        "share": share,
        "returned": returned,
        "stable": {"requests": 8000, "errors": 40},
        "candidate": {"requests": 400, "errors": 22},
        "errors": test,
        "p99": test | {"worse": 4, "evidence": -1.0},
    }
    return Thing(route="offer", stable="offer", candidates=[candidate])


async def test_both_arms_of_a_rollout_stand_beside_each_other(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    assert not await page.is_visible("#rollouts"), "no rollout is configured"
    scene.states["rollout", "offer"] = rollout()
    scene.requests("offer@v2", [0.2] * 50)
    await expect(page.locator("#rollouts tbody tr")).to_have_count(2)
    stable, candidate = [re.sub(r"\s+", " ", row) for row in await page.locator("#rollouts tbody tr").all_inner_texts()]
    assert "offer 95 % 8,000 0.5 %" in stable
    assert "offer@v2 5 % 400 5.5 %" in candidate
    assert "no worse so far" in candidate
    assert "errors: worse in 21 and better in 2 of 400 pairs, 50 % of the evidence that takes it back" in candidate
    assert "p99: worse in 4 and better in 2 of 400 pairs, 0 % of" in candidate
    await expect(page.locator("#rollouts tbody tr").nth(1).locator("td").nth(5)).to_contain_text("ms")
    await expect(page.locator("#verdict-text")).to_have_text("Nothing is wrong")
    why = "21 of 400 pairs failed only at the candidate, 2 only at the stable arm"
    scene.states["rollout", "offer"] = rollout({"reason": why, "at": WALL}, 0.0)
    await expect(page.locator("#rollouts tbody tr").nth(1)).to_contain_text("taken back")
    assert why in await text(page, "#problems")
    assert await text(page, "#rollouts-sum") == "1 candidate taken back"
    if PICTURES:
        await page.screenshot(path=f"{PICTURES}/rollouts.png", full_page=True)
    assert await page.evaluate(script("nameless")) == []
    assert window.noise == []


async def test_what_observed_policies_would_have_refused(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    await expect(page.locator("#routes tbody tr").first).to_be_visible()
    assert not await page.is_visible("#observed"), "nothing is observed"
    scene.registry.counter(WOULD_REFUSE, policy="timeout", route="order@candidate").value += 7
    scene.registry.counter(WOULD_REFUSE, policy="retry_budget", upstream="payments").value += 1200
    scene.registry.counter(WOULD_REFUSE, policy="cors", route="offer")
    rows = page.locator("#observed tbody tr")
    await expect(rows).to_have_count(2)
    assert [re.sub(r"\s+", " ", row).strip() for row in await rows.all_inner_texts()] == [
        "payments retry_budget 1,200",
        "order@candidate timeout 7",
    ]
    assert await page.evaluate(script("nameless")) == []
    assert window.noise == []


async def test_an_aggregated_answer_shows_its_parts(scene: Scene, window: Window) -> None:
    page = await window.open(scene.url)
    parts = {"user": "page:user", "orders": "order"}
    scene.routes["page"] = {"upstream": "", "parts": parts, "chain": []}
    scene.routes["page:user"] = {"upstream": "users", "chain": []}
    scene.requests("page", [0.2] * 30)
    scene.requests("page:user", [0.1] * 30)
    whole = page.locator("#routes tr", has=page.get_by_role("button", name="page", exact=True))
    await expect(whole).to_contain_text("user + orders")
    part = page.locator("#routes tr", has=page.get_by_role("button", name="page:user", exact=True))
    await expect(part).to_contain_text("users")
    await expect(part).to_contain_text(re.compile("9[0-9] ms|10[0-9] ms"))
    assert window.noise == []
