"""The most that choices of positions can reach, exactly, where their tokens are drawn: for `puzzles.py ceilings`."""

from __future__ import annotations

import math

import torch


def most(operation: str, n: int, passes: float) -> float:
    """The most of `shuffle`, `mark` and `replace` that any choice reaches at this mean number of passes, tokens drawn.

    Positions are chosen before their tokens are drawn; a choice may see the draws of passes before, and stop for them,
    one prompt taking more passes than another. With `confidence_of="drawn"` it would see those of this pass, too, and
    keep those that go together: that is not bounded here.

    What is left after k of m positions have been drawn together depends on how many are left and, of `mark` and
    `replace`, on whether the mark or a new letter is there. For each price of a pass the best choice is found exactly,
    and no choice is above the least of these lines.

    Args:
        n: positions.
        passes: forward passes, on average over prompts.
    """
    prices = [0.0, *(10 ** (i / 50) for i in range(-200, 1))]
    return min(1.0, *(_worth(operation, n, price) + price * passes for price in prices))


def _worth(operation: str, n: int, price: float) -> float:
    """The most accuracy less what its passes cost; whatever has gone wrong is ended by one pass."""
    best = [0.0] * (n + 1)  # of so many masked positions, nothing being wrong, and no mark or new letter there
    for m in range(1, n + 1):
        worth = []
        for k in range(1, m + 1):
            if operation == "shuffle":
                goes_on, marked = math.perm(m, k) / m**k, 0.0
            else:
                goes_on, marked = (1 - 1 / m) ** k, k / m * (1 - 1 / m) ** (k - 1)
            if k == m:
                worth.append((goes_on if operation == "shuffle" else marked) - price)
            else:
                wrong = 1 - goes_on - marked
                worth.append(goes_on * best[m - k] + marked * (1 - price) - wrong * price - price)
        best[m] = max(worth)
    return best[n]


def splits(n: int, passes: int) -> list[list[int]]:
    """The ways to reveal n positions that look alike in so many passes: which ones does not matter, how many does."""
    cuts = torch.combinations(torch.arange(1, n), passes - 1).tolist() if passes > 1 else [[]]
    return [[sum(cut <= i for cut in each) for i in range(n)] for each in cuts]
