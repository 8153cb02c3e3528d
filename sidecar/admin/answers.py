"""Answers of the admin listener that need no web framework: answers to probes, and problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from sidecar.admin.view import AdminView

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Header fields of every answer."""
LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"


class Answer(NamedTuple):
    """Status, media type and content of an answer."""

    status: int
    content_type: str
    text: str


def problem(status: int, detail: str, **members: Any) -> Answer:
    """Return a problem document (RFC 9457); `members` are added to it."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return Answer(status, "application/problem+json", json.dumps(document, indent=2) + "\n")


def probe(view: AdminView, path: str) -> Answer:
    """Return the answer to a probe of `LIVEZ` or `READYZ`."""
    if path == LIVEZ:
        return Answer(200, "text/plain", "alive\n")
    if obstacle := view.readiness.obstacle:
        return problem(503, obstacle)
    return Answer(200, "text/plain", "ready\n")
