"""Sources of the sidecar's credentials: tokens from an OAuth 2.0 server, and secrets from files."""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from sidecar.core import events
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import CONNECT_FAILURE, Failure, Outcome, failed
from sidecar.identity.factory import make_credentials
from sidecar.identity.outgoing.spec import CredentialsSpec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store, response

URL = "https://id.example/token"
CLIENT = {"id": "orders shop", "secret": "s3:cret"}
HOUR = 3600.0


class TokenServer:
    """Token endpoint that counts its tokens; `answer` takes the place of one."""

    def __init__(self, env: FakeEnv) -> None:
        self.env = env
        self.answer: Any = None
        self.members: dict[str, Any] = {"expires_in": HOUR}
        self.delay = 0.0
        self.seen: list[Exchange] = []

    async def __call__(self, x: Exchange) -> Outcome:
        self.seen.append(x)
        number = len(self.seen)
        if self.delay:
            await self.env.sleep(self.delay)
        if isinstance(self.answer, Failure):
            return failed(self.answer)
        if isinstance(self.answer, Outcome):
            return self.answer
        whole = {"access_token": f"t{number}", "token_type": "bearer", **self.members}
        return response(200, json.dumps({k: v for k, v in whole.items() if v is not None}).encode())


def make(env: FakeEnv, server: Any = None, store: Store | None = None, **settings: Any) -> Any:
    spec = CredentialsSpec.model_validate(settings)
    connect: Any = lambda name, url, tls: server  # noqa: E731
    return make_credentials("pay", spec, env, (store or Store()).obtain, connect)


def tokens(env: FakeEnv, **settings: Any) -> tuple[Any, TokenServer]:
    server = TokenServer(env)
    return make(env, server, oauth2={"token_url": URL, "client": CLIENT, **settings}), server


@virtual
async def test_the_question_is_that_of_rfc_6749_and_all_who_wait_share_it() -> None:
    env = virtual_env()
    found, server = tokens(env, scopes=["pay", "refund"], parameters={"audience": "pay"})
    server.delay = 0.5
    assert found.value(env.now()) == b""
    values = await asyncio.gather(*(found.obtain(NEVER) for _ in range(20)))
    assert values == [b"Bearer t1"] * 20
    (x,) = server.seen
    assert (x.method, x.path, x.authority, x.scheme) == (b"POST", b"/token", b"id.example", b"https")
    form = parse_qs(x.body.decode())
    assert form == {"grant_type": ["client_credentials"], "scope": ["pay refund"], "audience": ["pay"]}
    assert b64decode((x.header(b"authorization") or b"").removeprefix(b"Basic ")) == b"orders+shop:s3%3Acret"
    assert found.value(env.now()) == b"Bearer t1"
    assert found.fields(env.now()) == [(b"authorization", b"Bearer t1")]
    assert "t1" not in json.dumps(found.describe())
    found.retire()


@virtual
async def test_the_clients_credentials_may_be_in_the_body() -> None:
    env = virtual_env()
    found, server = tokens(env, client_auth="post")
    await found.obtain(NEVER)
    form = parse_qs(server.seen[0].body.decode())
    assert (form["client_id"], form["client_secret"]) == (["orders shop"], ["s3:cret"])
    assert server.seen[0].header(b"authorization") is None
    found.retire()


@virtual
async def test_a_token_is_renewed_before_its_end_and_no_request_waits() -> None:
    env = virtual_env()
    found, server = tokens(env)
    found.start()
    await settle()
    for number in range(1, 4):
        assert found.value(env.now()) == b"Bearer t%d" % number
        await env.sleep(HOUR * 0.84)
        assert len(server.seen) == number + 1
    assert env.meter.value("sidecar.credentials.fetches", upstream="pay", result="ok") == 4
    assert 0.6 * HOUR < env.meter.value("sidecar.credentials.left", upstream="pay") < HOUR
    found.start()
    await settle()
    assert len(server.seen) == 4, "a reload changes nothing"
    found.retire()
    await env.sleep(2 * HOUR)
    assert len(server.seen) == 4
    assert found.value(env.now()) == b""


@virtual
async def test_while_the_server_is_away_the_token_is_used_to_its_end() -> None:
    env = virtual_env()
    found, server = tokens(env)
    found.start()
    await settle()
    server.answer = CONNECT_FAILURE
    await env.sleep(HOUR - 10)
    assert found.value(env.now()) == b"Bearer t1"
    asked = len(server.seen)
    assert 10 < asked < 60, "it is asked again and again, but not all the time"
    assert len(env.emitted(events.CREDENTIALS_FAILED)) == 1, "an outage is told once"
    assert "could not be reached" in found.describe()["problem"]
    await env.sleep(10)
    assert found.value(env.now()) == b""
    assert env.meter.value("sidecar.credentials.left", upstream="pay") == 0
    await env.sleep(40)
    server.answer = None
    assert (await found.obtain(NEVER)).startswith(b"Bearer t")
    (told,) = env.emitted(events.CREDENTIALS_RESTORED)
    assert told["failures"] > 10
    assert found.describe()["problem"] == ""
    found.retire()


@virtual
async def test_requests_do_not_flood_a_server_that_fails() -> None:
    env = virtual_env()
    found, server = tokens(env)
    server.answer = response(400, b'{"error": "invalid_client", "error_description": "s3:cret is wrong"}')
    for _ in range(100):
        assert await found.obtain(NEVER) == b""
    assert len(server.seen) == 1
    assert found.problem == f"{URL}: answered with the status 400 (invalid_client)"
    assert found.retry_after(env.now()) == 1.0
    await env.sleep(1.2)
    for _ in range(100):
        assert await found.obtain(NEVER) == b""
    assert 2 <= len(server.seen) <= 3
    found.retire()


@virtual
async def test_a_request_waits_no_longer_than_its_deadline() -> None:
    env = virtual_env()
    found, server = tokens(env)
    server.delay = 1.5
    began = env.now()
    assert await found.obtain(began + 0.2) == b""
    assert env.now() - began == pytest.approx(0.2)
    assert await found.obtain(NEVER) == b"Bearer t1"
    assert len(server.seen) == 1, "the request that is under way goes on for the others"
    found.retire()


@virtual
async def test_a_request_that_leaves_does_not_end_the_question_of_the_others() -> None:
    env = virtual_env()
    found, server = tokens(env)
    server.delay = 1.0
    first, second = (asyncio.ensure_future(found.obtain(NEVER)) for _ in range(2))
    await settle()
    first.cancel()
    assert await second == b"Bearer t1"
    assert first.cancelled()
    found.retire()


@virtual
async def test_a_rejected_token_is_renewed_once_in_a_while() -> None:
    env = virtual_env()
    found, server = tokens(env)
    first = await found.obtain(NEVER)
    assert found.reject(first)
    second = await found.obtain(NEVER)
    assert second == b"Bearer t2"
    assert found.reject(first), "a request that was sent with the old one may use the new one"
    assert not found.reject(second), "an upstream that rejects all tokens"
    assert len(server.seen) == 2
    await env.sleep(11)
    assert found.reject(second)
    assert await found.obtain(NEVER) == b"Bearer t3"
    assert env.meter.value("sidecar.credentials.rejections", upstream="pay") == 4
    assert len(env.emitted(events.CREDENTIALS_REJECTED)) == 2
    found.retire()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"token_type": "mac"}, "not of the type Bearer"),
        ({"token_type": None}, "not of the type Bearer"),
        ({"access_token": None}, "no access_token"),
        ({"access_token": 7}, "no access_token"),
        ({"access_token": ""}, "no access_token"),
        ({"access_token": "a b"}, "no access_token"),
        ({"access_token": "a\r\nx-admin: 1"}, "no access_token"),
        ({"access_token": "\u00e4"}, "no access_token"),
        ({"access_token": "a" * 20000}, "no access_token"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": []}, "expires_in"),
    ],
)
def test_answers_that_are_no_tokens(members: dict[str, Any], words: str) -> None:
    @virtual
    async def check() -> None:
        env = virtual_env()
        found, server = tokens(env)
        server.members = members
        assert await found.obtain(NEVER) == b""
        assert words in found.problem
        assert "x-admin" not in found.problem
        found.retire()

    check()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(302, b"", {"location": "https://evil.example"}), "status 302"),
        (response(500, b"<html>"), "status 500"),
        (response(401, b'{"error": "a\\r\\nb"}'), "status 401"),
        (response(200, b"[1]"), "not a JSON object"),
        (response(200, b"{"), "not a JSON object"),
        (response(200, b'{"access_token": "a", "access_token": "b", "token_type": "bearer"}'), "not a JSON object"),
        (response(200, bytes(600_000)), "larger than"),
    ],
)
def test_answers_of_broken_servers(answer: Outcome, words: str) -> None:
    @virtual
    async def check() -> None:
        env = virtual_env()
        found, server = tokens(env)
        server.answer = answer
        assert await found.obtain(NEVER) == b""
        assert words in found.problem
        assert "\n" not in found.problem
        found.retire()

    check()


@pytest.mark.parametrize(("stated", "seconds"), [(None, 300), ("600", 600), (600.5, 600.5), (1e300, 30 * 86400)])
def test_lifetimes(stated: Any, seconds: float) -> None:
    @virtual
    async def check() -> None:
        env = virtual_env()
        found, server = tokens(env)
        server.members = {"expires_in": stated}
        await found.obtain(NEVER)
        assert seconds * 0.94 <= found.describe()["left"] <= seconds
        found.retire()

    check()


@virtual
async def test_the_secret_of_a_file_is_read_for_each_token(tmp_path: Path) -> None:
    env = virtual_env()
    secret = tmp_path / "secret"
    settings = {"client": {"id": "a", "secret": {"file": str(secret)}}}
    with pytest.raises(OSError, match="No such file"):
        tokens(env, **settings)
    secret.write_text("one\n")
    found, server = tokens(env, **settings)
    first = await found.obtain(NEVER)
    secret.write_text("two\n")
    found.reject(first)
    await found.obtain(NEVER)
    sent = [b64decode((x.header(b"authorization") or b"")[6:]) for x in server.seen]
    assert sent == [b"a:one", b"a:two"]
    secret.write_bytes(b"\xff\xfe")
    await env.sleep(11)
    found.reject(await found.obtain(NEVER))
    await settle()
    assert found.problem == "the file with the secret is not UTF-8 text"
    assert found.value(env.now()) == b"Bearer t2"
    found.retire()


def test_a_source_survives_a_reload_and_not_a_change() -> None:
    env, store = make_env(), Store()
    settings = {"token_url": URL, "client": CLIENT}
    first = make(env, None, store, oauth2=settings)
    assert make(env, None, store, oauth2=settings) is first
    assert make(env, None, store, oauth2={**settings, "scopes": ["a"]}) is not first
    assert make(env, None, store, oauth2={**settings, "client": {"id": "orders shop", "secret": "other"}}) is not first


# ----- secrets of files


@virtual
async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    env = virtual_env()
    path = tmp_path / "token"
    with pytest.raises(OSError, match="No such file"):
        make(env, header={"value": {"file": str(path)}})
    path.write_text("\n")
    with pytest.raises(ValueError, match="token has no secret"):
        make(env, header={"value": {"file": str(path)}})
    path.write_text("one\n")
    found = make(env, header={"prefix": "Bearer", "value": {"file": str(path)}})
    found.start()
    found.start()
    assert found.value(env.now()) == await found.obtain(NEVER) == b"Bearer one"
    path.write_text("tw")
    await env.sleep(0.9)
    assert found.value(env.now()) == b"Bearer one", "the file may still be being written"
    draft = tmp_path / "draft"
    draft.write_text("two\n")
    os.replace(draft, path)
    await env.sleep(2.5)
    assert found.value(env.now()) == b"Bearer two"
    assert len(env.emitted(events.CREDENTIALS_CHANGED)) == 1
    path.unlink()
    await env.sleep(5)
    assert found.value(env.now()) == b"Bearer two"
    (told,) = env.emitted(events.CREDENTIALS_FAILED)
    assert "cannot be read" in told["reason"]
    path.write_text("three\r\ninjected: 1")
    await env.sleep(3)
    assert found.value(env.now()) == b"Bearer two"
    path.write_text("three")
    assert found.reject(b"Bearer two"), "a rejected secret is looked up at once"
    assert found.value(env.now()) == b"Bearer three"
    assert not found.reject(b"Bearer three")
    assert "three" not in json.dumps(found.describe())
    found.retire()


def test_a_secret_of_the_policy() -> None:
    env = make_env()
    found = make(env, header={"name": "X-Api-Key", "value": "k"})
    found.start()
    assert (found.field, found.value(0.0), found.describe()["problem"]) == (b"x-api-key", b"k", "")
    assert not env.clock.timers if hasattr(env, "clock") else True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs one of oauth2 and header"),
        ({"header": {"value": "a"}, "oauth2": {"token_url": URL, "client": CLIENT}}, "needs one of"),
        ({"header": {"name": "host", "value": "a"}}, "meaning of its own"),
        ({"header": {"name": "Transfer_Encoding", "value": "a"}}, "meaning of its own"),
        ({"header": {"name": "a b", "value": "a"}}, "not the name of a header field"),
        ({"header": {"prefix": "Bearer ", "value": "a"}}, "prefix"),
        ({"header": {"value": "a"}, "mode": "observe"}, "takes no `mode: observe`"),
        ({"oauth2": {"token_url": "id.example", "client": CLIENT}}, "not a URL"),
        ({"oauth2": {"token_url": URL, "client": CLIENT, "scopes": ["a b"]}}, "one word"),
        ({"oauth2": {"token_url": URL, "client": CLIENT, "parameters": {"scope": "a"}}}, "scopes sets"),
        ({"oauth2": {"token_url": URL, "client": CLIENT, "parameters": {"client_id": "a"}}}, "client sets"),
        ({"oauth2": {"token_url": URL, "client": {"id": "a", "secret": ""}}}, "empty secret"),
    ],
)
def test_wrong_blocks(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CredentialsSpec.model_validate(settings)
