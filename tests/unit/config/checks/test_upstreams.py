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


@pytest.mark.parametrize(
    ("where", "is_warned"),
    [
        ("discover: {scheme: https, kubernetes: {service: app}}", True),
        ("discover: {scheme: https, kubernetes: {service: app, namespace: shop}}", False),
        ("discover: {scheme: https, kubernetes: {service: app}}, tls: {server_name: app.example}", False),
        ("discover: {kubernetes: {service: app}}", False),
    ],
)
def test_certificates_of_a_short_name_are_warned_of(where: str, is_warned: bool) -> None:
    loaded = load([Source("a.yaml", POLICY.format(listener="127.0.0.1:8080", where=where).encode())], {})
    assert loaded.problems == []
    assert any("write kubernetes.namespace" in warning for warning in map(str, loaded.warnings)) is is_warned


@pytest.mark.parametrize(
    ("discover", "problem"),
    [
        ("{}", "has no source; write dns with a port, srv, file or kubernetes"),
        ("{dns: a, port: 1, file: /x}", "has dns and file; keep one of them"),
        ("{dns: a}", "needs the port of the endpoints beside dns"),
        ("{file: /x, port: 1}", "has a port, which file tells for each endpoint; remove it"),
        ("{kubernetes: {service: a}, port: 1}", "write it within kubernetes"),
        ("{srv: payments.svc}", "is not the name of SRV records"),
        ("{kubernetes: {service: A}}", "is not a name in Kubernetes"),
        ("{kubernetes: {service: a, port: 0}}", "port"),
        ("{kubernetes: {service: a, node: c}}", "without zone_aware: true"),
        ('{kubernetes: {service: a, api: {url: "http://10.0.0.1"}}}', "sends the token in clear"),
        ('{kubernetes: {service: a, api: {url: "ftp://x"}}}', "is not the address of an API server"),
        ("{kubernetes: {service: a}, max_endpoints: 0}", "max_endpoints"),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_the_remedy(discover: str, problem: str) -> None:
    loaded = load([Source("a.yaml", POLICY.format(listener=":8080", where=f"discover: {discover}").encode())], {})
    assert any(problem in text for text in map(str, loaded.problems)), loaded.problems


def test_a_resolver_without_names_to_look_up_is_refused() -> None:
    where = "discover: {kubernetes: {service: a}}, resolve: {family: ipv4}"
    loaded = load([Source("a.yaml", POLICY.format(listener=":8080", where=where).encode())], {})
    assert any("no endpoint has a name to look up" in text for text in map(str, loaded.problems))
