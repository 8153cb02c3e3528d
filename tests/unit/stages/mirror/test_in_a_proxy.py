"""Tests of the mirror in a whole proxy in virtual time: what is compared is what both upstreams have said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.backends import Answer, Services, answer
from tests.support.loop import virtual
from tests.support.proxy import Proxy

POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams:
  app: {endpoints: ["http://old:80"]}
  next: {endpoints: ["http://new:80"]}
routes:
  - name: r
    match: {path_prefix: /}
    upstream: app
    mirror: {upstream: next, compare: {headers: [content-type, x-a, x-b]}}
    transform:
      response: {headers: {set: {x-a: ours}, remove: [x-b]}BODY}
"""


@pytest.mark.parametrize("body", ["", ", body: {unwrap: /data}"], ids=["fields", "body too"])
@pytest.mark.parametrize("late", [0.0, 0.5], ids=["at once", "late"])
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "in pieces"])
@virtual
async def test_a_transformation_of_the_response_is_no_difference(late: float, is_split: bool, body: str) -> None:
    said = answer(b'{"data": {"id": 7}}', x_a="theirs", x_b="1")
    own = said
    if is_split:
        head, _, content = said.data.partition(b"\r\n\r\n")
        own = Answer(head + b"\r\n\r\n", then=((0.1, content[:5]), (0.2, content[5:])))
    proxy = Proxy(POLICIES.replace("BODY", body), Services({"old/": own, "new/": said._replace(after=late)}))
    found = await proxy.get()
    assert (found.body, found.get("x-a")) == (b'{"id": 7}' if body else b'{"data": {"id": 7}}', "ours")
    await asyncio.sleep(1)
    (state,) = proxy.state("mirror").values()
    described: dict[str, Any] = state
    assert (described["compared"], described["differences"]) == (1, {})
