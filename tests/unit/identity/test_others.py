"""API keys, introspection, external servers and client certificates."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.files import read_plain
from sidecar.core import events
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.outcome import CONNECT_FAILURE, Failure, Outcome, failed
from sidecar.core.stage import Wait
from sidecar.identity.factory import IdentityFactory
from sidecar.identity.spec import IdentitySpec
from sidecar.identity.verdict import Rejection, Unavailable, Verdict
from sidecar.identity.verification import VerificationSpec
from tests.support.clock import WALL, FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store, exchange, response

KEY = "sidecar_0123456789"


def digest(key: str = KEY) -> str:
    return f"sha256:{sha256(key.encode()).hexdigest()}"


class Server:
    """Server that plays one answer until the test sets another."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.seen: list[Exchange] = []
        self.delay = 0.0
        self.env: FakeEnv | None = None

    async def __call__(self, x: Exchange) -> Outcome:
        self.seen.append(x)
        if self.delay and self.env is not None:
            await self.env.sleep(self.delay)
        if isinstance(self.answer, Failure):
            return failed(self.answer)
        if isinstance(self.answer, Outcome):
            return Outcome(self.answer.status, self.answer.headers, self.answer.body)
        return response(200, self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode())


def make(kind: str, env: FakeEnv, server: Server | None = None, store: Store | None = None, **settings: Any) -> Any:
    spec = IdentitySpec.model_validate({kind: settings})
    if server is not None:
        server.env = env
    connect: Any = lambda name, url, tls: server  # noqa: E731
    factory = IdentityFactory(env, (store or Store()).obtain, connect, VerificationSpec(), read_plain)
    return factory.make("partners", spec)


async def ask(found: Any, env: FakeEnv, **facts: Any) -> Verdict | None:
    x = exchange(**facts)
    lines = x.lines
    verdict = found.authenticate(x, lines, b"\n" + lines.lower(), env.now())
    return await verdict.awaited if isinstance(verdict, Wait) else verdict


# ----- API keys


def key_file(tmp_path: Path, *keys: dict[str, Any]) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(json.dumps({"keys": list(keys)}))
    return path


async def test_an_api_key_names_its_owner(tmp_path: Path) -> None:
    env = make_env()
    path = key_file(
        tmp_path,
        {"name": "old", "owner": "batch", "digest": digest(), "claims": {"tenant": "acme", "scope": ["a"]}},
        {"name": "new", "owner": "batch", "digest": digest("another")},
        {"name": "alone", "digest": digest("third")},
    )
    found = make("api_key", env, file=str(path))
    verdict = await ask(found, env, headers={"x-api-key": KEY})
    assert isinstance(verdict, Caller)
    assert (verdict.id, verdict.claims["tenant"], verdict.credential) == ("batch", "acme", b"x-api-key")
    second = await ask(found, env, headers={"X-Api-Key": "another"})
    assert isinstance(second, Caller)
    assert second.id == "batch", "two keys of one owner are valid at once"
    third = await ask(found, env, headers={"X-Api-Key": "third"})
    assert isinstance(third, Caller)
    assert third.id == "alone"
    assert KEY not in repr(vars(found))
    assert KEY not in json.dumps(found.describe())


async def test_wrong_missing_and_repeated_keys(tmp_path: Path) -> None:
    env = make_env()
    found = make("api_key", env, file=str(key_file(tmp_path, {"name": "k", "digest": digest()})))
    assert await ask(found, env) is None
    for wrong in ("", KEY[:-1], KEY + "0", KEY.upper(), digest(), "x" * 2000):
        assert isinstance(await ask(found, env, headers={"x-api-key": wrong}), Rejection)
    twice = await ask(found, env, headers=[(b"x-api-key", KEY.encode())] * 2)
    assert isinstance(twice, Rejection)
    assert twice.is_ambiguous


@pytest.mark.parametrize(
    ("place", "facts"),
    [
        ({"header": "X-Partner"}, {"headers": {"x-partner": KEY}}),
        ({"parameter": "api_key"}, {"query": b"a=1&api_key=" + KEY.encode()}),
        ({"cookie": "session"}, {"headers": {"cookie": f"a=1; session={KEY}; b=2"}}),
    ],
)
async def test_places_of_keys(tmp_path: Path, place: dict[str, str], facts: dict[str, Any]) -> None:
    env = make_env()
    found = make("api_key", env, file=str(key_file(tmp_path, {"name": "k", "digest": digest()})), **place)
    assert isinstance(await ask(found, env, **facts), Caller)
    assert await ask(found, env, headers={"x-api-key": KEY}) is None
    assert await ask(found, env) is None


async def test_keys_in_parameters_and_cookies_are_unique(tmp_path: Path) -> None:
    env = make_env()
    path = str(key_file(tmp_path, {"name": "k", "digest": digest()}))
    value = KEY.encode()
    for place, facts in (
        ({"parameter": "api_key"}, {"query": b"api_key=%b&api_key=x" % value}),
        ({"cookie": "c"}, {"headers": {"cookie": f"c={KEY}; c=x"}}),
        ({"cookie": "c"}, {"headers": [(b"cookie", b"c=%b" % value), (b"cookie", b"c=x")]}),
    ):
        found = await ask(make("api_key", env, file=path, **place), env, **facts)
        assert isinstance(found, Rejection)
        assert found.is_ambiguous


async def test_a_key_ends_when_it_says(tmp_path: Path) -> None:
    env = make_env()
    ends = [
        ("2000-01-01", False),
        ("2100-01-01", True),
        ("2000-01-01T00:00:00Z", False),
        ("2100-01-01T00:00:00+02:00", True),
    ]
    for text, is_valid in ends:
        path = key_file(tmp_path, {"name": "k", "digest": digest(), "expires": text})
        verdict = await ask(make("api_key", env, file=str(path)), env, headers={"x-api-key": KEY})
        assert isinstance(verdict, Caller) == is_valid
    endless, ending = {"name": "b", "digest": digest()}, {"name": "a", "digest": digest("x"), "expires": "2100-01-01"}
    found = make("api_key", env, file=str(key_file(tmp_path, endless, ending))).describe()["keys"]
    assert [(each["name"], each.get("expires")) for each in found] == [("a", 4102444800.0), ("b", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "list `keys`"),
        ("keys: x", "list `keys`"),
        ("{keys: [], more: 1}", "list `keys`"),
        ("keys: [1]", "must be a mapping"),
        ("keys: [{name: a, digest: abc}]", "digest must be"),
        ("keys: [{digest: x}]", "name must be"),
        (f"keys: [{{name: a, digest: '{digest()}', secret: x}}]", "must be a mapping with"),
        (
            f"keys: [{{name: a, digest: '{digest()}'}}, {{name: b, digest: '{digest()}'}}]",
            "has the digest of the key a",
        ),
        (f"keys: [{{name: a, digest: '{digest()}', expires: soon}}]", "expires must be a date"),
        (f"keys: [{{name: a, digest: '{digest()}', claims: [x]}}]", "claims must be"),
        (f"keys: [{{name: 'a\\n', digest: '{digest()}', owner: 7}}]", "must be"),
        ("keys: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        make("api_key", make_env(), file=str(path))
    with pytest.raises(OSError, match="missing"):
        make("api_key", make_env(), file=str(tmp_path / "missing"))


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    @virtual
    async def scenario() -> None:
        env = virtual_env()
        path = key_file(tmp_path, {"name": "k", "digest": digest()})
        found = make("api_key", env, file=str(path))
        found.start()
        path.write_text("keys: [")
        while not env.emitted(events.KEYS_FAILED):  # a worker thread reads it
            await env.sleep(1)
        assert isinstance(await ask(found, env, headers={"x-api-key": KEY}), Caller)
        assert "not valid YAML" in found.describe()["problem"]
        assert len(env.emitted(events.KEYS_FAILED)) == 1
        key_file(tmp_path, {"name": "k2", "digest": digest("another")})
        while not env.emitted(events.KEYS_CHANGED):
            await env.sleep(1)
        assert isinstance(await ask(found, env, headers={"x-api-key": KEY}), Rejection)
        assert isinstance(await ask(found, env, headers={"x-api-key": "another"}), Caller)
        found.retire()

    scenario()


async def test_a_file_is_not_read_while_it_is_being_written(tmp_path: Path) -> None:
    env = make_env()
    one, two = ({"name": name, "digest": digest(name)} for name in ("one", "two"))
    found = make("api_key", env, file=str(key_file(tmp_path, one)))
    for keys in ([], [two], [one, two]):
        key_file(tmp_path, *keys)
        await found.poll()
        assert isinstance(await ask(found, env, headers={"x-api-key": "one"}), Caller)
    await found.poll()
    assert isinstance(await ask(found, env, headers={"x-api-key": "two"}), Caller)
    assert env.emitted(events.KEYS_CHANGED) == [{"identity": "partners", "keys": 2}]
    assert not env.emitted(events.KEYS_FAILED)


# ----- introspection

ACTIVE = {"active": True, "sub": "alice", "aud": "orders", "scope": "a b", "exp": WALL + 1000}
INTROSPECTION = {"url": "https://id.example/introspect?x=1", "client": {"id": "side car", "secret": "p:w"}}
TOKEN = {"headers": {"authorization": "Bearer opaque+token"}}


@virtual
async def test_the_issuer_is_asked_once_for_each_token() -> None:
    env, server = virtual_env(), Server(ACTIVE)
    found = make("introspection", env, server, **INTROSPECTION)
    server.delay = 0.5
    verdicts = await asyncio.gather(*(ask(found, env, **TOKEN) for _ in range(20)))
    assert {each.id for each in verdicts if isinstance(each, Caller)} == {"alice"}
    assert len(verdicts) == 20
    (x,) = server.seen
    assert (x.method, x.path, x.query) == (b"POST", b"/introspect", b"x=1")
    assert x.body == b"token=opaque%2Btoken&token_type_hint=access_token"
    assert b64decode((x.header(b"authorization") or b"")[6:]) == b"side+car:p%3Aw"
    await env.sleep(50)
    first = await ask(found, env, **TOKEN)
    assert first is verdicts[0]
    await env.sleep(20)
    await ask(found, env, **TOKEN)
    assert len(server.seen) == 2


@virtual
async def test_a_client_that_guesses_tokens_does_not_reach_the_issuer_for_long() -> None:
    env, server = virtual_env(), Server({"active": False})
    found = make("introspection", env, server, **INTROSPECTION)
    for number in range(100):
        headers = {"authorization": f"Bearer guess-{number}"}
        await ask(found, env, headers=headers, client_address="10.9.9.9")
    assert len(server.seen) == 20
    server.answer = ACTIVE
    assert isinstance(await ask(found, env, **TOKEN, client_address="10.0.0.1"), Caller)


@virtual
async def test_tokens_of_a_form_that_the_issuer_does_not_introspect_are_no_guesses() -> None:
    env, server = virtual_env(), Server(response(400, b'{"error":"unsupported_token_type"}'))
    found = make("introspection", env, server, **INTROSPECTION)
    for number in range(100):
        verdict = await ask(found, env, headers={"authorization": f"Bearer signed-{number}"})
        assert isinstance(verdict, Rejection)
        assert verdict.is_foreign, "another identity's rejection tells more"
    await ask(found, env, headers={"authorization": "Bearer signed-99"})
    assert len(server.seen) == 100, "the answer is cached"


@virtual
async def test_an_answer_is_never_used_beyond_the_end_of_the_token() -> None:
    env, server = virtual_env(), Server({**ACTIVE, "exp": WALL + 10})
    found = make("introspection", env, server, **INTROSPECTION)
    assert isinstance(await ask(found, env, **TOKEN), Caller)
    await env.sleep(11)
    assert isinstance(await ask(found, env, **TOKEN), Rejection)
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"active": False}, Rejection),
        ({"active": True, "sub": "alice", "aud": "payments"}, Rejection),
        ({"active": True, "aud": "orders"}, Rejection),
        ({"active": "yes", "sub": "alice"}, Unavailable),
        ({"active": True, "sub": "alice", "aud": "orders", "exp": "never"}, Unavailable),
        ({"active": True, "sub": "alice", "aud": "orders", "exp": 10**400}, Unavailable),
        ({"active": True, "sub": "alice", "aud": "orders", "exp": True}, Unavailable),
        ({"active": False, "exp": "never"}, Rejection),
        ({}, Unavailable),
        ([], Unavailable),
        (b"<html>", Unavailable),
        (b'{"active":false,"active":true,"sub":"a"}', Unavailable),
        (response(500), Unavailable),
        (response(401), Unavailable),
        (response(400), Unavailable),
        (response(400, b'{"error":"invalid_request"}'), Unavailable),
        (response(400, b'{"error":"unsupported_token_type"}'), Rejection),
        (response(500, b'{"error":"unsupported_token_type"}'), Unavailable),
        (response(302, headers={"location": "http://evil/"}), Unavailable),
        (CONNECT_FAILURE, Unavailable),
    ],
)
def test_what_the_endpoint_says_decides(answer: Any, kind: type) -> None:
    @virtual
    async def scenario() -> None:
        env, server = virtual_env(), Server(answer)
        found = make("introspection", env, server, audiences=["orders"], **INTROSPECTION)
        assert isinstance(await ask(found, env, **TOKEN), kind)
        assert isinstance(await ask(found, env, **TOKEN), kind)
        assert len(server.seen) == (1 if kind is Rejection else 2), "negative answers are cached, failures are not"

    scenario()


@virtual
async def test_a_stale_answer_is_used_only_if_the_policy_says_so() -> None:
    env, server = virtual_env(), Server(ACTIVE)
    deny = make("introspection", env, server, **INTROSPECTION)
    allow = make("introspection", env, server, **INTROSPECTION, on_failure="allow_stale", stale_for="5m")
    for found in (deny, allow):
        assert isinstance(await ask(found, env, **TOKEN), Caller)
    server.answer = CONNECT_FAILURE
    await env.sleep(100)
    assert isinstance(await ask(deny, env, **TOKEN), Unavailable)
    assert isinstance(await ask(allow, env, **TOKEN), Caller)
    assert isinstance(await ask(allow, env, headers={"authorization": "Bearer other"}), Unavailable)
    await env.sleep(300)
    assert isinstance(await ask(allow, env, **TOKEN), Unavailable)
    server.answer = ACTIVE
    assert isinstance(await ask(allow, env, **TOKEN), Caller)
    server.answer = {"active": False}
    await env.sleep(61)
    assert isinstance(await ask(allow, env, **TOKEN), Rejection), "a revoked token is not revived"
    server.answer = CONNECT_FAILURE
    await env.sleep(6)
    assert isinstance(await ask(allow, env, **TOKEN), Unavailable)


@virtual
async def test_a_hanging_endpoint_costs_its_timeout_and_waiters_share_the_failure() -> None:
    env, server = virtual_env(), Server(CONNECT_FAILURE)
    found = make("introspection", env, server, **INTROSPECTION)
    server.delay = 1.0
    verdicts = await asyncio.gather(*(ask(found, env, **TOKEN) for _ in range(10)))
    assert all(isinstance(each, Unavailable) for each in verdicts)
    assert len(server.seen) == 1
    assert server.seen[0].deadline == pytest.approx(env.now())
    task = asyncio.get_running_loop().create_task(ask(found, env, **TOKEN))
    await settle()
    waiter = asyncio.get_running_loop().create_task(ask(found, env, **TOKEN))
    await settle()
    task.cancel()
    assert isinstance(await waiter, Unavailable), "a leader that leaves takes no follower with it"


# ----- external

EXTERNAL = {"url": "http://127.0.0.1:9191/check", "headers": ["cookie", "x-token"], "forward": ["x-user"]}


@virtual
async def test_the_path_of_a_request_to_the_server_itself_begins_with_a_slash_too() -> None:
    env, server = virtual_env(), Server(response(200))
    await ask(make("external", env, server, **EXTERNAL), env, headers={"cookie": "c"}, method="OPTIONS", path="*")
    assert server.seen[0].path == b"/check/*"


@virtual
async def test_a_caller_in_utf8_is_read_as_such() -> None:
    env = virtual_env()
    for coding in ("utf-8", "latin-1"):
        answer = response(200)
        answer.headers = [(b"x-user", "dävé".encode(coding))]
        verdict = await ask(
            make("external", env, Server(answer), **EXTERNAL, caller="x-user"), env, headers={"cookie": "c"}
        )
        assert isinstance(verdict, Caller)
        assert verdict.id == "dävé"


TWO_CALLERS = response(200)
TWO_CALLERS.headers = [(b"x-user", b"alice"), (b"x-user", b"root")]


@virtual
async def test_an_external_server_gets_method_path_and_named_fields() -> None:
    env = virtual_env()
    server = Server(response(200, headers={"x-user": "alice", "x-other": "no"}))
    found = make("external", env, server, **EXTERNAL, caller="x-user")
    x = {"method": "POST", "path": "/orders/7", "query": b"a=1", "body": b"secret"}
    verdict = await ask(found, env, headers={"cookie": "c=1", "x-token": "t", "x-private": "p"}, **x)
    assert isinstance(verdict, Caller)
    assert (verdict.id, verdict.claims) == ("alice", {"x-user": "alice"})
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query, seen.body) == (b"POST", b"/check/orders/7", b"a=1", b"")
    assert seen.header(b"cookie") == b"c=1"
    assert seen.header(b"x-private") is None
    assert await ask(found, env) is None, "a request with none of the fields is anonymous"


@virtual
async def test_an_external_server_is_asked_by_its_own_path_alone() -> None:
    env, server = virtual_env(), Server(response(200))
    settings = {**EXTERNAL, "headers": ["cookie", "x-forwarded-uri"], "append_path": False, "cache": "10s"}
    found = make("external", env, server, **settings)
    x = {"method": "POST", "path": "/orders/7", "query": b"a=1", "authority": b"shop.example"}
    sent = {"cookie": "c=1", "x-forwarded-uri": "/public"}
    assert isinstance(await ask(found, env, headers=sent, **x), Caller)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query, seen.body) == (b"GET", b"/check", None, b"")
    told = {name: value for name, value in seen.headers if name.startswith((b"x-forwarded", b"x-original"))}
    assert told[b"x-forwarded-uri"] == told[b"x-original-uri"] == b"/orders/7?a=1", "not what the client claims"
    assert told[b"x-forwarded-method"] == told[b"x-original-method"] == b"POST"
    assert seen.header(b"x-forwarded-uri") == b"/orders/7?a=1"
    assert seen.authority == b"127.0.0.1:9191"
    kept = make("external", env, server, **{**settings, "keep_host": True})
    await ask(kept, env, headers=sent, **x)
    assert server.seen.pop().authority == told[b"x-forwarded-host"]
    for again in ({**x}, {**x, "path": "/orders/8"}, {**x, "method": "PUT"}):
        await ask(found, env, headers=sent, **again)
    assert len(server.seen) == 3, "answers are those of one method and path"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (response(401, headers={"www-authenticate": "Cookie"}), Rejection),
        (response(403), Rejection),
        (response(302), Unavailable),
        (response(404), Unavailable),
        (response(500), Unavailable),
        (response(200), Unavailable),  # names no caller
        (response(200, headers={"x-user": "a" * 300}), Unavailable),
        (TWO_CALLERS, Unavailable),
        (CONNECT_FAILURE, Unavailable),
    ],
)
def test_only_two_statuses_refuse(answer: Any, kind: type) -> None:
    @virtual
    async def scenario() -> None:
        env = virtual_env()
        found = make("external", env, Server(answer), **EXTERNAL, caller="x-user")
        verdict = await ask(found, env, headers={"cookie": "c"})
        assert isinstance(verdict, kind)
        if isinstance(verdict, Rejection):
            assert verdict.is_forbidden == (answer.status == 403)
            assert verdict.challenge == (b"Cookie" if answer.status == 401 else b"")

    scenario()


@virtual
async def test_answers_of_an_external_server_are_cached_for_equal_requests_only() -> None:
    env, server = virtual_env(), Server(response(200))
    found = make("external", env, server, **EXTERNAL, cache="10s")
    for _ in range(2):
        verdict = await ask(found, env, headers={"cookie": "c"}, path="/a")
    assert isinstance(verdict, Caller)
    assert verdict.id == "partners"
    assert len(server.seen) == 1
    await ask(found, env, headers={"cookie": "c"}, path="/b")
    await ask(found, env, headers={"cookie": "d"}, path="/a")
    await ask(found, env, headers={"cookie": "c"}, path="/a", method="PUT")
    assert len(server.seen) == 4
    await env.sleep(11)
    await ask(found, env, headers={"cookie": "c"}, path="/a")
    assert len(server.seen) == 5


# ----- certificates

CERTIFICATE = {
    "subject": ((("organizationName", "Shop"),), (("commonName", "batch"),)),
    "subjectAltName": (("DNS", "batch.shop.svc"), ("URI", "spiffe://cluster.local/ns/shop/sa/batch")),
    "serialNumber": "0A",
}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"spiffe": "spiffe://cluster.local/ns/*/sa/*"}, "spiffe://cluster.local/ns/shop/sa/batch"),
        ({"spiffe": "spiffe://cluster.local/*"}, None),
        ({"spiffe": "spiffe://cluster.local/ns/shop/sa/bat"}, None),
        ({"spiffe": "spiffe://cluster.local/ns/shop/sa/batch/"}, None),
        ({"spiffe": "spiffe://other/ns/*/sa/*"}, None),
        ({"dns": ["*.shop.svc", "x"]}, "batch.shop.svc"),
        ({"dns": "*.svc"}, None),
        ({"dns": "BATCH.shop.svc"}, "batch.shop.svc"),
        ({"subject": "bat*"}, "batch"),
        ({"subject": "bat."}, None),
    ],
)
async def test_names_of_certificates(settings: Any, name: str | None) -> None:
    env = make_env()
    found = make("certificate", env, **settings)
    assert await ask(found, env) is None
    verdict = await ask(found, env, client_certificate=CERTIFICATE)
    if name is None:
        assert isinstance(verdict, Rejection)
    else:
        assert isinstance(verdict, Caller)
        assert verdict.id == name
        assert verdict.claims["serial"] == "0A"


async def test_a_certificate_with_two_uris_has_no_spiffe_id() -> None:
    env = make_env()
    found = make("certificate", env, spiffe="spiffe://cluster.local/ns/*/sa/*")
    uris = tuple(("URI", f"spiffe://cluster.local/ns/shop/sa/{name}") for name in "ab")
    verdict = await ask(found, env, client_certificate={**CERTIFICATE, "subjectAltName": uris})
    assert isinstance(verdict, Rejection)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"jwt": {"issuer": "x"}},
        {"jwt": {"issuer": "https://i", "algorithms": ["HS256"]}},
        {"jwt": {"issuer": "https://i", "algorithms": ["none"]}},
        {"jwt": {"issuer": "https://i", "keys": {"url": "https://i/k", "file": "x"}}},
        {"jwt": {"issuer": "https://i", "keys": {"url": "ftp://i/k"}}},
        {"jwt": {"issuer": "https://i", "keys": {"url": "https://user@i/k"}}},
        {"jwt": {"issuer": "https://i", "keys": {"file": "x", "keep": "y"}}},
        {"api_key": {"file": "x", "header": "a", "cookie": "b"}},
        {"api_key": {"file": "x", "header": "a b"}},
        {"api_key": {"file": "x", "parameter": "k"}},
        {"api_key": {"file": "x"}, "certificate": {"dns": "x"}},
        {"certificate": {"dns": "x", "subject": "y"}},
        {"introspection": {"url": "https://i", "client": {"id": "a", "secret": ""}}},
        {"certificate": {"spiffe": "*"}},
        {"certificate": {"spiffe": ["spiffe://a/b", "a/b"]}},
        {"certificate": {"dns": ""}},
        {"api_key": {"file": "x", "header": "content-length"}},
        {"api_key": {"file": "x", "header": "host"}},
        {"external": {"url": "https://i", "headers": ["transfer-encoding"]}},
        {"external": {"url": "https://i", "forward": ["content_length"]}},
        {"external": {"url": "https://i", "forward": ["connection"]}},
    ],
)
def test_impossible_identities_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"\n"):
        IdentitySpec.model_validate(settings)
