"""Tests of what a worker holds out of the supervisor's permits and tokens."""

from __future__ import annotations

from typing import Any

from sidecar.process.workers.borrowed import WorkerPermits, WorkerTokens


class Link:
    """Link to a supervisor that answers nothing by itself."""

    count = 2

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *message: Any) -> None:
        self.sent.append(message)

    def end_lease(self, name: str, lease: Any) -> None:
        raise AssertionError("nothing ends here")


def test_first_attempts_are_told_in_sum_at_each_look() -> None:
    link, deposits = Link(), 0
    tokens = WorkerTokens(link, "budget", lambda: deposits, lambda: 10)
    tokens.retune(0.2, 80, 10.0)
    tokens.lease.receive("grant", 10)
    link.sent.clear()
    deposits = 5
    assert not tokens.look()
    assert not tokens.look()
    deposits = 7
    tokens.look()
    assert link.sent == [("used", "budget", 5, 0), ("used", "budget", 2, 0)]


def test_more_tokens_are_asked_for_before_the_last_is_spent_and_only_once() -> None:
    link = Link()
    tokens = WorkerTokens(link, "budget", lambda: 0, lambda: 10)
    tokens.retune(0.2, 80, 10.0)
    tokens.lease.receive("grant", 10)
    link.sent.clear()
    assert [tokens.withdraw() for _ in range(10)] == [True] * 10
    assert [message for message in link.sent if message[0] == "lease"] == [("lease", "budget", "want", 0, 10)]
    assert not tokens.withdraw()
    assert tokens.look(), "a budget in use is looked at again soon"


def test_permits_are_looked_at_again_soon_while_requests_wait_or_nothing_is_left() -> None:
    link, waiting = Link(), 0
    permits = WorkerPermits(link, "limit", lambda: 4, lambda: waiting, lambda: None)
    permits.resize(16)
    permits.lease.receive("grant", 6)
    assert not permits.look()
    waiting = 1
    assert permits.look()
    waiting = 0
    permits.lease.receive("none", 0)
    assert permits.look()
    assert not permits.look(), "whoever looks asks again"
