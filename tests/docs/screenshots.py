"""Writer of the screenshots in the documentation: `make screenshots`.  Needs chromium.

Each picture is of a real run: the tutorial as its page has it, up to the fault, and a scenario of `chaos/` with real
processes.  They change only when someone runs this, so that a picture does not make every change larger.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright

from tests.docs.pages import ROOT, blocks
from tests.docs.session import Session

TUTORIAL: Final = ROOT / "docs" / "tutorial.md"
PAGE: Final = ROOT / "docs" / "assets" / "tutorial-page.png"
REPORT: Final = ROOT / "chaos" / "report.png"
OPTIONS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


async def shoot(url: str, path: Path, ready: str, *, width: int, height: int) -> None:
    """Write a picture of a page, once an element of it is there."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium here; install it, for example by: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        await page.goto(url)
        await page.wait_for_selector(ready)
        await page.wait_for_timeout(500)
        await page.screenshot(path=path)
        await browser.close()


def tutorial() -> None:
    """Follow the tutorial up to its picture, and take that; ports are those of the page."""
    text = TUTORIAL.read_text()
    found = blocks(text[: text.index(PAGE.name)])
    with tempfile.TemporaryDirectory() as directory, Session(Path(directory), as_written=True) as session:
        for number, block in enumerate(found):
            if block.title is not None:
                session.write(block)
            elif block.mark == "background":
                session.begin(block.text, found[number + 1].text)
            elif block.is_run:
                time.sleep(2)  # so that the page has something to draw over time
                session.run(block.text)
        session.run("sleep 2; for i in $(seq 40); do curl -s -o /dev/null http://127.0.0.1:8080/orders/7; done")
        asyncio.run(shoot("http://127.0.0.1:9901/", PAGE, "#link[data-tone=ok]", width=1200, height=760))


def report() -> None:
    """Run a scenario, and take a picture of its report's first screen."""
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "report.html"
        scenario = ROOT / "chaos" / "scenarios" / "slow_dependency.yaml"
        subprocess.run([sys.executable, "-m", "chaos.cli", "run", scenario, "--report", page], cwd=ROOT, check=True)
        asyncio.run(shoot(page.as_uri(), REPORT, "svg", width=1100, height=900))


if __name__ == "__main__":
    tutorial()
    report()
