"""Callers in the access log and in spans: their ID alone."""

from __future__ import annotations

import json

from sidecar.core.exchange import Caller
from sidecar.core.outcome import Outcome
from tests.unit.telemetry.logs.test_access import Bench as Log
from tests.unit.telemetry.logs.test_access import exchange
from tests.unit.telemetry.tracing.test_spans import Bench as Spans

CALLER = Caller('al"ice\u00e9', "corporate", {"sub": "alice", "email": "alice@example.com"}, b"authorization")


def test_the_access_log_has_the_callers_id_and_no_claim() -> None:
    x = exchange()
    assert "caller" not in Log().record(x, Outcome(200))
    x.caller = CALLER
    line = Log().record(x, Outcome(200))
    assert line["caller"] == CALLER.id
    assert "example.com" not in json.dumps(line)


def test_a_span_has_the_callers_id_and_no_claim() -> None:
    bench = Spans()
    x = bench.exchange()
    x.caller = CALLER
    attributes = bench.server(x, Outcome(200)).attributes
    assert attributes["enduser.id"] == CALLER.id
    assert "example.com" not in str(dict(attributes))
