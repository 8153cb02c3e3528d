"""Workers of one sidecar in one event loop, with the supervisor's state between them: for tests without processes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from sidecar.core.env import Env
from sidecar.process.workers.shared import SharedState
from sidecar.process.workers.sharing import Sharing


class Crew:
    """All workers and their supervisor."""

    def __init__(self, env: Any, count: int, delay: float = 0.0005) -> None:
        self.env = env
        self.count = count
        self.delay = delay
        """Seconds that a message takes."""
        self.is_stalled = False
        """True while the supervisor handles no message."""
        self.sharing = Sharing(count, self._send, env.now)
        self.links = [self._start(number) for number in range(count)]
        self._is_alive = dict.fromkeys(self.links, True)

    def env_of(self, number: int) -> Env:
        """Return the env of a worker."""
        return replace(self.env, workers=self.links[number])

    def restart(self, number: int) -> Env:
        """Kill a worker; return the env of its successor."""
        del self._is_alive[self.links[number]]
        self.sharing.leave(number)
        self.links[number] = self._start(number)
        self._is_alive[self.links[number]] = True
        for topic, key, value in self.sharing.topics:
            self.links[number].receive(["value", topic, key, value, False])
        return self.env_of(number)

    def _start(self, number: int) -> SharedState:
        def send(*message: Any) -> None:
            self.env.call_later(self.delay, self.receive, link, json.loads(json.dumps(message)))

        link = SharedState(number, self.count, self.env.now, send)
        return link

    def receive(self, link: SharedState, message: list[Any]) -> None:
        if link in self._is_alive and not self.is_stalled:
            assert self.sharing.receive(link.number, message)

    def _send(self, number: int, *message: Any) -> None:
        link = self.links[number]
        text = json.dumps(message)
        self.env.call_later(self.delay, lambda: link in self._is_alive and link.receive(json.loads(text)))
