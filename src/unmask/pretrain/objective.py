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
from unmask.tasks.worked import WorkedTask


def lengths_at(config: PretrainConfig, step: int) -> dict[int, float]:
    """Numbers of steps of a problem with their weights: short problems first, all of them after the curriculum."""
    grown = step / (config.curriculum * config.steps) if config.curriculum else 1.0
    longest = 1 + int((len(config.lengths) - 1) * min(1.0, grown))
    return dict(enumerate(config.lengths[:longest], 1))


def draw_batch(
    config: PretrainConfig, tasks: Sequence[WorkedTask], tokenizer: PreTrainedTokenizerFast, step: int
) -> tuple[Int[Tensor, "b t"], int]:
    """Left-padded prompts with their completions, EOS to the end of the region; and the region length."""
    rng = random.Random(f"{config.seed}/{step}")
    double = rng.random() < config.double_share
    length = config.gen_length * (2 if double else 1)
    size = max(1, config.batch_size // (2 if double else 1))
    shares = [config.tasks[task.name] for task in tasks]
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
    task: WorkedTask,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    step: int,
    length: int,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of a solution that the region holds; long problems come up at 2L only."""
    for _ in range(1000):
        text = task.training_text(rng, lengths_at(config, step), config.styles)
        prompt, solution = tokenizer(list(text), add_special_tokens=False)["input_ids"]
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


def diffusion_loss(
    logits: Float[Tensor, "b l v"],
    target: Int[Tensor, "b l"],
    masked: Bool[Tensor, "b l"],
    ratio: Float[Tensor, "b 1"],
) -> Float[Tensor, ""]:
    """LLaDA's loss: cross-entropy of the masked tokens, each weighted by 1 / ratio, over b * l positions."""
    entropy = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    return (entropy * masked / ratio).mean()


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then linearly to zero."""
    return config.lr * min((step + 1) / max(config.warmup, 1), 1.0) * (1 - step / config.steps)
