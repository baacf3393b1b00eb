"""What a report shows, gathered from folders of results: plain data, no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unmask.decoding.trajectory import Trajectory
from unmask.evaluation.bounds import Bound
from unmask.evaluation.differences import Difference
from unmask.evaluation.intervals import Interval

EVERY_RULE = "every rule"  # all of them together, as a rule of `Versus`


@dataclass(frozen=True)
class CellFinding:
    """What one way to decode reached.

    Attributes:
        rule: family, such as ``threshold`` or ``policy``; cells of one rule share a colour and a frontier.
        setting: its settings in a few words; of a learned policy its name.
        blocks: ``full``, the block length, or ``adaptive``.
        accuracy: in [0, 1].
        nfe: forward passes per prompt.
        tpf: tokens (before EOS) per forward pass, all tokens by all passes.
        config: everything that made it, for the hover and for copying.
        learned: it has weights.
        frontier: it is on its rule's frontier.
        beaten_by: index of a cell, of any rule, that is at least as accurate and as fast; None on the common frontier.
    """

    rule: str
    setting: str
    blocks: str
    accuracy: Interval
    nfe: Interval
    tpf: float
    prompts: int
    seeds: int
    config: Mapping[str, Any]
    learned: bool
    frontier: bool
    beaten_by: int | None


@dataclass(frozen=True)
class RuleFinding:
    """A rule over its whole grid.

    Attributes:
        cells: how many were tried.
        best: index of its most accurate cell.
        hypervolume: as in `unmask.pareto`, to NFE = gen_length; a share.
        aup: accuracy under parallelism, percent times tokens per forward pass.
    """

    rule: str
    cells: int
    best: int
    hypervolume: float
    aup: float


@dataclass(frozen=True)
class Versus:
    """A learned policy against a rule's frontier at the policy's NFE.

    Attributes:
        cell: index of the policy's cell.
        difference: in accuracy, a share; NaN where the rule has no cell as fast.
        control: not a rule at equal NFE, but the policy's own clone or replay at its own.
    """

    cell: int
    rule: str
    difference: Difference
    control: bool = False


@dataclass(frozen=True)
class CalibrationFinding:
    """What a policy of every speed was measured to do, in one place.

    Attributes:
        policy: its name.
        place: dLLM, task, region and prompts, in words.
        judged: what the accuracies are, in words.
        rows: speed, NFE and accuracy, from slow to fast.
        promises: a sentence for each of a few drops.
    """

    policy: str
    place: str
    judged: str
    rows: Sequence[tuple[float, float, Interval]]
    promises: Sequence[str]


@dataclass(frozen=True)
class TrainingCurve:
    """A training run.

    Attributes:
        steps: iterations at which something was measured.
        series: ``reward``, ``correct``, ``nfe`` and others of roll-outs, and ``validation reward`` and others: name ->
            (iterations, values).
    """

    name: str
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclass(frozen=True)
class TransferResult:
    """A policy where it was not trained, against one that was trained there.

    Attributes:
        loss: accuracy minus the native policy's, a share, paired over prompts.
        slower: NFE minus the native policy's.
        native: it was trained there itself.
    """

    policy: str
    target: str
    accuracy: Interval
    nfe: Interval
    loss: Interval
    slower: Interval
    native: bool


@dataclass(frozen=True)
class ShownTrajectory:
    """A trajectory and the cell and prompt that it is of.

    Attributes:
        name: of the cell: rule and setting and blocks.
        correct: the verifier's verdict; None where nobody knows what is right.
        gold: the right answer, or what stands for it.
    """

    name: str
    index: int
    correct: bool | None
    gold: str
    trajectory: Trajectory


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    Attributes:
        facts: name -> value, such as dLLM, task, prompts, seeds, versions, hardware, command.
        bounds: of a puzzle, what oracles reach in full diffusion.
        trajectories: grouped by the reader by `index`: the same prompt under several policies.
    """

    title: str
    facts: Mapping[str, str]
    gen_length: int
    cells: Sequence[CellFinding]
    rules: Sequence[RuleFinding]
    bounds: Sequence[Bound] = ()
    versus: Sequence[Versus] = ()
    calibrations: Sequence[CalibrationFinding] = ()
    training: Sequence[TrainingCurve] = ()
    transfer: Sequence[TransferResult] = ()
    trajectories: Sequence[ShownTrajectory] = field(default_factory=tuple)
