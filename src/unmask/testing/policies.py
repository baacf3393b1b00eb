"""`check_policy`: does a policy keep what decoding relies on?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.noise import row_keys, uniform
from unmask.observation import Needs, Observation
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy, Rule
from unmask.policies.registry import policy_types
from unmask.testing.demand import demand


def check_policy(policy: Policy, *, batches: int = 20, seed: int = 0, hidden_size: int = 16) -> None:
    """Check a policy on random batches.

    It must give a boolean for each position; decide each row by itself, whatever the batch and its order; leave the
    observation as it was and decide the same twice; heed the noise only if it is `stochastic`; reveal something in
    every row that has something selectable, unless it `may_idle`; if it revises, keep to revealed positions and to all
    of this; and come back the same from its config (and, if its type is known to `load_policy`, from a saved folder).

    Args:
        hidden_size: width of the hidden states shown to a policy that needs them.

    Raises:
        UnmaskError: naming the first property that does not hold.
    """
    name = _name(policy)
    typed = isinstance(getattr(type(policy), "type_name", None), str)
    demand(typed, name, 'must have a type name: add type_name: ClassVar[str] = "..." to the class')
    decorated = is_dataclass(policy) or not isinstance(policy, Rule)
    demand(decorated, name, "must be decorated with @unmask.policies.rule, which makes its fields its settings")
    for batch in range(batches):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + batch)
        rows, length = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 7), (1, 17)))
        seen = random_observation(policy.needs, rows, length, generator, hidden_size)
        _check_batch(policy, seen, generator)
    generator = torch.Generator().manual_seed(seed)
    _check_config(policy, random_observation(policy.needs, 6, 16, generator, hidden_size))


def random_observation(
    needs: Needs, rows: int, length: int, generator: torch.Generator, hidden_size: int = 16
) -> Observation:
    """What a policy might see: sure, unsure and tied positions, rows in blocks, rows with nothing left."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    sharpness = 10 ** (3 * draw(rows, length, 1) - 1)
    logits = torch.randn(rows, length, max(needs.top_k, 2) + 3, generator=generator) * sharpness
    p = logits.softmax(dim=-1)
    tied = draw(rows, length, 1) < 0.2
    p = torch.where(tied, p[:, :1], p).sort(dim=-1, descending=True).values
    masked = draw(rows, length) < draw(rows, 1) * 1.2
    end = torch.randint(1, length + 1, (rows, 1), generator=generator)
    selectable = masked & (torch.arange(length) < end)
    kl = -draw(rows, length, max(needs.kl_history, 1)).log() * 0.02
    step = torch.randint(0, length, (rows,), generator=generator)
    return Observation(
        confidence=p[..., : needs.top_k],
        masked=masked,
        selectable=selectable,
        step_fraction=step / length,
        noise=uniform(row_keys(int(step.sum()), torch.arange(rows)), step, length),
        entropy=torch.special.entr(p).sum(dim=-1) if needs.entropy else None,
        tokens=torch.randint(0, 50, (rows, length, needs.top_k), generator=generator) if needs.tokens else None,
        kl=kl.masked_fill(draw(*kl.shape) < 0.2, torch.inf) if needs.kl_history else None,
        hidden_states=torch.randn(rows, length, hidden_size, generator=generator) if needs.hidden_states else None,
        speed=draw(rows) if needs.speed else None,
        block_step=(draw(rows) * step).long() if needs.block_step else None,
        differs=~masked & (torch.arange(length) < end) & (draw(rows, length) < 0.5) if needs.differs else None,
    ).only(needs)


def _check_batch(policy: Policy, seen: Observation, generator: torch.Generator) -> None:
    name = _name(policy)
    chosen = _check_choice(policy, policy.select, seen, generator) & seen.selectable
    demand(
        policy.needs.differs or not policy.post_steps,
        name,
        "has post_steps and revises nothing: let its needs have differs, or post_steps be 0",
    )
    if policy.needs.differs:
        edits = _check_choice(policy, policy.revise, seen, generator)
        demand(not bool((edits & seen.masked).any()), name, "must revise revealed positions only: keep to differs")
    moved = chosen.any(dim=1) | ~seen.selectable.any(dim=1)
    demand(
        policy.may_idle or bool(moved.all()),
        name,
        "must reveal something in every row that can: add topk_positions(...), or MinReveal, or let its property "
        "may_idle be True",
    )


def _check_choice(
    policy: Policy, choose: Callable[[Observation], Tensor], seen: Observation, generator: torch.Generator
) -> Tensor:
    """What `select` or `revise` chooses."""
    name, called = _name(policy), choose.__name__
    may = seen.selectable if called == "select" else ~seen.masked
    before = seen.take(torch.arange(len(seen.masked)))
    chosen = choose(seen)
    demand(
        isinstance(chosen, Tensor) and chosen.dtype == torch.bool and chosen.shape == seen.masked.shape,
        name,
        f"must return a boolean tensor of the shape of observation.masked from {called}",
    )
    counts = chosen & may
    for field in fields(seen):
        was, is_now = getattr(before, field.name), getattr(seen, field.name)
        demand(was is None or torch.equal(was, is_now), name, f"must not write into observation.{field.name}")
    demand((choose(seen) & may).equal(counts), name, "must decide the same when it sees the same: keep no state")
    order = torch.randperm(len(chosen), generator=generator)
    alone = torch.cat([choose(seen.take(row[None])) for row in torch.arange(len(chosen))])
    demand(
        (alone & may).equal(counts) and (choose(seen.take(order)) & may[order]).equal(counts[order]),
        name,
        "must decide each row by itself: a row got another answer in another batch (look for any() or topk over rows)",
    )
    if not policy.stochastic:
        other = replace(seen, noise=1 - seen.noise)
        demand(
            (choose(other) & may).equal(counts),
            name,
            "uses observation.noise: let its property stochastic be True",
        )
    return chosen


def _check_config(policy: Policy, seen: Observation) -> None:
    name = _name(policy)
    config = {"type": policy.type_name, **policy.config()}
    try:
        json.dumps(config)
    except TypeError as e:
        raise UnmaskError(f"{name} must have a config of plain values: {e}.") from None
    if policy.type_name not in policy_types():
        return
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder) / "policy")
        again = load_policy(Path(folder) / "policy")
    chosen = [one.select(seen) & seen.selectable for one in (policy, again)]
    demand(
        again.config() == policy.config() and chosen[0].equal(chosen[1]),
        name,
        "must come back the same from its config and weights: put every setting into config()",
    )


def _name(policy: Policy) -> str:
    return f"The policy {type(policy).__name__}"
