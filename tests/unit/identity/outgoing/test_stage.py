"""Stage `credentials`: what the upstream gets, what nobody else sees, and answers that reject a credential."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import CONNECT_FAILURE, UNAUTHENTICATED_STATUS, Failure, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.identity.outgoing.source import Credentials
from sidecar.identity.outgoing.stage import CredentialsStage
from tests.support.clock import make_env
from tests.support.service import ScriptedService, exchange, response

GIVEN = {"accept": "*/*", "Authorization": "Bearer client", "X_Authorization": "x"}


class Scripted(Credentials):
    """Credentials that a test sets; `next` is what `obtain` finds after a rejection."""

    problem = "the issuer is away"

    def __init__(self, value: bytes, following: bytes = b"", field: bytes = b"authorization") -> None:
        self.field = field
        self.now = value
        self.following = following
        self.rejected: list[bytes] = []
        self.may_renew = True

    def value(self, now: float) -> bytes:
        return self.now

    async def obtain(self, deadline: float) -> bytes:
        self.now = self.now or self.following
        return self.now

    def reject(self, value: bytes) -> bool:
        self.rejected.append(value)
        if self.may_renew:
            self.now = self.following
        return self.may_renew

    def retry_after(self, now: float) -> float | None:
        return 3.0


class Recorded(ScriptedService):
    """Upstream that keeps the fields as they arrived."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.fields: list[Headers] = []

    async def __call__(self, x: Exchange) -> Outcome:
        self.fields.append(list(Exchange(b"GET", b"/", None, x.lines).headers))
        return await super().__call__(x)


class Ignored:
    """Reader of a body that keeps nothing."""

    def write(self, data: bytes) -> None: ...
    def finish(self, trailers: Headers) -> None: ...
    def fail(self, failure: Failure) -> None: ...


async def run(source: Credentials, upstream: Recorded, x: Exchange | None = None) -> Outcome:
    stage = CredentialsStage("pay", source, "p.yaml:3", make_env())
    return await Pipeline([stage], upstream)(x or exchange(headers=GIVEN))


@pytest.mark.parametrize("is_raw", [True, False])
async def test_the_upstream_gets_the_credential_in_place_of_the_clients(is_raw: bool) -> None:
    upstream = Recorded(200)
    x = exchange(headers={"accept": "*/*", "Authorization": "Bearer client", "x-other": "1"})
    if is_raw:
        x.lines = x.lines
    before = list(x.headers) if not is_raw else x.lines
    assert (await run(Scripted(b"Bearer own"), upstream, x)).status == 200
    assert upstream.fields == [[(b"accept", b"*/*"), (b"x-other", b"1"), (b"authorization", b"Bearer own")]]
    assert (list(x.headers) if not is_raw else x.lines) == before, "nobody further out sees it"
    assert b"own" not in x.lines


async def test_twins_of_the_fields_name_are_dropped() -> None:
    upstream = Recorded(200)
    x = exchange(headers={"X_Api_Key": "a", "x.api.key": "b", "x-api-key": "c", "x-api-key-2": "d"})
    await run(Scripted(b"own", field=b"x-api-key"), upstream, x)
    assert upstream.fields == [[(b"x-api-key-2", b"d"), (b"x-api-key", b"own")]]


async def test_without_a_credential_the_upstream_gets_nothing() -> None:
    upstream = Recorded(200)
    outcome = await run(Scripted(b""), upstream)
    assert (outcome.status, outcome.reason, outcome.cause) == (503, "no_credentials", "the issuer is away")
    assert (outcome.refusal.policy, outcome.refusal.where, outcome.refusal.retry_after) == (
        "credentials",
        "p.yaml:3",
        3,
    )
    assert outcome.failure is not None
    assert (outcome.failure.origin, outcome.failure.sent) == ("gateway", False)
    assert upstream.calls == 0


async def test_a_request_waits_for_the_first_credential() -> None:
    upstream = Recorded(200)
    assert (await run(Scripted(b"", b"late"), upstream)).status == 200
    assert upstream.fields[0][-1] == (b"authorization", b"late")


async def test_a_rejected_credential_is_renewed_once_and_the_request_repeated_once() -> None:
    for script, status, calls in (([401, 200], 200, 2), ([401, 401, 200], 401, 2), ([401, CONNECT_FAILURE], 502, 2)):
        source, upstream = Scripted(b"old", b"new"), Recorded(*script)
        x = exchange("POST", headers=GIVEN, body=b"pay")
        outcome = await run(source, upstream, x)
        assert (outcome.status, upstream.calls) == (status, calls)
        assert [fields[-1][1] for fields in upstream.fields] == [b"old", b"new"]
        assert source.rejected == [b"old"]
        assert [(each.attempt, each.why, each.body) for each in upstream.exchanges] == [
            (1, "first", b"pay"), (2, "credentials", b"pay"),
        ]  # fmt: skip
        assert dict(x.headers)[b"authorization"] == b"Bearer client"


async def test_the_status_of_a_grpc_answer_rejects_too() -> None:
    rejected = response(200)
    rejected.verdict = UNAUTHENTICATED_STATUS
    source, upstream = Scripted(b"old", b"new"), Recorded(rejected, 200)
    assert (await run(source, upstream)).verdict == 200
    assert upstream.calls == 2


async def test_a_late_status_of_grpc_renews_for_the_next_request() -> None:
    body = Body()
    source, upstream = Scripted(b"old", b"new"), Recorded(response(200, stream=body))
    outcome = await run(source, upstream)
    assert source.rejected == []
    body.verdict = UNAUTHENTICATED_STATUS
    body.finish()
    assert outcome.status == 200
    assert source.rejected == [b"old"]


async def test_what_cannot_be_repeated_is_passed_on() -> None:
    source, upstream = Scripted(b"old", b"new"), Recorded(401)
    source.may_renew = False
    assert (await run(source, upstream)).status == 401
    source, upstream = Scripted(b"old"), Recorded(401)
    assert (await run(source, upstream)).status == 401, "no other credential can be had"
    source, upstream = Scripted(b"old", b"new"), Recorded(401, 200)
    body = Body()
    body.attach(Ignored())  # its first bytes are on their way
    body.feed(b"gone")
    x = exchange("POST", stream=body)
    assert (await run(source, upstream, x)).status == 401
    assert (upstream.calls, source.rejected) == (1, [b"old"]), "the next request has a new one"


async def test_a_client_that_leaves_takes_nothing_along() -> None:
    class Slow(Scripted):
        async def obtain(self, deadline: float) -> bytes:
            assert deadline == NEVER
            await asyncio.Event().wait()
            return b""

    for source, upstream in ((Slow(b""), Recorded(200)), (Slow(b"old"), Recorded(401))):
        x = exchange(headers=GIVEN)
        task = asyncio.ensure_future(run(source, upstream, x))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert b"old" not in x.lines
