"""Every command of every page is run as a reader runs it, or at least understood by the program that it names."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import click
import pytest

import chaos.cli
import sidecar.commands
from tests.docs.pages import ROOT, blocks, commands, pages
from tests.docs.session import Session, differs
from tests.support.forked import CAN_FORK, fork_server

GROUPS: dict[str, click.Group] = {"sidecar": sidecar.commands.main, "chaos": chaos.cli.main}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
AT_ONCE = 4
"""Pages that are run at the same time."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def missing(page: Path) -> set[str]:
    """Return the programs that a page needs and that are not on this machine."""
    return {
        block.needs for block in blocks(page.read_text()) if block.needs is not None and not shutil.which(block.needs)
    }


RUN = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.skip(f"no {name} here") for name in missing(page)])
    for page in pages()
    if any(block.is_run for block in blocks(page.read_text()))
]
"""Pages with commands to run."""


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """Run the selected pages at the same time, since most of a page's time is waiting."""
    selected = [
        item.callspec.params["page"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_commands_do_what_the_page_says.__name__
        and not item.get_closest_marker("skip")
    ]
    if CAN_FORK:
        fork_server()  # it ends with the thread that starts it
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield {page: threads.submit(run, page, tmp_path_factory.mktemp("page")) for page in selected}


def run(page: Path, directory: Path) -> None:
    """Run all commands of a page in their order, and compare what they print.  Raises `AssertionError`."""
    found = blocks(page.read_text())
    with Session(directory) as session:
        for number, block in enumerate(found):
            after = found[number + 1] if number + 1 < len(found) else None
            wanted = after.text if after is not None and after.language == "text" else None
            if block.title is not None:
                session.write(block)
            elif block.is_run and block.mark.startswith("background"):
                session.begin(block.text, wanted or "")
            elif block.is_run:
                printed = session.run(block.text)
                end = time.monotonic() + 30
                while wanted is not None and (difference := differs(printed, session.here(wanted), block.mark)):
                    last = block.text.strip().splitlines()[-1]
                    assert block.mark == "until", f"{name_of(page)}:{block.line}: {difference}"
                    assert time.monotonic() < end, f"{name_of(page)}:{block.line}: {difference}"
                    time.sleep(0.5)
                    printed = session.run(last)


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="no curl or no bash here")
@pytest.mark.parametrize("page", RUN)
def test_commands_do_what_the_page_says(page: Path, runs: dict[Path, Future[None]]) -> None:
    runs[page].result()


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    for line in commands(page.read_text()):
        for part in re.split(r"\s*(?:&&|\|\||[;|&])\s+", line):
            assert (complaint := misunderstood(part)) is None, f"{name_of(page)}: {line}: {complaint}"


def misunderstood(command: str) -> str | None:
    """Return why a command line cannot be run; None if it can, or if it belongs to a program that is not ours."""
    try:
        words = shlex.split(re.split(r"\s{3,}", command)[0])  # what stands further right explains it
    except ValueError:
        return None  # prose, or half of a command with a quotation that goes on
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    words = words[: next((n for n, word in enumerate(words) if re.match(r"[0-9]?[<>]", word)), len(words))]
    match words:
        case [("sidecar" | "chaos") as program, *rest]:
            return unparsed(GROUPS[program], program, rest)
        case ["make", *targets]:
            unknown = {word for word in targets if "=" not in word} - TARGETS
            return f"make has no {unknown}" if unknown else None
        case ["python" | "python3", "-m", module, *_] if module.startswith(
            ("sidecar", "chaos", "bench", "docs", "tests")
        ):
            return None if importlib.util.find_spec(module) else f"there is no module {module}"
    return None


def unparsed(group: click.Group, program: str, words: list[str]) -> str | None:
    """Return what click says of arguments that it does not take."""
    if not words or words[0] in ("--help", "--version", "-h") or "[" in words[-1] or words[0].endswith(":"):
        return None  # the last is a problem that is shown, not a command
    if (command := group.commands.get(words[0])) is None:
        return f"{program} has no command {words[0]}"
    if "--help" in words:
        return None
    try:
        command.make_context(words[0], words[1:], resilient_parsing=False)
    except click.ClickException as error:
        message = error.format_message()
        return None if message.endswith("does not exist.") else message
    return None
