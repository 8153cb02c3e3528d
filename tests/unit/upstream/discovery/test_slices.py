"""Tests of the endpoints of a service, from its EndpointSlices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.parts.kubernetes import endpoint
from sidecar.upstream.discovery.slices import ExpiredError, FormatError, Slices, WatchError, page_of
from sidecar.upstream.discovery.spec import KubernetesSpec
from sidecar.upstream.endpoint import DRAINING, Target


def make_slice(name: str, endpoints: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a slice as the API server sends it."""
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    metadata = {"name": name, "resourceVersion": "7"}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": list(endpoints), "ports": ports, **more}


def listed(*items: dict[str, Any], scheme: str = "http", **spec: Any) -> Slices:
    """Return the slices of a service after a list."""
    slices = Slices(KubernetesSpec.model_validate({"service": "orders", "port": "http", **spec}), scheme)
    slices.replace([page_of(json.dumps({"metadata": {"resourceVersion": "9"}, "items": items}).encode())])
    return slices


def event(kind: str, found: Any) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"type": kind, "object": found}).encode()


def urls(slices: Slices, zone: str = "") -> list[str]:
    return sorted(target.url for target in slices.targets(zone))


@pytest.mark.parametrize(
    ("conditions", "tier", "is_ready"),
    [
        ({"ready": True}, 0, True),
        ({"ready": None}, 0, True),
        ({"ready": True, "serving": True, "terminating": True}, 0, True),  # publishNotReadyAddresses
        ({"ready": False, "serving": True, "terminating": True}, DRAINING, True),
        ({"ready": False, "serving": None, "terminating": True}, 0, False),
        ({"ready": False, "serving": False, "terminating": True}, 0, False),
        ({"ready": False, "serving": False, "terminating": False}, 0, False),
        ({"ready": False, "serving": True, "terminating": None}, 0, False),
    ],
)
def test_conditions_have_the_meaning_that_the_api_documents(
    conditions: dict[str, bool | None], tier: int, is_ready: bool
) -> None:
    (target,) = listed(make_slice("a", [endpoint("10.0.0.1", **conditions)])).targets()
    assert target == Target("http://10.0.0.1:8080", tier, 1, is_ready)


def test_absent_conditions_are_ready() -> None:
    (target,) = listed(make_slice("a", [{"addresses": ["10.0.0.1"]}])).targets()
    assert target.is_ready


def test_slices_are_merged_and_the_better_of_two_states_holds() -> None:
    old = make_slice("a", [endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2")])
    new = make_slice("b", [endpoint("10.0.0.1"), endpoint("10.0.0.3")])
    for items in ((old, new), (new, old)):
        targets = listed(*items).targets()
        assert sorted(target.url for target in targets) == [f"http://10.0.0.{n}:8080" for n in (1, 2, 3)]
        assert all(target.is_ready for target in targets)


def test_a_watch_adds_changes_and_removes_slices() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]))
    slices.apply([event("ADDED", make_slice("b", [endpoint("10.0.0.2")]))])
    slices.apply([event("MODIFIED", make_slice("a", [endpoint("10.0.0.3")]))])
    assert urls(slices) == ["http://10.0.0.2:8080", "http://10.0.0.3:8080"]
    slices.apply([event("DELETED", make_slice("b", []))])
    assert urls(slices) == ["http://10.0.0.3:8080"]
    assert slices.version == "7"


def test_endpoints_that_do_not_change_are_the_same_objects() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1", "x"), endpoint("10.0.0.2")]), make_slice("b", []))
    before = {target.url: target for target in slices.targets()}
    slices.apply([event("MODIFIED", make_slice("a", [endpoint("10.0.0.1", "x"), endpoint("10.0.0.2", ready=False)]))])
    after = {target.url: target for target in slices.targets()}
    assert after["http://10.0.0.1:8080"] is before["http://10.0.0.1:8080"]
    assert not after["http://10.0.0.2:8080"].is_ready


def test_a_bookmark_moves_the_version_alone() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]))
    assert not slices.apply([event("BOOKMARK", {"metadata": {"resourceVersion": "44"}})])
    assert (slices.version, len(slices)) == ("44", 1)


def test_of_several_changes_of_a_slice_only_the_last_counts() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]), make_slice("b", [endpoint("10.0.0.9")]))
    first = make_slice("a", [endpoint("10.0.0.2"), endpoint("not parsed")])
    last = {**make_slice("a", [endpoint("10.0.0.3")]), "metadata": {"name": "a", "resourceVersion": "12"}}
    slices.apply([event("MODIFIED", first), event("DELETED", make_slice("b", [])), event("MODIFIED", last)])
    assert urls(slices) == ["http://10.0.0.3:8080"]
    assert (slices.version, slices.changes) == ("12", 2)


def test_lines_before_a_faulty_one_are_applied() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]))
    with pytest.raises(WatchError):
        slices.apply([event("MODIFIED", make_slice("a", [endpoint("10.0.0.2")])), event("ERROR", {"code": 500})])
    assert urls(slices) == ["http://10.0.0.2:8080"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"code": 410, "reason": "Expired"}, ExpiredError),
        ({"reason": "Gone"}, ExpiredError),
        ({"code": 500, "reason": "InternalError", "message": "etcd"}, WatchError),
    ],
)
def test_error_events_are_told_apart(status: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        listed().apply([event("ERROR", status)])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"\xff",
        b"[]",
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": {"endpoints": 7}}',
        event("MOVED", make_slice("a", [])),
        event("ADDED", make_slice("a", [endpoint("ten")])),
        event("ADDED", make_slice("a", [{"addresses": []}])),
        event("ADDED", make_slice("a", [endpoint("0.0.0.0")])),
        event("ADDED", make_slice("a", [endpoint("224.0.0.1")])),
        event("ADDED", make_slice("a", [endpoint("10.0.0.1")], ports=[{"name": "http", "port": 70000}])),
        b"[" * 100_000,
    ],
)
def test_what_no_api_server_sends_is_an_error(line: bytes) -> None:
    with pytest.raises(FormatError):
        listed().apply([line])


@given(st.binary(max_size=200))
def test_any_bytes_are_applied_or_refused(line: bytes) -> None:
    with suppress(FormatError, ExpiredError, WatchError):
        listed().apply([line])


def test_named_ports_can_differ_from_slice_to_slice() -> None:
    other = make_slice(
        "b", [endpoint("10.0.0.2")], ports=[{"name": "admin", "port": 1}, {"name": "http", "port": 9090}]
    )
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]), other)
    assert urls(slices) == ["http://10.0.0.1:8080", "http://10.0.0.2:9090"]


def test_a_port_is_found_by_its_number_or_because_it_is_the_only_one() -> None:
    two = make_slice("a", [endpoint("10.0.0.1")], ports=[{"name": "x", "port": 1}, {"name": "y", "port": 2}])
    assert urls(listed(two, port=2)) == ["http://10.0.0.1:2"]
    assert urls(listed(make_slice("a", [endpoint("10.0.0.1")]), port=None)) == ["http://10.0.0.1:8080"]
    assert urls(listed(two, port=None)) == []


def test_a_missing_port_is_a_problem_that_names_those_that_there_are() -> None:
    slices = listed(make_slice("a", [endpoint("10.0.0.1")]), port="grpc")
    assert urls(slices) == []
    assert slices.problem == "the service does not have the port grpc; its pods have http (8080)"
    slices.apply([event("MODIFIED", make_slice("a", [endpoint("10.0.0.1")], ports=[{"name": "grpc", "port": 5}]))])
    assert slices.problem == ""


def test_ports_of_udp_are_none() -> None:
    udp = make_slice("a", [endpoint("10.0.0.1")], ports=[{"name": "http", "port": 1, "protocol": "UDP"}])
    assert urls(listed(udp)) == []


def test_one_family_is_used_since_both_name_the_same_pods() -> None:
    four = make_slice("a", [endpoint("10.0.0.1")])
    six = make_slice("b", [endpoint("2001:db8::1")], addressType="IPv6")
    names = make_slice("c", [endpoint("app.example")], addressType="FQDN")
    assert urls(listed(six, four, names)) == ["http://10.0.0.1:8080"]
    assert urls(listed(six, four, family="ipv6")) == ["http://[2001:db8::1]:8080"]
    assert urls(listed(six)) == ["http://[2001:db8::1]:8080"]


def tiers(slices: Slices, zone: str) -> dict[str, int]:
    """Return the tier of each address."""
    return {target.url[7:-5]: target.tier for target in slices.targets(zone)}


def test_the_own_zone_comes_first_and_terminating_endpoints_come_last() -> None:
    slices = listed(
        make_slice(
            "a",
            [
                endpoint("10.0.0.1", "a"),
                endpoint("10.0.0.2", "b"),
                endpoint("10.0.0.3", "a", ready=False, serving=True, terminating=True),
            ],
        )
    )
    assert tiers(slices, "a") == {"10.0.0.1": 0, "10.0.0.2": 1, "10.0.0.3": DRAINING}
    assert tiers(slices, "c") == tiers(slices, "") == {"10.0.0.1": 0, "10.0.0.2": 0, "10.0.0.3": DRAINING}


def test_hints_win_over_zones_if_every_ready_endpoint_has_them() -> None:
    hinted = [endpoint("10.0.0.1", "a", ["b"]), endpoint("10.0.0.2", "b", ["a", "c"])]
    assert tiers(listed(make_slice("a", hinted)), "a") == {"10.0.0.1": 1, "10.0.0.2": 0}
    some = [*hinted, endpoint("10.0.0.3", "a")]
    assert tiers(listed(make_slice("a", some)), "a") == {"10.0.0.1": 0, "10.0.0.2": 1, "10.0.0.3": 0}
    assert tiers(listed(make_slice("a", hinted)), "d") == {"10.0.0.1": 0, "10.0.0.2": 0}


def test_the_number_of_endpoints_is_bounded() -> None:
    many = make_slice("a", [endpoint(f"10.{n >> 8 & 255}.{n & 255}.1") for n in range(10_001)])
    slices = listed(many)
    with pytest.raises(FormatError, match="more than 20000"):
        slices.apply([event("ADDED", {**many, "metadata": {"name": "b"}})])
