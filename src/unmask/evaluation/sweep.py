"""The heuristics over their own grids, so that a policy is compared with the best of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unmask.decoding.results import Decoded
from unmask.evaluation import pareto
from unmask.evaluation.evaluate import Cell, Summary, evaluate, summarise
from unmask.evaluation.pareto import Point
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.grids import COUNTS, THRESHOLDS
from unmask.tasks.base import Example, Task


def heuristic_grid(
    gen_length: int, block_length: int | str, thresholds: Sequence[float] = THRESHOLDS, stop_at_eos: bool = False
) -> list[Cell]:
    """Every rule with every setting at one block length; EOS-suppressed forms where the block is the whole region."""

    def cell(label: str, policy_type: str, draws: bool = False, suppress_eos: bool = False, **settings: Any) -> Cell:
        policy = {"type": policy_type, **settings}
        return Cell(label, policy, block_length, gen_length, suppress_eos, draws, stop_at_eos)

    cells = [cell("threshold", "confidence_threshold", threshold=t) for t in thresholds]
    longest = block_length if isinstance(block_length, int) else gen_length
    cells += [cell("top-k", "top_k_confidence", k=k) for k in COUNTS if k <= longest]
    cells += [cell("random", "random_order", draws=True, k=k) for k in COUNTS if k <= longest]
    if block_length == gen_length:
        cells += [
            cell("threshold, EOS suppressed", "confidence_threshold", suppress_eos=True, threshold=t)
            for t in thresholds
        ]
    return cells


def sweep(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    cells: Sequence[Cell],
    *,
    batch_size: int = 256,
    split: str = "test",
    on_decoded: Callable[[Decoded], None] | None = None,
) -> tuple[list[Summary], list[dict[str, Any]]]:
    """Evaluate rules cell by cell (one seed each).

    Returns:
        Summaries and all rows.
    """
    summaries, all_rows = [], []
    for cell in cells:
        rows = evaluate(
            model,
            load_policy(cell.policy),
            task,
            examples,
            cell,
            batch_size=batch_size,
            split=split,
            on_decoded=on_decoded,
        )
        all_rows += rows
        summaries.append(summarise(cell, rows))
    return summaries, all_rows


def best(summaries: Sequence[Summary]) -> Summary:
    """The most accurate cell; the faster one on a tie."""
    return max(summaries, key=lambda s: (s.accuracy.mean, -s.nfe.mean))


def frontier(summaries: Sequence[Summary]) -> list[Summary]:
    """Cells that no other cell beats in both accuracy and NFE, by rising NFE."""
    return [point.cell for point in pareto.frontier([Point(s.nfe.mean, s.accuracy.mean, s) for s in summaries])]
