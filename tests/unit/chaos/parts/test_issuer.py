"""Tokens of the load: the sidecar's own identity accepts them by the keys of the issuer, and no others."""

from __future__ import annotations

import json

from chaos.parts.issuer import AUDIENCE, ISSUER, active, key_set, signed_token, token
from sidecar.core.exchange import Caller
from sidecar.identity.verdict import Rejection
from tests.unit.identity.test_jwt import ask, identity


def test_signed_tokens_are_accepted_by_the_issuers_keys() -> None:
    (key,) = json.loads(key_set())["keys"]
    found = identity(key, issuer=ISSUER, audiences=[AUDIENCE], algorithms=["ES256"])
    for number in (0, 7):
        caller = ask(found, token("signed", number).encode())
        assert isinstance(caller, Caller)
        assert caller.id == f"caller-{number}"
    assert isinstance(ask(found, signed_token(1)[:-8].encode() + b"AAAAAAAA"), Rejection)


def test_opaque_tokens_differ_and_are_active() -> None:
    assert token("opaque", 1) != token("opaque", 2)
    assert json.loads(active())["active"] is True
