"""Tests of callers on the way to parts: no client can claim to be somebody by the fields of its request."""

from __future__ import annotations

from sidecar.core.exchange import Exchange
from tests.support.loop import virtual
from tests.unit.stages.aggregate.test_stage import Page, policies

MESH = 'identities: {mesh: {external: {url: "http://check:80/", headers: [cookie], caller: x-user}}}\n'
OWN = (
    "  - {name: own, match: {path: /own}, upstream: users, "
    "authenticate: {any_of: [mesh], forward: {caller: x-caller, claims: {tenant: x-tenant}}}}\n"
)


@virtual
async def test_parts_of_an_anonymous_request_have_no_claims_of_the_client() -> None:
    page = Page(policies(top=MESH) + OWN)
    await page.get({"x-caller": "eve", "X_Tenant": "acme", "x-inner": "true"})
    heads = [head.lower() for head in page.services.heads]
    assert len(heads) == 3
    asked = next(head for head in heads if head.startswith(b"get /users/7"))
    assert b"eve" not in asked
    assert b"acme" not in asked
    outer = page.proxy.records[-1][0]
    assert not outer.is_inner
    assert outer.parts is not None
    parts = [part.x for part in outer.parts if isinstance(part.x, Exchange)]
    assert [(each.is_inner, each.caller) for each in parts] == [(True, None)] * 3
