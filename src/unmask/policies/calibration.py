"""What a policy of every speed was measured to do, which lies in its folder: forward passes and accuracy at each speed.

From it follow the speed for a number of forward passes, and the fastest speed that keeps a promise: with n prompts
that were decoded at every speed, speeds are tested from slow to fast, each at the same level, until one fails
(fixed-sequence testing; Learn then Test, arXiv 2110.01052). The chance that the promise is broken is then at most that
level.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from pydantic import Field, ValidationError, model_validator

from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.settings import Settings, explain

FILE = "calibration.json"
CONFIDENCE = 0.95
Labels = Literal["verifier", "agreement", "slow_decode"]
JUDGED: dict[Labels, str] = {
    "verifier": "accuracy",
    "agreement": "agreement with speed 0",
    "slow_decode": "agreement with the slow decode",
}


Share = Annotated[float, Ge(0), Le(1)]


class Measured(Settings):
    """What one speed was measured to do.

    Attributes:
        knob: what the network was given.
        speed: that it stands for, on an axis that is even in log NFE.
        nfe: forward passes per prompt.
        accuracy: share of prompts answered correctly; in agreement with the slowest speed, without a verifier.
        low: end of its 95% interval (exact).
        high: the other end.
        lost: prompts that are right at the slowest speed and wrong at this one.
        gained: prompts that are wrong at the slowest speed and right at this one.
    """

    knob: Share
    speed: Share
    nfe: Annotated[float, Gt(0)]
    accuracy: Share
    low: Share
    high: Share
    lost: Annotated[int, Ge(0)]
    gained: Annotated[int, Ge(0)]


class Calibration(Settings):
    """The table of one dLLM, task and region.

    Attributes:
        model: the dLLM's name.
        task: whose prompts were decoded.
        split: of the task.
        gen_length: region length.
        block_length: of its blocks, as a configuration has it.
        stop_at_eos: NFE counts to the end of the text.
        suppress_eos: EOS is never revealed.
        cache: of keys and values, as a configuration has it; ``default`` where it changes nothing.
        prompts: how many were decoded, n.
        seed: of the draws.
        labels: what an answer was judged by: the verifier, the text of speed 0, or the dLLM's slow decode.
        weights: digest of the policy's.
        rows: by rising speed.
    """

    model: str
    task: str
    split: str
    gen_length: int
    block_length: int | str
    stop_at_eos: bool
    suppress_eos: bool = False
    cache: str = "default"
    prompts: Annotated[int, Ge(1)]
    seed: int
    labels: Labels
    weights: str
    rows: Annotated[tuple[Measured, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _counts_and_speeds_fit(self) -> Calibration:
        speeds = [row.speed for row in self.rows]
        if speeds != sorted(speeds):
            raise ValueError("the rows are not in order of their speeds")
        if any(row.lost + row.gained > self.prompts for row in self.rows):
            raise ValueError("more answers are lost and gained than there are prompts")
        return self

    @property
    def judged(self) -> str:
        """What the accuracies are, in words."""
        return JUDGED[self.labels]

    @property
    def place(self) -> tuple[str, str, int, int | str, bool, bool, str]:
        """What a table is of; a policy has one for each."""
        where = self.model, self.task, self.gen_length, self.block_length
        return *where, self.stop_at_eos, self.suppress_eos, self.cache

    def nfe_at(self, speed: float) -> float:
        """Forward passes per prompt to expect at a speed: on the line in log NFE between its neighbours."""
        return math.exp(interpolate([(row.speed, math.log(row.nfe)) for row in self._falling], speed))

    def for_nfe(self, target: float) -> float:
        """The speed that takes `target` forward passes per prompt on average; the slowest where even that takes fewer.

        Raises:
            UnmaskError: no speed is that fast.
        """
        fastest = self._falling[-1]
        if not target >= fastest.nfe:
            raise UnmaskError(
                f"No speed of this policy takes {target:g} forward passes: its fastest takes {fastest.nfe:.2f} (speed "
                f"{fastest.speed:g}, {100 * fastest.accuracy:.1f}% on {self.task}); ask for as many at least."
            )
        falling = [(math.log(row.nfe), row.speed) for row in reversed(self._falling)]
        return interpolate(falling, math.log(target))

    @property
    def _falling(self) -> list[Measured]:
        """The rows that take fewer forward passes than every slower one."""
        best = list(itertools.accumulate((row.nfe for row in self.rows), min))
        return [row for i, row in enumerate(self.rows) if i == 0 or row.nfe < best[i - 1]]

    def for_drop(self, drop: float, confidence: float = CONFIDENCE) -> float:
        """The fastest speed that is promised to lose at most `drop` of the slowest one's accuracy.

        Args:
            drop: a share, such as 0.01 for one point.
            confidence: of the promise; it is broken in at most 1 - confidence of calibrations.

        Raises:
            UnmaskError: none above the slowest can be promised with these prompts; with how many it would take.
        """
        if not 0 < drop < 1 or not 0 < confidence < 1:
            raise UnmaskError(f"A drop of {drop:g} at confidence {confidence:g} is no promise: give shares below 1.")
        kept, *faster = self._falling
        if not faster:  # none is faster than the slowest, which loses nothing
            return kept.speed
        for row in faster:
            if self.most_lost(row, confidence) > drop:
                break
            kept = row
        if kept is self.rows[0]:
            raise UnmaskError(self._too_few(drop, confidence))
        return kept.speed

    def most_lost(self, row: Measured, confidence: float) -> float:
        """Upper confidence bound of the accuracy lost against the slowest speed, exact for any n.

        The prompts lost and gained are binomial counts; the bounds of both (Clopper and Pearson) hold together with
        the confidence asked for. Agreement has nothing to gain, and all of the level is spent on what is lost.
        """
        alpha = (1 - confidence) / (1 if self.labels == "agreement" else 2)
        lost = bound(row.lost, self.prompts, alpha, "less")
        return lost if self.labels == "agreement" else lost - bound(row.gained, self.prompts, alpha, "greater")

    def _too_few(self, drop: float, confidence: float) -> str:
        first = self._falling[1] if len(self._falling) > 1 else self.rows[1]
        told = f"No speed above 0 can be promised to lose at most {100 * drop:g} points at {100 * confidence:g}% "
        told += f"confidence with {self.prompts} prompts"
        measured = (first.lost - first.gained) / self.prompts
        if measured >= drop:
            return (
                f"{told}: the next one was measured to lose {100 * measured:.1f}; allow a larger drop, or use speed 0."
            )
        needed = self.prompts
        while True:
            needed = math.ceil(needed * 1.1)
            if needed > 1_000_000:
                return f"{told}, nor with a million: allow a larger drop."
            more = needed / self.prompts
            counts = {"lost": math.ceil(first.lost * more), "gained": math.floor(first.gained * more)}
            grown = self.model_copy(update={"prompts": needed})
            if grown.most_lost(first.model_copy(update=counts), confidence) <= drop:
                break
        return f"{told}: it would take about {needed} (unmask calibrate with --prompts {needed}), or a larger drop."


def bound(count: int, n: int, alpha: float, alternative: Literal["less", "greater"]) -> float:
    """One-sided exact bound of a share at level alpha: the upper one for ``less``, the lower one for ``greater``."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(count, n, alternative=alternative).proportion_ci(1 - alpha, "exact")
    return float(interval.high if alternative == "less" else interval.low)


ROUNDING = 1e-9  # of a mean NFE


def even_axis(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The axis of speeds on which NFE falls evenly in its logarithm, as pairs of speed and knob.

    Args:
        curve: knob and NFE, by rising knob. Knobs that are no faster than a slower one, but for a rounding, have no
            place on the axis.

    Returns:
        Rising in both, from 0 to 1 in speed; empty where no knob is faster than the first.
    """
    kept = [curve[0]]
    for knob, nfe in curve[1:]:
        if nfe < kept[-1][1] * (1 - ROUNDING):
            kept.append((knob, nfe))
    if len(kept) == 1:
        return ()
    slow, fast = math.log(kept[0][1]), math.log(kept[-1][1])
    return tuple(((slow - math.log(nfe)) / (slow - fast), knob) for knob, nfe in kept)


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """y at x on the line through points by rising x; beyond the ends, that of the end."""
    xs, ys = zip(*points, strict=True)
    return float(np.interp(x, xs, ys))


def read_calibrations(folder: str | Path) -> tuple[Calibration, ...]:
    """The tables in a policy's folder; none if there is no file.

    Raises:
        UnmaskError: the file is broken.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return ()
    try:
        return tuple(
            Calibration.model_validate(table) for table in json.loads(path.read_text(encoding="utf-8"))["tables"]
        )
    except ValidationError as e:
        raise UnmaskError(f"{path} is not what `unmask calibrate` wrote ({explain(e)}): calibrate again.") from None
    except (ValueError, KeyError, TypeError):
        raise UnmaskError(f"{path} is not what `unmask calibrate` wrote: delete it, and calibrate again.") from None


def write_calibration(folder: str | Path, table: Calibration, *, keep: bool = True) -> None:
    """Add a table to a policy's folder, in place of one of the same dLLM, task and region.

    Args:
        keep: the other tables; False where the axis of speeds has changed.
    """
    before = {one.place: one for one in (read_calibrations(folder) if keep else ()) if one.weights == table.weights}
    kept = {**before, table.place: table}  # one that was there keeps its rank: of equals the first is chosen
    tables: list[Mapping[str, Any]] = [one.model_dump(mode="json") for one in kept.values()]
    write_text(Path(folder) / FILE, json.dumps({"tables": tables}, indent=1) + "\n")


def choose(tables: Sequence[Calibration], **place: Any) -> tuple[Calibration, list[str]]:
    """The table that fits best, of equals the first, and in what it differs from what is wanted, in words.

    Args:
        place: model, task, gen_length, block_length, stop_at_eos of what is to be decoded; None where it is not known.

    Raises:
        UnmaskError: there is no table.
    """
    if not tables:
        raise UnmaskError(
            "This policy has no calibration, or one of other weights, and that says how fast each speed is: run "
            "`unmask calibrate` on it, or give a speed."
        )

    def differences(table: Calibration) -> list[str]:
        found = {name: getattr(table, name) for name in place}
        return [
            f"{name.replace('_', ' ')} {found[name]}, not {wanted}"
            for name, wanted in place.items()
            if wanted is not None and found[name] != wanted
        ]

    best = min(tables, key=lambda table: len(differences(table)))
    return best, differences(best)
