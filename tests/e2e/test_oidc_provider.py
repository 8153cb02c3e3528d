"""A real OpenID provider (oidc-provider for Node): discovery, keys that change, an absence, opaque tokens, own tokens.

`make node` installs it, with versions and hashes pinned; without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote_plus, urlencode

import jwt
import pytest
import pytest_asyncio

from chaos.parts.client import fetch
from chaos.parts.servers import Server, echoing
from sidecar.process.children import tied_to_parent
from tests.e2e.crowd import until
from tests.support.node import NODE, NODE_ENV, needs_node_package
from tests.support.process import NOTHING, PATIENCE, Sidecar, policies, route

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_node_package("oidc-provider")]
PROGRAM = Path(__file__).with_name("oidc_provider.cjs")


class Provider:
    """Process of the provider; its URL is its issuer."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = process

    async def tell(self, line: str) -> None:
        """Tell the provider to change, and wait until it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        assert (await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)).decode() == line + "\n"

    async def ask(self, path: str, **form: str) -> bytes:
        """Send a form as the client `alice`."""
        pair = f"alice:{quote_plus(secret('alice'))}".encode()
        fields = {
            "authorization": f"Basic {b64encode(pair).decode()}", "content-type": "application/x-www-form-urlencoded",
        }  # fmt: skip
        found = await fetch(self.url.removeprefix("http://"), "POST", path, urlencode(form).encode(), **fields)
        assert found.status == 200, found.body
        return found.body

    async def token(self, resource: str = "urn:orders", scope: str = "orders:read") -> str:
        """Return a new token for alice."""
        body = await self.ask("/token", grant_type="client_credentials", resource=resource, scope=scope)
        token: str = json.loads(body)["access_token"]
        return token


def secret(client: str) -> str:
    return f"{client} needs = no & secret"


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer() -> AsyncIterator[Provider]:
    """Run the provider."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        NODE, str(PROGRAM), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, env=NODE_ENV,
        preexec_fn=tied_to_parent(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Provider(process, int(await asyncio.wait_for(process.stdout.readline(), PATIENCE)))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar")) as running:
        yield running


@asynccontextmanager
async def world(shared: Sidecar, issuer: Provider) -> AsyncIterator[tuple[Sidecar, Server]]:
    """Run a service, and the sidecar in front of it; the provider's key is `first`."""
    await issuer.tell("keys first")
    async with Server(echoing) as app:
        client = {"id": "alice", "secret": secret("alice")}
        introspection = {"url": f"{issuer.url}/token/introspection", "client": client, "caller": "client_id"}
        oauth2 = {
            "token_url": f"{issuer.url}/token", "client": {"id": "sidecar", "secret": secret("sidecar")},
            "scopes": ["orders:write"], "parameters": {"resource": "urn:orders"},
        }  # fmt: skip
        forward = {"caller": "x-caller"}
        policy = policies(
            identities={
                "signed": {
                    "jwt": {
                        "issuer": issuer.url, "audiences": ["orders"], "types": ["at+jwt"], "keys": {"refresh": "1s"},
                    }
                },
                "opaque": {"introspection": {**introspection, "audiences": ["orders"], "cache": "0s"}},
            },
            upstreams={
                "app": {"endpoints": [app.url]},
                "other": {"endpoints": [app.url], "credentials": {"oauth2": oauth2}},
            },
            routes=[
                route("app", authenticate={"any_of": ["signed", "opaque"], "forward": forward},
                      authorize={"scopes": ["orders:read"]}),
                route("written", "app", authenticate={"any_of": ["signed"], "forward": forward},
                      authorize={"scopes": ["orders:write"]}),
                route("other"),
            ],
        )  # fmt: skip
        async with shared.under(policy) as sidecar:
            yield sidecar, app


async def ask(sidecar: Sidecar, token: str, path: str = "/app") -> int:
    return (await sidecar.fetch("GET", path, authorization=f"Bearer {token}")).status


async def test_tokens_are_known_through_changes_of_keys_and_an_absence(shared: Sidecar, issuer: Provider) -> None:
    async with world(shared, issuer) as (sidecar, app):
        old = await issuer.token()
        assert (kid(old), await ask(sidecar, old)) == ("first", 200)
        assert app.requests[-1].get("x-caller") == "alice"
        assert await ask(sidecar, await issuer.token(scope="orders:write")) == 403

        await issuer.tell("keys second first")
        new, late = await issuer.token(), await issuer.token()
        assert (kid(new), await ask(sidecar, new)) == ("second", 200), "an unknown key is fetched at once"
        assert await ask(sidecar, old) == 200

        await issuer.tell("keys second")
        await until_keys(sidecar, ["second"])
        assert await ask(sidecar, old) == 401, "its key has left, so the verdict that was cached ends too"
        assert await ask(sidecar, late) == 200

        seen, unseen = await issuer.token(), await issuer.token()
        await issuer.tell("keys third")
        last = await issuer.token()
        await issuer.tell("away")
        await until(lambda: bool(sidecar.said("identity.keys_failed")))
        assert await ask(sidecar, seen) == 200, "the keys are stale, and serve"
        assert (await sidecar.ask("/reload", "POST")).status == 200
        assert await ask(sidecar, unseen) == 200
        assert await ask(sidecar, last) == 503, "nobody can tell whose key that is"

        await issuer.tell("back")
        await until_keys(sidecar, ["third"])
        assert [await ask(sidecar, each) for each in (last, new)] == [200, 401]


async def until_keys(sidecar: Sidecar, ids: list[str]) -> None:
    """Wait until these are the keys in force."""
    async with asyncio.timeout(PATIENCE):
        while True:
            [found] = (await sidecar.state())["state"]["key_set"].values()
            if [each["id"] for each in found["keys"]] == ids:
                return
            await asyncio.sleep(0.02)


async def test_opaque_tokens_are_introspected(shared: Sidecar, issuer: Provider) -> None:
    async with world(shared, issuer) as (sidecar, app):
        token = await issuer.token("urn:opaque")
        assert await ask(sidecar, token) == 200
        assert app.requests[-1].get("x-caller") == "alice"
        assert await ask(sidecar, await issuer.token("urn:opaque", "orders:write")) == 403
        await issuer.ask("/token/revocation", token=token)
        assert [await ask(sidecar, each) for each in (token, "invented")] == [401, 401]


async def test_the_sidecar_has_a_token_of_its_own_for_an_upstream(shared: Sidecar, issuer: Provider) -> None:
    async with world(shared, issuer) as (sidecar, app):
        for _ in range(2):
            assert await ask(sidecar, "that of a client", "/other") == 200
        first, second = (each.get("authorization") for each in app.requests)
        assert first == second
        token = first.removeprefix("Bearer ")
        assert [await ask(sidecar, token, path) for path in ("/written", "/app")] == [200, 403]
        assert app.requests[-1].get("x-caller") == "sidecar"
