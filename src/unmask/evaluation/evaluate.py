"""One entry on one task: rows that carry their whole configuration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unmask.decoding.decode import stream
from unmask.decoding.memo import Memo
from unmask.decoding.results import Completion, Ended
from unmask.decoding.session import Totals
from unmask.decoding.source import encode_example
from unmask.decoding.state import Step
from unmask.decoding.trajectory import Recorder
from unmask.evaluation.bounds import correlation
from unmask.evaluation.entries import Entry
from unmask.evaluation.rows import TRAJECTORY, ResultRow
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.provenance import hardware, versions
from unmask.tasks.base import Example, Task, verdicts

SMALL = 10_000_000  # weights of a dLLM that many rows at once cost little


def never() -> bool:
    """A `stop` that does not."""
    return False


@dataclass(frozen=True)
class Setup:
    """What all entries of a comparison are evaluated on.

    Attributes:
        split: as rows name it.
        batch_size: active rows at most; 32 by default, of a small dLLM 256.
        trajectories: of the first prompts under the first seed go into their rows.
        context: goes into every row.
        decode: decoding options of all entries, beside their own.
        correlation: rows of puzzles tell what revealing together must cost.
    """

    model: MaskedDiffusionModel
    task: Task
    examples: Sequence[Example]
    split: str = "test"
    batch_size: int | None = None
    trajectories: int = 0
    context: Mapping[str, Any] = field(default_factory=dict)
    decode: Mapping[str, Any] = field(default_factory=dict)
    correlation: bool = False

    @property
    def active_rows(self) -> int:
        """The batch size, its default filled in."""
        network = self.model.network
        size = math.inf if network is None else sum(p.numel() for p in network.parameters())
        return self.batch_size or (256 if size < SMALL else 32)


def evaluate(
    setup: Setup,
    entry: Entry,
    policy: Policy,
    *,
    seeds: Sequence[int] = (0,),
    done: Collection[tuple[int, int]] = (),
    on_rows: Callable[[list[ResultRow]], None] | None = None,
    totals: Totals | None = None,
    stop: Callable[[], bool] = never,
    memo: Memo | None = None,
) -> list[ResultRow]:
    """Decode every example under every seed.

    Args:
        done: (seed, index among the examples) of rows that are not wanted.
        on_rows: called with rows soon after they are made, in the order in which they end.
        totals: counted into.
        stop: asked at every step; if it says so, rows so far are handed over and KeyboardInterrupt is raised.
        memo: as of `unmask.decoding.decode.stream`.

    Returns:
        One row per prompt and seed, in order.
    """
    config = entry.decode.model_copy(update={"batch_size": setup.active_rows, **setup.decode})
    prompts = [encode_example(setup.model, example) for example in setup.examples]
    rows: list[ResultRow] = []
    for seed in seeds:
        wanted = [i for i in range(len(prompts)) if (seed, i) not in done]
        if not wanted:
            continue
        recorder = Recorder([row for row, i in enumerate(wanted) if i < setup.trajectories and seed == seeds[0]])
        collector = _Collector(setup, entry, wanted, seed, recorder, on_rows)

        def on_step(step: Step, record: Recorder = recorder) -> None:
            if stop():
                raise KeyboardInterrupt
            record(step)

        try:
            for batch in stream(
                setup.model,
                policy,
                [prompts[i] for i in wanted],
                config,
                seed=seed,
                streams=wanted,  # a prompt draws the same, whichever are left
                callback=on_step,
                totals=totals,
                memo=memo,
            ):
                collector.take(batch)
        finally:
            collector.flush()
        rows += sorted(collector.rows, key=lambda row: row["index"])
    return rows


class _Collector:
    """Makes rows of prompts as they end, a batch of them verified together.

    Args:
        indices: of the prompts that are decoded, among the examples.
    """

    def __init__(
        self,
        setup: Setup,
        entry: Entry,
        indices: Sequence[int],
        seed: int,
        recorder: Recorder,
        on_rows: Callable[[list[ResultRow]], None] | None,
    ) -> None:
        self._setup, self._indices, self._recorder, self._on_rows = setup, indices, recorder, on_rows
        self._shared: dict[str, Any] = {
            "seed": seed,
            "model": setup.model.name,
            "split": setup.split,
            **entry.columns(),
            "versions": versions(),
            "hardware": hardware(setup.model.device),
            **setup.context,
        }
        self._eos_ids = set(setup.model.eos_ids.tolist())
        self._waiting: list[Completion] = []
        self.rows: list[ResultRow] = []

    def take(self, batch: Ended) -> None:
        """Prompts that have ended."""
        self._waiting += batch.completions()
        if len(self._waiting) >= self._setup.active_rows:
            self.flush()

    def flush(self) -> None:
        """Verify what waits, and hand it on."""
        ended, self._waiting = self._waiting, []
        examples = [self._setup.examples[self._indices[one.index]] for one in ended]
        lenient = bool(self._setup.decode.get("judge_unfinished"))
        complete = [lenient or one.ended != "budget" for one in ended]
        correct = verdicts(self._setup.task, examples, [one.text for one in ended], complete)
        made = [self._row(*each) for each in zip(ended, examples, correct, strict=True)]
        self.rows += made
        if self._on_rows is not None and made:
            self._on_rows(made)

    def _row(self, one: Completion, example: Example, correct: bool) -> ResultRow:
        ends = () if self._setup.decode.get("text_after_eos") else self._eos_ids
        length = next((i for i, token in enumerate(one.tokens) if token in ends), len(one.tokens))
        reveals = Counter(one.revealed_at)
        row: Any = {
            "index": self._indices[one.index],
            "prompt": example.prompt,
            "text": one.text,
            "correct": correct,
            "nfe": one.nfe,
            "positions": one.positions,
            "full_passes": one.full_passes,
            "equivalents": one.equivalents,
            "tokens": sum(step >= 0 for step in one.revealed_at[:length]),
            "reveals": [reveals[step] for step in range(one.nfe)],
            "complete": one.ended != "budget",
            "ended": one.ended,
            **self._shared,
            "task": example.task or self._setup.task.name,
        }
        if self._setup.correlation:
            words = self._setup.model.tokenizer.convert_ids_to_tokens(one.tokens)
            row["correlation"] = correlation(self._setup.task, example, one.revealed_at, words)
        if self._recorder.has(one.index):
            trajectory = asdict(self._recorder.trajectory(self._setup.model, example.prompt, one))
            row |= {"gold": example.answer, "trajectory": {key: trajectory[key] for key in TRAJECTORY}}
        found: ResultRow = row
        return found
