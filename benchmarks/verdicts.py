"""How a claim is judged by the 95% interval of a difference: what the interval does not settle is inconclusive."""

from __future__ import annotations

from unmask.evaluation.differences import Difference
from unmask.evaluation.intervals import Interval

HOLDS, FAILS, PARTLY, UNSETTLED = "holds", "does not hold", "holds in part", "inconclusive"
VERDICTS = (HOLDS, PARTLY, UNSETTLED, FAILS)
CLOSE = 0.05  # of an accuracy, or of a reward
Gap = Interval | Difference


def above(gap: Gap) -> str:
    """That it is above 0."""
    return HOLDS if gap.low > 0 else FAILS if gap.high < 0 else UNSETTLED


def not_below(gap: Gap, by: float = CLOSE) -> str:
    """That it is not below 0 by more."""
    return HOLDS if gap.low > -by else FAILS if gap.high < -by else UNSETTLED


def below(gap: Gap, by: float = CLOSE) -> str:
    """That it is below 0; it does not hold of what cannot be below 0 by more than `by`."""
    return HOLDS if gap.high < 0 else FAILS if gap.low > -by else UNSETTLED


def alike(gap: Gap, by: float = CLOSE) -> str:
    """That it is 0, or as good as."""
    return HOLDS if -by < gap.low and gap.high < by else UNSETTLED if gap.low <= 0 <= gap.high else FAILS
