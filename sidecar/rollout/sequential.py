"""Sequential test of paired differences: it finds whether a candidate is worse than the stable arm by a margin.

A pair is two observations that were made beside each other, one of each arm.  Its difference is 1 if only the candidate
was bad, -1 if only the stable arm was bad, else 0.  Pairs share their circumstances, so an incident that hits both arms
says nothing about either.

The test is betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting").  Under
the null hypothesis, that the mean difference is at most the margin, the wealth of a gambler who bets on larger
differences is a supermartingale.  By Ville's inequality, it ever exceeds 1 / alpha with a probability of at most alpha,
however often one looks.  The bet is a mixture of several fixed ones, so its wealth depends only on the counts of the
three differences.

A long good past must not hide a bad present.  So the gambler starts anew every `EPOCH` seconds, and the error
probability of epoch n is alpha times 6 / (pi n)^2, which adds up to alpha.
"""

from __future__ import annotations

from math import exp, log, log1p, pi
from typing import Final

EPOCH: Final = 300.0
"""Seconds after which the evidence starts anew."""
# With `Final` alone, mypyc takes the tuple apart into numbers, and then finds it not set whenever it is read.
BETS: Final[tuple[float, ...]] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Sizes of the bets, as shares of the largest that cannot lose more than everything."""
_LOG_BETS: Final = log(len(BETS))
_FIRST: Final = log(pi * pi / 6)


class PairedTest:
    """Test of whether the mean difference exceeds a margin, with an error probability over all time."""

    __slots__ = ("_alpha", "_began", "_gains", "better", "epoch", "equal", "margin", "worse")

    def __init__(self, margin: float, alpha: float, now: float) -> None:
        """Take the margin of the null hypothesis (0 to below 1), the error probability, and the present instant."""
        self.margin = margin
        self._alpha = alpha
        self._gains = [_gains(share / (1 + margin), margin) for share in BETS]
        self._began = now
        self.epoch = 1
        """Number of the epoch, from 1 on."""
        self.worse = self.equal = self.better = 0
        """Numbers of pairs of this epoch with the difference 1, 0 and -1."""

    def add(self, difference: int, now: float) -> bool:
        """Count a pair; True if the candidate is worse by more than the margin."""
        if now - self._began >= EPOCH:
            self._began = now
            self.epoch += 1
            self.worse = self.equal = self.better = 0
        if difference == 0:
            self.equal += 1
            return False
        if difference < 0:
            self.better += 1
            return False
        self.worse += 1
        return self.evidence >= self.threshold

    @property
    def pairs(self) -> int:
        """Number of pairs of this epoch."""
        return self.worse + self.equal + self.better

    @property
    def evidence(self) -> float:
        """Logarithm of the wealth in this epoch."""
        wealths = [self.worse * won + self.equal * kept + self.better * lost for won, kept, lost in self._gains]
        most = max(wealths)
        return most + log(sum([exp(each - most) for each in wealths])) - _LOG_BETS

    @property
    def threshold(self) -> float:
        """Evidence at which the null hypothesis is rejected in this epoch."""
        return _FIRST + 2 * log(self.epoch) - log(self._alpha)


def _gains(bet: float, margin: float) -> tuple[float, float, float]:
    """Return the logarithms of the factors by which the wealth of a bet changes for the differences 1, 0 and -1."""
    return log1p(bet * (1 - margin)), log1p(-bet * margin), log1p(-bet * (1 + margin))
