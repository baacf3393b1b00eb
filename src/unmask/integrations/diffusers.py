"""A policy as the scheduler of diffusers' `LLaDA2Pipeline` (`pip install unmask[diffusers]`).

    from diffusers import LLaDA2Pipeline
    from unmask.integrations.diffusers import UnmaskScheduler

    pipe = LLaDA2Pipeline(model=model, scheduler=UnmaskScheduler("runs/mine", speed=0.7), tokenizer=tokenizer)
    pipe(prompt="...", gen_length=256, block_length=32)

The policy decides how many steps a block takes: `num_inference_steps`, `threshold`, `minimal_topk` and
`editing_threshold` of the call do nothing. The rows of a batch wait for each other at the end of each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import snapshot_download
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unmask.decoding.options import speeds_of
from unmask.errors import UnmaskError
from unmask.integrations.engine import inside_region, policy_for, reveal, tell_version
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys

try:
    from diffusers import BlockRefinementScheduler
    from diffusers.configuration_utils import register_to_config
    from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
except ImportError:
    raise UnmaskError("There is no diffusers with BlockRefinementScheduler: pip install 'unmask[diffusers]'.") from None

KNOWN = ("0.42.",)
POLICY = "policy"  # folder in a saved scheduler's

tell_version("diffusers", KNOWN)


@dataclass
class _Block:
    """Where the batch stands; each tensor has a value per row.

    Attributes:
        offset: place of the block's first position in the region.
        gen_length: of the region.
        step: steps the row has taken in the region.
        block_step: steps it has taken in the block.
        unfinished: the last step left something masked.
    """

    offset: int
    gen_length: int
    step: Int[Tensor, " b"]
    block_step: Int[Tensor, " b"]
    unfinished: Bool[Tensor, " b"]


class UnmaskScheduler(BlockRefinementScheduler):  # type: ignore[misc]
    """Reveals of each block what a policy says, and writes there what the pipeline draws (by default: the likeliest).

    Args:
        policy: what `unmask.load_policy` reads: a folder, a bundled name, a Hub id, a rule with its settings.
        speed: of a policy with a speed, from 0 (slow, careful) to 1 (fast).
        seed: of a policy that draws; row i of a batch has its own stream, as in `unmask.generate`.
        gen_length: that the pipeline is called with: the policy then decides as in `unmask.generate` with this
            `gen_length`. By default each block is a region of its own.
        block_length: where the call names none.
        num_inference_steps: until the pipeline sets it; it bounds nothing.

    Raises:
        UnmaskError: a policy that needs what a pipeline does not show; a speed for one that has none.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        policy: str = "confidence_threshold:threshold=0.9",
        speed: float | None = None,
        seed: int = 0,
        gen_length: int | None = None,
        block_length: int = 32,
        num_inference_steps: int = 32,
    ) -> None:
        self.policy = policy_for("diffusers' pipeline", policy)
        self.speed = (speeds_of(self.policy.needs, speed, None, 1) or [0.0])[0]
        self.set_timesteps(num_inference_steps, block_length=block_length)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, block_length: int | None = None
    ) -> None:
        """Begin anew; the pipeline does so in each call."""
        super().set_timesteps(num_inference_steps, device=device, block_length=block_length)
        self._block: _Block | None = None

    def step(
        self,
        model_output: Float[Tensor, "b n v"],
        timestep: int | Tensor,
        sample: Int[Tensor, "b n"],
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        prompt_mask: Bool[Tensor, " n"] | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> Any:
        """One step of a block.

        Args:
            model_output: logits of the block.
            timestep: steps taken in this block; 0 begins one.
            sample: tokens of the block.
            mask_token_id: of the dLLM.
            temperature: of the tokens, as are `top_p`, `top_k`, `sampling_method` and `generator`; the policy sees the
                plain softmax.
            prompt_mask: positions of the prompt.

        Returns:
            diffusers' `BlockRefinementSchedulerOutput`, or its values as a tuple.

        Raises:
            UnmaskError: no mask token, as in DiffusionGemma's pipeline; NaN logits.
        """
        if mask_token_id is None:
            raise UnmaskError(
                "UnmaskScheduler reveals masked tokens, and this pipeline has no mask token: use it in LLaDA2Pipeline."
            )
        fixed = torch.zeros_like(sample[0], dtype=torch.bool) if prompt_mask is None else prompt_mask
        if int(timestep) == 0 or self._block is None or len(self._block.step) != len(sample):
            self._block = self._next(sample, int(fixed.sum()))
        block, rows = self._block, len(sample)
        offset, lengths = torch.full_like(block.step, block.offset), [block.gen_length] * rows
        masked = (sample == mask_token_id) & ~fixed
        action, _likeliest = reveal(
            self.policy,
            model_output,
            masked,
            offset=offset,
            gen_length=lengths,
            step=block.step,
            block_step=block.block_step,
            key=row_keys(self.config.seed, torch.arange(rows, device=sample.device)),
            speed=torch.full((rows,), self.speed, device=sample.device),
            mask_id=mask_token_id,
        )
        token, probability = self._sample_from_logits(
            model_output.index_fill(-1, torch.tensor([mask_token_id], device=sample.device), -torch.inf),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            use_multinomial=sampling_method != "greedy" and temperature > 0,
        )
        inside = inside_region(sample.shape[1], offset, lengths)
        live = (masked & inside).any(dim=1)  # a row that has finished its block waits, and counts no step
        block.step, block.block_step = block.step + live, block.block_step + live
        block.unfinished = (masked & inside & ~action).any(dim=1)
        edited = torch.zeros_like(action)
        found = (torch.where(action, token, sample), action, edited, token, probability, model_output)
        return BlockRefinementSchedulerOutput(*found) if return_dict else found

    def _next(self, sample: Int[Tensor, "b n"], prompt: int) -> _Block:
        """The block that begins here.

        Args:
            prompt: positions of it that are the prompt's.
        """
        self.policy.place(sample.device)
        rows, n = sample.shape
        nothing = torch.zeros(rows, dtype=torch.long, device=sample.device)
        before, length = self._block, self.config.gen_length
        unfinished = torch.ones_like(nothing, dtype=torch.bool)
        if length is None:
            return _Block(-prompt, n - prompt, nothing, nothing, unfinished)
        if before is None or len(before.step) != rows:
            return _Block(-prompt, length, nothing, nothing, unfinished)
        return _Block(before.offset + n, length, before.step, nothing, unfinished)

    def check_block_should_continue(self, *, finished: Bool[Tensor, " b"], **_: Any) -> bool:
        """Whether a row that has not ended has something left to reveal in this block; what the policy does not reveal
        stays masked, so no number of steps ends one.
        """
        return self._block is not None and bool((self._block.unfinished & ~finished).any())

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As any scheduler's, with the policy in a folder beside the config: both can be moved."""
        super().save_pretrained(str(save_directory), **kwargs)
        self.policy.save(Path(save_directory) / POLICY)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **kwargs: Any
    ) -> UnmaskScheduler:
        """As any scheduler's, from a folder or the Hub, with the policy that was saved with it."""
        home = Path(pretrained_model_name_or_path)
        if not home.is_dir():
            home = Path(snapshot_download(str(pretrained_model_name_or_path), revision=kwargs.pop("revision", None)))
        if (home / (subfolder or "") / POLICY).is_dir():
            kwargs.setdefault("policy", str(home / (subfolder or "") / POLICY))
        return super().from_pretrained(str(home), subfolder=subfolder, **kwargs)


class PipelineModel(nn.Module):
    """A dLLM of `unmask.load_model` in the form that LLaDA2Pipeline asks for: block-causal where the dLLM is.

    The pipeline gives no mask between blocks, and published code without one attends in full.

    Args:
        model: block-causal, or with full attention.
    """

    def __init__(self, model: MaskedDiffusionModel) -> None:
        super().__init__()
        self.network, self._model = model.network, model

    @property
    def device(self) -> torch.device:
        """Of its weights."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    @torch.no_grad()
    def forward(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"], position_ids: Int[Tensor, "b t"]
    ) -> SimpleNamespace:
        """Logits of the last block alone, all that the pipeline reads.

        Args:
            attention_mask: 0 at left padding; what is 0 behind a token is the rest of the last block, which this dLLM
                was trained to see as masks.
            position_ids: left out: padding takes up no position.
        """
        b, t = input_ids.shape
        n = min(self._model.block_length or t, t)
        attention = attention_mask.cummax(dim=1).values.bool()
        positions = (torch.arange(b)[:, None] * t + torch.arange(t - n, t)).flatten().to(input_ids.device)
        return SimpleNamespace(logits=self._model.logits(input_ids, attention, positions).unflatten(0, (b, n)))
