"""Conformance checks: put your own policy or dLLM adapter through what decoding relies on.

    from unmask.testing import check_model, check_policy

    check_policy(MyRule(k=2))
    check_model(MyAdapter(...))

Each raises an `UnmaskError` that names the property and what to change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys, uniform
from unmask.observation import Needs, Observation
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.policies.registry import policy_types

TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}  # of logits, relative to their spread


def check_policy(policy: Policy, *, batches: int = 20, seed: int = 0, hidden_size: int = 16) -> None:
    """Check a policy on random batches.

    It must give a boolean for each position; decide each row by itself, whatever the batch and its order; leave the
    observation as it was and decide the same twice; heed the noise only if it is `stochastic`; reveal something in
    every row that has something selectable; and come back the same from its config (and, if its type is known to
    `load_policy`, from a saved folder).

    Args:
        hidden_size: width of the hidden states shown to a policy that needs them.

    Raises:
        UnmaskError: naming the first property that does not hold.
    """
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
        kl=kl.masked_fill(draw(*kl.shape) < 0.2, torch.inf) if needs.kl_history else None,
        hidden_states=torch.randn(rows, length, hidden_size, generator=generator) if needs.hidden_states else None,
    ).only(needs)


def _check_batch(policy: Policy, seen: Observation, generator: torch.Generator) -> None:
    before = seen.take(torch.arange(len(seen.masked)))
    chosen = policy.select(seen)
    _demand(
        isinstance(chosen, Tensor) and chosen.dtype == torch.bool and chosen.shape == seen.masked.shape,
        policy,
        "must return a boolean tensor of the shape of observation.masked from select",
    )
    chosen = chosen & seen.selectable
    for field in fields(seen):
        was, is_now = getattr(before, field.name), getattr(seen, field.name)
        _demand(was is None or torch.equal(was, is_now), policy, f"must not write into observation.{field.name}")
    _demand(_select(policy, seen).equal(chosen), policy, "must decide the same when it sees the same: keep no state")
    order = torch.randperm(len(chosen), generator=generator)
    alone = torch.cat([_select(policy, seen.take(row[None])) for row in torch.arange(len(chosen))])
    _demand(
        alone.equal(chosen) and _select(policy, seen.take(order)).equal(chosen[order]),
        policy,
        "must decide each row by itself: a row got another answer in another batch (look for any() or topk over rows)",
    )
    if not policy.stochastic:
        other = replace(seen, noise=1 - seen.noise)
        same = _select(policy, other).equal(chosen)
        _demand(same, policy, "uses observation.noise: let its property stochastic be True")
    moved = chosen.any(dim=1) | ~seen.selectable.any(dim=1)
    _demand(
        bool(moved.all()),
        policy,
        "must reveal something in every row that can: add topk_positions(...), or MinReveal",
    )


def _check_config(policy: Policy, seen: Observation) -> None:
    config = {"type": policy.type_name, **policy.config()}
    try:
        json.dumps(config)
    except TypeError as e:
        raise UnmaskError(f"{_name(policy)} must have a config of plain values: {e}.") from None
    if policy.type_name not in policy_types():
        return
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder) / "policy")
        again = load_policy(Path(folder) / "policy")
    _demand(
        again.config() == policy.config() and _select(again, seen).equal(_select(policy, seen)),
        policy,
        "must come back the same from its config and weights: put every setting into config()",
    )


def _select(policy: Policy, seen: Observation) -> Tensor:
    return policy.select(seen) & seen.selectable


def check_model(model: MaskedDiffusionModel, *, batches: int = 3, seed: int = 0) -> None:
    """Check a dLLM adapter with random tokens.

    Ids must lie in the vocabulary and the mask id must be banned; `hidden` and `head` must give one row a position, of
    the stated sizes, finite and without gradients; the head's output must be the caller's to write into; a row's logits
    must depend neither on left padding nor on its neighbours nor on which other positions are asked for; and every
    position must be able to see the prompt and the tokens after it (full attention, not causal).

    Raises:
        UnmaskError: naming the first property that does not hold.
    """
    _check_ids(model)
    for batch in range(batches):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + batch)
        length = 6 if model.max_length is None else max(2, min(6, model.max_length // 2))
        room = 8 if model.max_length is None else max(1, min(8, model.max_length - length))
        usable = [i for i in range(model.vocab_size) if i not in {model.mask_id, model.pad_id, *model.eos_ids.tolist()}]
        lengths = torch.randint(1, room + 1, (4,), generator=generator).tolist()
        prompts = [[usable[i] for i in torch.randint(len(usable), (n,), generator=generator)] for n in lengths]
        region = torch.full((4, length), model.mask_id)
        shown = torch.randint(len(usable), (4, length), generator=generator)
        region = torch.where(torch.rand(4, length, generator=generator) < 0.5, torch.tensor(usable)[shown], region)
        with torch.no_grad():
            _check_rows(model, prompts, region.to(model.device), usable)


def _check_ids(model: MaskedDiffusionModel) -> None:
    named = {"mask_id": [model.mask_id], "pad_id": [model.pad_id], "eos_ids": model.eos_ids.tolist()}
    for name, ids in named.items():
        inside = all(0 <= i < model.vocab_size for i in ids)
        _demand(inside, model, f"has {name} {ids} outside its vocabulary of {model.vocab_size}: correct it")
    _demand(model.mask_id in model.banned_ids.tolist(), model, "must have its mask id among banned_ids")
    _demand(model.mask_id not in named["eos_ids"], model, "has the mask id among eos_ids: take it out")


def _check_rows(
    model: MaskedDiffusionModel, prompts: Sequence[Sequence[int]], region: Tensor, usable: Sequence[int]
) -> None:
    length = region.shape[1]
    everywhere = torch.arange(length)

    def logits(rows: Sequence[int], where: Tensor, region: Tensor = region, first: int | None = None) -> Tensor:
        """(rows, where, v) logits of a batch, left-padded; `first` replaces each prompt's first token."""
        width = max(len(prompts[row]) for row in rows)
        tokens = torch.full((len(rows), width + length), model.pad_id, device=model.device)
        attention = torch.zeros_like(tokens, dtype=torch.bool)
        for i, row in enumerate(rows):
            prompt = list(prompts[row]) if first is None else [first, *prompts[row][1:]]
            tokens[i, width - len(prompt) : width] = torch.tensor(prompt)
            tokens[i, width:], attention[i, width - len(prompt) :] = region[row], True
        flat = (torch.arange(len(rows))[:, None] * (width + length) + width + where).flatten().to(model.device)
        hidden = model.hidden(tokens, attention, flat)
        found = model.head(hidden)
        _demand(hidden.ndim == 2 and len(hidden) == len(flat), model, "must give one hidden row a position, in order")
        _demand(
            found.shape == (len(flat), model.vocab_size),
            model,
            f"must give (n, {model.vocab_size}) logits from head, not {tuple(found.shape)}: correct vocab_size",
        )
        _demand(bool(found.isfinite().all()), model, "gives logits that are not finite: check its weights and dtype")
        _demand(not found.requires_grad, model, "must be frozen: call requires_grad_(False) on the network")
        kept = found.clone()
        found.zero_()
        _demand(model.head(hidden).equal(kept), model, "must give a fresh tensor from head: return a clone")
        return kept.view(len(rows), len(where), -1)

    # Eight- and four-bit kernels round differently at every batch shape.
    rounded = getattr(model.network, "quantization_method", None) is not None

    def same(a: Tensor, b: Tensor) -> bool:
        spread = max(1.0, a.float().std().item())
        return bool(((a - b).abs().float() / spread).max() < TOLERANCE[torch.bfloat16 if rounded else a.dtype])

    rows = list(range(len(prompts)))
    together = logits(rows, everywhere)
    alone = torch.cat([logits([row], everywhere) for row in rows])
    _demand(
        same(together, alone),
        model,
        "gives a row other logits beside longer prompts: hide the padding and count positions behind it",
    )
    _demand(
        same(together[:, ::2], logits(rows, everywhere[::2])),
        model,
        "gives a position other logits when fewer are asked for: select positions after the body, not before",
    )
    changed = region.clone()
    changed[:, -1] = torch.where(region[:, -1] == usable[0], usable[1], usable[0])
    _demand(
        not together[:, :1].equal(logits(rows, everywhere, changed)[:, :1]),
        model,
        "does not see the tokens after a position: give it full attention instead of a causal mask",
    )
    other = next(token for token in usable if all(prompt[0] != token for prompt in prompts))
    _demand(not same(together, logits(rows, everywhere, first=other)), model, "does not see the prompt: attend to it")


def _demand(holds: bool, what: Policy | MaskedDiffusionModel, sentence: str) -> None:
    if not holds:
        raise UnmaskError(f"{_name(what)} {sentence}.")


def _name(what: Policy | MaskedDiffusionModel) -> str:
    return f"The policy {type(what).__name__}" if isinstance(what, Policy) else f"The dLLM {what.name!r}"
