"""Tests of trust in peers: claims about the client, deadlines, criticality; twins of their fields, and trailers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.exchange import CRITICAL, DEFAULT, SHEDDABLE, Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.outcome import Outcome
from sidecar.upstream.request_head import request_head
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import Front

STRANGER = ("192.0.2.1", 1234)
PROXY = ("10.0.0.1", 1234)
TRUSTING = {"trusted_proxies": ["10.0.0.0/8"]}
MUTUAL = {"tls": {"cert": "c", "key": "k", "client_ca": "a"}}
CLAIMS = [
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix",
    "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Client-Cert", "X-Forwarded-Any",
    "X-Original-URL", "X-Original-Method", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-HTTP-Method",
    "X-Method-Override", "True-Client-IP", "X-Client-IP", "X-Real-IP", "X-Cluster-Client-IP", "CF-Connecting-IP",
    "Client-Cert", "X-SSL-Client-Verify", "SSL-Client-Cert", "X-Remote-User", "Remote-User", "X-Remote-Extra-Scopes",
    "X-Auth-Request-User", "X-WebAuth-User", "X-Ms-Client-Principal-Id", "X-Amzn-Oidc-Identity", "Proxy",
    "Remote-Groups", "Remote-Email", "Script-Name", "Path-Info", "X-Consumer-Username", "X-Authentik-Username",
    "X-Pomerium-Claim-Email", "CF-Access-Authenticated-User-Email", "Tailscale-User-Login", "X-Vercel-Forwarded-For",
    "X-Envoy-Retry-On", "X-Envoy-Max-Retries", "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Force-Trace",
    "X-Envoy-Decorator-Operation", "X-Envoy-Original-Path", "X-Envoy-External-Address", "X-Envoy-Internal",
    "X-Istio-Attributes", "L5d-Dtab", "L5d-Dst-Override", "L5d-Retry-Http", "L5d-Response-Timeout", "L5d-Client-Id",
    "Dapr-App-Id", "Knative-Serving-Revision",
]  # fmt: skip
SPELLINGS = [str, str.upper, str.lower, lambda n: n.replace("-", "_"), lambda n: n.replace("-", "."),
             lambda n: n.replace("-", "_", 1), lambda n: n.replace("-", "~")]  # fmt: skip


class Service:
    """Service that records the heads that the upstream would get."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.heads: list[bytes] = []

    async def __call__(self, x: Exchange) -> Outcome:
        self.exchanges.append(x)
        self.heads.append(request_head(x, x.arrived, b""))
        return Outcome(200)

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields of the last head, by name in lower case."""
        lines = self.heads[-1].decode("latin-1").split("\r\n")[1:-2]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Ask:
    """Listener that is sent one head after the other."""

    def __init__(self, listener: dict[str, Any] | None = None, name: str = "inbound", rank: int = DEFAULT) -> None:
        self.service = Service()
        self.front = Front(self.service, name=name, listener=listener)
        self.front.route.criticality = rank

    async def __call__(self, *lines: str, peer: Any = STRANGER, start: str = "GET / HTTP/1.1") -> Exchange:
        client = self.front.connect(peername=peer)
        client.write("\r\n".join([start, "Host: a", *lines, "", ""]).encode())
        await settle()
        assert client.received.startswith(b"HTTP/1.1 200"), bytes(client.received)
        return self.service.exchanges[-1]


def same(name: str, other: str) -> bool:
    """True if servers read both names as one variable; independent of the production code."""
    return "".join(c if c.isalnum() else "_" for c in name.lower()) == "".join(
        c if c.isalnum() else "_" for c in other.lower()
    )


@pytest.mark.parametrize("name", CLAIMS)
@virtual
async def test_claims_of_strangers_are_dropped_in_every_spelling(name: str) -> None:
    ask = Ask(TRUSTING)
    for spelling in SPELLINGS:
        await ask(f"{spelling(name)}: evil", "X-User: fine", "X_Y: z")
        assert b"evil" not in ask.service.heads[-1]
        assert ask.service.fields["x-user"] == "fine"
        assert ask.service.fields["x_y"] == "z"


@pytest.mark.parametrize("name", [name for name in CLAIMS if name not in ("X-Forwarded-For", "X-Forwarded-Proto")])
@virtual
async def test_claims_of_a_trusted_proxy_pass_in_their_own_spelling_only(name: str) -> None:
    ask = Ask(TRUSTING)
    await ask(f"{name}: alice", peer=PROXY)
    assert "alice" in ask.service.fields[name.lower()]
    for spelling in (lambda n: n.replace("-", "_"), lambda n: n.replace("-", ".")):
        if spelling(name) != name:
            await ask(f"{name}: alice", f"{spelling(name)}: evil", peer=PROXY)
            assert b"evil" not in ask.service.heads[-1], "the proxy has passed on what its client sent"


@pytest.mark.parametrize(
    "name",
    ["X-Request-Id", "X-Request-Timeout-Ms", "Grpc-Timeout", "X-Sidecar-Attempt", "X-Sidecar-Hops", "X-Criticality",
     "Content-Length", "Transfer-Encoding", "If-None-Match", "Cache-Control", "Accept-Encoding", "Content-Type"],
)  # fmt: skip
@virtual
async def test_twins_of_what_the_sidecar_reads_or_writes_are_dropped(name: str) -> None:
    ask = Ask(TRUSTING)
    for peer in (STRANGER, PROXY):
        x = await ask(f"{name.replace('-', '_')}: 7", f"{name.replace('-', '.')}: 7", peer=peer)
        assert not [field for field in ask.service.fields if same(field, name) and field != name.lower()]
        assert x.stated_criticality < 0
        assert x.marked_attempt == 0


@pytest.mark.parametrize(
    ("name", "listener", "peer", "is_trusted"),
    [
        ("inbound", TRUSTING, PROXY, True),
        ("inbound", TRUSTING, STRANGER, False),
        ("inbound", TRUSTING, ("::ffff:10.0.0.1", 1, 0, 0), True),
        ("inbound", {}, ("127.0.0.1", 1), False),
        ("inbound", MUTUAL, STRANGER, True),
        ("inbound", {"tls": {"cert": "c", "key": "k"}}, STRANGER, False),
        ("outbound", {}, ("127.0.0.1", 1), True),
        ("outbound", {"address": "[::1]:0"}, ("::1", 1, 0, 0), True),
        ("outbound", {"address": "unix:/run/out.sock"}, "", True),
        ("outbound", {"address": "0.0.0.0:0"}, ("127.0.0.1", 1), False),
        ("inbound", {"address": "unix:/run/in.sock"}, "", False),
    ],
)
@virtual
async def test_who_is_trusted(name: str, listener: dict[str, Any], peer: Any, is_trusted: bool) -> None:
    ask = Ask(listener, name)
    x = await ask(
        "X-Forwarded-User: alice", "X-Request-Timeout-Ms: 5", "X-Criticality: critical", "X-Forwarded-Proto: https",
        "X-Forwarded-For: 203.0.113.9", peer=peer,
    )  # fmt: skip
    assert ask.service.fields.get("x-forwarded-user") == ("alice" if is_trusted else None)
    assert x.deadline - x.arrived == pytest.approx(0.005 if is_trusted else 0.1)
    assert x.criticality == (CRITICAL if is_trusted else DEFAULT)
    scheme = b"https" if is_trusted or "tls" in listener else b"http"
    assert (x.scheme, ask.service.fields["x-forwarded-proto"]) == (scheme, scheme.decode())
    assert (x.client_address == "203.0.113.9") is is_trusted


@virtual
async def test_a_peer_with_a_certificate_is_no_client_of_its_own_if_it_names_one() -> None:
    ask = Ask(MUTUAL)
    x = await ask("X-Forwarded-For: 203.0.113.9, 198.51.100.7")
    assert x.client_address == "198.51.100.7"
    assert ask.service.fields["x-forwarded-for"] == "203.0.113.9, 198.51.100.7, 192.0.2.1"


@pytest.mark.parametrize(
    "line",
    ["X-Request-Timeout-Ms: 5", "X-Envoy-Expected-Rq-Timeout-Ms: 5", "Grpc-Timeout: 5m", "X-Request-Timeout-Ms: 0"],
)
@pytest.mark.parametrize(
    ("spec", "floor"), [({}, 0.1), ({"min_deadline": "250ms"}, 0.25), ({"min_deadline": "0s"}, 0.005)]
)
@virtual
async def test_the_deadline_of_a_stranger_has_a_floor(line: str, spec: dict[str, Any], floor: float) -> None:
    ask = Ask({"untrusted": spec})
    x = await ask(line)
    allowed = x.deadline - x.arrived
    assert allowed == pytest.approx(0.0 if floor == 0.005 and line.endswith(" 0") else floor)
    x = await ask(line.split(":")[0] + ": 2000", line, "Grpc-Timeout: 3S")
    assert x.deadline - x.arrived == pytest.approx(allowed), "the earliest of several, and the floor for all of them"


@virtual
async def test_a_longer_deadline_of_a_stranger_travels_on() -> None:
    ask = Ask({})
    x = await ask("X-Request-Timeout-Ms: 800")
    assert x.deadline - x.arrived == pytest.approx(0.8)
    assert ask.service.fields["x-request-timeout-ms"] == "800"


RANKS = {"critical": CRITICAL, "default": DEFAULT, "sheddable": SHEDDABLE}


@pytest.mark.parametrize("own", RANKS)
@pytest.mark.parametrize("said", ["", "Critical", "default", "SHEDDABLE", "nonsense"])
@virtual
async def test_criticality(own: str, said: str) -> None:
    ask = Ask(TRUSTING, rank=RANKS[own])
    lines = [f"X-Criticality: {said}"] if said else []
    for peer in (STRANGER, PROXY):
        x = await ask(*lines, peer=peer)
        rank = RANKS.get(said.lower(), RANKS[own])
        if peer is STRANGER:
            rank = max(rank, RANKS[own])
            told = ask.service.fields.get("x-criticality")
            assert told is None or RANKS[told] == rank, "what is not believed does not travel on"
        elif said:
            assert ask.service.fields["x-criticality"] == said
        assert x.criticality == rank


@virtual
async def test_the_mark_of_a_further_attempt_is_believed_from_all() -> None:
    assert (await Ask({})("X-Sidecar-Attempt: 3")).marked_attempt == 2


@virtual
async def test_a_policy_names_what_passes_on_purpose() -> None:
    ask = Ask({"untrusted": {"pass": ["X-Original-URL", "x_forwarded_user"]}})
    await ask(
        "x-original-url: /a", "X-Rewrite-URL: /b", "X_Forwarded_User: u", "X-Forwarded-User: v", "X_Original_Url: c"
    )
    fields = ask.service.fields
    assert (fields["x-original-url"], fields["x_forwarded_user"]) == ("/a", "u")
    assert fields.keys().isdisjoint({"x-rewrite-url", "x-forwarded-user", "x_original_url"})
    await ask("x-original-url: /a", peer=("192.0.2.9", 1))
    assert ask.service.fields["x-original-url"] == "/a", "remembered lines too"


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_no_trailers(name: str) -> None:
    for spelling in SPELLINGS:
        trailers = [(spelling(name).lower().encode(), b"evil"), (b"x-sum", b"1"), (b"grpc-status", b"0")]
        assert trailer_block(trailers) == b"0\r\nx-sum: 1\r\ngrpc-status: 0\r\n\r\n"


@pytest.mark.parametrize("name", ["x_request_id", "content.length", "transfer_encoding", "set_cookie", "x_api_key"])
def test_twins_of_forbidden_trailers_are_forbidden(name: str) -> None:
    assert trailer_block([(name.encode(), b"evil")]) == b"0\r\n\r\n"


@virtual
async def test_policies_see_what_a_trusted_proxy_says() -> None:
    ask = Ask(TRUSTING)
    x = await ask("X-Forwarded-User: alice", "X-Original-URL: /a", "X-HTTP-Method-Override: PUT", peer=PROXY)
    found = [x.joined(name) for name in (b"x-forwarded-user", b"x-original-url", b"x-http-method-override")]
    assert found == [b"alice", b"/a", b"PUT"]
    x = await ask("X-Remote-Extra-example.org%2Fa: b", peer=PROXY)
    assert x.joined(b"x-remote-extra-example.org%2fa") == b"b"
    x = await ask("X-Forwarded-User: alice", "X-Original-URL: /a", "X-HTTP-Method-Override: PUT")
    assert x.headers == [(b"x-request-id", x.request_id)]


@virtual
async def test_a_connection_keeps_to_its_trust_over_requests() -> None:
    """A line that a trusted peer sent is kept, and still not believed from the next peer."""
    ask = Ask(TRUSTING)
    for peer in (PROXY, STRANGER, PROXY, STRANGER):
        x = await ask("X-Forwarded-User: alice", "X-Request-Timeout-Ms: 5", peer=peer)
        assert ("x-forwarded-user" in ask.service.fields) is (peer is PROXY)
        assert (x.deadline - x.arrived < 0.05) is (peer is PROXY)
        await asyncio.sleep(1)
