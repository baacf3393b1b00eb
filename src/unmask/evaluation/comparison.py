"""Many cells on the same prompts, into one folder of rows: what is there already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unmask.evaluation.cells import Cell, Contestant
from unmask.evaluation.evaluate import Row, evaluate
from unmask.evaluation.store import RowStore
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.fixed_schedule import FixedSchedule, average_pace
from unmask.tasks.base import Example, Task


@dataclass(frozen=True)
class Comparison:
    """What all cells have in common.

    Attributes:
        seeds: of policies that draw; others have one.
        split: as rows name it.
        trajectories: as in `evaluate`.
        context: goes into every row.
        share: (rank, size): every size-th prompt from rank on is this process's.
    """

    model: MaskedDiffusionModel
    task: Task
    examples: Sequence[Example]
    seeds: int = 3
    batch_size: int = 32
    split: str = "test"
    trajectories: int = 0
    context: Mapping[str, Any] = field(default_factory=dict)
    share: tuple[int, int] = (0, 1)

    def seeds_of(self, cell: Cell) -> range:
        """A policy that does not draw does the same under every seed."""
        return range(self.seeds if cell.draws else 1)

    def missing(self, cell: Cell, store: RowStore) -> int:
        """Rows of this process that are still to be made."""
        rank, size = self.share
        mine = {(seed, i) for seed in self.seeds_of(cell) for i in range(rank, len(self.examples), size)}
        return len(mine - store.done(cell))

    def run(
        self,
        contestants: Sequence[Contestant],
        store: RowStore,
        *,
        tell: Callable[[int, str], None] = lambda rows, label: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the rows that are missing.

        Args:
            tell: called with the number of rows made and the cell's label.
            stop: asked at every step; if it says so, KeyboardInterrupt is raised once rows so far are kept.
        """
        rank, size = self.share
        others = {(s, i) for s in range(self.seeds) for i in range(len(self.examples)) if i % size != rank}
        for cell, policy in contestants:

            def keep(rows: list[Row], label: str = cell.label) -> None:
                store.append(rows)
                tell(len(rows), label)

            evaluate(
                self.model,
                policy,
                self.task,
                self.examples,
                cell,
                seeds=self.seeds_of(cell),
                batch_size=self.batch_size,
                split=self.split,
                trajectories=self.trajectories,
                context=self.context,
                done=store.done(cell) | others,
                on_rows=keep,
                stop=stop,
            )

    def rows(self, cell: Cell, store: RowStore) -> list[Row]:
        """All rows of a cell, by seed and prompt."""
        return store.of(cell, self.seeds_of(cell), len(self.examples))


def replay(cell: Cell, rows: Sequence[Row]) -> Contestant | None:
    """The control that parts what a learned policy sees from its pace: as many positions a step as it revealed on
    average, the most confident ones. None if no row was decoded to its last position."""
    whole = [row for row in rows if row["ended"] == "complete"]
    if not whole:
        return None
    revealed_at = [torch.repeat_interleave(torch.tensor(row["reveals"])) for row in whole]
    counts = average_pace(torch.stack(revealed_at), torch.tensor([row["nfe"] for row in whole]))
    policy = FixedSchedule(tuple(counts))
    known_by = {"name": f"pace of {cell.policy['name']}", "of": cell.policy["weights"]}
    settings = {"type": policy.type_name, **policy.config(), **known_by}
    return Cell(
        "replay", settings, cell.block_length, cell.gen_length, cell.suppress_eos, policy.stochastic, cell.stop_at_eos
    ), policy
