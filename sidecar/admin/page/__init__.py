"""Files of the live page: `/` is index.html, all others are under `/page/`.

The page loads nothing from other sites and works offline.  Its files have no secrets, so they are served without the
token, which a browser cannot send when it opens a page.  The data come from `/live`, with the token.

The Content-Security-Policy forbids inline scripts, other origins and frames, so that no other page can embed this one
to steal clicks.  uPlot, which draws the curves, is vendored with its licence.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final, NamedTuple

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Media type of each file name suffix that is served."""
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


"""Header fields that restrict what a browser lets the page do."""


class File(NamedTuple):
    """File of the page."""

    body: bytes
    content_type: str


def load() -> dict[str, File]:
    """Return all files of the page by name."""
    found = {}
    for path in files(__name__).iterdir():
        suffix = "." + path.name.rpartition(".")[2]
        if suffix in TYPES:
            found[path.name] = File(path.read_bytes(), TYPES[suffix])
    return found
