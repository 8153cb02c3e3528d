"""Tests of what `explain` says on `cors`."""

from __future__ import annotations

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.inspect.dry import compile_dry
from sidecar.inspect.explain import exchange_of
from sidecar.inspect.explain_cors import cross_origin_sentences

POLICY = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  - name: r
    upstream: app
    cors: {origins: ["https://shop.example"], expose: [x-total]%s}
"""
SHOP, EVIL = "https://shop.example", "https://evil.example"


def sentence(method: str = "GET", more: str = "", **fields: str) -> str:
    loaded = load([Source("a.yaml", (POLICY % more).encode())], {})
    assert loaded.spec is not None
    x = exchange_of(method, "/x", [(name.replace("_", "-"), value) for name, value in fields.items()])
    found = cross_origin_sentences(compile_dry(loaded.spec).routes["r"], x)
    assert found is not None
    return "; ".join(found)


def test_what_pages_may_do() -> None:
    assert "has no Origin" in sentence()
    assert sentence(origin=SHOP) == (
        f"pages of {SHOP} may read the answer; besides the common fields they may read x-total"
    )
    assert "cannot read the answer" in sentence(origin=EVIL)
    assert "mode is observe" in sentence(origin=EVIL, more=", mode: observe")


def test_preflights() -> None:
    asked = {"access_control_request_method": "PUT"}
    assert sentence("OPTIONS", origin=EVIL, **asked).endswith("is refused with 403: the origin is not one of `origins`")
    assert "the method is not one of `methods`" in sentence("OPTIONS", origin=SHOP, **asked)
    assert "is answered with 204 and allowed" in sentence("OPTIONS", origin=SHOP, access_control_request_method="GET")
