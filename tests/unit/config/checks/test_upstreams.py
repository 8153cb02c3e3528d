"""Tests of the check for endpoints that are listeners of the same file, by any address of this machine."""

from __future__ import annotations

import socket

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

POLICY = """\
version: 1
listeners: {{inbound: {{address: "{listener}"}}}}
upstreams: {{app: {{{where}}}}}
routes: [{{name: r, upstream: app}}]
"""


def warned(listener: str, where: str) -> bool:
    loaded = load([Source("a.yaml", POLICY.format(listener=listener, where=where).encode())], {})
    assert loaded.problems == []
    return any("own listener `inbound`" in warning for warning in map(str, loaded.warnings))


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-1.shop.example")


def own_address() -> str:
    """Return an address of this machine other than loopback; empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return ""
        return str(sock.getsockname()[0])


LOOPS = [
    ("127.0.0.1:80", "http://127.0.0.1"),
    ("127.0.0.1:80", "http://127.1:80"),
    ("127.0.0.1:80", "http://localhost:80"),
    ("127.0.0.1:80", "http://LOCALHOST.:80"),
    ("127.0.0.1:80", "http://app.localhost:80"),
    ("127.0.0.1:80", "http://0.0.0.0:80"),
    ("127.0.0.1:80", "http://[::ffff:127.0.0.1]:80"),
    ("127.0.0.1:80", "http://2130706433:80"),
    ("localhost:80", "http://127.0.0.1:80"),
    ("localhost:80", "http://[::1]:80"),
    ("[::1]:80", "http://[0:0:0:0:0:0:0:1]:80"),
    ("[::1]:80", "http://[::]:80"),
    ("0.0.0.0:80", "http://127.0.0.2:80"),
    ("0.0.0.0:80", "http://pod-1:80"),
    ("0.0.0.0:80", "http://pod-1.shop.example:80"),
    ("[::]:80", "http://[::1]:80"),
    ("[::]:80", "http://127.0.0.1:80"),
    ("app:80", "http://app:80"),
    ("10.1.2.3:80", "http://10.1.2.3:80"),
    ("unix:/run/a/app.sock", "unix:/run/a/../a/app.sock"),
]


@pytest.mark.parametrize(("listener", "url"), LOOPS)
def test_an_endpoint_that_leads_back_is_warned_of(listener: str, url: str) -> None:
    assert warned(listener, f'endpoints: ["http://192.0.2.7:80", "{url}"]')


@pytest.mark.parametrize(
    ("listener", "url"),
    [
        ("127.0.0.1:80", "http://127.0.0.1:81"),
        ("127.0.0.1:80", "http://127.0.0.2:80"),
        ("127.0.0.1:80", "http://pod-1:80"),
        ("127.0.0.1:80", "http://[::1]:80"),
        ("0.0.0.0:80", "http://192.0.2.7:80"),
        ("0.0.0.0:80", "http://[::1]:80"),
        ("0.0.0.0:80", "http://orders:80"),
        ("[::]:80", "http://[2001:db8::7]:80"),
        ("unix:/run/a.sock", "unix:/run/b.sock"),
        ("unix:/run/a.sock", "http://127.0.0.1:80"),
    ],
)
def test_other_endpoints_are_not(listener: str, url: str) -> None:
    assert not warned(listener, f'endpoints: ["{url}"]')


def test_the_address_of_an_interface() -> None:
    if address := own_address():
        assert warned("0.0.0.0:80", f'endpoints: ["http://{address}:80"]')
        assert warned("[::]:80", f'endpoints: ["http://{address}:80"]')
        assert not warned("127.0.0.1:80", f'endpoints: ["http://{address}:80"]')


def test_names_that_are_looked_up() -> None:
    assert warned("0.0.0.0:80", "discover: {dns: localhost, port: 80}")
    assert warned("0.0.0.0:80", "discover: {dns: pod-1, port: 80}")
    assert not warned("0.0.0.0:80", "discover: {dns: localhost, port: 81}")
    assert not warned("0.0.0.0:80", "discover: {dns: orders, port: 80}")
