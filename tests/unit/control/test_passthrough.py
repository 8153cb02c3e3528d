"""Tests of the addresses of requests without a route: bounds, and which address makes room."""

from __future__ import annotations

from sidecar.control.passthrough import MOST_DESTINATIONS, Destinations
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import virtual, virtual_env


@virtual
async def test_the_least_recently_used_address_without_a_request_makes_room() -> None:
    endpoints = EndpointSet("(original)", UpstreamSpec.built_in(), virtual_env())
    destinations = Destinations(endpoints)
    urls = [f"http://10.0.0.1:{1000 + number}" for number in range(MOST_DESTINATIONS + 1)]
    first, second, *_ = known = [destinations.endpoint(url) for url in urls[:-1]]
    assert first is not None
    assert second is not None
    assert destinations.endpoint(urls[0]) is first
    second.in_flight = 1
    assert destinations.endpoint(urls[-1]) is not None
    assert {each.url for each in endpoints.members} == {*urls} - {urls[2]}
    for endpoint in endpoints.members:
        endpoint.in_flight = 1
    assert destinations.endpoint(urls[2]) is None
    assert len(endpoints.members) == len(known)
