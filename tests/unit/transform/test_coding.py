from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.transform import coding
from sidecar.transform.jsonbody import InvalidBody

MIB = 2**20


@given(st.binary(max_size=2000), st.sampled_from([b"gzip", b"x-gzip", b"deflate", b"identity", b""]))
def test_what_is_encoded_is_decoded(data: bytes, name: bytes) -> None:
    assert coding.decode(coding.encode(data, name), name, MIB) == data


def test_the_forms_that_others_send() -> None:
    assert coding.decode(gzip.compress(b"ab") + gzip.compress(b"cd"), b"gzip", MIB) == b"abcd"
    assert coding.decode(zlib.compress(b"abc"), b"deflate", MIB) == b"abc"
    assert coding.decode(zlib.compress(b"abc")[2:-4], b"deflate", MIB) == b"abc"


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (gzip.compress(b"abc" * 99)[:-9], b"gzip", "cut off"),
        (gzip.compress(b"abc") + b"junk", b"gzip", "not valid gzip"),
        (zlib.compress(b"abc") + b"x", b"deflate", "octets after the end"),
        (b"abc", b"gzip", "not valid gzip"),
        (gzip.compress(b"") * 20, b"gzip", "more than 16 members"),
        (gzip.compress(b"a" * 2000), b"gzip", "larger than 1000 bytes"),
    ],
    # Fixed ids: gzip adds the time of day to its output, and parallel test processes must agree on
    # the names of tests.
    ids=["cut-off", "junk-after-gzip", "junk-after-deflate", "plain", "members", "too-large"],
)
def test_what_cannot_be_decoded_is_invalid(data: bytes, name: bytes, message: str) -> None:
    with pytest.raises(InvalidBody, match=message):
        coding.decode(data, name, 1000)


@pytest.mark.parametrize("name", [b"gzip", b"deflate"])
def test_a_bomb_is_stopped_by_its_ratio_before_its_size(name: bytes) -> None:
    bomb = coding.encode(b"\0" * 2 * MIB, name)[:1000]
    with pytest.raises(coding.BodyTooLarge, match=f"larger than {1000 * coding.MAX_RATIO} bytes"):
        coding.decode(bomb, name, 50 * MIB)
    assert coding.decode(coding.encode(b"\0" * 60_000, name), name, MIB) == b"\0" * 60_000


@pytest.mark.parametrize(
    ("field", "known"),
    [
        (b"gzip, zstd, br;q=0.5, DEFLATE;q=0.1", b"gzip, DEFLATE;q=0.1"),
        (b"zstd", b"identity"),
        (b"*", b"identity"),
        (b"", b"identity"),
    ],
)
def test_what_the_upstream_is_asked_for_can_be_undone(field: bytes, known: bytes) -> None:
    if coding.is_known(b"br"):
        known = known.replace(b"gzip, D", b"gzip, br;q=0.5, D")
    assert coding.acceptable(field) == known


def test_several_codings_at_once_are_not_known() -> None:
    assert coding.is_known(b"")
    assert coding.is_known(b"gzip")
    assert not coding.is_known(b"gzip, gzip")
    assert not coding.is_known(b"zstd")


@pytest.mark.skipif(not coding.is_known(b"br"), reason="there is no brotli module")
def test_brotli_is_decoded_within_bounds_and_encoded_again() -> None:
    import brotli

    assert coding.decode(coding.encode(b"abc" * 500, b"br"), b"br", MIB) == b"abc" * 500
    with pytest.raises(coding.BodyTooLarge):
        coding.decode(brotli.compress(b"\0" * 2 * MIB), b"br", MIB)
    with pytest.raises(InvalidBody, match="cut off"):
        coding.decode(coding.encode(b"abc" * 500, b"br")[:-3], b"br", MIB)
    with pytest.raises(InvalidBody, match="not valid br"):
        coding.decode(b"\xff\xff\xff", b"br", MIB)
