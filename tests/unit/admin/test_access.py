"""Who may use the admin listener."""

from __future__ import annotations

import pytest

from sidecar.admin.access import cross_site, is_bearer


@pytest.mark.parametrize("field", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_the_token_is_taken(field: str) -> None:
    assert is_bearer(field, "s3cret")


@pytest.mark.parametrize(
    "field",
    ["", "Bearer", "Bearer ", "s3cret", "Basic s3cret", "Bearer s3cre", "Bearer s3crets", "Bearer \udcff\udcfe"],
)
def test_nothing_else_is(field: str) -> None:
    assert not is_bearer(field, "s3cret")


@pytest.mark.parametrize(
    ("host", "origin", "site", "has_token"),
    [
        ("10.0.0.7:9901", None, None, False),  # curl, Prometheus, a script
        ("sidecar.prod.svc:9901", None, None, False),
        ("127.0.0.1:9901", "http://127.0.0.1:9901", "same-origin", False),
        ("localhost:9901", "http://localhost:9901", None, False),
        ("[::1]:9901", "http://[::1]:9901", "same-origin", False),
        ("LOCALHOST:9901", "http://localhost:9901", "same-origin", False),
        ("127.0.0.1:9901", None, "none", False),  # typed by its user
        ("sidecar.prod.svc", "https://sidecar.prod.svc", "same-origin", True),
    ],
)
def test_own_requests_pass(host: str, origin: str | None, site: str | None, has_token: bool) -> None:
    assert cross_site(host, origin, site, has_token=has_token) == ""


@pytest.mark.parametrize(
    ("host", "origin", "site", "has_token", "why"),
    [
        ("127.0.0.1:9901", "https://evil.example", "cross-site", False, "Sec-Fetch-Site is cross-site"),
        ("127.0.0.1:9901", None, "cross-site", True, "Sec-Fetch-Site is cross-site"),
        ("127.0.0.1:9901", None, "same-site", False, "Sec-Fetch-Site is same-site"),
        ("127.0.0.1:9901", "https://evil.example", None, True, "Origin is https://evil.example"),
        ("127.0.0.1:9901", "http://127.0.0.1:8080", None, False, "Origin is http://127.0.0.1:8080"),
        ("127.0.0.1:9901", "null", None, False, "Origin is null"),
        ("evil.example:9901", "http://evil.example:9901", None, False, "Host is evil.example:9901"),  # DNS rebinding
        ("evil.example:9901", None, "same-origin", False, "Host is evil.example:9901"),
        ("[bad", "http://[bad", None, False, ""),
    ],
)
def test_other_sites_are_refused(host: str, origin: str | None, site: str | None, has_token: bool, why: str) -> None:
    refusal = cross_site(host, origin, site, has_token=has_token)
    assert refusal
    assert refusal.startswith(why)
