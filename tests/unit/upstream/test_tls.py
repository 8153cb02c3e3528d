"""TLS in real handshakes, in memory: who trusts whom, and certificates that change."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.core import events
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.tls import ClientTlsSpec, ServerTlsSpec, build_context, check_files
from tests.support.authority import Authority
from tests.support.clock import make_env


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = "app", session: Any = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands and exchange a byte (in TLS 1.3 the client's certificate is judged after its side is done)."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(a, b, server_hostname=name, session=session)
    theirs = server.wrap_bio(b, a, server_side=True)
    steps: list[Any] = [ours.do_handshake, theirs.do_handshake, lambda: ours.write(b"x"), lambda: theirs.read(1)]
    steps += [lambda: theirs.write(b"y"), lambda: ours.read(1)]
    for _ in range(20):
        waiting = []
        for step in steps:
            try:
                step()
            except ssl.SSLWantReadError:
                waiting.append(step)
        steps = waiting
        if not steps:
            return ours, theirs
    raise AssertionError("the handshake does not end")


def serial(connection: ssl.SSLObject) -> Any:
    certificate = connection.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


def test_a_trusted_name_and_http_by_alpn(ca: Authority) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app")))
    ours, theirs = handshake(build_context(ClientTlsSpec(ca=ca.ca_file)), server)
    assert ours.selected_alpn_protocol() == theirs.selected_alpn_protocol() == "http/1.1"
    assert ours.version() in ("TLSv1.2", "TLSv1.3")


def test_a_wrong_name_an_unknown_authority_and_verify_false(ca: Authority, stranger: Authority) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app")))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(build_context(ClientTlsSpec(ca=ca.ca_file)), server, "payments")
    for distrustful in (ClientTlsSpec(ca=stranger.ca_file), ClientTlsSpec()):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(build_context(distrustful), server)
    handshake(build_context(ClientTlsSpec(verify=False)), server, "payments")


def test_old_versions_are_refused(ca: Authority) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app")))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(ca.ca_file)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(old, server)


def test_mutual_tls(ca: Authority, stranger: Authority) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app"), client_ca=ca.ca_file))
    _, theirs = handshake(build_context(ClientTlsSpec(ca=ca.ca_file, **ca.sign("me"))), server)
    assert ("DNS", "me") in theirs.getpeercert()["subjectAltName"]  # type: ignore[index]
    for refused in (ClientTlsSpec(ca=ca.ca_file), ClientTlsSpec(ca=ca.ca_file, **stranger.sign("me"))):
        with pytest.raises(ssl.SSLError):
            handshake(build_context(refused), server)


def test_everything_wrong_with_the_files_is_said_with_their_paths(
    ca: Authority, stranger: Authority, tmp_path: Path
) -> None:
    good, other = ca.sign("app"), stranger.sign("app")
    (empty := tmp_path / "empty").write_text("")
    (garbage := tmp_path / "garbage").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    def said(spec: ClientTlsSpec | ServerTlsSpec) -> list[tuple[str, str]]:
        return [(problem.setting, str(problem)) for problem in check_files(spec)]

    assert said(ServerTlsSpec(**good)) == []
    assert said(ServerTlsSpec(cert="/no/cert", key=good["key"], client_ca="/no/ca")) == [
        ("client_ca", "/no/ca cannot be read: No such file or directory"),
        ("cert", "/no/cert cannot be read: No such file or directory"),
    ]
    assert said(ClientTlsSpec(ca=str(tmp_path))) == [("ca", f"{tmp_path} cannot be read: Is a directory")]
    assert said(ClientTlsSpec(ca=str(empty))) == [("ca", f"{empty} has no certificates in PEM that can be used")]
    assert said(ClientTlsSpec(ca=str(garbage)))[0][0] == "ca"
    assert said(ServerTlsSpec(cert=good["cert"], key=str(empty))) == [("key", f"{empty} has no private key in PEM")]
    assert said(ServerTlsSpec(cert=good["key"], key=good["key"])) == [
        ("cert", f"{good['key']} has no certificate in PEM")
    ]
    assert said(ServerTlsSpec(cert=good["cert"], key=other["key"])) == [
        ("key", f"{other['key']} is not the key of the certificate {good['cert']}")
    ]
    ((setting, message),) = said(ServerTlsSpec(cert=str(garbage), key=good["key"]))
    assert setting == "cert"
    assert f"{garbage} and {good['key']} cannot be used" in message


def test_an_encrypted_key_is_refused_and_nobody_is_asked(ca: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    good = ca.sign("app")
    key = s.load_pem_private_key(Path(good["key"]).read_bytes(), None)
    for number, form in enumerate((s.PrivateFormat.PKCS8, s.PrivateFormat.TraditionalOpenSSL)):
        path = tmp_path / f"key{number}"
        path.write_bytes(key.private_bytes(s.Encoding.PEM, form, s.BestAvailableEncryption(b"secret")))
        (problem,) = check_files(ServerTlsSpec(cert=good["cert"], key=str(path)))
        assert str(problem) == f"{path} is encrypted; give a key without a pass phrase"


# ----- certificates that change


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
    """As Kubernetes swaps a secret: `tls.crt` leads through the link `..data`."""
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


async def test_a_health_check_over_tls(ca: Authority) -> None:
    from aiohttp import web

    from sidecar.upstream.balancing.health import http_probe
    from sidecar.upstream.endpoint import Endpoint
    from sidecar.upstream.spec import HealthCheckSpec

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", well)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=build_context(ServerTlsSpec(**ca.sign("app")))).start()
        endpoint = Endpoint(f"https://127.0.0.1:{runner.addresses[0][1]}")
        trusting = build_context(ClientTlsSpec(ca=ca.ca_file))
        spec = HealthCheckSpec(path="/")
        assert "certificate" in (await http_probe(lambda: trusting)(endpoint, spec)).lower()
        endpoint.server_name = "app"
        assert await http_probe(lambda: trusting)(endpoint, spec) == ""
        assert "certificate" in (await http_probe()(endpoint, spec)).lower()
    finally:
        await runner.cleanup()
