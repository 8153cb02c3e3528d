"""The live page: its files, read once.  `/` is index.html, the others are under `/page/`.

It needs nothing from elsewhere and works offline.  The files hold no secrets, so they are served without the token,
which a browser could not send with a navigation; what they show comes from `/live`, with the token.  The policy below
allows no inline script, no other origin and no frame: a click on a button cannot be stolen by a page around this one.
uPlot, which draws the curves, is vendored with its licence.
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
    body: bytes
    content_type: str


def load() -> dict[str, File]:
    """Every file of the page by its name."""
    found = {}
    for path in files(__name__).iterdir():
        suffix = "." + path.name.rpartition(".")[2]
        if suffix in TYPES:
            found[path.name] = File(path.read_bytes(), TYPES[suffix])
    return found
