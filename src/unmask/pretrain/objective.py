"""LLaDA's objective on procedural text (arXiv 2502.09992, section 2.2 and algorithm 2): batches, masks, loss."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.errors import UnmaskError
from unmask.pretrain.config import PretrainConfig
from unmask.tasks.procedural import ProceduralTask, Stage
from unmask.tasks.puzzle import Puzzle


def stage_at(config: PretrainConfig, step: int) -> Stage:
    """Easy problems first, all of them after the curriculum."""
    grown = min(1.0, step / (config.curriculum * config.steps)) if config.curriculum else 1.0
    longest = 1 + int((len(config.lengths) - 1) * grown)
    return Stage(grown, dict(enumerate(config.lengths[:longest], 1)), config.styles)


def draw_batch(
    config: PretrainConfig, tasks: Sequence[ProceduralTask], tokenizer: PreTrainedTokenizerFast, step: int
) -> tuple[Int[Tensor, "b t"], int]:
    """Left-padded prompts with their completions, EOS to the end of the region; and the region length.

    All of a batch have one region: that of a puzzle is as long as its answers.

    Args:
        tasks: those of the recipe, in its order.
    """
    rng = random.Random(f"{config.seed}/{step}")
    double = rng.random() < config.double_share
    length = config.gen_length * (2 if double else 1)
    shares = list(config.tasks.values())
    if any(isinstance(task, Puzzle) for task in tasks):
        first = rng.choices(tasks, shares)[0]
        length = first.gen_length if isinstance(first, Puzzle) else length
        alike = [i for i, task in enumerate(tasks) if task.gen_length == length or task is first]
        tasks, shares = [tasks[i] for i in alike], [shares[i] for i in alike]
    size = max(1, config.batch_size * config.gen_length // max(length, config.gen_length))
    drawn = rng.choices(tasks, shares, k=size)
    texts = [_fitting_text(config, task, tokenizer, rng, step, length) for task in drawn]
    prompts, solutions = [prompt for prompt, _ in texts], [solution for _, solution in texts]
    width = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows = [
        [pad] * (width - len(prompt)) + prompt + solution + [eos] * (length - len(solution))
        for prompt, solution in zip(prompts, solutions, strict=True)
    ]
    return torch.tensor(rows), length


def _fitting_text(
    config: PretrainConfig,
    task: ProceduralTask,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    step: int,
    length: int,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of a solution that the region holds; long problems come up at 2L only."""
    for _ in range(1000):
        text = task.training_text(rng, stage_at(config, step))
        # One by one: a batch of two costs ten times as much, in waking threads.
        prompt, solution = (tokenizer.backend_tokenizer.encode(one, add_special_tokens=False).ids for one in text)
        if len(solution) <= length and len(prompt) <= config.max_prompt:
            return prompt, solution
    raise UnmaskError(
        f"No problem of {task.name!r} fits max_prompt {config.max_prompt} and region {length}: raise one of them."
    )


def draw_mask(size: int, length: int, generator: torch.Generator) -> tuple[Bool[Tensor, "b l"], Float[Tensor, "b 1"]]:
    """Masked positions and each row's mask ratio l / L; the l of a batch are spread evenly over 1..L."""
    t = (torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)) / size
    count = 1 + (t * length).long().clamp(max=length - 1)[:, None]
    rank = torch.rand(size, length, generator=generator).argsort(dim=1).argsort(dim=1)
    return rank < count, count / length


def draw_block_batch(
    config: PretrainConfig, tasks: Sequence[ProceduralTask], tokenizer: PreTrainedTokenizerFast, step: int
) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
    """Prompts, each followed by its completion and EOS up to the end of a block, without padding; and the region."""
    rng = random.Random(f"{config.seed}/{step}")
    assert config.block_length is not None
    drawn = rng.choices(tasks, list(config.tasks.values()), k=config.batch_size)
    texts = [_fitting_text(config, task, tokenizer, rng, step, config.gen_length) for task in drawn]
    longest = max(len(prompt) for prompt, _ in texts) + config.gen_length
    width = -(-longest // config.block_length) * config.block_length
    rows = [
        [*prompt, *answer, *[tokenizer.eos_token_id] * (width - len(prompt) - len(answer))] for prompt, answer in texts
    ]
    begins = torch.tensor([len(prompt) for prompt, _ in texts])
    return torch.tensor(rows), torch.arange(width) >= begins[:, None]


def draw_block_mask(
    region: Bool[Tensor, "b t"], block_length: int, generator: torch.Generator
) -> tuple[Bool[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Masked positions of each block, and their share of its region: drawn for blocks as `draw_mask` does for rows."""
    b, t = region.shape
    each = region.view(-1, block_length)
    size = each.sum(dim=1, keepdim=True)
    spread = (torch.randperm(len(each), generator=generator) + torch.rand(len(each), generator=generator)) / len(each)
    count = 1 + (spread[:, None] * size).long().clamp(max=size - 1)
    noise = torch.rand(each.shape, generator=generator).masked_fill(~each, 2.0)
    masked = (noise.argsort(dim=1).argsort(dim=1) < count) & each
    share = (count.clamp(min=1) / size.clamp(min=1)).expand(-1, block_length)  # a block of the prompt has none
    return masked.view(b, t), share.reshape(b, t)


def draw_filled(masked: Bool[Tensor, "b t"], block_length: int, generator: torch.Generator) -> Bool[Tensor, "b t"]:
    """Masked positions that are filled before the loss: a share of each block's, all of them in every fourth or so."""
    blocks = masked.view(-1, block_length)
    share = torch.rand(len(blocks), 1, generator=generator) * 4 / 3
    return ((torch.rand(blocks.shape, generator=generator) < share) & blocks).view_as(masked)


def block_attention(length: int, block_length: int) -> Bool[Tensor, "s s"]:
    """Who sees whom where a noised row stands before the same row without noise (arXiv 2503.09573).

    A noised position sees its own noised block and the clean ones before it; a clean one clean blocks up to its own.
    """
    block = torch.arange(length) // block_length
    same, before = block[:, None] == block[None], block[None] < block[:, None]
    return torch.cat([torch.cat([same, before], dim=1), torch.cat([same & False, same | before], dim=1)])


def diffusion_loss(
    logits: Float[Tensor, "b l v"],
    target: Int[Tensor, "b l"],
    masked: Bool[Tensor, "b l"],
    ratio: Float[Tensor, "b k"],
) -> Float[Tensor, ""]:
    """LLaDA's loss: cross-entropy of the masked tokens, each weighted by 1 / ratio, over b * l positions.

    Args:
        ratio: of each row (k = 1), or of each position's block (k = l).
    """
    entropy = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    return (entropy * masked / ratio).mean()


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then linearly to zero."""
    return config.lr * min((step + 1) / max(config.warmup, 1), 1.0) * (1 - step / config.steps)
