"""Train a small dLLM from scratch: the recipe, LLaDA's objective, and the run."""

from unmask.pretrain.config import PretrainConfig
from unmask.pretrain.network import build_network, build_tokenizer
from unmask.pretrain.objective import diffusion_loss, draw_batch, draw_mask, learning_rate, stage_at
from unmask.pretrain.training import PretrainProgress, check_recipe, pretrain, settled

__all__ = [
    "PretrainConfig",
    "PretrainProgress",
    "build_network",
    "build_tokenizer",
    "check_recipe",
    "diffusion_loss",
    "draw_batch",
    "draw_mask",
    "learning_rate",
    "pretrain",
    "settled",
    "stage_at",
]
