"""Tests of endpoints from a file, in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import events, metrics
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.file import FileSource, parse
from sidecar.upstream.endpoint import EndpointSet, Target
from sidecar.upstream.spec import UpstreamSpec
from tests.support.files import replace
from tests.support.loop import virtual, virtual_env


class Bench:
    """Upstream whose endpoints a file lists."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.env = virtual_env()
        spec = UpstreamSpec.model_validate({"discover": {"file": str(path), **settings}})
        assert spec.discover is not None
        self.set = EndpointSet("app", spec, self.env)
        self.discovery = Discovery(self.set, spec.discover, self.env, FileSource)

    def write(self, text: str) -> None:
        replace(self.path, text)

    @property
    def urls(self) -> list[str]:
        return [endpoint.url for endpoint in self.set.members]


@virtual
async def test_a_replaced_file_is_read_within_a_second_or_so(tmp_path: Path) -> None:
    path = tmp_path / "endpoints"
    bench = Bench(path)
    try:
        bench.write("10.0.0.1:80\n10.0.0.2:80")
        bench.discovery.start()
        await asyncio.sleep(0.1)
        assert bench.urls == ["http://10.0.0.1:80", "http://10.0.0.2:80"]
        bench.write("10.0.0.2:80  # alone\n")
        await asyncio.sleep(1.1)
        assert bench.urls == ["http://10.0.0.2:80"]
        assert bench.env.emitted(events.DISCOVERY_CHANGED)[-1]["removed"] == ["http://10.0.0.1:80"]
    finally:
        bench.discovery.retire()


@virtual
async def test_a_link_that_is_swapped_is_followed(tmp_path: Path) -> None:
    directory = tmp_path
    one, two = directory / "1", directory / "2"
    one.write_text("10.0.0.1:80")
    two.write_text("10.0.0.2:80")
    link = directory / "endpoints"
    link.symlink_to(one)
    bench = Bench(link)
    try:
        bench.discovery.start()
        await asyncio.sleep(0.1)
        fresh = directory / "new"
        fresh.symlink_to(two)
        fresh.replace(link)
        await asyncio.sleep(1.1)
        assert bench.urls == ["http://10.0.0.2:80"]
    finally:
        bench.discovery.retire()


@virtual
async def test_a_file_that_is_gone_or_broken_changes_nothing_and_the_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "endpoints"
    bench = Bench(path)
    try:
        bench.write("10.0.0.1:80")
        bench.discovery.start()
        await asyncio.sleep(1)
        bench.write("10.0.0.2:80\n10.0.0.3")
        await asyncio.sleep(2)
        assert bench.urls == ["http://10.0.0.1:80"]
        (failed,) = bench.env.emitted(events.DISCOVERY_FAILED)
        assert f"{path}:2: has '10.0.0.3' without a port" in failed["reason"]
        path.unlink()
        await asyncio.sleep(900)
        assert bench.urls == ["http://10.0.0.1:80"], "kept until the source is back"
        assert "no such file" in bench.discovery.describe()["problem"]
        assert bench.env.meter.value(metrics.DISCOVERY_STALE) > 900
        bench.write("10.0.0.4:80")
        await asyncio.sleep(2)
        assert bench.urls == ["http://10.0.0.4:80"]
        (restored,) = bench.env.emitted(events.DISCOVERY_RESTORED)
        assert restored["seconds"] > 900
        assert bench.env.meter.value(metrics.DISCOVERY_STALE) == 0
    finally:
        bench.discovery.retire()


@virtual
async def test_endpoints_of_a_file_that_is_gone_are_dropped_after_keep_for(tmp_path: Path) -> None:
    path = tmp_path / "endpoints"
    bench = Bench(path, keep_for="60s")
    bench.write("10.0.0.1:80")
    bench.discovery.start()
    await asyncio.sleep(1)
    path.unlink()
    await asyncio.sleep(50)
    assert bench.urls == ["http://10.0.0.1:80"]
    await asyncio.sleep(20)
    assert bench.urls == []
    bench.discovery.retire()


def test_a_line_has_weight_and_priority() -> None:
    text = b"\n# all\n10.0.0.1:80 weight=3\r\n[2001:DB8::1]:81 priority=2 weight=0 # later\nhttp://app.svc:82\n"
    assert parse(text, "http") == [
        Target("http://10.0.0.1:80", 0, 3),
        Target("http://[2001:db8::1]:81", 2, 0),
        Target("http://app.svc:82"),
    ]


def test_a_subset_has_the_endpoints_with_its_labels() -> None:
    text = b"10.0.0.1:80 version=v1 zone=a\n10.0.0.2:80 zone=b version=v2 weight=2\n10.0.0.3:80"
    assert parse(text, "http", {"version": "v2"}) == [Target("http://10.0.0.2:80", 0, 2, zone="b")]
    assert [each.zone for each in parse(text, "http")] == ["a", "b", ""]
    with pytest.raises(ValueError, match=r": has no endpoint with version=v3; write it after one"):
        parse(text, "http", {"version": "v3"})
    with pytest.raises(ValueError, match=r":4: names 10\.0\.0\.1:80 a second time"):
        parse(text + b"\n10.0.0.1:80 version=v2", "http", {"version": "v2"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "has no endpoints"),
        (b"# none\n", "has no endpoints"),
        (b"\xff\xfe", "not UTF-8"),
        (b"10.0.0.1:80\n10.0.0.1:80", ":2: names 10.0.0.1:80 a second time"),
        (b"10.0.0.1:80 weight=x", ":1: has 'weight=x'"),
        (b"10.0.0.1:80 weight=65536", "at most 65535"),
        (b"10.0.0.1:80 wieght=3", "has 'wieght=3'"),
        (b"10.0.0.1:80 red", "has 'red'; after the endpoint write weight=N"),
        (b"https://10.0.0.1:80", "the scheme of the block is http"),
        (b"10.0.0.1:80/path", "is not an endpoint"),
        (b"10.0.0.1:0", "has the port '0'"),
        (b"x" * (4 * 2**20 + 1), "is larger than"),
    ],
)
def test_a_wrong_file_is_refused_with_the_remedy(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("(", r"\(")):
        parse(text, "http")


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        parse(data, "http")
