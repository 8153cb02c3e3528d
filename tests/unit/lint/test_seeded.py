"""Seeded mistakes: each from a public source, and each found; and without its mistake a policy is not found."""

from __future__ import annotations

from tests.support.cases import each
from tests.unit.lint.examples import names
from tests.unit.lint.seeded import CHAINS, MISTAKES, Mistake


@each((*MISTAKES, *CHAINS))
def test_each_mistake_is_found(mistake: Mistake) -> None:
    assert mistake.rule in names(mistake.policies, mistake.traffic)


def test_mistakes_are_many_and_name_their_sources() -> None:
    every = (*MISTAKES, *CHAINS)
    assert len(every) >= 40
    assert len({mistake.source for mistake in every}) == len(every)
    assert len({mistake.rule for mistake in every}) >= 25
    assert all(": " in mistake.source for mistake in every)
