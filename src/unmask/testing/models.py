"""`check_model`: does a dLLM adapter keep what decoding relies on?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Aim
from unmask.testing.demand import demand

TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}  # of logits, relative to their spread


def check_model(model: MaskedDiffusionModel, *, batches: int = 3, seed: int = 0) -> None:
    """Check a dLLM adapter with random tokens.

    Ids must lie in the vocabulary and the mask id must be banned; one that `revises` must have blocks of its own;
    `hidden` and `head` must give one row a position, of the stated sizes, finite and without gradients; the head's
    output must be the caller's to write into; a row's logits must depend neither on left padding nor on its neighbours
    nor on which other positions are asked for; and every position must be able to see the prompt and the tokens after
    it (full attention, not causal), or, of a block-causal dLLM, those of its own block and none of later ones, with its
    cache as without.

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
    name = _name(model)
    named = {"mask_id": [model.mask_id], "pad_id": [model.pad_id], "eos_ids": model.eos_ids.tolist()}
    for what, ids in named.items():
        inside = all(0 <= i < model.vocab_size for i in ids)
        demand(inside, name, f"has {what} {ids} outside its vocabulary of {model.vocab_size}: correct it")
    demand(model.mask_id in model.banned_ids.tolist(), name, "must have its mask id among banned_ids")
    demand(
        not model.revises or model.block_length is not None,
        name,
        "revises and has no blocks of its own, within which tokens may change: give it block_length",
    )
    demand(model.mask_id not in named["eos_ids"], name, "has the mask id among eos_ids: take it out")


def _check_rows(
    model: MaskedDiffusionModel, prompts: Sequence[Sequence[int]], region: Tensor, usable: Sequence[int]
) -> None:
    name, length = _name(model), region.shape[1]
    everywhere = torch.arange(length)

    def logits(
        rows: Sequence[int], where: Tensor, region: Tensor = region, first: int | None = None, cache: str = "none"
    ) -> Tensor:
        """(rows, where, v) logits of a batch, left-padded; `first` replaces each prompt's first token."""
        width = max(len(prompts[row]) for row in rows)
        tokens = torch.full((len(rows), width + length), model.pad_id, device=model.device)
        attention = torch.zeros_like(tokens, dtype=torch.bool)
        for i, row in enumerate(rows):
            prompt = list(prompts[row]) if first is None else [first, *prompts[row][1:]]
            tokens[i, width - len(prompt) : width] = torch.tensor(prompt)
            tokens[i, width:], attention[i, width - len(prompt) :] = region[row], True
        flat = (torch.arange(len(rows))[:, None] * (width + length) + width + where).flatten().to(model.device)
        if cache == "none":
            hidden = model.hidden(tokens, attention, flat)
        else:
            hidden = _filling(model, tokens, attention, flat, cache, length)
        found = model.head(hidden)
        demand(hidden.ndim == 2 and len(hidden) == len(flat), name, "must give one hidden row a position, in order")
        demand(
            found.shape == (len(flat), model.vocab_size),
            name,
            f"must give (n, {model.vocab_size}) logits from head, not {tuple(found.shape)}: correct vocab_size",
        )
        demand(bool(found.isfinite().all()), name, "gives logits that are not finite: check its weights and dtype")
        demand(not found.requires_grad, name, "must be frozen: call requires_grad_(False) on the network")
        kept = found.clone()
        found.zero_()
        demand(model.head(hidden).equal(kept), name, "must give a fresh tensor from head: return a clone")
        return kept.view(len(rows), len(where), -1)

    # Eight- and four-bit kernels round differently at every batch shape.
    rounded = getattr(model.network, "quantization_method", None) is not None

    def apart(a: Tensor, b: Tensor) -> Tensor:
        """Where logits differ by more than their rounding; experts sum in another order beside other tokens."""
        spread = max(1.0, a.float().std().item())
        return (a - b).abs().float() / spread >= TOLERANCE[torch.bfloat16 if rounded else a.dtype]

    def same(a: Tensor, b: Tensor) -> bool:
        return not bool(apart(a, b).any())

    rows = list(range(len(prompts)))
    together = logits(rows, everywhere)
    alone = torch.cat([logits([row], everywhere) for row in rows])
    demand(
        same(together, alone),
        name,
        "gives a row other logits beside longer prompts: hide the padding and count positions behind it",
    )
    demand(
        same(together[:, ::2], logits(rows, everywhere[::2])),
        name,
        "gives a position other logits when fewer are asked for: select positions after the body, not before",
    )
    changed = region.clone()
    changed[:, -1] = torch.where(region[:, -1] == usable[0], usable[1], usable[0])
    after = logits(rows, everywhere, changed)
    if model.block_length is None:
        demand(
            not together[:, :1].equal(after[:, :1]),
            name,
            "does not see the tokens after a position: give it full attention instead of a causal mask",
        )
    else:
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        moved, far = (found.any(dim=-1).cpu() for found in (together != after, apart(together, after)))
        _check_blocks(model, moved, far, (lengths[:, None] + everywhere) // model.block_length)
        demand(
            all(same(_block_by_block(model, prompts[row], region[row]), together[row]) for row in rows),
            name,
            "gives other logits with its cache than without: see that what is kept are the keys of finished blocks",
        )
    other = next(token for token in usable if all(prompt[0] != token for prompt in prompts))
    demand(not same(together, logits(rows, everywhere, first=other)), name, "does not see the prompt: attend to it")
    for kind in model.caches if model.block_length is None else ():
        demand(
            same(logits(rows, everywhere, cache=kind), together),
            name,
            f"gives other logits when a {kind} cache is filled than without: keep each position's keys at its place",
        )


def _filling(
    model: MaskedDiffusionModel, tokens: Tensor, attention: Tensor, positions: Tensor, cache: str, length: int
) -> Tensor:
    """Hidden states of the first pass of rows with a cache."""
    masked = tokens[:, -length:] == model.mask_id
    memory, start = model.memory(len(tokens), cache), torch.zeros(len(tokens), dtype=torch.long, device=model.device)
    demand(memory is not None, _name(model), f"has {cache!r} among its caches, and no memory for it")
    assert memory is not None
    memory = memory.aim(Aim(attention, masked, masked, start == 0, start))
    return model.advance(tokens, attention, positions, memory)[0]


def _check_blocks(model: MaskedDiffusionModel, moved: Tensor, far: Tensor, block: Tensor) -> None:
    """What a change of the last token may move.

    Args:
        moved: (b, l) bool, positions whose logits it changed.
        far: (b, l) bool, by more than their rounding.
        block: (b, l) the block that each position is in.
    """
    last = block == block[:, -1:]
    others = last.clone()
    others[:, -1] = False
    demand(
        not others.any() or bool((moved & others).any()),
        _name(model),
        "does not see the tokens after a position in its block: give it full attention there instead of a causal mask",
    )
    demand(
        not bool((far & ~last).any()),
        _name(model),
        f"sees later blocks than its own: mask them, or let block_length be None (it is {model.block_length})",
    )


def _block_by_block(model: MaskedDiffusionModel, prompt: Sequence[int], region: Tensor) -> Tensor:
    """(l, v) logits of a row, each block by a pass of its own over what the memory keeps."""
    assert model.block_length is not None
    tokens = torch.cat([torch.tensor(prompt, device=region.device), region])[None]
    attention, memory, found = torch.ones_like(tokens, dtype=torch.bool), model.memory(1, "exact"), []
    for own in torch.arange(len(prompt), tokens.shape[1]).split_with_sizes(
        _runs(len(prompt), len(region), model.block_length)
    ):
        hidden, memory = model.advance(tokens, attention, own.to(region.device), memory)
        found.append(model.head(hidden))
    return torch.cat(found)


def _runs(prompt: int, region: int, block: int) -> list[int]:
    """How many positions of the region are in each block."""
    ends = [*range(block - prompt % block, region, block), region]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _name(model: MaskedDiffusionModel) -> str:
    return f"The dLLM {model.name!r}"
