"""Train a small dLLM from scratch with LLaDA's objective (arXiv 2502.09992, section 2.2 and algorithm 2).

Of L positions, l ~ U{1..L} are masked, with cross-entropy weighted L/l, EOS padding trained as ordinary tokens: the
paper's low-variance form (its eq. 6) of a mask ratio t ~ U(0, 1) with weight 1/t. With t itself, a rare tiny t weighs
a single token a thousandfold, and at batch sizes of a laptop that noise drowns the rest. Every draw depends on
(seed, step) alone, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.checkpoint import read_checkpoint, weights_of, write_checkpoint
from unmask.errors import Stopped, UnmaskError
from unmask.files import read_object, write_text, written_whole
from unmask.hub import read_weights
from unmask.journal import Claim, check_begun
from unmask.models.auto import load_model
from unmask.pretrain.config import PretrainConfig
from unmask.pretrain.network import align, build_network, build_tokenizer
from unmask.pretrain.objective import (
    block_attention,
    diffusion_loss,
    draw_batch,
    draw_block_batch,
    draw_block_mask,
    draw_filled,
    draw_mask,
    learning_rate,
)
from unmask.tasks.auto import PUZZLES, TASKS, load_task
from unmask.tasks.procedural import ProceduralTask
from unmask.tasks.puzzle import Puzzle
from unmask.tasks.worked import check_styles

RECIPE = "pretrain.json"


@dataclass(frozen=True)
class PretrainProgress:
    """What a progress callback sees after each step."""

    step: int
    steps: int
    loss: float
    seconds: float


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    on_step: Callable[[PretrainProgress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> float:
    """Train a dLLM and write it to `config.output` as a standard Hugging Face folder.

    Args:
        resume: go on from the checkpoint beside the output folder; a training that has ended is left as it is.
        stop: asked after each step; True saves a checkpoint and ends with `Stopped`.

    Returns:
        Seconds spent in all, over all resumed parts.

    Raises:
        UnmaskError: a task that has no worked solutions, a checkpoint of another recipe, an output that exists, or
            that another process writes.
        Stopped: before the last step.
    """
    config = settled(config, resume=resume)
    if resume and (ended := _ended(config)) is not None:
        return ended
    training = _Training(config)
    output, checkpoint = Path(config.output), _checkpoint(config)
    claim = Claim(output, output.with_name(f".{output.name}.lock"), "--output")
    if resume:
        first, spent = training.restore(checkpoint)
    elif checkpoint.exists() or (output / RECIPE).exists():
        raise UnmaskError(f"{config.output} or its checkpoint exists: pass --resume to go on, or another --output.")
    elif output.exists():
        raise UnmaskError(f"{config.output} exists, and is no dLLM that this command has made: give another --output.")
    else:
        first, spent = 0, 0.0

    start = time.perf_counter() - spent
    for step in range(first, config.steps):
        loss = training.step(step)
        if not math.isfinite(loss):
            raise UnmaskError(f"The loss became {loss} at step {step}: lower --lr and start again.")
        seconds = time.perf_counter() - start
        if on_step is not None:
            on_step(PretrainProgress(step + 1, config.steps, loss, seconds))
        stopping = stop()
        if stopping or (step + 1) % config.save_every == 0:
            training.save(checkpoint, step + 1, seconds)
        if stopping and step + 1 < config.steps:
            raise Stopped(f"Stopped after step {step + 1} of {config.steps}; go on with --resume.")
    seconds = time.perf_counter() - start
    training.write(output, seconds)
    shutil.rmtree(checkpoint, ignore_errors=True)
    claim.release()
    return seconds


def settled(config: PretrainConfig, *, resume: bool = False) -> PretrainConfig:
    """With `bf16` as the checkpoint has it, or else as suits this CPU.

    Without AVX-512 bfloat16 is emulated, and a step takes many times as long as in float32.
    """
    if config.bf16 is not None:
        return config
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    saved = {
        _checkpoint(config) / "config.json": "delete the checkpoint and start again",
        Path(config.output) / RECIPE: "give another --output",
    }
    begun = next((path for path in saved if path.exists()), None)
    if resume and begun is not None:
        fast = bool(read_object(begun, saved[begun]).get("bf16", fast))
    return config.model_copy(update={"bf16": fast})


def _ended(config: PretrainConfig) -> float | None:
    """The seconds of a training that has ended; None of one that has not.

    Raises:
        UnmaskError: it had another recipe.
    """
    recipe = Path(config.output) / RECIPE
    if _checkpoint(config).exists() or not recipe.exists():
        return None
    before = read_object(recipe, "give another --output")
    try:
        _, seconds = _progress({"step": config.steps, "seconds": before.pop("seconds", 0.0)}, config.steps)
    except (TypeError, ValueError, OverflowError) as e:
        raise UnmaskError(f"{recipe} is damaged ({e}): give another --output.") from None
    wanted, usual = json.loads(config.model_dump_json()), PretrainConfig().model_dump()
    check_begun(config.output, before, wanted, "--output", free=("output", "save_every"), defaults=usual)
    return seconds


def _progress(found: Mapping[str, Any], steps: int) -> tuple[int, float]:
    """Steps done and seconds spent.

    Raises:
        ValueError: they cannot be.
    """
    step, seconds = found["step"], float(found["seconds"])
    if type(step) is not int or not 0 <= step <= steps or not 0 <= seconds < math.inf:
        raise ValueError(f"step {step} of {steps} after {seconds} seconds")
    return step, seconds


def _checkpoint(config: PretrainConfig) -> Path:
    return Path(f"{config.output}.checkpoint")


def _tasks(config: PretrainConfig) -> list[ProceduralTask]:
    tasks = []
    for name in config.tasks:
        task = load_task(name)
        if not isinstance(task, ProceduralTask):
            raise UnmaskError(f"Task {name!r} draws no texts to train on: use {', '.join([*TASKS, *PUZZLES])}.")
        if isinstance(task, Puzzle) and config.block_length is not None:
            raise UnmaskError(f"Task {name!r} is for dLLMs of full attention: leave out block_length.")
        if isinstance(task, Puzzle) and config.room < task.prompt_length + task.gen_length:
            raise UnmaskError(
                f"A problem of {name!r} takes {task.prompt_length} + {task.gen_length} positions, and max_prompt + 2 * "
                f"gen_length are {config.room}: raise one of them."
            )
        if isinstance(task, Puzzle) and task.prompt_length > config.max_prompt:
            raise UnmaskError(
                f"Prompts of {name!r} have {task.prompt_length} words: raise max_prompt, which is {config.max_prompt}."
            )
        tasks.append(task)
    return tasks


def check_recipe(config: PretrainConfig) -> None:
    """
    Raises:
        UnmaskError: a task that draws no texts, does not fit the positions, or has positions that cannot be aligned.
    """
    check_styles(config.styles)
    _main_puzzle(config, _tasks(config))


def _main_puzzle(config: PretrainConfig, tasks: Sequence[ProceduralTask]) -> Puzzle | None:
    """Whose positions are aligned; None if none are."""
    main, _ = max(zip(tasks, config.tasks.values(), strict=True), key=lambda one: one[1])
    if not config.aligned:
        return None
    if not isinstance(main, Puzzle):
        raise UnmaskError(f"Positions of {main.name!r} are not aligned with each other: leave out aligned.")
    return main


class _Training:
    """What is trained, and on what."""

    def __init__(self, config: PretrainConfig) -> None:
        check_styles(config.styles)
        self.config, self.tasks = config, _tasks(config)
        self.tokenizer = build_tokenizer(self.tasks)
        self.network = build_network(config, self.tokenizer).train()
        main = _main_puzzle(config, self.tasks)
        if main is not None:
            align(self.network, main.places(), self.tokenizer.pad_token_id + 1, config.seed)
        if config.start is not None:
            self._begin_with(config.start)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.lr, (0.9, 0.98), weight_decay=config.weight_decay
        )

    def _begin_with(self, name: str) -> None:
        other = load_model(name, device="cpu", dtype="float32")
        assert other.network is not None  # a family read from files has one
        ours, theirs = self.network.state_dict(), other.network.state_dict()
        alike = {key: one.shape for key, one in ours.items()} == {key: one.shape for key, one in theirs.items()}
        if not alike or other.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise UnmaskError(
                f"start {name!r} has other words or another shape: give it the recipe's own, or leave it."
            )
        self.network.load_state_dict(theirs)

    def step(self, step: int) -> float:
        """Take an optimiser step; returns the loss."""
        config, network = self.config, self.network
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
        loss = self._loss(step, generator) if config.block_length is None else self._block_loss(step, generator)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def _block_loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The loss of every block given the clean ones before it, in one pass over the noised and the clean row."""
        config = self.config
        assert config.block_length is not None
        tokens, region = draw_block_batch(config, self.tasks, self.tokenizer, step)
        masked, ratio = draw_block_mask(region, config.block_length, generator)
        shown = torch.where(masked, self.tokenizer.mask_token_id, tokens)
        filled = torch.zeros_like(masked)
        if torch.rand((), generator=generator) < config.edits:
            filled = draw_filled(masked, config.block_length, generator)
            with torch.no_grad():
                drawn = self._block_logits(shown, tokens).float().softmax(dim=-1)
            own = torch.multinomial(drawn.flatten(0, 1).cpu(), 1, generator=generator).view_as(tokens)
            shown = torch.where(filled, own, shown)
        logits = self._block_logits(shown, tokens)
        learned = masked | (filled.any() & region)  # right tokens are to stay, drawn ones to be corrected
        weight = ratio.masked_fill(filled | ~masked, 1.0)
        return diffusion_loss(logits, tokens.to(logits.device), learned.to(logits.device), weight.to(logits.device))

    def _block_logits(self, shown: Tensor, clean: Tensor) -> Tensor:
        """(b, t, v) of rows as they are shown, each block behind the clean ones."""
        assert self.config.block_length is not None
        network, length = self.network, clean.shape[1]
        device = network.device
        inputs = torch.cat([shown, clean], dim=1).to(device)
        place = torch.arange(length, device=device).repeat(2).expand(len(clean), -1)
        see = block_attention(length, self.config.block_length).to(device)[None, None].expand(len(clean), -1, -1, -1)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(self.config.bf16)):
            body = network.base_model(input_ids=inputs, attention_mask=see, position_ids=place, use_cache=False)
            logits: Tensor = network.get_output_embeddings()(body.last_hidden_state[:, :length])
        return logits

    def _loss(self, step: int, generator: torch.Generator) -> Tensor:
        """LLaDA's."""
        config, network = self.config, self.network
        tokens, length = draw_batch(config, self.tasks, self.tokenizer, step)
        masked, ratio = draw_mask(len(tokens), length, generator)
        target = tokens[:, -length:]
        inputs = torch.cat([tokens[:, :-length], torch.where(masked, self.tokenizer.mask_token_id, target)], dim=1)
        device = network.device
        attention = (inputs != self.tokenizer.pad_token_id).long().to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16)):
            logits = network(input_ids=inputs.to(device), attention_mask=attention).logits[:, -length:]
        return diffusion_loss(logits, target.to(device), masked.to(device), ratio.to(device))

    def save(self, path: Path, step: int, seconds: float) -> None:
        with written_whole(path) as draft:
            save_file(weights_of(self.network), draft / "model.safetensors")
            write_checkpoint(draft, self.network, self.optimizer, {"step": step, "seconds": seconds})
            write_text(draft / "config.json", self.config.model_dump_json(indent=2) + "\n")

    def restore(self, path: Path) -> tuple[int, float]:
        """Steps done and seconds spent."""
        if not path.exists():
            remedy = "give another --output" if Path(self.config.output).exists() else "start without --resume"
            raise UnmaskError(f"No checkpoint at {path}: {remedy}.")
        wanted = json.loads(self.config.model_dump_json())
        before = read_object(path / "config.json", "delete the checkpoint and start again")
        usual = PretrainConfig().model_dump()
        check_begun(path, before, wanted, "--output", free=("output", "save_every"), defaults=usual)
        try:
            weights = path / "model.safetensors"
            progress = read_checkpoint(path, self.network, self.optimizer, read_weights(weights), weights)
            return _progress(progress, self.config.steps)
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise UnmaskError(f"The checkpoint {path} is damaged ({e}): delete it and start again.") from None

    def write(self, output: Path, seconds: float) -> None:
        """The dLLM as a standard folder, with its recipe and the time that it took."""
        with written_whole(output) as folder:
            self.network.eval().save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            if self.config.stored == "bfloat16":  # config.json says float32, in which it is loaded
                weights = {name: one.bfloat16() for name, one in load_file(folder / "model.safetensors").items()}
                save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            if self.config.block_length is not None:
                own = {
                    "model_type": "sdar",
                    "architectures": ["SDARForCausalLM"],
                    "block_length": self.config.block_length,
                }
                own |= {"mask_token_id": self.tokenizer.mask_token_id}
                known = read_object(folder / "config.json", "write the dLLM again")
                write_text(folder / "config.json", json.dumps({**known, **own}, indent=2) + "\n")
            recipe = {**self.config.model_dump(mode="json"), "seconds": seconds}
            write_text(folder / RECIPE, json.dumps(recipe, indent=2) + "\n")
