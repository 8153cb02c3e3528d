"""Hooks of the site's build (`mkdocs.yml`, `make site`).

- Pages link to files of the repository by relative paths, so that they also read well in an editor.  A file outside
  `docs/` that a page links to becomes a page of the site, and the link leads there: Markdown as it is, other text as a
  block of code, a directory as the list of its files.
- The pages of `docs/design/` stand in the navigation by their titles.
- Nothing is loaded from elsewhere: search works without a network, also in pages that are opened as files.
- Links and anchors that lead nowhere fail the build: `mkdocs build --strict` checks those of these pages too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)(?=(?:#[^)\s]*)?\))")
FENCE: Final = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".txt": "text"}
SHIM: Final = "https://unpkg.com/iframe-worker/shim"
PICTURES: Final = (".png", ".svg")
HIDDEN: Final = "---\nsearch:\n  exclude: true\n---\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's entry `Decisions` with the pages of `docs/design/`."""
    pages = [{title_of(path): f"design/{path.name}"} for path in (DOCS / "design").glob("*.md")]
    config.nav = [
        {"Decisions": sorted(pages, key=lambda each: next(iter(each)))} if "Decisions" in entry else entry
        for entry in config.nav or []
    ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every file outside `docs/` that a page links to."""
    waiting = [(DOCS / file.src_uri, (DOCS / file.src_uri).read_text()) for file in files.documentation_pages()]
    known: set[Path] = set()
    while waiting:
        path, text = waiting.pop()
        for target in targets(path, text):
            if target in known or target.is_relative_to(DOCS) or not target.exists():
                continue
            known.add(target)
            if target.suffix in PICTURES:
                files.append(File.generated(config, uri_of(target), abs_src_path=str(target)))
                continue
            content = content_of(target)
            waiting.append((target, content))
            files.append(File.generated(config, uri_of(target), content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links to files outside `docs/` lead to their pages."""
    here = source_of(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        target = resolve(here, match[0])
        if target is None:
            return match[0]
        return posixpath.relpath(uri_of(target), posixpath.dirname(page.file.src_uri) or ".")

    return outside_code(LINK, led, markdown)


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Take the one script that the theme loads from elsewhere, for search in pages opened as files, from the site."""
    own = posixpath.relpath("assets/file-worker.js", posixpath.dirname(page.url) or ".")
    return output.replace(SHIM, own)


def on_post_template(output: str, **_: object) -> str:
    """Do the same for the page of errors, which stands at the top."""
    return output.replace(SHIM, "assets/file-worker.js")


def outside_code(pattern: re.Pattern[str], replace: Any, text: str) -> str:
    """Return a text with the matches outside fenced code replaced."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [pattern.sub(replace, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, pattern.sub(replace, text[end:])])


def targets(path: Path, text: str) -> list[Path]:
    """Return the files that a page links to."""
    found = (resolve(path, match[0]) for match in LINK.finditer(FENCE.sub("", text)))
    return [target for target in found if target is not None]


def resolve(page: Path, link: str) -> Path | None:
    """Return the file of the repository that a link of a page means; None for a link to elsewhere."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    base = page if page.is_dir() else page.parent
    target = Path(posixpath.normpath(base / link))
    return target if target.is_relative_to(ROOT) else None


def uri_of(path: Path) -> str:
    """Return the place of a repository's file among the sources of the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = f"repository/{path.relative_to(ROOT).as_posix()}"
    if path.is_dir():
        return f"{name}/README.md" if (path / "README.md").exists() else f"{name}/index.md"
    return name if path.suffix in (".md", *PICTURES) else f"{name}.md"


def source_of(uri: str) -> Path:
    """Return the file of the repository that a page of the site shows."""
    if not uri.startswith("repository/"):
        return DOCS / uri
    path = ROOT / uri.removeprefix("repository/")
    if path.name == "index.md":
        return path.parent
    return path if path.exists() else path.with_suffix("")


def content_of(path: Path) -> str:
    """Return the Markdown of the page that shows a file or directory."""
    title = f"# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        if (path / "README.md").exists():
            return (path / "README.md").read_text()
        rows = (f"- [{each.name}]({each.name})\n" for each in sorted(path.iterdir()) if is_shown(each))
        return HIDDEN + title + "".join(rows)
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return f"{HIDDEN}{title}`````{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n`````\n"


def is_shown(path: Path) -> bool:
    return not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix in (".md", *LANGUAGES, ".sh"))


def title_of(page: Path) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)
    return found[1] if found else page.stem
