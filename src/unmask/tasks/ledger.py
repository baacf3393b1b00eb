"""Ledger: keep a running total between 1 and 20.

7 +5 -3?   ->   go +5 twelve, -3 ix. the answer is 9
"""

from __future__ import annotations

import random

from unmask.tasks.worked import Problem, WorkedTask

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
ROMAN = [
    "i",
    "ii",
    "iii",
    "iv",
    "v",
    "vi",
    "vii",
    "viii",
    "ix",
    "x",
    "xi",
    "xii",
    "xiii",
    "xiv",
    "xv",
    "xvi",
    "xvii",
    "xviii",
    "xix",
    "xx",
]
OPERATIONS = [k for k in range(-9, 10) if k]


class Ledger(WorkedTask):
    """Sums of one-digit numbers; totals go by digits, words or Roman numerals, the answer by digits."""

    def draw(self, rng: random.Random, length: int) -> Problem:
        total = rng.randint(1, 9)
        prompt, steps = [str(total)], []
        for _ in range(length):
            change = rng.choice([k for k in OPERATIONS if 1 <= total + k <= 20])
            total += change
            prompt.append(f"{change:+d}")
            steps.append((f"{change:+d}", (str(total), WORDS[total - 1], ROMAN[total - 1])))
        return Problem(f"{' '.join(prompt)}?", tuple(steps))

    def words(self) -> list[str]:
        return [*(str(i) for i in range(1, 21)), *WORDS, *ROMAN, *(f"{k:+d}" for k in OPERATIONS)]
