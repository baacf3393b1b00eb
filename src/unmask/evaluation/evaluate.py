"""One policy on one task: rows that carry their whole configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask.decoding.decode import stream
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Completion, Ended
from unmask.decoding.session import Totals
from unmask.decoding.source import encode_example
from unmask.decoding.state import Step
from unmask.decoding.trajectory import Recorder
from unmask.evaluation.cells import Cell
from unmask.files import jsonl, write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.provenance import hardware, versions
from unmask.tasks.base import Example, Task, verdicts

Row = dict[str, Any]
TRAJECTORY = ("words", "end", "revealed_at", "confidence")  # what its row does not hold anyway


def evaluate(
    model: MaskedDiffusionModel,
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    cell: Cell,
    *,
    seeds: Sequence[int] = (0,),
    batch_size: int = 256,
    split: str = "test",
    trajectories: int = 0,
    context: Mapping[str, Any] | None = None,
    done: Collection[tuple[int, int]] = (),
    on_rows: Callable[[list[Row]], None] | None = None,
    totals: Totals | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Decode every example under every seed.

    Args:
        trajectories: of the first prompts under the first seed go into their rows.
        context: goes into every row.
        done: (seed, place among the examples) of rows that are not wanted.
        on_rows: called with rows soon after they are made, in the order in which they end.
        totals: counted into.
        stop: asked at every step; if it says so, rows so far are handed over and KeyboardInterrupt is raised.

    Returns:
        One row a prompt and seed, in order: prompt, text, correct, nfe, tokens (revealed, up to the end of the text),
        reveals (positions revealed at each step), complete, and the configuration that made it.
    """
    shared = {
        "model": model.name,
        "task": task.name,
        "split": split,
        **asdict(cell),
        "versions": versions(),
        "hardware": hardware(model.device),
        **(context or {}),
    }
    config = DecodeConfig(
        gen_length=cell.gen_length,
        block_length=cell.block_length,
        batch_size=batch_size,
        stop_at_eos=cell.stop_at_eos,
        suppress_eos=cell.suppress_eos,
    )
    prompts = [encode_example(model, example) for example in examples]
    rows: list[Row] = []

    for seed in seeds:
        places = [i for i in range(len(examples)) if (seed, i) not in done]
        if not places:
            continue
        recorder = Recorder([row for row, i in enumerate(places) if i < trajectories and seed == seeds[0]])
        collector = _Collector(model, task, examples, places, {"seed": seed, **shared}, batch_size, on_rows, recorder)

        def look(step: Step, record: Recorder = recorder) -> None:
            if stop():
                raise KeyboardInterrupt
            record(step)

        try:
            batches = stream(
                model,
                policy,
                [prompts[i] for i in places],
                config,
                seed=seed,
                streams=places,  # a prompt draws the same, whichever are left
                callback=look,
                totals=totals,
            )
            for batch in batches:
                collector.take(batch)
        finally:
            collector.flush()
        rows += sorted(collector.rows, key=lambda row: row["index"])
    return rows


class _Collector:
    """Makes rows of prompts as they end, `at_once` verified together.

    Args:
        places: of the prompts that are decoded, among the examples.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        task: Task,
        examples: Sequence[Example],
        places: Sequence[int],
        context: Mapping[str, Any],
        at_once: int,
        on_rows: Callable[[list[Row]], None] | None,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._model, self._task, self._examples, self._places = model, task, examples, places
        self._context, self._at_once, self._on_rows = context, at_once, on_rows
        self._ends = set(model.eos_ids.tolist())
        self._waiting: list[Completion] = []
        self.rows: list[Row] = []

    def take(self, batch: Ended) -> None:
        """Prompts that have ended."""
        self._waiting += batch.completions(self._model)
        if len(self._waiting) >= self._at_once:
            self.flush()

    def flush(self) -> None:
        """Verify what waits, and hand it on."""
        ended, self._waiting = self._waiting, []
        examples = [self._examples[self._places[one.index]] for one in ended]
        right = verdicts(self._task, examples, [one.text for one in ended], [one.ended != "budget" for one in ended])
        made = [self._row(*each) for each in zip(ended, examples, right, strict=True)]
        self.rows += made
        if self._on_rows is not None and made:
            self._on_rows(made)

    def _row(self, one: Completion, example: Example, verdict: bool) -> Row:
        length = next((i for i, token in enumerate(one.tokens) if token in self._ends), len(one.tokens))
        complete, reveals = one.ended != "budget", Counter(one.revealed_at)
        return {
            "index": self._places[one.index],
            "prompt": example.prompt,
            "text": one.text,
            "correct": verdict,
            "nfe": one.nfe,
            "tokens": sum(step >= 0 for step in one.revealed_at[:length]),
            "reveals": [reveals[step] for step in range(one.nfe)],
            "complete": complete,
            "ended": one.ended,
            **self._context,
            "task": example.task or self._task.name,
            **self._recorded(one, example),
        }

    def _recorded(self, one: Completion, example: Example) -> Row:
        if not self._recorder.has(one.index):
            return {}
        trajectory = asdict(self._recorder.trajectory(self._model, example.prompt, one))
        return {"gold": example.answer, "trajectory": {key: trajectory[key] for key in TRAJECTORY}}


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all."""
    write_text(path, jsonl(rows))
