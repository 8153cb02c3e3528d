"""Files of the live page: `/` is index.html, the others are under `/page/`.

The page needs no other site and works offline.  Its files hold no secrets, so they are served without the token, which
a browser cannot send with a navigation; what the page shows comes from `/live`, with the token.  The policy below
allows no inline script, no other origin and no frame, so that no page around this one can steal a click.  uPlot, which
draws the curves, is vendored with its licence.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final, NamedTuple

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class File(NamedTuple):
    """File of the page."""

    body: bytes
    content_type: str


def load() -> dict[str, File]:
    """Return every file of the page by its name."""
    found = {}
    for path in files(__name__).iterdir():
        suffix = "." + path.name.rpartition(".")[2]
        if suffix in TYPES:
            found[path.name] = File(path.read_bytes(), TYPES[suffix])
    return found
