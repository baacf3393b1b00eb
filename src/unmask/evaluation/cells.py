"""The cells of a comparison: ways to decode, and the grids of settings over which each rule is at its best."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from unmask.decoding.blocks import check_block_length, parse_block_length
from unmask.errors import UnmaskError
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.policies.grids import GRIDS, combinations
from unmask.policies.registry import TYPES
from unmask.settings import Settings

LABELS = {
    "confidence_threshold": "threshold",
    "entropy_bound": "EB",
    "fixed_schedule": "fixed schedule",
    "klass": "KLASS",
    "margin_threshold": "margin",
    "margin_top_k": "margin top-k",
    "random_order": "random",
    "rising_threshold": "rising threshold",
    "top_k_confidence": "top-k",
}
EOS_SUPPRESSED = ", EOS suppressed"
OWN = ("policy", "cloned", "replay")  # a learned policy and its controls: no rules


@dataclass(frozen=True)
class Cell:
    """One way to decode: what a row of the comparison stands for.

    Attributes:
        label: family for tables and plots, such as ``threshold``.
        policy: the policy's config, with its type.
        block_length: positions, or adaptive blocks as `unmask.decoding.blocks.parse_block_length` reads them.
        draws: True if the policy draws, so that seeds differ.
        stop_at_eos: end a row at its EOS; off, NFE is counted as in the paper.
    """

    label: str
    policy: Mapping[str, Any]
    block_length: int | str
    gen_length: int
    suppress_eos: bool = False
    draws: bool = False
    stop_at_eos: bool = False

    @property
    def key(self) -> str:
        """What tells it from other cells, the same before and after JSON."""
        return key_of_cell(asdict(self))

    @property
    def learned(self) -> bool:
        """It has weights."""
        return "weights" in self.policy


def key_of_cell(settings: Mapping[str, Any]) -> str:
    """`Cell.key` of its fields, or of a row that holds them."""
    return json.dumps({field.name: settings[field.name] for field in fields(Cell)}, sort_keys=True)


Contestant = tuple[Cell, Policy]


@dataclass(frozen=True)
class Region:
    """Where cells are made for.

    Attributes:
        suppress_eos, stop_at_eos: as in `Cell`.
    """

    gen_length: int
    block_length: int | str
    suppress_eos: bool = False
    stop_at_eos: bool = False

    def __post_init__(self) -> None:
        parsed = parse_block_length(self.block_length)
        if isinstance(parsed, int):
            object.__setattr__(self, "block_length", check_block_length(self.gen_length, parsed))

    def cell(self, name: str, policy: Policy, label: str | None = None) -> Cell:
        """The cell of a policy that the user calls `name`; a learned one is known by it and by its weights."""
        settings = {"type": policy.type_name, **policy.config()}
        learned = policy.weights() is not None
        if learned:
            settings |= {"name": name, "weights": weights_digest(policy)}
        family = "policy" if learned else LABELS.get(policy.type_name, policy.type_name)
        return Cell(
            label or family + (EOS_SUPPRESSED if self.suppress_eos and not learned else ""),
            settings,
            self.block_length,
            self.gen_length,
            self.suppress_eos,
            policy.stochastic,
            self.stop_at_eos,
        )

    def contestant(self, name: str, label: str | None = None) -> Contestant:
        """A policy as `unmask.load_policy` reads it, with its cell."""
        policy = load_policy(name)
        return self.cell(name, policy, label), policy


class RuleGrid(Settings):
    """A rule with lists of settings, each combination of which is a cell."""

    policy: Annotated[
        str, Field(description="Rule, such as confidence_threshold, or anything unmask.load_policy reads.")
    ]
    settings: Annotated[
        dict[str, tuple[Any, ...]], Field(description="Setting -> values to try (default: the rule's tuned grid).")
    ] = {}
    block_lengths: Annotated[
        tuple[int | str, ...], Field(description="Block lengths (default: the comparison's).")
    ] = ()
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    label: Annotated[str | None, Field(description="Family in tables and plots (default: the rule's name).")] = None

    def contestants(self, region: Region) -> list[Contestant]:
        """Its cells; counts beyond the block, which act like a shorter one, are left out.

        Raises:
            UnmaskError: an unknown rule or setting; settings beside a policy that has its own; a label of another kind.
        """
        if self.settings and self.policy not in TYPES:
            load_policy(self.policy)  # what it does not know is refused with the nearest name
            raise UnmaskError(f"A grid's settings are for a rule by its name, not for {self.policy!r}: leave them out.")
        where = replace(region, suppress_eos=region.suppress_eos or self.suppress_eos)
        specs = combinations(self.policy, self.settings or GRIDS.get(self.policy, {}))
        made = [where.contestant(spec, self.label) for spec in specs]
        if self.label is not None and made[0][0].learned != (self.label in OWN):
            raise UnmaskError(
                f"The label {self.label!r} does not fit {self.policy!r}: {', '.join(OWN)} are for learned policies, "
                "and those have no other."
            )
        longest = region.block_length if isinstance(region.block_length, int) else region.gen_length
        return [one for one in made if one[0].policy.get("k", 0) <= longest]


def tuned(region: Region, rules: Sequence[str] = tuple(GRIDS)) -> list[Contestant]:
    """Rules over their tuned grids at one block length; the EOS-suppressed threshold where the block is the region."""
    grids = [RuleGrid(policy=name) for name in rules]
    if "confidence_threshold" in rules and region.block_length == region.gen_length:
        grids.append(RuleGrid(policy="confidence_threshold", suppress_eos=True))
    return [one for grid in grids for one in grid.contestants(region)]


def clone_of(name: str, policy: Cell, region: Region) -> Contestant | None:
    """What the training of a policy in a run folder started from (a clone, as a rule), and whose it is."""
    start = Path(name).parent / "start"
    if Path(name).name != "best" or not (start / "config.json").exists():
        return None
    cell, clone = region.contestant(str(start), "cloned")
    return replace(cell, policy={**cell.policy, "of": policy.policy["weights"]}), clone


def weights_digest(policy: Policy) -> str:
    """Tells a policy's weights from others under the same name."""
    digest = hashlib.sha256()
    for name, value in sorted((policy.weights() or {}).items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
