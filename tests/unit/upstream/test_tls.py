"""Tests of TLS contexts in real handshakes in memory: trust, and messages about unusable files."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from sidecar.upstream.tls import ClientTlsSpec, ServerTlsSpec, build_context, check_files, is_cut_off
from tests.support.authority import Authority
from tests.unit.upstream.handshakes import handshake


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
    assert said(ClientTlsSpec(ca=str(empty))) == [("ca", f"{empty} has no valid certificates in PEM format")]
    assert said(ClientTlsSpec(ca=str(garbage)))[0][0] == "ca"
    assert said(ServerTlsSpec(cert=good["cert"], key=str(empty))) == [
        ("key", f"{empty} has no private key in PEM format")
    ]
    assert said(ServerTlsSpec(cert=good["key"], key=good["key"])) == [
        ("cert", f"{good['key']} has no certificate in PEM format")
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


class TlsTransport(asyncio.BaseTransport):
    """Transport of a TLS connection, of which only the OpenSSL object matters here."""

    def __init__(self, connection: ssl.SSLObject | None) -> None:
        super().__init__({"ssl_object": connection})


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_an_end_without_close_notify_is_a_cut(ca: Authority, says_goodbye: bool) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app")))
    ours, theirs = handshake(build_context(ClientTlsSpec(ca=ca.ca_file)), server)
    if says_goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            theirs.unwrap()  # sends its close_notify, and waits for ours
    assert is_cut_off(TlsTransport(ours)) is not says_goodbye


def test_an_end_that_both_sides_have_declared_is_no_cut(ca: Authority) -> None:
    server = build_context(ServerTlsSpec(**ca.sign("app")))
    ours, theirs = handshake(build_context(ClientTlsSpec(ca=ca.ca_file)), server)
    with pytest.raises(ssl.SSLWantReadError):
        theirs.unwrap()
    ours.unwrap()  # event loops answer a close_notify before they report the end to the protocol
    assert not is_cut_off(TlsTransport(ours))


def test_a_plain_connection_is_never_cut_off() -> None:
    assert not is_cut_off(TlsTransport(None))
