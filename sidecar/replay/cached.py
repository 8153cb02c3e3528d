"""Evidence about cached answers from figures of a sidecar: how often they change, and how many requests they answer."""

from __future__ import annotations

from collections import Counter
from math import isinf
from typing import Final

from sidecar.lint.arithmetic import percent, seconds
from sidecar.lint.facts import Policies, RouteFacts
from sidecar.replay.changes import Changes, longest_lifetime
from sidecar.telemetry.metrics.period import Calls, HistoryDocument, Refreshed

LEAST: Final = 100
"""Least number of refreshed answers from which a lifetime is suggested."""
MAX_STALE: Final = 0.05
"""Accepted share of stale answers among those from a cache."""
SHORTEST: Final = 0.1
"""Shortest lifetime in seconds that is suggested."""
ANSWERED: Final = ("hit", "stale")
"""Results of look-ups that a cache answered without its upstream."""

NO_CALLS: Final = Calls()
NONE: Final = Refreshed()


class CacheFigures:
    """Figures of all caches."""

    def __init__(self, policies: Policies, history: HistoryDocument, max_stale: float = MAX_STALE) -> None:
        """`max_stale` is the accepted share of stale answers among those from a cache, between 0 and 1."""
        self.max_stale = max_stale
        self._policies = policies
        self._periods = history.periods
        self._seconds = sum(period.seconds for period in history.periods)

    def changes(self, route: RouteFacts, lifetime: str = "policy") -> Changes:
        """Return the refreshed answers of a route whose lifetime the policy states, or the `answer` itself."""
        calls = [period.routes.get(route.name, NO_CALLS) for period in self._periods]
        return Changes([each.refreshes.get(lifetime, NONE) for each in calls], self._seconds)

    def allowed(self, changes: Changes) -> float:
        """Return the lifetime in seconds with the accepted share of stale answers; a bound if all had changed."""
        rate = changes.rate()
        return longest_lifetime(rate.least if isinf(rate.likely) else rate.likely, self.max_stale)

    def answered(self, route: RouteFacts) -> float:
        """Return the share of look-ups that the cache answered; 0 without look-ups."""
        found: Counter[str] = Counter()
        for period in self._periods:
            found.update(period.routes.get(route.name, NO_CALLS).lookups)
        looked_up = found.total() - found["bypass"]
        return sum(found[result] for result in ANSWERED) / looked_up if looked_up else 0.0

    def unknown(self) -> list[str]:
        """Return sentences about caches for which no lifetime is suggested."""
        few, found = [], []
        for route in self._policies.routes:
            if route.cache is None or "@" in route.name:
                continue
            stated = self.changes(route, "answer")
            if stated.count >= LEAST:
                words = f"`ttl` of {route.name} has no effect, because answers state their lifetime"
                found.append(f"{words}: {self._said(stated)}")
            elif (changes := self.changes(route)).count < LEAST:
                few.append(route.name)
            elif changes.changed and (allowed := self.allowed(changes)) < SHORTEST:
                words = f"{changes.changed} of {changes.count} answers had changed when they were fetched anew"
                found.append(
                    f"a lifetime of {route.name}: {words}, so {seconds(allowed)} would be too long already; "
                    "take the cache out, or accept more stale answers (--max-stale)"
                )
        if few:
            found.append(f"lifetimes of cached answers of {', '.join(few)}: fewer than {LEAST} were fetched anew")
        return found

    def _said(self, stated: Changes) -> str:
        """Return words about answers that state their own lifetime."""
        rate = stated.rate()
        most = rate.least if isinf(rate.most) else max(rate.most, 1 / stated.seconds)
        longest = seconds(longest_lifetime(most, self.max_stale))
        words = f"{stated.changed} of {stated.count} had changed when they were fetched anew"
        return f"{words}, so a max-age of {longest} keeps stale answers below {percent(self.max_stale)}"
