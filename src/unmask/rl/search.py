"""Which rule, with which setting and in which blocks, earns most: at one weight of speed, or at each of several.

Successive halving: all cells try a few prompts; those that are near the best at no speed leave; the rest try twice as
many, until all prompts are spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.decode import decode
from unmask.decoding.memo import Memo, memo_of
from unmask.decoding.options import DecodeConfig
from unmask.errors import Stopped
from unmask.journal import Journal
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Rule
from unmask.policies.grids import grid
from unmask.policies.registry import tuned_rules
from unmask.rl.processes import Processes, Stop
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Outcome, Reward, judge
from unmask.rl.start import Block
from unmask.tasks.base import Task

BEST, EVERY = "best:", "*"
SHORTEST = 4  # block length that a search tries
FIRST = 16  # prompts that every cell tries
TRIED = ("index", "text", "correct", "nfe", "equivalents")  # of each prompt
COLUMNS = ("cell", "policy", "block_length", *TRIED)  # of the journal
Tried = tuple[int, str, bool, int, float]
KEPT = (8, 5, 3)  # cells that stay after each round, at each speed
Report = Callable[[str, int, int], None]  # a label, what is done, what there is to do


@dataclass(frozen=True)
class Demonstration:
    """A rule with its block length.

    Attributes:
        reward: what it earns on the prompts it was tried on.
        correct: its accuracy there.
        nfe: its forward passes per prompt there.
    """

    policy: str
    block_length: Block
    reward: float | None = None
    correct: float | None = None
    nfe: float | None = None

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.policy} @ {self.block_length}"


def demonstrations(rule: str, block_length: Block, default: Block, longest: Block) -> list[Demonstration]:
    """The rule a user asked for; ``best:type`` is every setting of its grid, ``best:*`` that of every rule.

    Args:
        block_length: of the rule; None is `default`, or each divisor of `longest` for a grid.
        longest: block length of the learner, which every other's divides.

    Raises:
        UnmaskError: there is no such rule, or it has no grid.
    """
    if not rule.startswith(BEST):
        load_policy(rule)  # refused before anything is begun
        return [Demonstration(rule, block_length or default)]
    lengths: list[Block]
    if isinstance(longest, int) and not block_length:
        lengths = [n for n in range(SHORTEST, longest + 1) if longest % n == 0] or [longest]
    else:
        lengths = [block_length or longest]
    kind = rule.removeprefix(BEST)
    specs = [spec for name in tuned_rules() for spec in grid(name)] if kind == EVERY else grid(kind)
    return [Demonstration(spec, length) for length in lengths for spec in specs if _distinct(spec, length)]


def _distinct(spec: str, length: Block) -> bool:
    policy = load_policy(spec)
    return not isinstance(length, int) or not isinstance(policy, Rule) or policy.distinct_within(length)


@dataclass(frozen=True)
class Search:
    """Tries cells on prompts.

    Args:
        config: how the learner decodes.
        speeds: at each of which the best is wanted; ``[None]`` where the reward has one weight of speed.
        journal: where what was tried is kept, so that a stopped search goes on.
        report: called as cells are tried.
        stop: asked after each.

    Attributes:
        passes: dLLM forward passes spent.
    """

    model: MaskedDiffusionModel
    task: Task
    config: DecodeConfig
    reward: Reward
    processes: Processes
    speeds: Sequence[float | None]
    journal: Path | None
    report: Report
    stop: Stop

    def best(self, cells: Sequence[Demonstration], prompts: Sequence[Prompt]) -> tuple[list[Demonstration], int]:
        """The cell that earns most at each speed, and the forward passes spent on finding it.

        Raises:
            Stopped: the user asked for it.
        """
        if len(cells) == 1:
            return list(cells) * len(self.speeds), 0
        tried: dict[str, Outcome] = self._tried(prompts)
        memo = memo_of(self.model, [load_policy(cell.policy) for cell in cells])
        alive, n, passes = list(cells), min(FIRST, len(prompts)), 0
        for turn in range(len(prompts)):
            for done, cell in enumerate(alive):
                passes += self._try(cell, prompts[:n], tried, memo)
                self.report(f"trying on {n}", done + 1, len(alive))
                if self.processes.any(self.stop()):
                    raise Stopped("Stopped while trying rules; what was tried is kept.")
            if n == len(prompts):
                break
            stay = {key for speed in self.speeds for key in self._ranked(alive, tried, speed)[: KEPT[min(turn, 2)]]}
            alive, n = [cell for cell in alive if cell.key in stay], min(2 * n, len(prompts))
        by_key = {cell.key: cell for cell in alive}
        return [self._told(by_key[self._ranked(alive, tried, s)[0]], tried, s) for s in self.speeds], passes

    def known(self, tried: Mapping[Demonstration, Outcome]) -> list[Demonstration]:
        """The cell that earned most at each speed, of cells that were tried before."""
        by_key, cells = {cell.key: outcome for cell, outcome in tried.items()}, {cell.key: cell for cell in tried}
        return [self._told(cells[self._ranked(list(tried), by_key, s)[0]], by_key, s) for s in self.speeds]

    def _ranked(self, cells: Sequence[Demonstration], tried: Mapping[str, Outcome], speed: float | None) -> list[str]:
        earned = {cell.key: self._earned(tried[cell.key], speed) for cell in cells}
        return sorted(earned, key=lambda key: -earned[key])

    def _earned(self, outcome: Outcome, speed: float | None) -> float:
        asked = None if speed is None else torch.full((len(outcome.nfe),), speed)
        return self.reward(replace(outcome, speed=asked)).double().mean().item()

    def _told(self, cell: Demonstration, tried: Mapping[str, Outcome], speed: float | None) -> Demonstration:
        found = tried[cell.key]
        correct, nfe = found.correct.float().mean().item(), found.nfe.float().mean().item()
        return replace(cell, reward=self._earned(found, speed), correct=correct, nfe=nfe)

    def _try(self, cell: Demonstration, prompts: Sequence[Prompt], tried: dict[str, Outcome], memo: Memo) -> int:
        """Decode the prompts that the cell has not tried; the passes it took."""
        before = tried.get(cell.key)
        begun = 0 if before is None else len(before.texts)
        if begun >= len(prompts):
            return 0
        team, numbers = self.processes, list(range(begun, len(prompts)))
        mine = team.share(numbers)
        rows: list[Tried] = []
        config = self.config.of(self.task, self.model).model_copy(update={"block_length": cell.block_length})
        if mine:
            tokens = [prompts[i].tokens for i in mine]
            out = decode(self.model, load_policy(cell.policy), tokens, config, streams=mine, memo=memo)
            examples = [prompts[i].example for i in mine]
            outcome = judge(
                self.task,
                examples,
                out.texts,
                out.nfe,
                out.complete,
                config.region(),
                judge_unfinished=config.judge_unfinished,
            )
            told = (outcome.correct, outcome.nfe, out.equivalents)
            rows = list(zip(mine, out.texts, *(values.tolist() for values in told), strict=True))
        fresh = sorted(team.gather(rows))
        self._write(cell, fresh)
        tried[cell.key] = self._joined(before, fresh, prompts)
        return sum(nfe for _, _, _, nfe, _ in fresh)

    def _joined(self, before: Outcome | None, fresh: Sequence[Tried], prompts: Sequence[Prompt]) -> Outcome:
        texts = [*(before.texts if before else []), *(one[1] for one in fresh)]
        counts = [torch.tensor([one[i] for one in fresh]) for i in (2, 3, 4)]
        if before is not None:
            assert before.equivalents is not None  # it was joined here
            old = (before.correct, before.nfe, before.equivalents)
            counts = [torch.cat(pair) for pair in zip(old, counts, strict=True)]
        right, nfe, equivalents = counts
        examples = [prompt.example for prompt in prompts[: len(texts)]]
        return Outcome(examples, texts, right, nfe, self.config.region(self.task, self.model), equivalents=equivalents)

    def _write(self, cell: Demonstration, fresh: Sequence[Tried]) -> None:
        if self.journal is None or not self.processes.main:
            return
        row: dict[str, Any] = {"policy": cell.policy, "block_length": plain(cell.block_length), "cell": cell.key}
        Journal(self.journal).append([row | {name: [one[i] for one in fresh] for i, name in enumerate(TRIED)}])

    def _tried(self, prompts: Sequence[Prompt]) -> dict[str, Outcome]:
        """What an earlier search of this run has tried."""
        found: dict[str, Outcome] = {}
        if self.journal is None:
            return found
        if self.processes.main:
            Journal(self.journal).mend()
        self.processes.wait()
        for row in Journal(self.journal).rows(COLUMNS):
            fresh = list(zip(*(row[name] for name in TRIED), strict=True))
            found[row["cell"]] = self._joined(found.get(row["cell"]), fresh, prompts)
        return found


def plain(block_length: Block) -> int | str | None:
    """As the journal and the command line spell it."""
    return str(block_length) if isinstance(block_length, AdaptiveBlocks) else block_length
