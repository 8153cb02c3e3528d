"""Endpoints as policy files write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.upstream.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://payments:8080", ("http://payments:8080", False, "payments", 8080, "")),
        ("http://Payments", ("http://payments:80", False, "payments", 80, "")),
        ("https://payments.prod.svc/", ("https://payments.prod.svc:443", True, "payments.prod.svc", 443, "")),
        ("https://10.0.0.1:8443", ("https://10.0.0.1:8443", True, "10.0.0.1", 8443, "")),
        ("http://[2001:DB8:0::1]:80", ("http://[2001:db8::1]:80", False, "2001:db8::1", 80, "")),
        ("unix:/run/App.sock", ("unix:/run/App.sock", False, "", 0, "/run/App.sock")),
    ],
)
def test_parts(text: str, parts: tuple[object, ...]) -> None:
    assert parse_address(text) == Address(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("payments:8080", "is not an endpoint; .* such as http://payments:8080$"),
        ("ftp://payments", "is not an endpoint"),
        ("http://payments/v1", "its address alone, such as http://payments$"),
        ("http://payments?x=1", "its address alone, such as http://payments$"),
        ("http://user:secret@payments", "its address alone, such as http://payments$"),
        ("http://", "neither a name nor an IP address"),
        ("http://pay ments", "neither a name nor an IP address"),
        ("http://-payments", "neither a name nor an IP address"),
        ("http://pay\nments", "neither a name nor an IP address"),
        ("http://payments:0", "1 to 65535"),
        ("http://payments:65536", "1 to 65535"),
        ("http://payments:", "1 to 65535"),
        ("http://payments:٨٠", "1 to 65535"),
        ("http://[10.0.0.1]:80", "not an IPv6 address"),
        ("unix:run/app.sock", "absolute path"),
        ("unix:///run/app.sock", "write unix:/run/app.sock"),
        ("unix:/" + "x" * 107, "the system allows 107"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_address(text)


@given(st.text() | st.text(alphabet="htps:/[]@.%?#unix0123456789-a", max_size=40))
def test_the_canonical_form_is_stable_and_nothing_else_is_raised(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(address.url) == address
