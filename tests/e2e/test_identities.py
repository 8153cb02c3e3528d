"""Callers on real sockets: an issuer that goes away, a restart, client certificates, and a revoked one."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from chaos.parts.client import Client
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server, echoing
from tests.e2e.crowd import until
from tests.support.authority import Authority
from tests.support.files import replace
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORWARD = {"caller": "x-caller", "claims": {"tenant": "x-tenant"}, "credentials": "drop"}


async def issuer(connection: Connection, request: Message) -> None:
    """Answer with a key set, or with what the issuer knows of a token."""
    if request.target == "/introspect":
        if b"token=hang" in request.body:
            await asyncio.Event().wait()
        active = {"active": b"token=good" in request.body, "sub": "carol"}
        await connection.send(response(200, json.dumps(active).encode()))
    elif request.target == "/check/session":
        is_known = request.get("cookie") == "session=1"
        fields = {"x-user": "dave"} if is_known else {"www-authenticate": "Cookie"}
        await connection.send(response(200 if is_known else 401, b"", fields.items()))
    else:
        await connection.send(response(200, json.dumps({"keys": [jwk(key())]}).encode()))


def token(number: int, **claims: Any) -> dict[str, str]:
    """Return the field of a token that was not seen before."""
    return {"authorization": f"Bearer {sign(key(), {'exp': time.time() + 600, 'jti': str(number), **claims}).decode()}"}


def policy(app: Server, keys: Server, keep: Path) -> dict[str, Any]:
    jwt = {"issuer": ISSUER, "audiences": ["orders"], "keys": {"url": f"{keys.url}/keys", "keep": str(keep)}}
    return policies(
        identities={"corporate": {"jwt": jwt}},
        upstreams={"app": {"endpoints": [app.url]}},
        routes=[route("app", authenticate={"any_of": ["corporate"], "forward": FORWARD})],
        telemetry={"access_log": {}},
    )


async def test_callers_are_known_while_the_issuer_is_away_and_after_a_restart(tmp_path: Path) -> None:
    keep = tmp_path / "keys.json"
    async with Server(echoing) as app, Server(issuer) as keys:
        rules = policy(app, keys, keep)
        async with Sidecar(rules, tmp_path) as sidecar:
            found = await sidecar.fetch("GET", "/app", **token(1), x_caller="admin")
            assert found.status == 200
            (seen,) = app.requests
            assert (seen.get("x-caller"), seen.get("x-tenant"), seen.get("authorization")) == ("alice", "acme", "")
            forged = sign(key("EC", "forged"), {"exp": time.time() + 600}, kid="one").decode()
            for fields in ({}, {"authorization": f"Bearer {forged}"}, token(2, aud="payments"), token(3, exp=1)):
                refused = await sidecar.fetch("GET", "/app", **fields)
                assert refused.status == 401
                assert refused.get("www-authenticate").startswith('Bearer realm="test"')
            assert len(app.requests) == 1
            await until(lambda: any('"caller":"alice"' in line for line in sidecar.output))
            assert all(forged not in line for line in sidecar.output)
            await until(keep.exists)
            await keys.__aexit__(None, None, None)
            assert (await sidecar.fetch("GET", "/app", **token(4))).status == 200
            assert (await sidecar.ask("/reload", "POST")).status == 200
            assert (await sidecar.fetch("GET", "/app", **token(5))).status == 200
            state = await sidecar.state()
            assert "corporate" in json.dumps(state)
        async with Sidecar(rules, tmp_path) as sidecar:
            assert (await sidecar.fetch("GET", "/app", **token(6))).status == 200
            assert (await sidecar.fetch("GET", "/app", **token(7, aud="payments"))).status == 401
        keep.unlink()
        async with Sidecar(rules, tmp_path) as sidecar:
            found = await sidecar.fetch("GET", "/app", **token(8))
            assert (found.status, found.get("x-sidecar-reason")) == (503, "unverifiable")
            assert found.get("retry-after") == "1"


async def test_opaque_tokens_and_sessions_are_asked_about(tmp_path: Path) -> None:
    async with Server(echoing) as app, Server(issuer) as keys:
        rules = policies(
            identities={
                "legacy": {
                    "introspection": {
                        "url": f"{keys.url}/introspect",
                        "client": {"id": "a", "secret": "b"},
                        "timeout": "300ms",
                    }
                },
                "web": {
                    "external": {
                        "url": f"{keys.url}/check",
                        "headers": ["cookie"],
                        "forward": ["x-user"],
                        "caller": "x-user",
                    }
                },
            },
            upstreams={"session": {"endpoints": [app.url]}},
            routes=[route("session", authenticate={"any_of": ["legacy", "web"], "forward": {"caller": "x-caller"}})],
        )
        async with Sidecar(rules, tmp_path) as sidecar:
            for fields, status, caller in (
                ({"authorization": "Bearer good"}, 200, "carol"),
                ({"authorization": "Bearer bad"}, 401, ""),
                ({"authorization": "Bearer hang"}, 503, ""),
                ({"cookie": "session=1"}, 200, "dave"),
                ({"cookie": "session=2"}, 401, ""),
            ):
                found = await sidecar.fetch("GET", "/session", **fields, x_user="admin")
                assert found.status == status
                if caller:
                    assert app.requests[-1].get("x-caller") == caller
                    assert app.requests[-1].get("x-user") == ("dave" if caller == "dave" else "")


def revocations(ca: Authority, path: Path, *revoked: str, ends_in: timedelta = timedelta(days=1)) -> Path:
    """Write a revocation list of an authority for the certificates in these files."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        x509.load_pem_x509_certificate(Path(ca.ca_file).read_bytes()).subject, now - timedelta(days=1), now + ends_in
    )
    for file in revoked:
        number = x509.load_pem_x509_certificate(Path(file).read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    replace(path, builder.sign(ca.ca._private_key, hashes.SHA256()).public_bytes(x509_pem()))
    return path


def x509_pem() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


async def test_a_certificate_names_its_caller_until_it_is_revoked(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    server, batch, other = ca.sign("localhost", "127.0.0.1"), ca.sign("batch.shop.svc"), ca.sign("other.svc")
    crl = revocations(ca, tmp_path / "crl.pem")
    async with Server(echoing) as app:
        rules = policies(
            listeners={
                "inbound": {"address": "127.0.0.1:0", "tls": {**server, "client_ca": ca.ca_file, "crl": str(crl)}}
            },
            identities={"mesh": {"certificate": {"dns": "*.shop.svc"}}},
            upstreams={"app": {"endpoints": [app.url]}},
            routes=[route("app", authenticate={"any_of": ["mesh"], "forward": {"caller": "x-caller"}})],
        )
        async with Sidecar(rules, tmp_path) as sidecar:

            async def status(identity: dict[str, Any]) -> int:
                async with Client(sidecar.inbound, tls=ca.client(identity), server_name="localhost") as client:
                    return (await client.request("GET", "/app", x_caller="admin")).status

            assert await status(batch) == 200
            assert app.requests[-1].get("x-caller") == "batch.shop.svc"
            assert await status(other) == 401
            revocations(ca, crl, batch["cert"])
            await until(lambda: sidecar.said("certificate.reloaded"))
            with pytest.raises((OSError, EOFError, AssertionError, asyncio.IncompleteReadError)):
                await status(batch)
            assert await status(other) == 401
            revocations(ca, crl, ends_in=timedelta(0))
            await until(lambda: sidecar.said("certificate.invalid"))
            with pytest.raises((OSError, EOFError, AssertionError, asyncio.IncompleteReadError)):
                await status(other)
            told = (await sidecar.state())["listeners"]["inbound"]["certificates"]["problem"]
            assert told == sidecar.said("certificate.invalid")[0]["reason"]
            assert told.startswith(f"{crl} expired at ")
            metrics = (await sidecar.ask("/metrics")).body.decode()
            assert 'sidecar_certificates_left_seconds{owner="listener inbound"} -' in metrics
