"""Many entries on the same prompts, into one folder of rows: what is there already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from unmask.decoding.memo import memo_of
from unmask.decoding.session import Totals
from unmask.evaluation.bounds import Bound
from unmask.evaluation.entries import LEARNED, Candidate, Entry
from unmask.evaluation.evaluate import Setup, evaluate, never
from unmask.evaluation.rows import ResultRow
from unmask.evaluation.store import RowStore
from unmask.evaluation.summaries import Results
from unmask.policies.fixed_schedule import FixedSchedule, average_pace


class Processes(Protocol):
    """The processes that share a comparison, such as `unmask.rl.processes.Processes`."""

    rank: int
    size: int

    def wait(self) -> None:
        """Until all are here."""


class Alone:
    """One process."""

    rank = 0
    size = 1

    def wait(self) -> None:
        """Nobody to wait for."""


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison made: entries with their rows, where, and of what; of a puzzle its bounds, if asked for."""

    results: Results
    folder: Path
    title: str
    bounds: Sequence[Bound] = ()


class Comparison:
    """Candidates on the same prompts, in this process or in all that were launched.

    Args:
        folder: for the rows.
        shared: settings that all rows of the folder have in common.
        seeds: of policies that draw; others have one.
        resume: add what is missing to the rows that are there.
        defaults: of `shared`, what settings were before there was such a setting.

    Raises:
        UnmaskError: as `RowStore`.
    """

    def __init__(
        self,
        setup: Setup,
        folder: str | Path,
        shared: Mapping[str, Any],
        *,
        seeds: int = 3,
        resume: bool = False,
        processes: Processes | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.setup = replace(setup, context={**setup.context, "config": dict(shared)})
        self.folder = Path(folder)
        self._seeds = seeds
        self._processes = processes or Alone()
        rank = self._processes.rank
        first = RowStore(folder, shared, resume=resume, defaults=defaults) if rank == 0 else None
        self._processes.wait()
        self._store = first or RowStore(folder, shared, resume=True, rank=rank, defaults=defaults)
        self._store.check_prompts([example.prompt for example in setup.examples])

    def seeds_of(self, entry: Entry) -> range:
        """A policy that does not draw does the same under every seed."""
        return range(self._seeds if entry.stochastic else 1)

    def missing(self, candidates: Sequence[Candidate]) -> int:
        """Rows that this process still has to make."""
        mine = range(self._processes.rank, len(self.setup.examples), self._processes.size)
        wanted = ((entry, {(seed, i) for seed in self.seeds_of(entry) for i in mine}) for entry, _ in candidates)
        return sum(len(keys - self._store.done(entry)) for entry, keys in wanted)

    def run(
        self,
        candidates: Sequence[Candidate],
        *,
        on_progress: Callable[[int, str], None] = lambda rows, label: None,
        totals: Totals | None = None,
        stop: Callable[[], bool] = never,
    ) -> None:
        """Make the rows that are missing, and wait for the other processes to make theirs.

        Args:
            on_progress: called with the number of rows made and the entry's label.
            totals: what decoding took is counted into it.
            stop: asked at every step; if it says so, KeyboardInterrupt is raised once rows so far are kept.
        """
        rank, size = self._processes.rank, self._processes.size
        memo = memo_of(self.setup.model, [policy for _, policy in candidates]) if len(candidates) > 1 else None
        others = {(s, i) for s in range(self._seeds) for i in range(len(self.setup.examples)) if i % size != rank}
        for entry, policy in candidates:

            def keep(rows: list[ResultRow], label: str = entry.label) -> None:
                self._store.append(rows)
                on_progress(len(rows), label)

            evaluate(
                self.setup,
                entry,
                policy,
                seeds=self.seeds_of(entry),
                done=self._store.done(entry) | others,
                on_rows=keep,
                totals=totals,
                stop=stop,
                memo=memo,
            )
        self._processes.wait()

    def abandon(self) -> None:
        """Of what cannot be decoded: as `RowStore.abandon`."""
        self._store.abandon()

    def replays(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The replay of each learned policy that has run. Of rows that end at EOS the rest of the pace is not known."""
        self._store.reload()
        wanted = [entry for entry, _ in candidates if entry.kind == "policy" and not entry.decode.stop_at_eos]
        found = [replay(entry, self.rows(entry)) for entry in wanted]
        return [one for one in found if one is not None]

    def rows(self, entry: Entry) -> list[ResultRow]:
        """All rows of an entry that has run, by seed and prompt."""
        return self._store.of(entry, self.seeds_of(entry), len(self.setup.examples))

    def finish(self, entries: Sequence[Entry]) -> ComparisonResult | None:
        """Put the rows of all processes into one file, in the order of the entries.

        Returns:
            None in all processes but the first.
        """
        if self._processes.rank > 0:
            return None
        self._store.finish(entries)
        setup = self.setup
        prompts = (
            f"{len(setup.examples)} prompts" if setup.split == "all" else f"{len(setup.examples)} {setup.split} prompts"
        )
        title = f"{setup.model.name} on {setup.task.name}, {prompts}, {entries[0].decode.gen_length} positions"
        return ComparisonResult([(entry, self.rows(entry)) for entry in entries], self.folder, title)


def replay(entry: Entry, rows: Sequence[ResultRow]) -> Candidate | None:
    """A learned policy's control for pace: as many positions per step as it revealed on average, most confident first.

    Returns:
        None if no row was decoded to its last position.
    """
    whole = [row for row in rows if row["ended"] == "complete"]
    if not whole:
        return None
    revealed_at = [torch.repeat_interleave(torch.tensor(row["reveals"])) for row in whole]
    counts = average_pace(torch.stack(revealed_at), torch.tensor([row["nfe"] for row in whole]))
    policy = FixedSchedule(tuple(counts))
    speed = "" if entry.decode.speed is None else f" at speed {entry.decode.speed:.2f}"
    settings = {"type": policy.type_name, **policy.config(), "name": f"pace of {entry.policy['name']}{speed}"}
    decode = entry.decode.model_copy(update={"speed": None})  # a schedule has none
    return Entry("replay", entry.digest, LEARNED["replay"], settings, decode, policy.stochastic), policy
