"""Part of many endpoints that one sidecar uses (`subset`), chosen by rendezvous hashing of its name and their URLs.

Rules (`docs/design/load-balancing.md` has the reasons):

1. Every sidecar ranks the endpoints in an order of its own, and takes the first `size` of them that are not out.  An
   endpoint that comes or goes changes one place at most in each part, and no part of a sidecar that has not had it.
2. An endpoint is out while a check or ejection excludes it.  It stays in the part, so that probes and trials find out
   when it is back, and the next one takes its place until then.  At most `size` endpoints that are out stay.
3. An endpoint that is not ready, as discovery says, is in a part only if too few are ready.
4. Each tier, and with `locality` each zone, has a part of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.upstream.endpoint import Target

ROOM: Final = 2
"""Most endpoints of a part, relative to its size."""


class Subset:
    """Chooser of the endpoints that one sidecar uses."""

    __slots__ = ("_by_zone", "_groups", "_instance", "_places", "found", "size")

    def __init__(self, size: int, instance: str, by_zone: bool) -> None:
        """`instance` is the name of the sidecar.  `by_zone` is True if each zone has a part of its own."""
        self.size = size
        """Most endpoints of a part that are not out."""
        self.found = 0
        """Number of endpoints of which the parts are chosen."""
        self._instance = instance.encode()
        self._by_zone = by_zone
        self._places: dict[str, bytes] = {}
        """Place of each endpoint in the order of this sidecar, by URL; the lowest comes first."""
        self._groups: list[list[Target]] = []
        """Endpoints of each part that may be used, in the order of this sidecar."""

    def rank(self, targets: Sequence[Target]) -> None:
        """Take all endpoints that there are."""
        known, places = self._places, {}
        groups: dict[tuple[int, str], list[Target]] = {}
        for target in targets:
            url = target.url
            places[url] = known.get(url) or place_of(self._instance, url)
            groups.setdefault((target.tier, target.zone if self._by_zone else ""), []).append(target)
        self._places, self.found = places, len(targets)
        most = ROOM * self.size
        self._groups = [
            nsmallest(most, group, key=lambda target: (not target.is_ready, places[target.url]))
            for group in groups.values()
        ]

    def choose(self, is_out: Callable[[Target], bool]) -> list[Target]:
        """Return the endpoints to use, in the order of this sidecar."""
        chosen: list[Target] = []
        for group in self._groups:
            left = self.size
            for target in group:
                if left == 0:
                    break
                chosen.append(target)
                left -= not is_out(target)
        return chosen


def place_of(instance: bytes, url: str) -> bytes:
    """Return the place of an endpoint in the order of a sidecar: octets that are the same in every process."""
    return blake2b(instance + b" " + url.encode(), digest_size=8).digest()
