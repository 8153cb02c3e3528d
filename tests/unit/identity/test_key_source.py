"""Key sets of issuers that are away, come back, change their keys, and answer with nonsense."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sidecar.core import events
from sidecar.core.exchange import Caller
from sidecar.core.outcome import CONNECT_FAILURE, TIMEOUT
from sidecar.core.stage import Wait
from sidecar.identity.factory import IdentityFactory
from sidecar.identity.key_source import RemoteKeys
from sidecar.identity.spec import IdentitySpec
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import VerificationSpec
from tests.support.clock import WALL, FakeEnv
from tests.support.issuer import ISSUER, KeyServer, jwk, key, sign
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store, exchange

HOUR = 3600.0


class Rig:
    """Identity whose keys come from a server, on a virtual loop."""

    def __init__(self, server: KeyServer, store: Store | None = None, env: FakeEnv | None = None, **keys: Any) -> None:
        self.server, self.store, self.env = server, store or Store(), env or virtual_env()
        self.urls: list[str] = []
        self.reload(**keys)

    def reload(self, **keys: Any) -> None:
        given = {} if "discovery" in keys or keys.get("url", "") is None else {"url": f"{ISSUER}/keys"}
        keys = {name: value for name, value in {**given, **keys}.items() if value is not None}
        jwt = {"issuer": ISSUER, "audiences": ["orders"], "keys": keys}
        spec = IdentitySpec.model_validate({"jwt": jwt})

        def connect(name: str, url: str, tls: Any) -> Any:
            self.urls.append(url)
            return self.server

        factory = IdentityFactory(self.env, self.store.obtain, connect, VerificationSpec(), Path.read_text)
        self.identity = factory.make("corporate", spec)
        self.identity.start()

    @property
    def source(self) -> RemoteKeys:
        found = self.identity.source
        assert isinstance(found, RemoteKeys)
        return found

    async def ask(self, token: bytes) -> Verdict:
        x = exchange(headers={"authorization": f"Bearer {token.decode()}"})
        lines = x.lines
        found = self.identity.authenticate(x, lines, b"\n" + lines.lower(), self.env.now())
        return await found.awaited if isinstance(found, Wait) else found

    def fresh(self, number: int, **claims: Any) -> bytes:
        """Return a token that was not seen before, and does not end in this test."""
        return sign(key(), {"jti": str(number), "exp": WALL + 1e7, **claims})


@virtual
async def test_requests_before_the_first_fetch_share_one() -> None:
    server = KeyServer(jwk(key()))
    rig = Rig(server)
    server.before = lambda: rig.env.sleep(1.0)
    found = await asyncio.gather(*(rig.ask(rig.fresh(number)) for number in range(50)))
    assert all(isinstance(each, Caller) for each in found)
    assert len(server.seen) == 1
    x = server.seen[0]
    assert (x.method, x.path, x.authority, x.scheme) == (b"GET", b"/keys", b"id.example", b"https")
    assert x.deadline == pytest.approx(rig.env.now() + 1.0)


@virtual
async def test_keys_are_fetched_again_in_the_background() -> None:
    rig = Rig(KeyServer(jwk(key())))
    await rig.env.sleep(HOUR)
    assert 10 <= len(rig.server.seen) <= 15, "every five minutes or so"
    assert rig.env.meter.value("sidecar.identity.fetches", identity="corporate", result="ok") == len(rig.server.seen)
    rig.source.retire()
    await rig.env.sleep(HOUR)
    assert len(rig.server.seen) <= 15


@virtual
async def test_nobody_is_refused_while_the_issuer_is_away_for_an_hour() -> None:
    rig = Rig(KeyServer(jwk(key())))
    await settle()
    rig.server.status = CONNECT_FAILURE
    for number in range(60):
        await rig.env.sleep(60)
        assert isinstance(await rig.ask(rig.fresh(number)), Caller)
    assert len(rig.env.emitted(events.KEYS_FAILED)) == 1, "an outage is told once"
    assert rig.source.describe()["problem"]
    assert rig.env.meter.value("sidecar.identity.keys.age", identity="corporate") > HOUR - 1
    tries = len(rig.server.seen)
    assert tries < 40, "retries back off"
    rig.server.status, rig.server.keys = 200, [jwk(key()), jwk(key("EC", "two"))]
    await rig.env.sleep(331)
    assert len(rig.env.emitted(events.KEYS_RESTORED)) == 1
    assert isinstance(await rig.ask(sign(key("EC", "two"), {"exp": WALL + 1e6})), Caller)


@virtual
async def test_keys_older_than_stale_for_are_not_used() -> None:
    rig = Rig(KeyServer(jwk(key())), stale_for="30m")
    await settle()
    token = rig.fresh(0)
    assert isinstance(await rig.ask(token), Caller)
    rig.server.status = 503
    await rig.env.sleep(34 * 60)
    assert isinstance(await rig.ask(token), Caller)
    await rig.env.sleep(2 * 60)
    found = await rig.ask(token)
    assert isinstance(found, Unavailable)
    assert "older than stale_for" in found.cause or "status 503" in found.cause
    rig.server.status = 200
    await rig.env.sleep(331)
    assert isinstance(await rig.ask(token), Caller)


@virtual
async def test_a_token_of_a_removed_key_is_refused_although_it_was_cached() -> None:
    rig = Rig(KeyServer(jwk(key()), jwk(key("EC", "two"))))
    await settle()
    one, two = rig.fresh(1), sign(key("EC", "two"), {"exp": WALL + 1e6})
    kept = await rig.ask(one)
    assert isinstance(await rig.ask(two), Caller)
    rig.server.keys = [jwk(key())]
    await rig.source._fetch()
    assert await rig.ask(one) is kept, "a key that stays keeps its verdicts"
    assert isinstance(await rig.ask(two), Rejection)
    assert rig.env.emitted(events.KEYS_CHANGED)[-1]["removed"] == ["two"]


@virtual
async def test_unknown_key_ids_fetch_at_most_once_in_ten_seconds() -> None:
    rig = Rig(KeyServer(jwk(key())))
    await settle()
    before = len(rig.server.seen)
    began = rig.env.now()
    for number in range(2000):
        found = await rig.ask(sign(key("EC", "forged"), {"jti": str(number)}, kid=f"unknown-{number}"))
        assert isinstance(found, Rejection)
        await rig.env.sleep(0.01)
    assert len(rig.server.seen) - before <= (rig.env.now() - began) / 10 + 1
    rig.server.keys.append(jwk(key("EC", "new")))
    await rig.env.sleep(10)
    assert isinstance(await rig.ask(sign(key("EC", "new"))), Caller), "a new key is found without waiting for a refresh"


@virtual
async def test_an_unknown_key_id_cannot_be_judged_while_the_issuer_is_away() -> None:
    rig = Rig(KeyServer(jwk(key())))
    await settle()
    rig.server.status = TIMEOUT
    assert isinstance(await rig.ask(sign(key("EC", "new"))), Unavailable)
    assert isinstance(await rig.ask(rig.fresh(1)), Caller)


@virtual
async def test_a_client_that_leaves_while_it_waits_for_keys_takes_nobody_with_it() -> None:
    server = KeyServer(jwk(key()))
    rig = Rig(server)
    server.before = lambda: rig.env.sleep(1.5)
    task = asyncio.get_running_loop().create_task(rig.ask(rig.fresh(2)))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert isinstance(await rig.ask(rig.fresh(3)), Caller), "a request that leaves ends no fetch"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"<html>", "is not JSON"),
        (b'{"keys":[]}', "no usable key"),
        (b'{"keys":{}}', "not a key set"),
        (b'{"keys":[],"keys":[]}', "twice"),
        (b"[" * 100_000, "not JSON"),
        (b"x" * 600_000, "larger"),
        (json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0" * 10, "kid": "one"}]}).encode(), "secret"),
        (json.dumps({"keys": [{"kty": "RSA"}] * 101}).encode(), "at most 100"),
    ],
)
def test_a_poisoned_or_broken_key_set_changes_nothing(document: bytes, words: str) -> None:
    @virtual
    async def scenario() -> None:
        rig = Rig(KeyServer(jwk(key())))
        await settle()
        rig.server.document = document
        await rig.source._fetch()
        assert words in rig.source.problem
        assert isinstance(await rig.ask(rig.fresh(1)), Caller)

    scenario()


@virtual
async def test_a_bad_key_beside_good_ones_is_left_out_and_told() -> None:
    private = {**key("EC", "leaked").as_dict(private=True), "kid": "leaked"}
    rig = Rig(KeyServer(jwk(key()), private, {"kty": "oct", "k": "AAAA" * 20, "kid": "secret"}))
    await settle()
    assert [each.id for each in rig.source.keys.keys] == ["one"]
    ignored = " ".join(rig.env.emitted(events.KEYS_CHANGED)[0]["ignored"])
    assert "private key" in ignored
    assert "secret" in ignored


@virtual
async def test_the_issuer_names_its_keys_by_discovery() -> None:
    rig = Rig(KeyServer(jwk(key())), url=None)
    assert rig.urls == [f"{ISSUER}/.well-known/openid-configuration"]
    assert isinstance(await rig.ask(rig.fresh(1)), Caller)
    assert [x.path for x in rig.server.seen] == [b"/.well-known/openid-configuration", b"/keys"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": f"{ISSUER}/keys"},
        {"issuer": ISSUER, "jwks_uri": "https://evil.example/keys"},
        {"issuer": ISSUER, "jwks_uri": "http://id.example/keys"},
        {"issuer": ISSUER},
        [],
    ],
)
def test_metadata_of_another_issuer_or_host_are_refused(document: Any) -> None:
    @virtual
    async def scenario() -> None:
        server = KeyServer(jwk(key()))
        server.document = document
        rig = Rig(server, discovery=f"{ISSUER}/meta")
        assert isinstance(await rig.ask(rig.fresh(1)), Unavailable)
        assert "write keys" in rig.source.problem or "metadata" in rig.source.problem

    scenario()


@virtual
async def test_keys_and_verdicts_survive_a_reload() -> None:
    rig = Rig(KeyServer(jwk(key())))
    token = rig.fresh(1)
    first = await rig.ask(token)
    rig.server.status = CONNECT_FAILURE
    rig.reload(refresh="1h")
    assert await rig.ask(token) is first
    assert isinstance(await rig.ask(rig.fresh(2)), Caller)
    assert len(rig.server.seen) == 1


def test_keys_survive_a_restart_in_a_file_of_their_own(tmp_path: Path) -> None:
    kept = tmp_path / "keys.json"

    @virtual
    async def scenario() -> None:
        env = virtual_env()
        rig = Rig(KeyServer(jwk(key())), env=env, keep=str(kept))
        assert isinstance(await rig.ask(rig.fresh(1)), Caller)
        while not kept.exists():  # a worker thread writes it
            await asyncio.sleep(0)
        rig.source.retire()
        assert kept.stat().st_mode & 0o077 == 0
        assert os.listdir(tmp_path) == ["keys.json"], "no draft is left"
        away = KeyServer()
        away.status = CONNECT_FAILURE
        await env.sleep(HOUR)
        again = Rig(away, env=env, keep=str(kept))
        assert isinstance(await again.ask(again.fresh(2)), Caller)
        again.source.retire()
        await env.sleep(24 * HOUR)
        late = Rig(away, env=env, keep=str(kept))
        assert isinstance(await late.ask(late.fresh(3)), Unavailable), "kept keys are as old as they are"
        late.source.retire()

    scenario()


@pytest.mark.parametrize("what", ["writable", "foreign", "future", "ancient", "timeless", "broken", "unwritable"])
def test_a_kept_file_that_cannot_be_trusted_is_told_and_left(tmp_path: Path, what: str) -> None:
    kept = tmp_path / "keys.json"
    document = {"source": f"{ISSUER}/keys", "fetched": WALL - 5, "keys": [jwk(key("EC", "planted"))]}
    match what:
        case "foreign":
            document["source"] = "https://evil.example/keys"
        case "future":
            document["fetched"] = WALL + 10
        case "ancient":
            document["fetched"] = -(10**400)  # no float
        case "timeless":
            document["fetched"] = True
    if what == "unwritable":
        kept = tmp_path / "missing" / "keys.json"
    else:
        kept.write_bytes(b"{" if what == "broken" else json.dumps(document).encode())
        kept.chmod(0o666 if what == "writable" else 0o600)

    @virtual
    async def scenario() -> None:
        rig = Rig(KeyServer(jwk(key())), keep=str(kept))
        assert isinstance(await rig.ask(sign(key("EC", "planted"))), Rejection)
        assert isinstance(await rig.ask(rig.fresh(1)), Caller)
        while not (told := rig.env.emitted(events.KEYS_FAILED)):  # a worker thread may tell it
            await asyncio.sleep(0)
        assert str(kept) in told[0]["reason"]

    scenario()


@virtual
async def test_keys_from_a_file_follow_it() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "keys.json")
        path.write_text(json.dumps({"keys": [jwk(key())]}))
        rig = Rig(KeyServer(), url=None, file=str(path))
        assert isinstance(await rig.ask(rig.fresh(1)), Caller)
        path.write_text("{")
        await rig.env.sleep(3)
        assert isinstance(await rig.ask(rig.fresh(2)), Caller), "a broken file changes nothing"
        assert "not JSON" in rig.identity.source.describe()["problem"]
        path.write_text(json.dumps({"keys": [jwk(key("EC", "two"))]}))
        await rig.env.sleep(3)
        assert isinstance(await rig.ask(rig.fresh(1)), Rejection)
        assert isinstance(await rig.ask(sign(key("EC", "two"))), Caller)
        rig.identity.source.retire()


def test_a_file_that_cannot_be_used_at_first_is_a_problem_of_the_policies(tmp_path: Path) -> None:
    @virtual
    async def scenario() -> None:
        for text, words in (
            ("", "not JSON"),
            ('{"keys": []}', "no keys"),
            ('{"keys": [{"kty": "x"}]}', "has the type"),
        ):
            path = tmp_path / "keys.json"
            path.write_text(text)
            with pytest.raises(ValueError, match=words):
                Rig(KeyServer(), url=None, file=str(path))
        with pytest.raises(ValueError, match="cannot be read"):
            Rig(KeyServer(), url=None, file=str(tmp_path / "missing"))

    scenario()
