"""Responses of the admin listener that need no web framework: to probes, and problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from sidecar.admin.view import AdminView

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Header fields of every response."""
LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"


class PlainResponse(NamedTuple):
    """Status, media type and content of a response."""

    status: int
    content_type: str
    text: str


def problem(status: int, detail: str, **members: Any) -> PlainResponse:
    """Return a problem document (RFC 9457); `members` are added to it."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return PlainResponse(status, "application/problem+json", json.dumps(document, indent=2) + "\n")


def probe(view: AdminView, path: str) -> PlainResponse:
    """Return the response to a probe of `LIVEZ` or `READYZ`."""
    if path == LIVEZ:
        return PlainResponse(200, "text/plain", "alive\n")
    if obstacle := view.readiness.obstacle:
        return problem(503, obstacle)
    return PlainResponse(200, "text/plain", "ready\n")
