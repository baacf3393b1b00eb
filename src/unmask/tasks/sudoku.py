"""Sudoku on 6 x 6 cells, boxes of 2 x 3: the most confident cell is the right next one, and blocks are ruinous.

    4 _ _ 1 _ _ ...   ->   4 2 6 1 5 3 ...

The mirror image of tasks in which blocks help: what is known next may lie anywhere. Every puzzle has one solution. Its
solution decides the split, up to the names of the digits, so that no split holds another's grid.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from unmask.errors import UnmaskError
from unmask.settings import Settings
from unmask.tasks.base import Example
from unmask.tasks.procedural import Stage, split_of
from unmask.tasks.puzzle import Puzzle

SIZE, ROWS, COLUMNS = 6, 2, 3  # of the grid, and of a box
CELLS = SIZE * SIZE
BLANK = "_"
POOL = 2000  # puzzles whose symmetric copies are the training text
TRIES = 200  # grids to dig in until a number of givens counts as too few

UNITS = [
    *([row * SIZE + i for i in range(SIZE)] for row in range(SIZE)),
    *([i * SIZE + column for i in range(SIZE)] for column in range(SIZE)),
    *(
        [(top + i // COLUMNS) * SIZE + left + i % COLUMNS for i in range(SIZE)]
        for top in range(0, SIZE, ROWS)
        for left in range(0, SIZE, COLUMNS)
    ),
]
PEERS = [sorted({cell for unit in UNITS if i in unit for cell in unit} - {i}) for i in range(CELLS)]

Grid = list[int]
"""Cell by cell: a digit from 1, or 0 for a blank."""


class SudokuOptions(Settings):
    """Difficulty of Sudoku.

    Attributes:
        givens: cells that the prompt shows.
    """

    givens: Annotated[int, Ge(1), Le(CELLS)] = 18


class Sudoku(Puzzle):
    """36 cells row by row in, the same 36 cells out."""

    kind = "sudoku"
    Options: ClassVar[type[Settings]] = SudokuOptions
    options: SudokuOptions
    prompt_length = gen_length = CELLS
    block_length = SIZE

    def words(self) -> list[str]:
        return [BLANK, *map(str, range(1, SIZE + 1))]

    def draw(self, rng: random.Random, grown: float = 1.0) -> Example:
        """
        Raises:
            UnmaskError: so few givens leave more than one solution.
        """
        return self._dug(rng, None)

    def draw_within(self, split: str, rng: random.Random) -> Example:
        return self._dug(rng, split)

    def _dug(self, rng: random.Random, split: str | None) -> Example:
        """A fresh grid with as many cells left as there are givens."""
        for _ in range(TRIES):
            solution = next(_solutions([0] * CELLS, rng))
            while split is not None and _split_of(solution) != split:
                solution = next(_solutions([0] * CELLS, rng))
            grid, left = list(solution), CELLS
            for cell in rng.sample(range(CELLS), CELLS):
                if left == self.options.givens:
                    return _example(grid, solution)
                without = [0 if i == cell else digit for i, digit in enumerate(grid)]
                if _is_unique(without):
                    grid, left = without, left - 1
            if left == self.options.givens:
                return _example(grid, solution)
        raise UnmaskError(f"No 6 x 6 Sudoku with {self.options.givens} givens and one solution was found: give more.")

    @cached_property
    def _pool(self) -> list[tuple[Grid, Grid]]:
        """Puzzles with their solutions."""
        rng = random.Random(f"{self.name}/pool")
        found = [self._dug(rng, "pretrain") for _ in range(POOL)]
        return [(_read(one.prompt), _read(one.answer)) for one in found]

    def training_text(self, rng: random.Random, stage: Stage) -> tuple[str, str]:
        """A symmetric copy of a puzzle of the pool, at first with more cells given."""
        shown = rng.random() * (1 - stage.grown)
        while True:
            grid, solution = _moved(rng.choice(self._pool), random.Random(rng.getrandbits(64)))
            if _split_of(solution) == "pretrain":
                easier = [
                    digit if given or rng.random() < shown else 0 for given, digit in zip(grid, solution, strict=True)
                ]
                made = _example(easier, solution)
                return made.prompt, made.answer

    def is_correct(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        """The givens are kept, and each row, column and box holds every digit."""
        kept = all(given in (BLANK, digit) for given, digit in zip(prompt, answer, strict=True))
        digits = {*self.words()} - {BLANK}
        return kept and all({answer[cell] for cell in unit} == digits for unit in UNITS)

    def answers(self, example: Example) -> list[tuple[str, ...]]:
        return [tuple(map(str, grid)) for grid in _solutions(_read(example.prompt))]

    def places(self) -> list[tuple[str, ...]]:
        cells = [(f"row {i // SIZE}", f"column {i % SIZE}", f"box {_box(i)}") for i in range(CELLS)]
        return [*(("given", *cell) for cell in cells), *(("cell", *cell) for cell in cells)]


def _box(cell: int) -> int:
    row, column = divmod(cell, SIZE)
    return row // ROWS * (SIZE // COLUMNS) + column // COLUMNS


def _example(grid: Grid, solution: Grid) -> Example:
    shown = [str(digit) if digit else BLANK for digit in grid]
    return Example(" ".join(shown), " ".join(map(str, solution)), {"givens": CELLS - shown.count(BLANK)})


def _read(text: str) -> Grid:
    return [0 if word == BLANK else int(word) for word in text.split()]


def _split_of(solution: Grid) -> str:
    """Of a grid, whatever its digits are called."""
    names = {digit: i for i, digit in enumerate(dict.fromkeys(solution))}
    return split_of(" ".join(str(names[digit]) for digit in solution))


def _moved(grids: tuple[Grid, Grid], rng: random.Random) -> tuple[Grid, Grid]:
    """Both grids with their digits renamed alike, and rows and columns exchanged as the rules allow."""
    digits = [0, *rng.sample(range(1, SIZE + 1), SIZE)]
    rows, columns = _shuffled(rng, ROWS), _shuffled(rng, COLUMNS)
    cells = [row * SIZE + column for row in rows for column in columns]
    one, other = ([digits[grid[cell]] for cell in cells] for grid in grids)
    return one, other


def _shuffled(rng: random.Random, width: int) -> list[int]:
    """Bands of so many lines in another order, and the lines of each."""
    bands = rng.sample(range(SIZE // width), SIZE // width)
    return [band * width + line for band in bands for line in rng.sample(range(width), width)]


def _is_unique(grid: Grid) -> bool:
    found = _solutions(list(grid))
    return next(found, None) is not None and next(found, None) is None


def _solutions(grid: Grid, rng: random.Random | None = None) -> Iterator[Grid]:
    """All ways to fill a grid, the cell with the fewest choices first; digits in a random order if asked."""
    best, choices = -1, list(range(SIZE + 1))
    for cell in range(CELLS) if rng is None else rng.sample(range(CELLS), CELLS):
        if not grid[cell]:
            taken = {grid[peer] for peer in PEERS[cell]}
            left = [digit for digit in range(1, SIZE + 1) if digit not in taken]
            if len(left) < len(choices):
                best, choices = cell, left
                if len(left) < 2:
                    break
    if best < 0:
        yield list(grid)
        return
    for digit in choices if rng is None else rng.sample(choices, len(choices)):
        grid[best] = digit
        yield from _solutions(grid, rng)
    grid[best] = 0
