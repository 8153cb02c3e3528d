"""Receiver of an exchange's outcome that a test can await."""

from __future__ import annotations

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise
from sidecar.upstream.connection import UpstreamConnection


class Told:
    """Receiver that resolves a promise."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.outcome: Promise[Outcome] = Promise(connection.abort)

    def take(self, outcome: Outcome) -> None:
        self.outcome.resolve(outcome)


def exchanged(connection: UpstreamConnection, x: Exchange, expires: float, now: float) -> Promise[Outcome]:
    """Start an exchange, and return the promise of its outcome."""
    told = Told(connection)
    connection.exchange(x, expires, now, told)
    return told.outcome
