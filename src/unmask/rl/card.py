"""What a run is, in words: before it starts, and as the model card of its policy."""

from __future__ import annotations

from pathlib import Path

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.rl.algorithms.base import AlgorithmSettings
from unmask.rl.config import TrainConfig
from unmask.rl.run import read_metrics


def describe(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """What a training run is about to do, in two lines."""
    settings, run = config.algorithm.settings, config.run
    warm = f"From {config.policy.init or 'fresh weights'}" + (f", clone {_cloned(config)}" if config.clones else "")
    then = f", then {run.iterations} iterations of {_learning(config)} each" if run.iterations else ""
    return (
        f"A policy for {model} on {task}: {_where(config)}, {gen_length} positions, "
        f"{_reward(settings)}.\n{warm}{then}; run folder {run.folder}."
    )


def _cloned(config: TrainConfig, in_card: bool = False) -> str:
    """The policies, or the rule."""
    names = [f"`{name}`" if in_card else name for name in config.clone.teachers or [str(config.clone.rule)]]
    return " and ".join(names) + (" in blocks" if in_card and not config.clone.teachers else "")


def card(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """The model card of a trained policy."""
    lines = read_metrics(Path(config.run.folder) / "metrics.jsonl")
    validations = [m for m in lines if m["stage"] in ("validation", "temperature")]
    reached = max(validations, key=lambda m: (m["reward"], -m["nfe"]))  # as the keeper chooses
    chosen = max((m for m in validations if m["stage"] == "validation"), key=lambda m: (m["reward"], -m["nfe"]))
    settings, block_length = config.algorithm.settings, config.decode.block_length
    adaptive = isinstance(block_length, AdaptiveBlocks)
    block = (
        ""
        if block_length is None
        else f', block_length="{block_length}"'
        if adaptive
        else f", block_length={block_length}"
    )
    block += "" if config.decode.cache is None else f', cache="{config.decode.cache}"'
    speed = ", speed=0.5" if config.policy.network.has_speed else ""
    start = f"`{config.policy.init}`" if config.policy.init else "fresh weights"
    start += f", fitted to {_cloned(config, in_card=True)}" if config.clones else ""
    done = max(line["iteration"] for line in lines)
    surer = f", its logits divided by {reached['temperature']:g}" if reached["stage"] == "temperature" else ""
    learnt = (
        f"""{done} iterations of {_learning(config)}
each, learning rate {settings.lr:g}, {_reward(settings)}."""
        if config.run.iterations
        else "No reinforcement learning followed."
    )
    over_all = ", the means of all" if config.task.also else ""
    return f"""---
license: apache-2.0
library_name: unmask
tags: [masked-diffusion, dllm, unmasking-policy]
---

# {Path(config.run.folder).name}

An unmasking policy (arXiv 2512.09106) for the dLLM `{model}` in {_where(config)}{_network(config)}.
Trained on `{task}`{_in_turns(config)}, region {gen_length}, seed {config.run.seed}, starting from {start}.
{learnt}
Kept is the checkpoint that was best on validation prompts, of iteration {chosen["iteration"]}{surer}:
{100 * reached["correct"]:.1f}% correct at {reached["nfe"]:.1f} forward passes{over_all}.

```python
model, policy = unmask.load_model("{model}"), unmask.load_policy(...)
out = unmask.generate(model, policy, prompts, gen_length={gen_length}{block}{speed})
```
"""


def _in_turns(config: TrainConfig) -> str:
    """The other dLLMs and tasks that it was trained on."""
    return "".join(f", in turns with `{each}`" for each in config.task.also)


def _reward(settings: AlgorithmSettings) -> str:
    """The reward, with its weight of speed."""
    weight, name = settings.weight, "beta" if settings.reward == "scale_free" else "alpha"
    if weight is None:
        return f"{settings.reward} reward"
    told = f"{weight:g}" if not isinstance(weight, tuple) else f"{weight[0]:g} (speed 0) to {weight[1]:g} (speed 1)"
    return f"{settings.reward} reward, {name} {told}"


def _where(config: TrainConfig) -> str:
    length = config.decode.block_length
    cache = "" if config.decode.cache is None else f" under the {config.decode.cache} cache"
    return (
        "full diffusion" if length is None else f"blocks of {length}" if isinstance(length, int) else "adaptive blocks"
    ) + cache


def _network(config: TrainConfig) -> str:
    """Its type, and what the user changed of it; a policy to start from brings its own."""
    if config.policy.init:
        return ""
    changed = ", ".join(f"{k} = {v}" for k, v in config.policy.network.model_dump(exclude_defaults=True).items())
    return f"; network `{config.policy.type}`" + (f" ({changed})" if changed else "")


def _learning(config: TrainConfig) -> str:
    """The algorithm and its roll-outs."""
    settings, experts = config.algorithm.settings, len(config.algorithm.make().experts)
    steered = f" + {experts} expert(s)" if experts else ""
    return f"{config.algorithm.name.upper()}, {settings.prompts} prompts x {settings.group_size} roll-outs{steered}"
