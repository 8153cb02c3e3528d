"""Tests of the chaos report in a real browser: it is readable on a phone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser

from chaos.battery import Result, simulated
from chaos.verdict.report import page as report
from tests.support import scenarios

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDER = """() => [...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('svg') && !e.closest('thead') && e.getBoundingClientRect().right > window.innerWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`)"""


LABELS = """() => [...document.querySelectorAll('.verdicts td[data-title]')]
  .map((e) => getComputedStyle(e, '::before').content)"""


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Return the results of two scenarios, from a thread of its own because each run has a loop."""
    chosen = [scenarios.ALL[name] for name in ("bad_policy", "connection_blackhole")]
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: [simulated(loaded, ["bare", "sidecar"], 1) for loaded in chosen]).result()


@pytest.mark.parametrize("width", [320, 390, 1200])
async def test_nothing_is_wider_than_the_screen(
    browser: Browser, results: list[Result], tmp_path: Path, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(report(results))
    context = await browser.new_context(viewport={"width": width, "height": 800})
    try:
        page = await context.new_page()
        await page.goto(file.as_uri())
        assert await page.evaluate(WIDER) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        rows = await page.locator(".verdicts tbody tr").all_inner_texts()
        assert len(rows) == 2
        labels = await page.evaluate(LABELS)
        assert all(("sidecars" in label) is (width < 640) for label in labels), labels
    finally:
        await context.close()


async def test_charts_of_one_arm_are_as_large_as_those_of_two(
    browser: Browser, results: list[Result], tmp_path: Path
) -> None:
    page = await browser.new_page(viewport={"width": 1200, "height": 800})
    widths = []
    for number in (1, 2):
        file = tmp_path / f"{number}.html"
        file.write_text(report([replace(result, arms=result.arms[:number]) for result in results]))
        await page.goto(file.as_uri())
        widths.append(await page.evaluate("document.querySelector('.arm figure').clientWidth"))
    await page.close()
    assert widths[0] == pytest.approx(widths[1], abs=2)
