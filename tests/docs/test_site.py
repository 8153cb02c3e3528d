"""The site is built strictly: every link and anchor leads somewhere.  It loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from tests.browser.conftest import CHROMIUM, OPTIONS
from tests.docs.pages import ROOT

MKDOCS = shutil.which("mkdocs", path=str(Path(sys.executable).parent)) or shutil.which("mkdocs")
BUILT = ROOT / "build" / "site"
SOURCES = [
    ROOT / "mkdocs.yml",
    *(path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix != ".pyc"),
]
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")


def changed_at(path: Path) -> float:
    return path.stat().st_mtime


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site that `make site` has built from the present sources, or build it."""
    if (BUILT / "index.html").exists() and changed_at(BUILT / "index.html") > max(map(changed_at, SOURCES)):
        return BUILT
    if MKDOCS is None:
        pytest.skip("no mkdocs here: make site")
    directory = tmp_path_factory.mktemp("site")
    command = [MKDOCS, "build", "--quiet", "--strict", "--site-dir", str(directory)]
    environ = {"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_every_page_loads_what_it_needs_from_the_site_itself(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not LOADED.findall(page.read_text()), page.name
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", styles)


def test_the_search_of_a_page_that_is_opened_as_a_file_has_its_index_and_its_worker(site: Path) -> None:
    assert "__index" in (site / "search" / "search_index.js").read_text()[:200]
    assert (site / "assets" / "file-worker.js").exists()
    for name in ("index.html", "how-to/fastapi.html", "404.html"):
        assert "file-worker.js" in (site / name).read_text(), name


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
async def test_the_search_works_without_a_network_in_a_page_that_is_opened_as_a_file(site: Path) -> None:
    asked: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = await browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        await page.goto((site / "how-to" / "tune-retries.html").as_uri())
        await page.click(".md-search__input")
        await page.type(".md-search__input", "retry_budget", delay=20)
        found = await page.wait_for_selector(".md-search-result__link[href*='policy-reference']", state="attached")
        assert found is not None
        await browser.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
