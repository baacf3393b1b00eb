"""The entries of a comparison: ways to decode, what each of them is, and the grids over which a rule is at its best."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field

from unmask.decoding.blocks import AdaptiveBlocks, check_block_length, parse_block_length
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.hub import find_policy_folder, read_origin, weights_digest
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy, Rule
from unmask.policies.grids import combinations
from unmask.policies.registry import policy_types, tuned_rules
from unmask.settings import Settings

Kind = Literal["rule", "policy", "clone", "replay"]
LEARNED: dict[Kind, str] = {"policy": "policy", "clone": "cloned", "replay": "replay"}  # their labels; no rule has one
EOS_SUPPRESSED = ", EOS suppressed"


class EntryColumns(TypedDict):
    """An entry as columns of a row; see `Entry`."""

    kind: Kind
    of: str | None
    label: str
    policy: Mapping[str, Any]
    gen_length: int
    block_length: int | str
    suppress_eos: bool
    stop_at_eos: bool
    speed: float | None
    stochastic: bool


DECODING = ("gen_length", "block_length", "suppress_eos", "stop_at_eos", "speed")
COLUMNS = tuple(EntryColumns.__annotations__)


@dataclass(frozen=True)
class Entry:
    """One way to decode: what a row of the comparison stands for.

    Attributes:
        kind: a rule; a learned policy; or a control of one: what its training began from (``clone``), or the schedule
            of its average pace (``replay``).
        of: what a control is of: for a clone the digest of the trained weights, for a replay the policy's `digest`.
        label: family for tables and plots, such as ``threshold``. Nothing is decided by it.
        policy: the policy's config, with its type; where there are weights, also the name the user gave and a digest.
        decode: region, blocks and EOS options, as `decoding` makes it. With `stop_at_eos` off, NFE is counted as in the
            paper.
        stochastic: the policy draws, so that seeds differ.
    """

    kind: Kind
    of: str | None
    label: str
    policy: Mapping[str, Any]
    decode: DecodeConfig
    stochastic: bool = False

    @classmethod
    def of_policy(cls, name: str, policy: Policy, decode: DecodeConfig, label: str | None = None) -> Entry:
        """The entry of a rule, or of a learned policy that the user calls `name`.

        A policy with a speed is decoded at that of `decode`, or else at 0; for others there is none.
        """
        speed = (decode.speed or 0.0) if policy.needs.speed else None
        decode = decode.model_copy(update={"speed": speed})
        config = {"type": policy.type_name, **policy.config()}
        weights = policy.weights()
        if weights is not None:
            config |= {"name": name, "weights": weights_digest(weights)}
            return cls("policy", None, LEARNED["policy"], config, decode, policy.stochastic)
        family = policy.family() if isinstance(policy, Rule) else policy.type_name
        family += EOS_SUPPRESSED if decode.suppress_eos else ""
        return cls("rule", None, label or family, config, decode, policy.stochastic)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Entry:
        """The entry that a row is of."""
        decode = DecodeConfig(**{name: row[name] for name in DECODING})
        return cls(row["kind"], row["of"], row["label"], row["policy"], decode, row["stochastic"])

    def columns(self) -> EntryColumns:
        """What `of_row` reads."""
        return EntryColumns(
            kind=self.kind,
            of=self.of,
            label=self.label,
            policy=self.policy,
            gen_length=self.decode.region(),
            block_length=self.decode.model_dump(mode="json")["block_length"],
            suppress_eos=self.decode.suppress_eos,
            stop_at_eos=self.decode.stop_at_eos,
            speed=self.decode.speed,
            stochastic=self.stochastic,
        )

    @cached_property
    def key(self) -> str:
        """What tells it from other entries, the same before and after JSON."""
        return entry_key(self.columns())

    @property
    def weights(self) -> str | None:
        """The digest of a learned policy's weights."""
        return self.policy.get("weights")

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the policy, settings, weights and speed, whatever it is called."""
        known = {key: value for key, value in self.policy.items() if key != "name"}
        if self.decode.speed is not None:
            known["speed"] = self.decode.speed
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]

    def controls(self, policy: Entry) -> bool:
        """It is the clone or the replay of this policy, decoded in the same way."""
        whose = {"clone": policy.weights, "replay": policy.digest}.get(self.kind)
        theirs = policy.decode if self.decode.speed is not None else policy.decode.model_copy(update={"speed": None})
        return whose is not None and (self.of, self.decode) == (whose, theirs)


Candidate = tuple[Entry, Policy]


def entry_key(row: Mapping[str, Any]) -> str:
    """`Entry.key` of an entry's columns, or of a row that holds them."""
    return json.dumps({name: row[name] for name in COLUMNS}, sort_keys=True)


def decoding(
    gen_length: int, block_length: int | str | None = None, *, suppress_eos: bool = False, stop_at_eos: bool = False
) -> DecodeConfig:
    """How an entry decodes; full diffusion is one block as long as the region.

    Args:
        block_length: as `unmask.decoding.blocks.parse_block_length` reads it.

    Raises:
        UnmaskError: a block length that does not divide the region.
    """
    config = DecodeConfig(
        gen_length=gen_length,
        block_length=parse_block_length(block_length),
        suppress_eos=suppress_eos,
        stop_at_eos=stop_at_eos,
    )
    if isinstance(config.block_length, AdaptiveBlocks):
        return config
    return config.model_copy(update={"block_length": check_block_length(gen_length, config.block_length)})


def is_full(decode: DecodeConfig) -> bool:
    """Full diffusion: any masked position may be revealed."""
    return decode.block_length in (None, decode.gen_length)


def candidate(name: str, decode: DecodeConfig, label: str | None = None) -> Candidate:
    """A policy as `unmask.load_policy` reads it, with its entry."""
    policy = load_policy(name)
    return Entry.of_policy(name, policy, decode, label), policy


class RuleGrid(Settings):
    """A rule with lists of settings, each combination of which is an entry."""

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

    def candidates(self, decode: DecodeConfig) -> list[Candidate]:
        """Its entries; settings that act like another one in blocks of this length are left out.

        Raises:
            UnmaskError: an unknown rule or setting; settings for a policy that has its own; a label of another kind.
        """
        known = policy_types()
        if self.settings and self.policy not in known:
            load_policy(self.policy)  # what it does not know is refused with the nearest name
            raise UnmaskError(f"A grid's settings are for a rule by its name, not for {self.policy!r}: leave them out.")
        config = decode.model_copy(update={"suppress_eos": decode.suppress_eos or self.suppress_eos})
        rules = tuned_rules()
        default = rules[self.policy].grid if self.policy in rules else {}
        made = [candidate(spec, config, self.label) for spec in combinations(self.policy, self.settings or default)]
        if self.label is not None:
            made = [(self._labelled(entry), policy) for entry, policy in made]
        longest = decode.block_length if isinstance(decode.block_length, int) else decode.region()
        return [one for one in made if not isinstance(one[1], Rule) or one[1].distinct_within(longest)]

    def _labelled(self, entry: Entry) -> Entry:
        """With the user's label, which for a learned policy says what kind of entry it is."""
        kinds = {label: kind for kind, label in LEARNED.items()}
        if (entry.kind == "rule") == (self.label in kinds):
            raise UnmaskError(
                f"The label {self.label!r} does not fit {self.policy!r}: {', '.join(kinds)} are for learned policies, "
                "and those have no other."
            )
        return entry if entry.kind == "rule" else replace(entry, kind=kinds[str(self.label)], label=str(self.label))


def tuned(decode: DecodeConfig, rules: Sequence[str] | None = None) -> list[Candidate]:
    """Rules over their tuned grids at one block length.

    Args:
        rules: their type names; all that have a grid by default.
    """
    known = tuned_rules()
    names = list(known) if rules is None else rules
    grids = [RuleGrid(policy=name) for name in names]
    if is_full(decode):
        grids += [RuleGrid(policy=name, suppress_eos=True) for name in names if known[name].eos_suppressed_variant]
    return [one for grid in grids for one in grid.candidates(decode)]


def clone_of(name: str, policy: Entry) -> Candidate | None:
    """What the training of a saved policy began from, as the policy's folder says; None if it does not, or not here.

    Args:
        name: of the policy, as `unmask.load_policy` reads it.

    Raises:
        UnmaskError: the policy it names has other weights by now.
    """
    folder = find_policy_folder(name) if Path(name).exists() else Path(name)
    origin = read_origin(folder) if policy.weights is not None else None
    start = Path(os.path.normpath(folder / origin.start)) if origin else None
    if origin is None or start is None or not (start / "config.json").exists():
        return None
    entry, clone = candidate(str(start), policy.decode)
    if entry.weights != origin.weights:
        raise UnmaskError(
            f"{start} has other weights than the policy that the training of {name} began from: put that one back, or "
            f"delete {Path(name) / 'origin.json'}."
        )
    return replace(entry, kind="clone", of=policy.weights, label=LEARNED["clone"]), clone
