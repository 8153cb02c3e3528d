"""Blocks of a page: files to write, commands to run and what they print.

A block is fenced.  `yaml title="name"` (any language with a title) is a file.  `sh` is commands, and a block `text`
right after it is what they print.  A comment before a block of commands says how to run it:

    <!-- test: background -->   in a shell of its own that goes on; the next block runs once the output is there
    <!-- test: roughly -->      numbers in the output may differ
    <!-- test: loosely -->      each line of the output is somewhere in what is printed
    <!-- test: until -->        the same, and the last command is repeated for some seconds until it is
    <!-- test: installs -->     not run: it installs packages
    <!-- test: needs NAME -->   needs a program that is not everywhere: the page is not run where it is missing
    <!-- test: shown -->        not run: it never ends, or asks for what a test does not have

Several are separated by commas: `background, needs node`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
FENCE: Final = re.compile(
    r"(?:^<!-- test: (?P<mark>[^>]+?) -->\n)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SKIPPED: Final = ("installs", "shown")


class Block(NamedTuple):
    """Block of a page."""

    language: str
    text: str
    title: str | None
    mark: str
    line: int

    @property
    def is_run(self) -> bool:
        return self.language == "sh" and self.mark not in SKIPPED

    @property
    def needs(self) -> str | None:
        """Program that the block needs beside ours."""
        found = re.search(r"needs (\S+)", self.mark)
        return found[1] if found else None


def pages() -> list[Path]:
    """Return all pages for readers: those of the site, the README and its companions."""
    found = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "bench" / "README.md",
        ROOT / "chaos" / "README.md",
    ]
    return sorted(path for path in found if path.name != "CHANGELOG.md")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [
        Block(
            found["language"], found["text"], found["title"], found["mark"] or "", text[: found.start()].count("\n") + 1
        )
        for found in FENCE.finditer(text)
    ]


def commands(text: str) -> list[str]:
    """Return the command lines of a page's blocks, indented or fenced, without comments; a continued line is one."""
    code = "".join(block.text for block in blocks(text) if block.language in ("sh", "console"))
    bare = FENCE.sub("", text)
    code += "".join(f"{line}\n" for line in re.findall(r"^ {4}(\S.*)$", bare, re.MULTILINE))
    lines = code.replace("\\\n", " ").splitlines()
    return [line for each in lines if (line := re.sub(r"^\$ |(^|\s+)#.*$", "", each).strip())]
