"""Client certificates of hostile and careless clients over real TLS: who is let in, and revocation lists."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from chaos.parts.client import Client
from chaos.parts.servers import Server, echoing
from tests.support.authority import Authority
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)
BATCH: Final = "spiffe://cluster.local/ns/shop/sa/batch"
NO_HANDSHAKE: Final = 0
"""Outcome of a client whose handshake fails."""


class Signed(NamedTuple):
    """Certificate with its key, and the certificates above it but for the root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()


def sign(
    name: str,
    signer: Signed | None = None,
    *,
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    usages: Sequence[x509.ObjectIdentifier] = (Usage.CLIENT_AUTH,),
    begin: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
    is_ca: bool = False,
) -> Signed:
    """Return a certificate of a new key; without a signer it is a root."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = subject if signer is None else signer.certificate.subject
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)
    builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if not is_ca and usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(key if signer is None else signer.key, hashes.SHA256())
    is_root = signer is None or signer.certificate.issuer == signer.certificate.subject
    return Signed(certificate, key, () if is_root or signer is None else (signer.certificate, *signer.chain))


def revocations(signer: Signed, *revoked: Signed, end: datetime = NOW + DAY) -> bytes:
    """Return the revocation list of a signer in PEM."""
    begin = NOW - 2 * DAY
    builder = x509.CertificateRevocationListBuilder(signer.certificate.subject, begin, end)
    for each in revoked:
        serial = each.certificate.serial_number
        entry = x509.RevokedCertificateBuilder(serial, begin).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)


ROOT: Final = sign("root", is_ca=True)
MIDDLE: Final = sign("middle", ROOT, is_ca=True)
OTHER: Final = sign("other", is_ca=True)


class World:
    """Sidecar whose listener asks for certificates, and its files."""

    def __init__(self, folder: Path, sidecar: Sidecar, app: Server) -> None:
        self.folder, self.sidecar, self.app = folder, sidecar, app
        self.server = Authority(folder / "server")
        self.crl = folder / "crl.pem"
        self.ca = folder / "client_ca.pem"
        self.ca.write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))

    def policy(self, *, has_crl: bool = False, **certificate: Any) -> dict[str, Any]:
        tls = {
            **self.server.sign("localhost"),
            "client_ca": str(self.ca),
            **({"crl": str(self.crl)} if has_crl else {}),
        }
        return policies(
            listeners={"inbound": {"address": "127.0.0.1:0", "tls": tls}},
            identities={"mesh": {"certificate": certificate}},
            upstreams={"app": {"endpoints": [self.app.url]}},
            routes=[route("app", authenticate={"any_of": ["mesh"], "forward": {"caller": "x-caller"}})],
        )

    async def ask(self, client: Signed) -> int:
        """Return the status of a client's request, or `NO_HANDSHAKE`."""
        file = self.folder / "client.pem"
        key = client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(key + b"".join(e.public_bytes(Encoding.PEM) for e in (client.certificate, *client.chain)))
        context = ssl.create_default_context(cafile=self.server.ca_file)
        context.load_cert_chain(file)
        try:
            async with Client(self.sidecar.inbound, tls=context, server_name="localhost") as connection:
                return (await connection.request("GET", "/app", x_caller="root")).status
        except (OSError, EOFError, AssertionError, asyncio.IncompleteReadError):
            return NO_HANDSHAKE

    @property
    def caller(self) -> str:
        return self.app.requests[-1].get("x-caller")


async def test_a_certificate_must_be_valid_and_name_its_client_once(shared: Sidecar, tmp_path: Path) -> None:
    outcomes = {
        "right": (sign("batch", ROOT, uris=[BATCH]), 200),
        "of an intermediate": (sign("batch", MIDDLE, uris=[BATCH]), 200),
        "without a purpose": (sign("batch", ROOT, uris=[BATCH], usages=()), 200),
        "with a DNS name too": (sign("batch", ROOT, uris=[BATCH], dns=["batch.shop"]), 200),
        "expired": (sign("batch", ROOT, uris=[BATCH], begin=NOW - 2 * DAY, end=NOW - DAY), NO_HANDSHAKE),
        "not yet valid": (sign("batch", ROOT, uris=[BATCH], begin=NOW + DAY, end=NOW + 2 * DAY), NO_HANDSHAKE),
        "for servers": (sign("batch", ROOT, uris=[BATCH], usages=[Usage.SERVER_AUTH]), NO_HANDSHAKE),
        "for code": (sign("batch", ROOT, uris=[BATCH], usages=[Usage.CODE_SIGNING]), NO_HANDSHAKE),
        "of another authority": (sign("batch", OTHER, uris=[BATCH]), NO_HANDSHAKE),
        "of one that is no authority": (sign("batch", sign("leaf", ROOT), uris=[BATCH]), NO_HANDSHAKE),
        "without an intermediate": (sign("batch", MIDDLE, uris=[BATCH])._replace(chain=()), NO_HANDSHAKE),
        "two SPIFFE IDs": (sign("batch", ROOT, uris=[BATCH, BATCH + "2"]), 401),
        "the same twice": (sign("batch", ROOT, uris=[BATCH, BATCH]), 401),
        "another URI too": (sign("batch", ROOT, uris=[BATCH, "https://shop"]), 401),
        "no name": (sign("batch", ROOT), 401),
        "another trust domain": (sign("batch", ROOT, uris=["spiffe://evil/ns/shop/sa/batch"]), 401),
        "longer than a SPIFFE ID": (sign("batch", ROOT, uris=[BATCH + "x" * 2048]), 401),
        "a query": (sign("batch", ROOT, uris=[BATCH + "?a=1"]), 401),
        "percent-encoded": (sign("batch", ROOT, uris=[BATCH + "%2Fx"]), 401),
        "dots": (sign("batch", ROOT, uris=["spiffe://cluster.local/ns/shop/sa/.."]), 401),
        "a NUL": (sign("batch", ROOT, uris=[BATCH + "\0.evil"]), 401),
        "a line break": (sign("batch", ROOT, uris=[BATCH + "\r\nx-caller: root"]), 401),
    }
    async with Server(echoing) as app:
        world = World(tmp_path, shared, app)
        async with shared.under(world.policy(spiffe="spiffe://cluster.local/ns/*/sa/*")):
            assert {name: await world.ask(one) for name, (one, _) in outcomes.items()} == {
                name: outcome for name, (_, outcome) in outcomes.items()
            }
            huge = sign("batch", ROOT, uris=[BATCH + "x" * 100_000])
            assert await world.ask(huge) in (401, NO_HANDSHAKE), "OpenSSL limits the length of a chain"
            assert await world.ask(outcomes["right"][0]) == 200
        assert {request.get("x-caller") for request in app.requests} == {BATCH}


async def test_names_with_a_nul_or_a_line_break_name_nobody(shared: Sidecar, tmp_path: Path) -> None:
    async with Server(echoing) as app:
        world = World(tmp_path, shared, app)
        async with shared.under(world.policy(dns=["*.shop.svc", "*.evil.example"])):
            assert await world.ask(sign("batch", ROOT, dns=["batch.shop.svc"])) == 200
            assert world.caller == "batch.shop.svc"
            for name in ("batch.shop.svc\0.evil.example", "a\r\nx.shop.svc", "x" * 300 + ".shop.svc"):
                assert await world.ask(sign("batch", ROOT, dns=[name])) == 401
        async with shared.under(world.policy(subject="*")):
            assert await world.ask(sign("batch job", ROOT)) == 200
            assert world.caller == "batch job"
            assert await world.ask(sign("a\r\nx-caller: root", ROOT)) == 401
            assert await world.ask(sign("a\0b", ROOT)) == 401


async def test_revocation_lists_are_those_of_the_whole_chain_and_in_force(shared: Sidecar, tmp_path: Path) -> None:
    direct, indirect = sign("direct", ROOT, uris=[BATCH]), sign("indirect", MIDDLE, uris=[BATCH])
    both = revocations(ROOT) + revocations(MIDDLE)
    outcomes = {
        "none revoked": (both, 200, 200),
        "a leaf": (revocations(ROOT, direct) + revocations(MIDDLE), NO_HANDSHAKE, 200),
        "the leaf of the intermediate": (revocations(ROOT) + revocations(MIDDLE, indirect), 200, NO_HANDSHAKE),
        "the intermediate": (revocations(ROOT, MIDDLE) + revocations(MIDDLE), 200, NO_HANDSHAKE),
        "no list of the intermediate": (revocations(ROOT), 200, NO_HANDSHAKE),
        "no list of the root": (revocations(MIDDLE), NO_HANDSHAKE, NO_HANDSHAKE),
        "a list of another authority": (revocations(OTHER), NO_HANDSHAKE, NO_HANDSHAKE),
        "a list in its name": (revocations(OTHER._replace(certificate=ROOT.certificate)), NO_HANDSHAKE, NO_HANDSHAKE),
        "an expired list": (revocations(ROOT, end=NOW - DAY) + revocations(MIDDLE), NO_HANDSHAKE, NO_HANDSHAKE),
    }
    async with Server(echoing) as app:
        world = World(tmp_path, shared, app)
        for name, (lists, *wanted) in outcomes.items():
            world.crl = tmp_path / f"{name}.pem"
            world.crl.write_bytes(lists)
            async with shared.under(world.policy(has_crl=True, spiffe="spiffe://cluster.local/ns/*/sa/*")):
                assert [await world.ask(direct), await world.ask(indirect)] == wanted, name
