"""Topics: latest values that workers tell each other, such as the states of breakers.  No I/O.

A value has a topic and a key: the endpoint of an ejection, or empty.  Rules:

1. The supervisor gives all values one order.  It sends each to every worker, also to the one that it came from.
2. A worker that has told a value ignores others of the same key until its own comes back: its own is the later one.  So
   all workers end with the value that is last in the order.
3. The supervisor keeps the last value of each key for workers that start later.  There is a bound; beyond it, the
   oldest value is forgotten, and only a worker that starts later does not hear of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

MAX_KEPT: Final = 20_000
"""Most values that the supervisor keeps."""

Apply = Callable[[str, Any], None]
"""Function that applies the value of a key: `apply(key, value)`."""


class TopicBook:
    """Last values of all topics, in the supervisor."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Any] = {}

    def put(self, topic: str, key: str, value: Any) -> None:
        """Keep a value as the last one of its key."""
        self._values.pop((topic, key), None)
        self._values[topic, key] = value
        if len(self._values) > MAX_KEPT:
            del self._values[next(iter(self._values))]

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        for (topic, key), value in self._values.items():
            yield topic, key, value


class Subscriptions:
    """Topics of one worker."""

    def __init__(self, send: Callable[[str, str, Any], None]) -> None:
        """`send(topic, key, value)` tells the supervisor a value."""
        self._send = send
        self._apply: dict[str, Apply] = {}
        self._known: dict[str, dict[str, Any]] = {}
        """Last values by topic and key, for subscribers that come later."""
        self._count = 0
        self._pending: dict[tuple[str, str], int] = {}
        """Number of own values that have not come back, by topic and key."""

    def subscribe(self, topic: str, apply: Apply) -> Callable[[str, Any], None]:
        """Apply the values of a topic, past and future ones; return a function that tells one: `tell(key, value)`."""
        self._apply[topic] = apply
        for key, value in list(self._known.get(topic, {}).items()):
            apply(key, value)

        def tell(key: str, value: Any) -> None:
            self._pending[topic, key] = self._pending.get((topic, key), 0) + 1
            self._send(topic, key, value)

        return tell

    def leave(self, topic: str, apply: Apply) -> None:
        """End a subscription."""
        if self._apply.get(topic) == apply:
            del self._apply[topic]

    def receive(self, topic: str, key: str, value: Any, is_own: bool) -> None:
        """Handle a value from the supervisor."""
        self._keep(topic, key, value)
        if is_own:
            left = self._pending.pop((topic, key), 1) - 1
            if left > 0:
                self._pending[topic, key] = left
        elif (topic, key) not in self._pending and (apply := self._apply.get(topic)) is not None:
            apply(key, value)

    def _keep(self, topic: str, key: str, value: Any) -> None:
        """Keep a value for subscribers that come later."""
        values = self._known.setdefault(topic, {})
        if key not in values:
            if self._count >= MAX_KEPT:
                return
            self._count += 1
        values[key] = value
