"""Tests of access to the admin listener."""

from __future__ import annotations

import pytest

from sidecar.admin.access import Access, is_bearer, refuse_site


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
    ("host", "origin", "site"),
    [
        ("10.0.0.7:9901", None, None),  # curl, Prometheus, a script
        ("sidecar.prod.svc:9901", None, None),
        ("127.0.0.1:9901", "http://127.0.0.1:9901", "same-origin"),
        ("localhost:9901", "http://localhost:9901", None),
        ("[::1]:9901", "http://[::1]:9901", "same-origin"),
        ("LOCALHOST:9901", "http://localhost:9901", "same-origin"),
        ("127.0.0.1:9901", None, "none"),  # typed by its user
        ("sidecar.prod.svc", "https://sidecar.prod.svc", "same-origin"),
    ],
)
def test_own_requests_pass(host: str, origin: str | None, site: str | None) -> None:
    assert refuse_site(host, origin, site) == ""


@pytest.mark.parametrize(
    ("host", "origin", "site", "why"),
    [
        ("127.0.0.1:9901", "https://evil.example", "cross-site", "Sec-Fetch-Site is cross-site"),
        ("127.0.0.1:9901", None, "cross-site", "Sec-Fetch-Site is cross-site"),
        ("127.0.0.1:9901", None, "same-site", "Sec-Fetch-Site is same-site"),
        ("127.0.0.1:9901", "https://evil.example", None, "Origin is https://evil.example"),
        ("127.0.0.1:9901", "http://127.0.0.1:8080", None, "Origin is http://127.0.0.1:8080"),
        ("127.0.0.1:9901", "null", None, "Origin is null"),
        ("[bad", "http://[bad", None, "Origin is http://[bad"),
    ],
)
def test_other_sites_are_refused(host: str, origin: str | None, site: str | None, why: str) -> None:
    assert refuse_site(host, origin, site).startswith(why)


ADDRESSES = (
    "127.0.0.1", "127.0.0.1:9901", "10.0.0.7:9901", "[::1]:9901", "[2001:db8::1]", "localhost", "LocalHost:9901",
    "localhost.:9901",
)  # fmt: skip
NAMES = (
    "evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", "",
    "127.0.0.1/", "[::1", "evil.example#127.0.0.1", "127.0.0.1, evil.example", "2130706433", "127.1", "\xe9",
)  # fmt: skip


@pytest.mark.parametrize("host", ADDRESSES)
def test_without_a_token_addresses_pass(host: str) -> None:
    assert Access().refuse_host([host]) == ""
    assert Access().refuse_host([host, "evil.example"]), "each of several values counts"


@pytest.mark.parametrize("host", NAMES)
def test_without_a_token_names_are_refused(host: str) -> None:
    assert "admin.hosts" in Access().refuse_host([host])
    assert Access("t0ken").refuse_host([host]) == "", "who knows the token is no page of another site"
    assert Access(is_local=True).refuse_host([host]) == "", "no browser reaches a Unix socket"


@pytest.mark.parametrize("host", ["orders.prod.svc", "ORDERS.prod.svc.", "orders.prod.svc:9901"])
def test_names_that_the_policies_list_pass(host: str) -> None:
    access = Access(hosts=["Orders.prod.svc"])
    assert access.refuse_host([host]) == ""
    assert access.refuse_host([f"evil.{host}"])
    assert Access().refuse_host([]) == "", "HTTP/1.0 has no Host, and no browser speaks it"
