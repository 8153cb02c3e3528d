"""Tests of counts read from callgrind's dumps."""

from __future__ import annotations

import pytest

from bench.callgrind import Counts, parse

DUMP = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 17
cmd:  python -m sidecar
part: 2

desc: I1 cache: 32768 B, 64 B, 8-way associative

positions: line
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
summary: 900 300 200 70 40 9 1

fl=(1) ceval.c
fn=(1) _PyEval_EvalFrameDefault
0 600 200 100 50 30 5
cfn=(2) dict_lookup
calls=3 0
0 300 100 100 20 10 4 1

{totals}
"""


def dump(totals: str) -> str:
    return DUMP.format(totals=totals)


def test_the_totals_are_read_by_the_names_of_their_columns() -> None:
    assert parse(dump("totals: 900 300 200 70 40 9 1")) == Counts(900, 70, 49)


def test_zeros_at_the_end_of_a_line_may_be_left_out() -> None:
    assert parse(dump("totals: 900 300 200")) == Counts(900, 0, 0)


def test_a_dump_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(ValueError, match="cut off"):
        parse(dump(""))


def test_a_dump_without_caches_is_an_error() -> None:
    with pytest.raises(ValueError, match="--cache-sim=yes"):
        parse("events: Ir\ntotals: 900\n")


def test_counts_are_taken_a_request() -> None:
    assert Counts(900, 70, 40) / 10 == Counts(90, 7, 4)
