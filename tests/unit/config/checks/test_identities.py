from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
"""
GOOD = 'identities: {c: {jwt: {issuer: "https://id", audiences: [orders]}}}\n'
ROUTES = "routes: [{name: r, upstream: app, authenticate: {any_of: [c]}}]\n"


def messages(*texts: str) -> list[str]:
    loaded = load([Source("p.yaml", "".join([HEAD, *map(dedent, texts)]).encode())], {})
    return [str(problem) for problem in (*loaded.problems, *loaded.warnings)]


def test_good_policies_have_no_warnings() -> None:
    assert messages(GOOD, ROUTES) == []


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ('jwt: {issuer: "https://id"}', "identities.c.jwt: accepts tokens for other services"),
        ('jwt: {issuer: "http://id", audiences: [o]}', "identities.c.jwt.issuer: gets keys over plain http"),
        ('jwt: {issuer: x, audiences: [o], keys: {url: "http://id/k"}}', "identities.c.jwt.keys.url: gets keys over"),
        ("api_key: {file: f, parameter: api_key}", "identities.c.api_key.parameter: puts keys into URLs"),
        (
            'introspection: {url: "http://id/i", client: {id: a, secret: {file: f}}}',
            "identities.c.introspection.url: gets tokens and the secret over plain http",
        ),
        ("certificate: {dns: x}", "routes.r.authenticate.any_of: accepts certificates (c), but no listener asks"),
    ],
)
def test_what_lets_in_more_than_was_meant_is_told(identity: str, words: str) -> None:
    (found,) = messages(f"identities: {{c: {{{identity}}}}}\n", ROUTES)
    assert words in found


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("[{kty: EC}]", "key 1 lacks one of crv, x, y"),
        ("[{kty: oct, k: AAAA, kid: a}]", "key a has 3 bytes; a secret has at least 32"),
        ("[{kty: RSA, kid: b, n: AQAB, e: AQAB}]", "key b cannot be read"),
    ],
)
def test_keys_in_the_policy_are_read(keys: str, words: str) -> None:
    (found,) = messages(
        f"identities: {{c: {{jwt: {{issuer: i, audiences: [o], keys: {{inline: {keys}}}}}}}}}\n", ROUTES
    )
    assert "identities.c.jwt.keys.inline: " in found
    assert words in found
    assert "warning" not in found


def test_files_with_secrets_that_others_can_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []")
    text = f"identities: {{c: {{api_key: {{file: {path}}}}}}}\n"
    path.chmod(0o644)
    (found,) = messages(text, ROUTES)
    assert f"identities.c.api_key.file: can be read by every user of this machine; chmod 600 {path}" in found
    path.chmod(0o640)
    assert messages(text, ROUTES) == []


def test_keys_from_this_machine_may_come_without_tls() -> None:
    assert (
        messages('identities: {c: {jwt: {issuer: x, audiences: [o], keys: {url: "http://127.0.0.1:1/k"}}}}\n', ROUTES)
        == []
    )


def test_a_route_for_everyone_beside_others_says_so() -> None:
    first = "{name: r, upstream: app, match: {path: /a}, authenticate: {any_of: [c]}}"
    routes = f"routes: [{first}, {{name: o, upstream: app%s}}]\n"
    (found,) = messages(GOOD, routes % "")
    assert "routes.o.name: may be called by everyone" in found
    assert messages(GOOD, routes % ", authenticate: off") == []


def test_an_identity_that_is_not_declared_and_one_that_no_route_uses() -> None:
    found = messages(GOOD, "routes: [{name: r, upstream: app, authenticate: {any_of: [corp]}}]\n")
    assert any("names no identity: there is no `corp`" in each for each in found)
    (found_one,) = messages(GOOD, "routes: [{name: r, upstream: app}]\n")
    assert "no route uses the identity `c`" in found_one


def test_criticality_by_caller_needs_callers() -> None:
    routes = "routes: [{name: r, upstream: app, criticality: {by_caller: {a: sheddable}}}]\n"
    (found,) = messages(routes)
    assert "has no effect without authenticate" in found
    assert (
        messages(GOOD, ROUTES.replace("any_of: [c]}", "any_of: [c]}, criticality: {by_caller: {a: sheddable}}")) == []
    )
    (wrong,) = messages("routes: [{name: r, upstream: app, criticality: {by_caller: {a: important}}}]\n")
    assert "important" in wrong or "must be" in wrong


def test_an_identity_that_a_route_names_twice() -> None:
    (found,) = messages(GOOD, ROUTES.replace("[c]", "[c, c]"))
    assert "routes.r.authenticate.any_of: names the identity `c` twice; take one out" in found


def test_names_of_callers_are_no_patterns() -> None:
    block = 'any_of: [c]}, criticality: {by_caller: {"*": sheddable}}'
    (found,) = messages(GOOD, ROUTES.replace("any_of: [c]}", block))
    assert "names the caller `*`, and `*` stands for nothing else here; use otherwise" in found


def test_a_route_cannot_ask_for_the_caller_before_it_is_chosen() -> None:
    routes = "routes: [{name: r, upstream: app, match: {when: \"caller.id == 'a'\"}, authenticate: {any_of: [c]}}]\n"
    (found,) = messages(GOOD, routes)
    assert "`caller.id` is not known here: a route is chosen by the request's head alone" in found
    routes = ROUTES.replace("any_of: [c]}", "any_of: [c]}, cache: {when: \"caller.claims.scope == 'a'\"}")
    assert messages(GOOD, routes) == []


def test_the_key_of_a_token_about_callers_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.pem"
    routes = ROUTES.replace("[c]", f"[c], forward: {{token: {{audience: app, key: {key}}}}}")
    assert messages(GOOD, routes) == [], "the file may be on another machine"
    key.write_text("x")
    key.chmod(0o604)
    (told,) = messages(GOOD, routes)
    assert "routes.r.authenticate.forward.token.key: can be read by every user" in told
    key.chmod(0o600)
    assert messages(GOOD, routes) == []
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (told,) = messages(GOOD, routes)
    assert "routes.r.authenticate.forward.token.key: cannot be read by this user" in told
