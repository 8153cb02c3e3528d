"""Tests of certificates that change: new handshakes use the new files, never broken or withdrawn ones."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

import pytest

from sidecar.core import events
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.tls import ClientTlsSpec, ServerTlsSpec, build_context
from tests.support.authority import Authority
from tests.support.clock import make_env
from tests.unit.upstream.handshakes import handshake, serial


@pytest.mark.parametrize("name", ["app", None])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_handshakes_of_a_listener_use_the_new_pair(
    ca: Authority, name: str | None, version: ssl.TLSVersion
) -> None:
    env = make_env()
    pair = ca.sign("app")
    watch = CertificateWatch(ServerTlsSpec(**pair), "listener inbound", env)
    front = watch.front
    client = build_context(ClientTlsSpec(ca=ca.ca_file))
    client.maximum_version = client.minimum_version = version
    client.check_hostname = name is not None
    first, _ = handshake(client, front, name)
    watch.poll()
    ca.sign("app", to=Path(pair["cert"]).parent)
    watch.poll()
    assert serial(handshake(client, front, name)[0]) == serial(first), "not until the files have kept still"
    watch.poll()
    assert serial(handshake(client, front, name)[0]) != serial(first)
    assert watch.front is front
    assert env.emitted(events.CERTIFICATE_RELOADED) == [{"owner": "listener inbound"}]


def test_a_broken_pair_changes_nothing_and_is_told_once(ca: Authority) -> None:
    env = make_env()
    pair = ca.sign("app")
    watch = CertificateWatch(ServerTlsSpec(**pair), "listener inbound", env)
    client = build_context(ClientTlsSpec(ca=ca.ca_file))
    first, _ = handshake(client, watch.front)
    good = Path(pair["key"]).read_bytes()
    other = Path(ca.sign("other")["key"]).read_bytes()
    Path(pair["key"]).write_bytes(other)
    for _ in range(5):
        watch.poll()
    assert serial(handshake(client, watch.front)[0]) == serial(first)
    (event,) = env.emitted(events.CERTIFICATE_FAILED)
    assert "is not the key of the certificate" in event["reason"]
    assert watch.describe()["problem"] == event["reason"]
    os.remove(pair["key"])
    for _ in range(3):
        watch.poll()
    assert "No such file" in env.emitted(events.CERTIFICATE_FAILED)[-1]["reason"]
    Path(pair["key"]).write_bytes(good)
    for _ in range(3):
        watch.poll()
    assert watch.problem == ""
    assert len(env.emitted(events.CERTIFICATE_RELOADED)) == 1


def test_a_withdrawn_client_authority_is_trusted_no_more(ca: Authority, stranger: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "clients.pem"
    bundle.write_bytes(Path(ca.ca_file).read_bytes() + Path(stranger.ca_file).read_bytes())
    watch = CertificateWatch(ServerTlsSpec(**ca.sign("app"), client_ca=str(bundle)), "listener inbound", make_env())
    client = build_context(ClientTlsSpec(ca=ca.ca_file, **stranger.sign("me")))
    handshake(client, watch.front)
    bundle.write_bytes(Path(ca.ca_file).read_bytes())
    watch.poll()
    watch.poll()
    with pytest.raises(ssl.SSLError):
        handshake(client, watch.front)
    handshake(build_context(ClientTlsSpec(ca=ca.ca_file, **ca.sign("me"))), watch.front)
    with pytest.raises(ssl.SSLError):
        handshake(build_context(ClientTlsSpec(ca=ca.ca_file)), watch.front)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_from_before_a_change_of_authorities_are_not_resumed(
    ca: Authority, stranger: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    env = make_env()
    env.wall = time.time  # type: ignore[misc]  # OpenSSL has its own idea of the time
    bundle = tmp_path / "clients.pem"
    bundle.write_bytes(Path(ca.ca_file).read_bytes() + Path(stranger.ca_file).read_bytes())
    pair = ca.sign("app")
    watch = CertificateWatch(ServerTlsSpec(**pair, client_ca=str(bundle)), "listener inbound", env)
    client = build_context(ClientTlsSpec(ca=ca.ca_file, **stranger.sign("me")))
    client.minimum_version = client.maximum_version = version
    ours, _ = handshake(client, watch.front)
    ca.sign("app", to=Path(pair["cert"]).parent)
    watch.poll()
    watch.poll()
    again, _ = handshake(client, watch.front, session=ours.session)
    assert again.session_reused, "the authorities are the same"
    bundle.write_bytes(Path(ca.ca_file).read_bytes())
    watch.poll()
    watch.poll()
    with pytest.raises(ssl.SSLError):
        handshake(client, watch.front, session=ours.session)


def test_a_swapped_link_is_seen_and_new_connections_show_the_new_certificate(ca: Authority, tmp_path: Path) -> None:
    """Kubernetes swaps a secret by renaming the link `..data`, through which `tls.crt` leads."""
    for version in ("v1", "v2"):
        ca.sign("me", to=tmp_path / version)
    data = tmp_path / "..data"
    data.symlink_to("v1")
    watch = CertificateWatch(
        ClientTlsSpec(ca=ca.ca_file, cert=str(data / "cert"), key=str(data / "key")), "upstream payments", make_env()
    )
    server = build_context(ServerTlsSpec(**ca.sign("app"), client_ca=ca.ca_file))
    before = serial(handshake(watch.context, server)[1])
    (fresh := tmp_path / "..fresh").symlink_to("v2")
    fresh.rename(data)
    watch.poll()
    watch.poll()
    assert serial(handshake(watch.context, server)[1]) != before


def test_nothing_to_begin_with_is_an_error() -> None:
    with pytest.raises(ValueError, match="/no/cert cannot be read"):
        CertificateWatch(ServerTlsSpec(cert="/no/cert", key="/no/key"), "listener inbound", make_env())
