"""L&O-NAE-SAT: latents and observations about them (arXiv 2502.06768, section 3.3 and table 1).

    1 ? 0 ?   ->   1 0 0 1  1 1 0 ...

The region holds N latents, of which the prompt gives some, then P clauses: 1 if the three latents of a clause are
not all equal. The triples are fixed. Latents first is the right order: before anything is known a clause is 1 with
probability 3/4, an unknown latent with 1/2, so that confidence commits to clauses that no latents may satisfy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations, product
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from pydantic import model_validator

from unmask.settings import Settings
from unmask.tasks.base import Example
from unmask.tasks.puzzle import Puzzle

UNKNOWN = "?"
MOST_UNKNOWN = 12  # whose assignments are listed


class NaeSatOptions(Settings):
    """Difficulty of L&O-NAE-SAT.

    Attributes:
        latents: N.
        clauses: P, the same first ones for any larger P.
        given: probability that the prompt gives a latent.
    """

    latents: Annotated[int, Ge(3), Le(100)] = 12
    clauses: Annotated[int, Ge(1)] = 24
    given: Annotated[float, Ge(0), Le(1)] = 0.5

    @model_validator(mode="after")
    def _enough_triples(self) -> NaeSatOptions:
        n = self.latents
        if self.clauses > n * (n - 1) * (n - 2) // 6:
            raise ValueError(f"{n} latents have fewer than {self.clauses} triples: give fewer clauses, or more latents")
        return self


class NaeSat(Puzzle):
    """N latents, then P clauses NAE(a, b, c) over fixed triples."""

    kind = "nae-sat"
    Options: ClassVar[type[Settings]] = NaeSatOptions
    options: NaeSatOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        n = self.prompt_length = self.options.latents
        self.gen_length = n + self.options.clauses
        self.block_length = math.gcd(n, self.gen_length)
        triples = list(combinations(range(n), 3))
        random.Random(f"{self.kind}/{n}").shuffle(triples)
        self.triples = triples[: self.options.clauses]

    def words(self) -> list[str]:
        return ["0", "1"]

    def draw(self, rng: random.Random, grown: float = 1.0) -> Example:
        latents = [rng.randrange(2) for _ in range(self.prompt_length)]
        shown = [str(bit) if rng.random() < self.options.given else UNKNOWN for bit in latents]
        answer = " ".join(map(str, [*latents, *self._clauses(latents)]))
        return Example(" ".join(shown), answer, {"unknown": shown.count(UNKNOWN)})

    def _clauses(self, latents: Sequence[int]) -> list[int]:
        return [int(0 < latents[a] + latents[b] + latents[c] < 3) for a, b, c in self.triples]

    def is_correct(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        """The given latents are kept, and every clause is what the latents say."""
        if not {*answer} <= {"0", "1"}:
            return False
        bits = list(map(int, answer))
        kept = all(word in (UNKNOWN, own) for word, own in zip(prompt, answer, strict=False))
        return kept and self._clauses(bits) == bits[self.prompt_length :]

    def order(self, example: Example) -> list[int]:
        """All latents, then all clauses."""
        return [0] * self.prompt_length + [1] * self.options.clauses

    def answers(self, example: Example) -> list[tuple[str, ...]] | None:
        shown = example.prompt.split()
        if shown.count(UNKNOWN) > MOST_UNKNOWN:
            return None
        found = product(*((0, 1) if word == UNKNOWN else (int(word),) for word in shown))
        return [tuple(map(str, (*latents, *self._clauses(latents)))) for latents in found]

    def places(self) -> list[tuple[str, ...]]:
        n = self.prompt_length
        clauses = [("clause", *(f"{each}" for each in triple)) for triple in self.triples]
        return [*(("given", f"{i}") for i in range(n)), *(("latent", f"{i}") for i in range(n)), *clauses]
