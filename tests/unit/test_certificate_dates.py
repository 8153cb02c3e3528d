"""Dates of certificates and revocation lists, beside those that cryptography reads, and what is told of them."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sidecar.certificate_dates import MOST_LEFT, NEVER, Period, read_period
from sidecar.config.checks.local_files import check_certificates
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.report import Report
from sidecar.core import events
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.tls import ServerTlsSpec
from tests.support.authority import Authority
from tests.support.cases import each
from tests.support.clock import WALL, make_env

KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = 86400.0


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(since: datetime = START, until: datetime = START + timedelta(days=30)) -> bytes:
    builder = x509.CertificateBuilder(named("app"), named("ca"), KEY.public_key(), 2**150 + 7, since, until)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def revocations(issuer: str = "ca", since: datetime = START, until: datetime = START + timedelta(days=7)) -> bytes:
    builder = x509.CertificateRevocationListBuilder(named(issuer), since, until)
    for number in range(300):  # long lengths
        entry = x509.RevokedCertificateBuilder().serial_number(number + 1).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def days(since: float, until: float) -> Period:
    return Period(START.timestamp() + since * DAY, START.timestamp() + until * DAY)


def later(number: float) -> datetime:
    return START + timedelta(days=number)


def read(folder: Path, content: bytes, setting: str = "cert") -> Period | None:
    (folder / "file").write_bytes(content)
    return read_period(setting, str(folder / "file"))


@pytest.mark.parametrize("year", [1951, 1999, 2000, 2049, 2050, 2051, 9999])
def test_dates_are_those_of_a_library(year: int, tmp_path: Path) -> None:
    pem = certificate(datetime(1950, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC))
    theirs = x509.load_pem_x509_certificate(pem)
    dates = (theirs.not_valid_before_utc.timestamp(), theirs.not_valid_after_utc.timestamp())
    assert read(tmp_path, pem) == Period(*dates)


ENDLESS = bytes.fromhex("3017 3015 3000 30020500 170d") + b"250101000000Z"  # version, nextUpdate and signature left out
FILES: list[tuple[str, bytes, Period | None]] = [
    ("cert", certificate() + certificate(later(1), later(20)), days(1, 20)),
    ("client_ca", certificate() + certificate(later(10), later(90)), days(0, 90)),
    ("crl", revocations(), days(0, 7)),
    ("crl", revocations() + revocations("other", START, later(3)), days(0, 3)),
    ("crl", revocations() + revocations("ca", later(5), later(14)), days(0, 14)),
    ("crl", certificate() + revocations(), days(0, 7)),
    ("client_ca", revocations() + certificate(), days(0, 30)),
    ("crl", b"-----BEGIN X509 CRL-----\n" + b64encode(ENDLESS) + b"\n-----END X509 CRL-----\n", days(0, NEVER)),
    ("cert", b"", None),
    ("key", certificate(), None),
    ("cert", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None),
    ("cert", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", None),
    ("cert", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", None),
    ("cert", b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", None),
]


def test_a_file_is_valid_while_what_it_is_for_works(tmp_path: Path) -> None:
    for setting, content, expected in FILES:
        assert read(tmp_path, content, setting) == expected, content
    assert read_period("cert", str(tmp_path / "none")) is None


@each([
    (days(0, 30), -1, "early"), (days(0, 30), 0, "valid"), (days(0, 30), 26.9, "valid"), (days(0, 30), 27, "ending"),
    (days(0, 30), 30, "ended"), (days(0, 1000), 985.9, "valid"), (days(0, 1000), 986, "ending"),
    (days(0, NEVER), 1e6, "valid"),
])  # fmt: skip
def test_the_last_tenth_is_near_the_end(case: tuple[Period, float, str]) -> None:
    period, day, expected = case
    now = START.timestamp() + day * DAY
    assert period.state(now) == expected
    assert bool(period.describe("/crl", "crl", now)) is (expected != "valid")


def test_what_is_told_names_the_file_its_end_and_the_remedy() -> None:
    period = days(0, 7)
    assert period.describe("/etc/crl.pem", "crl", period.until - 1) == (
        "/etc/crl.pem expires at 2025-01-08 00:00:00 UTC, and then every client is refused; "
        "replace it with lists whose nextUpdate is later"
    )
    assert period.describe("/etc/crl.pem", "crl", period.until) == (
        "/etc/crl.pem expired at 2025-01-08 00:00:00 UTC, so every client is refused; "
        "replace it with lists whose nextUpdate is later"
    )
    assert period.describe("/etc/tls.crt", "cert", period.since - 1).startswith("/etc/tls.crt is not valid before 2025")


def test_the_log_the_state_and_a_metric_tell_before_a_list_expires(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    env, crl, start = make_env(), tmp_path / "crl.pem", datetime.fromtimestamp(WALL, UTC)
    crl.write_bytes(revocations("ca", start, start + timedelta(days=10)))
    spec = ServerTlsSpec(**ca.sign("app"), client_ca=ca.ca_file, crl=str(crl))
    watch = CertificateWatch(spec, "listener inbound", env).observed()
    assert env.events == []
    assert env.meter.value("sidecar.certificates.left", owner="listener inbound") == 10 * DAY
    assert (watch.describe()["valid_until"]["crl"], watch.describe()["problem"]) == (WALL + 10 * DAY, "")
    for day, event in ((9, events.CERTIFICATE_EXPIRING), (10, events.CERTIFICATE_INVALID)):
        env.advance(WALL + day * DAY - env.wall())
        watch.poll()
        watch.poll()
        [told] = env.emitted(event)
        assert (told["owner"], told["file"]) == ("listener inbound", str(crl))
        assert told["reason"] == watch.describe()["problem"]
    assert env.meter.value("sidecar.certificates.left", owner="listener inbound") == 0
    crl.write_bytes(revocations("ca", start, start + timedelta(days=10.5)))
    watch.poll()
    watch.poll()
    assert len(env.emitted(events.CERTIFICATE_EXPIRING)) == 2, "the new one is near its end too"
    plain = CertificateWatch(ServerTlsSpec(**ca.sign("other")), "listener other", env)
    assert plain.seconds_left() == MOST_LEFT


POLICY = """\
version: 1
listeners:
  inbound: {address: "127.0.0.1:1", tls: {cert: CERT, key: CERT, client_ca: CA, crl: CRL}}
upstreams:
  app:
    endpoints: ["https://app:1"]
    tls: {ca: CA}
    credentials: {oauth2: {token_url: "https://id:1/t", client: {id: a, secret: b}, tls: {ca: CA}}}
identities:
  a: {jwt: {issuer: i, audiences: [a], keys: {url: "https://id:1/k", tls: {ca: CA}}}}
  b: {introspection: {url: "https://id:1/i", client: {id: a, secret: b}, tls: {ca: CA}}}
  c: {external: {url: "https://id:1/e", tls: {ca: CA}}}
telemetry: {endpoint: "https://collector:1", tls: {ca: CA}}
"""


def test_check_warns_of_each_file_that_has_expired_or_soon_will(tmp_path: Path) -> None:
    files = {"CERT": certificate(), "CA": certificate(), "CRL": revocations()}
    text = POLICY
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        text = text.replace(f": {name}", f": {tmp_path / name}")
    loaded = load([Source("p.yaml", text.encode())], {})
    told = [each for each in loaded.warnings if "expired at 2025" in each.message]
    assert sorted(each.path for each in told) == [
        "identities.a.jwt.keys.tls.ca", "identities.b.introspection.tls.ca", "identities.c.external.tls.ca",
        "listeners.inbound.tls.cert", "listeners.inbound.tls.client_ca", "listeners.inbound.tls.crl",
        "telemetry.tls.ca", "upstreams.app.credentials.oauth2.tls.ca", "upstreams.app.tls.ca",
    ]  # fmt: skip
    assert loaded.spec is not None, loaded.problems
    report = Report()
    check_certificates(loaded.spec, report, START.timestamp())
    assert report.warnings == []
    check_certificates(loaded.spec, report, START.timestamp() + 6.5 * DAY)
    assert [each.path for each in report.warnings] == ["listeners.inbound.tls.crl"]
