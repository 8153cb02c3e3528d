"""Identities in compiled policies: which fields reach which upstream, criticality, reloads, and problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from sidecar.control.compiler import CompileError, Snapshot
from sidecar.control.state import StateStore
from sidecar.core.exchange import SHEDDABLE, Caller
from sidecar.core.message import Headers
from sidecar.core.promise import Run
from sidecar.identity.jwt import JwtIdentity
from tests.support.clock import make_env
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.service import exchange
from tests.unit.control.test_compiler import compiled, script

POLICIES = f"""\
identities:
  corporate: {{jwt: {{issuer: "{ISSUER}", audiences: [orders], keys: {{inline: [{json.dumps(jwk(key()))}]}}}}}}
upstreams:
  app: {{endpoints: ["http://127.0.0.1:9000"]}}
  spare: {{endpoints: ["http://127.0.0.1:9001"]}}
  other: {{endpoints: ["http://127.0.0.1:9002"]}}
"""
ROUTES = """
routes:
  - name: order
    match: {path: /order}
    upstream: app
    fallback: [{upstream: spare}]
    criticality: {by_caller: {alice: sheddable}, otherwise: critical}
    authenticate: {any_of: [corporate], forward: {caller: x-caller, claims: {tenant: x-tenant}}}
  - {name: open, match: {path: /open}, upstream: app}
  - {name: spare, match: {path: /spare}, upstream: spare}
  - {name: other, match: {path: /other}, upstream: other}
"""
SPOOFED = {"x_caller": "admin", "x-tenant": "evil", "accept": "*/*"}


def ask(snapshot: Snapshot, route: str, headers: dict[str, str]) -> tuple[int, Any]:
    done: list[Run[Any]] = []
    x = exchange("GET", f"/{route}", headers, deadline=1e9)
    Run(snapshot.routes[route].pipeline(x), done.append)  # type: ignore[arg-type]
    assert done[0].error is None
    for found in snapshot.identities.values():
        found._budget._env.advance(0.0)  # type: ignore[attr-defined]  # the next turn, in which another token may be verified
    return int(done[0].value.status), x


def seen(snapshot: Snapshot, upstream: str) -> Headers:
    return script(snapshot, upstream).exchanges[-1].headers


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {sign(key(), claims).decode()}"}


def test_every_route_to_an_upstream_that_is_told_the_caller_drops_what_clients_claim() -> None:
    snapshot = compiled(POLICIES, ROUTES)
    status, x = ask(snapshot, "order", {**SPOOFED, **bearer()})
    assert (status, x.caller.id, x.criticality) == (200, "alice", SHEDDABLE)
    told = dict(seen(snapshot, "app"))
    assert (told[b"x-caller"], told[b"x-tenant"], told.get(b"x_caller")) == (b"alice", b"acme", None)
    for route in ("open", "spare"):
        assert ask(snapshot, route, SPOOFED)[0] == 200
        assert seen(snapshot, "app" if route == "open" else "spare") == [(b"accept", b"*/*")]
    assert ask(snapshot, "other", SPOOFED)[0] == 200
    assert len(seen(snapshot, "other")) == 3, "an upstream that no route tells anything is nobody's business"


def test_policies_without_identities_have_no_stage_for_them() -> None:
    snapshot = compiled(POLICIES.partition("upstreams:")[1] + POLICIES.partition("upstreams:")[2],
                        "routes: [{name: r, upstream: app}]")  # fmt: skip
    assert snapshot.routes["r"].pipeline.admits == ()
    assert snapshot.identities == {}


def test_a_refusal_is_counted_and_nothing_reaches_the_upstream() -> None:
    snapshot = compiled(POLICIES, ROUTES)
    assert ask(snapshot, "order", {})[0] == 401
    assert script(snapshot, "app").calls == script(snapshot, "spare").calls == 0, "no fallback answers for a stranger"


def test_an_identity_survives_a_reload_and_forgets_its_verdicts_when_its_rules_change() -> None:
    store, env = StateStore(), make_env()
    first = compiled(POLICIES, ROUTES, store=store, env=env).identities["corporate"]
    assert compiled(POLICIES, ROUTES, store=store, env=env).identities["corporate"] is first
    changed = compiled(POLICIES.replace("[orders]", "[payments]"), ROUTES, store=store, env=env)
    second = changed.identities["corporate"]
    assert isinstance(first, JwtIdentity)
    assert isinstance(second, JwtIdentity)
    assert second is not first
    assert second.source is first.source, "the keys are still those of the issuer"
    assert ask(changed, "order", bearer())[0] == 401


def test_the_callers_of_a_cached_route_share_nothing() -> None:
    snapshot = compiled(POLICIES, ROUTES.replace("    fallback:", "    cache: {ttl: 60s}\n    fallback:"))
    for name, calls in (("alice", 1), ("alice", 1), ("bob", 2)):
        assert ask(snapshot, "order", bearer(sub=name, jti=str(calls)))[0] == 200
        assert script(snapshot, "app").calls == calls


def test_a_key_file_that_cannot_be_used_is_a_problem_with_its_place(tmp_path: Path) -> None:
    text = POLICIES.replace(f"inline: [{json.dumps(jwk(key()))}]", f"file: {tmp_path}/keys.json")
    with pytest.raises(CompileError, match=r"p\.yaml:5:3: identities\.corporate: .*keys\.json cannot be read"):
        compiled(text, ROUTES)


def test_an_issuer_has_an_upstream_of_its_own() -> None:
    store = StateStore()
    text = POLICIES.replace(f"inline: [{json.dumps(jwk(key()))}]", f"url: '{ISSUER}/keys'")
    compiled(text, ROUTES, store=store)
    keys = store.objects()
    assert ("endpoints", "identity:corporate") in keys
    assert ("breaker", "upstream", "identity:corporate") in keys
    assert any(each[0] == "key_set" for each in keys)
    assert store.describe()["identity"]
    assert isinstance(Caller("a", "b", {}).digest(), bytes)


def test_no_client_sends_a_token_about_a_caller_on_any_route() -> None:
    store = StateStore()
    text = ROUTES.replace("claims: {tenant: x-tenant}", "token: {audience: app}")
    snapshot = compiled(POLICIES, text, store=store)
    assert ask(snapshot, "order", {"X_Caller-Token": "forged", **bearer()})[0] == 200
    [token] = [value for name, value in seen(snapshot, "app") if name.startswith(b"x") and b"token" in name]
    [signer] = [state for key, state in store.objects().items() if key[0] == "signing_key"]
    claims = jwt.decode(
        token, jwt.PyJWK(signer.jwk), audience="app", options={"verify_exp": False, "verify_iat": False}
    )
    assert (claims["sub"], claims["identity"]) == ("alice", "corporate")
    assert ask(snapshot, "open", {"x-caller-token": token.decode(), "accept": "*/*"})[0] == 200
    assert seen(snapshot, "app") == [(b"accept", b"*/*")]
    again = compiled(POLICIES, text, store=store)
    assert ask(again, "order", bearer())[0] == 200
    assert [state for key, state in store.objects().items() if key[0] == "signing_key"] == [signer]


def test_an_anonymous_caller_is_asked_for_credentials_where_they_could_help() -> None:
    text = ROUTES.replace("any_of: [corporate],", "any_of: [corporate], optional: true,").replace(
        "    fallback:", "    authorize: [{allow: {callers: [alice]}}]\n    fallback:"
    )
    snapshot = compiled(POLICIES, text)
    done: list[Run[Any]] = []
    Run(snapshot.routes["order"].pipeline(exchange("GET", "/order", deadline=1e9)), done.append)  # type: ignore[arg-type]
    assert done[0].value.status == 401
    assert dict(done[0].value.headers)[b"www-authenticate"].startswith(b"Bearer realm=")
    assert ask(snapshot, "order", bearer())[0] == 200
    assert ask(snapshot, "order", bearer(sub="bob"))[0] == 403
