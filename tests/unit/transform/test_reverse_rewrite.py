from __future__ import annotations

import pytest

from sidecar.core.outcome import Outcome
from sidecar.transform.cookies import CookieEdit, parse_cookie, write_cookie
from sidecar.transform.reverse_rewrite import ReverseRewrite

TEMPLATE = ReverseRewrite(
    b"https", b"shop.example.com", b"/orders/7", b"orders.internal:8080", b"/internal/v2/orders/7"
)
PREFIX = ReverseRewrite(b"http", b"api.example.com", b"/v1/orders", b"api.example.com", b"/v2/orders")
STRIPPED = ReverseRewrite(b"http", b"a", b"/v1/orders", b"a", b"/orders")
COMPLETE = ReverseRewrite(b"http", b"a", b"/orders/7", b"a", b"/lookup")


@pytest.mark.parametrize(
    ("way", "came", "became"),
    [
        (TEMPLATE, b"/internal/v2/orders/8", b"/orders/8"),
        (TEMPLATE, b"/internal/v2", b"/"),
        (TEMPLATE, b"/internal/v20/x", b"/internal/v20/x"),
        (TEMPLATE, b"/elsewhere", b"/elsewhere"),
        (TEMPLATE, b"http://orders.internal:8080/internal/v2/x?a=1#b", b"https://shop.example.com/x?a=1#b"),
        (TEMPLATE, b"HTTP://Orders.Internal:8080/y", b"https://shop.example.com/y"),
        (TEMPLATE, b"//orders.internal:8080/internal/v2/x", b"//shop.example.com/x"),
        (TEMPLATE, b"https://other.example.com/internal/v2/x", b"https://other.example.com/internal/v2/x"),
        (TEMPLATE, b"http://orders.internal:8080", b"https://shop.example.com"),
        (TEMPLATE, b"relative/x", b"relative/x"),
        (TEMPLATE, b"?a=/internal/v2/b", b"?a=/internal/v2/b"),
        (PREFIX, b"/v2/orders/1?next=/v2/x", b"/v1/orders/1?next=/v2/x"),
        (PREFIX, b"http://api.example.com/v2/orders/1", b"http://api.example.com/v1/orders/1"),
        (STRIPPED, b"/orders/1", b"/v1/orders/1"),
        (COMPLETE, b"/lookup?x", b"/orders/7?x"),
        (COMPLETE, b"/lookup/more", b"/orders/7/more"),
        (COMPLETE, b"/other", b"/other"),
    ],
)
def test_addresses(way: ReverseRewrite, came: bytes, became: bytes) -> None:
    assert way.address(came) == became


ENDPOINTS = ["http://10.0.0.7:80", "https://orders:443", "http://[::1]:9000", "unix:/run/app.sock"]
ALWAYS = ReverseRewrite(b"https", b"shop.example.com", b"/a/7", b"shop.example.com", b"/a/7", ENDPOINTS)
MOVED = ReverseRewrite(b"https", b"shop.example.com", b"/v1/7", b"shop.example.com", b"/v2/7", ENDPOINTS)


@pytest.mark.parametrize(
    ("way", "came", "became"),
    [
        (ALWAYS, b"http://10.0.0.7/x?y#z", b"https://shop.example.com/x?y#z"),
        (ALWAYS, b"http://10.0.0.7:80", b"https://shop.example.com"),
        (ALWAYS, b"http://10.0.0.7:8080/x", b"http://10.0.0.7:8080/x"),
        (ALWAYS, b"HTTPS://Orders/x", b"https://shop.example.com/x"),
        (ALWAYS, b"//[::1]:9000/x", b"//shop.example.com/x"),
        (ALWAYS, b"http://[::1]/x", b"http://[::1]/x"),
        (ALWAYS, b"http://shop.example.com/x", b"http://shop.example.com/x"),
        (ALWAYS, b"https://other.example.com/x", b"https://other.example.com/x"),
        (ALWAYS, b"http://10.0.0.7@evil.example/x", b"http://10.0.0.7@evil.example/x"),
        (ALWAYS, b"/x", b"/x"),
        (ALWAYS, b"x", b"x"),
        (MOVED, b"http://10.0.0.7/v2/8", b"https://shop.example.com/v1/8"),
        (MOVED, b"http://10.0.0.7/other", b"https://shop.example.com/other"),
        (MOVED, b"/v2/8", b"/v1/8"),
    ],
)
def test_addresses_of_the_endpoint_itself(way: ReverseRewrite, came: bytes, became: bytes) -> None:
    assert way.address(came) == became
    assert ALWAYS.cookie(b"a=b; Domain=orders; Path=/x") == b"a=b; Domain=shop.example.com; Path=/x"
    assert ALWAYS.cookie(b"a=b; Domain=example.com") == b"a=b; Domain=example.com"


@pytest.mark.parametrize(
    ("way", "came", "became"),
    [
        (TEMPLATE, b"a=b; Path=/internal/v2/cart; HttpOnly", b"a=b; Path=/cart; HttpOnly"),
        (TEMPLATE, b"a=b; path=/internal/v2", b"a=b; path=/"),
        (TEMPLATE, b"a=b; Path=/", b"a=b; Path=/"),
        (TEMPLATE, b"a=b; Domain=orders.internal; Secure", b"a=b; Domain=shop.example.com; Secure"),
        (TEMPLATE, b"a=b; Domain=.internal", b"a=b"),
        (TEMPLATE, b"a=b; Domain=example.com", b"a=b; Domain=example.com"),
        (TEMPLATE, b"a=b;Path=/x;  Max-Age=3", b"a=b;Path=/x;  Max-Age=3"),
        (STRIPPED, b"a=b; Path=/orders", b"a=b; Path=/orders"),
        (
            ReverseRewrite(b"http", b"10.0.0.1:80", b"/", b"orders.internal", b"/"),
            b"a=b; domain=orders.internal",
            b"a=b",
        ),
    ],
)
def test_cookies(way: ReverseRewrite, came: bytes, became: bytes) -> None:
    assert way.cookie(came) == became


def test_only_the_fields_that_bear_addresses_are_rewritten() -> None:
    outcome = Outcome(200, lines=b"X-Location: /internal/v2/x\r\n")
    TEMPLATE.apply(outcome)
    assert outcome.lines == b"X-Location: /internal/v2/x\r\n"
    outcome = Outcome(201, lines=b"Location: /internal/v2/x\r\nSet-Cookie: a=b; Path=/internal/v2/c\r\na: b\r\n")
    TEMPLATE.apply(outcome)
    assert outcome.headers == [(b"location", b"/x"), (b"set-cookie", b"a=b; Path=/c"), (b"a", b"b")]


@pytest.mark.parametrize(
    ("cookies", "came", "became"),
    [
        ({"*": {"Secure": True}}, b"a=b", b"a=b; Secure"),
        ({"*": {"Secure": True}}, b"a=b; secure; Path=/", b"a=b; Path=/; Secure"),
        ({"*": {"Secure": False}}, b"a=b; Secure", b"a=b"),
        ({"a": {"SameSite": "Lax", "Domain": None}}, b"a=b; Domain=x; SameSite=None", b"a=b; SameSite=Lax"),
        ({"a": {"SameSite": "Lax"}}, b"b=a; SameSite=None", b"b=a; SameSite=None"),
        ({"*": {"Path": "/"}, "a": {"Path": "/a"}}, b"a=b=c; path=/x", b"a=b=c; Path=/a"),
        ({"*": {"Max-Age": "60"}}, b'a="b c"; Max-Age=1; expires=x', b'a="b c"; expires=x; Max-Age=60'),
    ],
)
def test_attributes(cookies: dict[str, dict[str, str | bool | None]], came: bytes, became: bytes) -> None:
    assert CookieEdit(cookies).edit(came) == became


def test_every_set_cookie_is_edited_and_nothing_else() -> None:
    outcome = Outcome(200, lines=b"Set-Cookie: a=1\r\nx: y\r\nset-cookie: b=2\r\n")
    CookieEdit({"*": {"Secure": True}}).apply(outcome)
    assert outcome.headers == [(b"set-cookie", b"a=1; Secure"), (b"x", b"y"), (b"set-cookie", b"b=2; Secure")]
    outcome = Outcome(200, lines=b"x: y\r\n")
    CookieEdit({"*": {"Secure": True}}).apply(outcome)
    assert outcome.is_raw


def test_a_cookie_taken_apart_and_put_together() -> None:
    assert parse_cookie(b" a=b ;; Secure ; Path = /x") == (b"a=b", [(b"Secure", None), (b"Path", b"/x")])
    assert write_cookie(b"a=b", [(b"Secure", None), (b"Path", b"/x")]) == b"a=b; Secure; Path=/x"
