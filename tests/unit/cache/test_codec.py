"""Tests of records as bytes: written ones are read again, and all others are refused."""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.codec import HEAD, LENGTH, MAGIC, Record, decode, encode, ttl_of
from sidecar.cache.entry import Entry, Variants
from tests.unit.cache.support import NOW, WALL, date, entry

FULL = [
    ("Cache-Control", "max-age=60, stale-if-error=9, stale-while-revalidate=5"), ("ETag", 'W/"a\xfc"'),
    ("Last-Modified", date(-99)), ("Date", date(-3)), ("Vary", "Foo, Bar"), ("Cache-Tag", "x, y"),
    ("X-Binary", "\xff\xfe"),
]  # fmt: skip


ATTRIBUTES = [
    name for name in dir(Entry) if isinstance(getattr(Entry, name), MemberDescriptorType | GetSetDescriptorType)
]
"""Names of an entry's attributes, compiled or not."""


def slots(item: Entry) -> dict[str, object]:
    return {name: getattr(item, name) for name in ATTRIBUTES}


def test_an_entry_is_read_as_written() -> None:
    before = entry(*FULL, body=bytes(range(256)))
    record = decode(encode(Record(before, b"7/3"), NOW, WALL), NOW, WALL)
    assert isinstance(record.item, Entry)
    assert slots(record.item) == slots(before)
    assert record.generation == b"7/3"


def test_instants_are_read_on_the_readers_clock() -> None:
    before = entry(("Cache-Control", "max-age=60"), ("Age", "7"))
    after = decode(encode(Record(before, b""), NOW, WALL), 5.0, WALL + 10).item
    assert isinstance(after, Entry)
    assert (5.0 - after.born, after.fresh_until - 5.0) == (17, 43)


def test_a_writer_whose_clock_is_ahead_makes_no_age_negative() -> None:
    before = entry()
    after = decode(encode(Record(before, b""), NOW, WALL + 100), NOW, WALL).item
    assert isinstance(after, Entry)
    assert after.born == NOW


def test_variants_are_read_as_written() -> None:
    before = Variants(b"k http://a/", (b"bar", b"foo"))
    after = decode(encode(Record(before, b"1"), NOW, WALL), NOW, WALL).item
    assert isinstance(after, Variants)
    assert (after.key, after.uri, after.names, after.keys) == (before.key, before.uri, before.names, {})


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    data = bytearray(encode(Record(entry(*FULL), b"1"), NOW, WALL))
    data[at % len(data)] ^= change
    with pytest.raises(ValueError, match="record"):
        decode(bytes(data), NOW, WALL)


@given(st.integers(0, 10_000))
def test_a_missing_end_is_noticed(length: int) -> None:
    data = encode(Record(entry(*FULL), b"1"), NOW, WALL)
    with pytest.raises(ValueError, match="record"):
        decode(data[: length % len(data)], NOW, WALL)


@given(st.binary(max_size=200), st.sampled_from([b"E", b"V", b"X"]))
def test_noise_with_a_right_checksum_is_no_record_of_a_key(noise: bytes, kind: bytes) -> None:
    try:
        record = decode(HEAD.pack(MAGIC, kind, crc32(noise)) + noise, NOW, WALL)
    except ValueError:
        return
    assert not record.item.key.endswith(b" http://a/"), "the tier compares keys"


@pytest.mark.parametrize(
    "lines", [b"a: b\r\n\r\nevil", b"a: b\nx: y\r\n", b"a b: c\r\n", b"a: b", b"a: b\x00\r\n", b"a : b\r\n"]
)
def test_fields_that_could_not_have_come_from_http_are_refused(lines: bytes) -> None:
    bad = entry()
    bad.lines = lines
    with pytest.raises(ValueError, match="HTTP"):
        decode(encode(Record(bad, b""), NOW, WALL), NOW, WALL)


@pytest.mark.parametrize("instant", [float("inf"), float("nan"), 1e300])
def test_impossible_instants_are_refused(instant: float) -> None:
    bad = entry()
    bad.fresh_until = instant
    with pytest.raises(ValueError, match="impossible"):
        decode(encode(Record(bad, b""), NOW, WALL), NOW, WALL)


def test_other_invalid_parts_are_refused() -> None:
    bad = entry()
    bad.status = 103
    with pytest.raises(ValueError, match="impossible"):
        decode(encode(Record(bad, b""), NOW, WALL), NOW, WALL)
    bad = entry()
    bad.etag = b'"a"\r\nevil: yes'
    with pytest.raises(ValueError, match="entity tag"):
        decode(encode(Record(bad, b""), NOW, WALL), NOW, WALL)
    parts = b"".join(LENGTH.pack(len(part)) + part for part in [b"k", b"", b"short", b"", b"", b"", b"", b"", b""])
    with pytest.raises(ValueError, match="wrong size"):
        decode(HEAD.pack(MAGIC, b"E", crc32(parts)) + parts, NOW, WALL)


def test_the_ttl_in_a_shared_store() -> None:
    assert ttl_of(entry(keep=100), NOW, 86400) == 160
    assert ttl_of(entry(("Cache-Control", "max-age=999999")), NOW, 86400) == 86400
    assert ttl_of(Variants(b"k u", (b"a",)), NOW, 86400) == 86400


def packed(*parts: bytes, kind: bytes = b"E") -> bytes:
    """Return a record of these parts, as anyone with access to Redis could write it."""
    payload = b"".join([LENGTH.pack(len(part)) + part for part in parts])
    return HEAD.pack(MAGIC, kind, crc32(payload)) + payload


def forged(**changes: object) -> bytes:
    """Return the record of an entry with some attributes changed."""
    bad = entry(*FULL)
    for name, value in changes.items():
        setattr(bad, name, value)
    return encode(Record(bad, b"1"), NOW, WALL)


@pytest.mark.parametrize("name", [
    b"Content-Length", b"Transfer-Encoding", b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Upgrade", b"TE",
    b"Trailer", b"Proxy-Authenticate", b"Content-Range", b"content_length", b"TRANSFER_ENCODING",
    b"transfer.encoding",
])  # fmt: skip
def test_fields_of_framing_and_of_connections_are_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="fields that are never stored"):
        decode(forged(lines=b"a: b\r\n%b: 5\r\nc: d\r\n" % name), NOW, WALL)


def test_so_are_heads_without_end() -> None:
    with pytest.raises(ValueError, match="not valid HTTP"):
        decode(forged(lines=b"a: b\r\n" * 100_000), NOW, WALL)


@pytest.mark.parametrize(
    ("status", "body"), [(206, b"x"), (304, b""), (204, b"x"), (205, b"x"), (199, b""), (600, b"")]
)
def test_a_status_that_does_not_fit_is_refused(status: int, body: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        decode(forged(status=status, body=body), NOW, WALL)


def test_a_204_without_a_body_is_not() -> None:
    assert isinstance(decode(forged(status=204, body=b""), NOW, WALL).item, Entry)


LISTS = [
    tuple(b"x-%03d" % number for number in range(17)), tuple(b"x-%06d" % number for number in range(10_000)),
    (b"foo", b"bar"), (b"foo", b"foo"), (b"Foo",), (b"a b",), (b"a\r\nb",), (b"*", b""), (b"",), (b"f\xfc",),
]  # fmt: skip


@pytest.mark.parametrize("names", LISTS)
def test_lists_of_fields_that_no_writer_writes_are_refused(names: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="request fields"):
        decode(packed(b"k http://a/", b"1", b",".join(names), kind=b"V"), NOW, WALL)
    if names != (b"",):
        with pytest.raises(ValueError, match="request fields"):
            decode(forged(vary=names), NOW, WALL)


@pytest.mark.parametrize(
    "tags", [(b"x",) * 2, tuple(b"%d" % n for n in range(65)), (b"x" * 257,), (b" x",), (b"x", b"")]
)
def test_lists_of_tags_that_no_writer_writes_are_refused(tags: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="tags"):
        decode(forged(tags=tags), NOW, WALL)


@pytest.mark.parametrize("name", ["born", "fresh_until", "keep_until", "date", "last_modified"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e300])
def test_each_instant_is_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="impossible"):
        decode(forged(**{name: value}), NOW, WALL)
