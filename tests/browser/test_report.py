"""Tests of the chaos report in a real browser: it is readable on a phone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.async_api import Browser

from chaos.battery import simulated
from chaos.verdict.report import page as report
from tests.support import scenarios

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDER = """() => [...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('svg') && !e.closest('thead') && e.getBoundingClientRect().right > window.innerWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`)"""


LABELS = """() => [...document.querySelectorAll('.verdicts td[data-title]')]
  .map((e) => getComputedStyle(e, '::before').content)"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of two scenarios, in a thread of its own because each run has a loop."""
    chosen = [scenarios.ALL[name] for name in ("bad_policy", "connection_blackhole")]
    with ThreadPoolExecutor(1) as thread:
        results = thread.submit(lambda: [simulated(loaded, ["bare", "sidecar"], 1) for loaded in chosen]).result()
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report(results))
    return file


@pytest.mark.parametrize("width", [320, 390, 1200])
async def test_nothing_is_wider_than_the_screen(browser: Browser, file: Path, width: int) -> None:
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
