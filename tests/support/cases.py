"""Decorator that makes one test of many cases: a table of hundreds costs no more than its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Case = TypeVar("Case")
LONGEST = 300
"""Characters of a case that are shown."""


def each(cases: Iterable[Case]) -> Callable[[Callable[[Case], None]], Callable[[], None]]:
    """Make the check of one case a test of them all.

    Every case is tried, and the test reports all that fail; its traceback is that of the first.
    """
    known = list(cases)
    assert known, "no cases"

    def decorate(check: Callable[[Case], None]) -> Callable[[], None]:
        def test() -> None:
            failures: list[tuple[Case, Exception]] = []
            for case in known:
                try:
                    check(case)
                except Exception as error:
                    failures.append((case, error))
            if failures:
                told = "\n".join(f"{str(case)[:LONGEST]}: {type(error).__name__}: {error}" for case, error in failures)
                raise AssertionError(f"{len(failures)} of {len(known)} fail:\n{told}") from failures[0][1]

        test.__name__ = check.__name__
        test.__doc__ = check.__doc__
        test.__module__ = check.__module__
        return test

    return decorate
