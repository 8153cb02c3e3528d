"""Source of endpoints: the EndpointSlices of a Kubernetes service, listed once and then watched.

Rules:

1. A list gives all slices and a resource version; a watch from that version gives every later change.  A watch that
   ends goes on from the last version, also after a failure.  Only a version that the server no longer has (410 Gone)
   makes it list anew.  Bookmarks keep the version young while nothing changes.
2. After a failure it waits with an exponential back-off and full jitter, so that sidecars do not return in step.  The
   endpoints stay.  A watch that lasted or brought a change resets the back-off.
3. Lines of a watch that were read together are applied together.
4. The API server knows: a service without endpoints has none.  A name of a port that no slice has is a failure.
5. An unknown zone is no failure.  All zones are equal then, and the state says why.
"""

from __future__ import annotations

import socket
from contextlib import aclosing
from typing import Any, Final

from sidecar.core.env import Env
from sidecar.upstream.discovery.api import Api, ApiError, own_namespace
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.slices import (
    ExpiredError,
    FormatError,
    SliceList,
    Slices,
    WatchError,
    labels_of,
    page_of,
)
from sidecar.upstream.discovery.spec import DiscoverSpec, KubernetesSpec
from sidecar.upstream.resolver import NameResolver

FIRST_PAUSE: Final = 0.5
"""Longest pause after the first failure, in seconds; it doubles with each further one."""
LONGEST_PAUSE: Final = 10.0
"""Longest pause in seconds."""
LEAST_PAUSE: Final = 0.05
"""Shortest pause in seconds."""
LASTING_SECONDS: Final = 10.0
"""Length of a watch after which the back-off begins anew."""
WATCH_SECONDS: Final = 300
"""Shortest length that a watch is asked for, in seconds; the longest is twice as long."""
PAGE: Final = 500
"""Slices in one page of a list."""
MOST_PAGES: Final = 100
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
SERVICE_LABEL: Final = "kubernetes.io/service-name"


class KubernetesSource:
    """Source whose endpoints are those of a Kubernetes service."""

    def __init__(self, spec: DiscoverSpec, env: Env, names: NameResolver | None) -> None:
        assert spec.kubernetes is not None
        self._spec: KubernetesSpec = spec.kubernetes
        self._env = env
        self._names = names
        self._slices = Slices(self._spec, spec.scheme)
        self._zone = ""
        """The sidecar's own zone; empty if it is not known, or not asked for."""
        self._zone_problem = ""
        """Reason for which the own zone is not known; empty if it is, or is not asked for."""
        self._problem = ""
        """Reason for which no slice is of use; empty if there is none."""
        self._failures = 0
        """Number of consecutive failures."""
        self._is_listed = False
        """True while the slices can be watched from their version on."""
        self._lists = 0
        self._watches = 0

    async def run(self, sink: Discovery) -> None:
        """List the slices and watch them, until cancelled."""
        while True:
            pause = 0.0
            try:
                async with Api(self._spec.api, self._names, self._env) as api:
                    await self._follow(api, sink)
            except ExpiredError:
                self._is_listed = False
                self._failures += 1
            except (ApiError, FormatError, WatchError) as error:
                if isinstance(error, FormatError):
                    self._is_listed = False
                self._failures += 1
                pause = getattr(error, "retry_after", 0.0)
                if self._failures > 1 or not self._is_listed:  # connections are lost now and then
                    sink.fail(str(error))
            if self._failures:
                await self._env.sleep(max(pause, self._pause()))

    def _pause(self) -> float:
        """Return the seconds to wait after a failure."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        return LEAST_PAUSE + longest * self._env.rng.random()

    async def _follow(self, api: Api, sink: Discovery) -> None:
        """List the slices if necessary, and watch them until an error."""
        namespace = self._spec.namespace or own_namespace()
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        selector = f"{SERVICE_LABEL}={self._spec.service}"
        if self._spec.zone_aware and not self._zone:
            await self._find_zone(api)
        if not self._is_listed:
            await self._list(api, path, selector)
            self._apply(sink)
        while True:
            await self._watch(api, sink, path, selector)
            await self._env.sleep(LEAST_PAUSE)

    async def _list(self, api: Api, path: str, selector: str) -> None:
        """Replace the slices by a new list."""
        pages: list[SliceList] = []
        query = {"labelSelector": selector, "limit": str(PAGE)}
        following = ""
        while True:
            answer = await api.get(path, **query, **({"continue": following} if following else {}))
            pages.append(page_of(answer))
            following = pages[-1].metadata.continue_
            if not following:
                break
            if len(pages) == MOST_PAGES:
                raise FormatError(f"the service has more than {MOST_PAGES * PAGE} slices")
        self._slices.replace(pages)
        self._lists += 1
        self._is_listed = True

    async def _watch(self, api: Api, sink: Discovery, path: str, selector: str) -> None:
        """Apply the changes of one watch, until it ends."""
        seconds = int(WATCH_SECONDS * (1 + self._env.rng.random()))
        readings = api.watch(
            path, seconds, labelSelector=selector, allowWatchBookmarks="true", resourceVersion=self._slices.version
        )
        began, changes = self._env.now(), 0
        async with aclosing(readings):
            async for lines in readings:
                if not lines:
                    self._watches += 1
                    self._confirm(sink)
                    continue
                before = self._slices.changes
                try:
                    self._slices.apply(lines)
                finally:  # the lines before a faulty one count
                    if self._slices.changes != before:
                        self._apply(sink)
                changes += self._slices.changes - before
                self._failures = 0
                self._confirm(sink)
        if self._env.now() - began >= LASTING_SECONDS:
            self._failures = 0
        elif not changes:
            raise ApiError("the API server ended the watch at once")

    def _apply(self, sink: Discovery) -> None:
        """Report the present endpoints."""
        targets = self._slices.targets(self._zone)
        self._problem = "" if targets else self._slices.problem
        if self._problem:
            sink.fail(self._problem)
        else:
            sink.find(targets, spills=bool(self._zone))

    def _confirm(self, sink: Discovery) -> None:
        """Report that the API server is there, unless the slices themselves are of no use."""
        if not self._problem:
            sink.confirm()

    async def _find_zone(self, api: Api) -> None:
        """Find the sidecar's own zone; a failure is only noted."""
        try:
            node = self._spec.node or ""
            if not node:
                pod = f"/api/v1/namespaces/{own_namespace()}/pods/{socket.gethostname()}"
                labels, node = labels_of(await api.get(pod))
                self._zone = labels.get(ZONE_LABEL, "")
            if node and not self._zone:
                labels, _ = labels_of(await api.get(f"/api/v1/nodes/{node}"))
                self._zone = labels.get(ZONE_LABEL, "")
            self._zone_problem = "" if self._zone else f"neither pod nor node has the label {ZONE_LABEL}"
        except (ApiError, FormatError, ExpiredError) as error:
            self._zone_problem = f"the zone of the sidecar is not known: {error}"

    def describe(self) -> dict[str, Any]:
        zone = {"zone": self._zone, "zone_problem": self._zone_problem} if self._spec.zone_aware else {}
        return {
            **self._slices.describe(),
            **zone,
            "lists": self._lists,
            "watches": self._watches,
        }
