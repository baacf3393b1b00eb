"""`check_reward`: does a reward keep what training relies on?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.rl.rewards import Outcome, Reward
from unmask.tasks.base import Example
from unmask.testing.demand import demand


def check_reward(
    reward: Reward,
    *,
    examples: Sequence[Example] | None = None,
    texts: Sequence[str] | None = None,
    gen_length: int = 32,
    seed: int = 0,
) -> None:
    """Check a reward on episodes that are right and wrong, fast and slow.

    It must give one finite number per episode, the same each time; judge each episode by itself, whatever the batch
    and its order; leave the outcome as it was; and pay no more for an episode that took more passes.

    Args:
        reward: as `unmask.rl.rewards.load_reward` gives it.
        examples: prompts with the columns that the reward reads; None for ten with none.
        texts: a completion for each; None for their answers.

    Raises:
        UnmaskError: naming the first property that does not hold.
    """
    name = f"The reward {getattr(reward, '__name__', type(reward).__name__)!r}"
    generator = torch.Generator().manual_seed(seed)
    if examples is None:
        examples = [Example(f"prompt {i}", f"answer {i}") for i in range(10)]
    texts = [example.answer for example in examples] if texts is None else texts
    n = len(examples)
    correct = torch.arange(n) % 2 == 0
    outcome = Outcome(examples, texts, correct, torch.randint(1, gen_length + 1, (n,), generator=generator), gen_length)
    before = outcome.correct.clone(), outcome.nfe.clone()
    values = _values(reward, name, outcome)
    kept = torch.equal(before[0], outcome.correct) and torch.equal(before[1], outcome.nfe)
    demand(kept, name, "must not write into outcome.correct or outcome.nfe")
    demand(
        torch.equal(_values(reward, name, outcome), values),
        name,
        "must give the same for the same episodes: draw no numbers and keep no state",
    )
    order = torch.randperm(n, generator=generator).tolist()
    alone = torch.cat([_values(reward, name, _take(outcome, [i])) for i in range(n)])
    demand(
        _same(alone, values) and _same(_values(reward, name, _take(outcome, order)), values[order]),
        name,
        "must judge each episode by itself: it got another reward in another batch (the advantage compares a group)",
    )
    for right in (True, False):
        _check_speed(reward, name, examples[0], texts[0], right, gen_length)


def _check_speed(reward: Reward, name: str, example: Example, text: str, right: bool, gen_length: int) -> None:
    nfe = torch.arange(1, gen_length + 1)
    n = len(nfe)
    rewards = _values(reward, name, Outcome([example] * n, [text] * n, torch.full((n,), right), nfe, gen_length))
    demand(
        bool((rewards.diff() <= 1e-6).all()),
        name,
        f"pays more for more forward passes where the answer is {'right' if right else 'wrong'}: let it fall with NFE",
    )


def _values(reward: Reward, name: str, outcome: Outcome) -> Tensor:
    """(r,) rewards, checked."""
    values = reward(outcome)
    n = len(outcome.texts)
    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    demand(
        isinstance(values, Tensor) and values.shape == (n,) and values.is_floating_point(),
        name,
        f"must give a float tensor of shape ({n},), one number per episode, not {got}",
    )
    demand(bool(values.isfinite().all()), name, "gives rewards that are not finite: look for divisions by 0")
    return values.clone()


def _take(outcome: Outcome, rows: Sequence[int]) -> Outcome:
    index = torch.tensor(rows)
    examples, texts = [outcome.examples[i] for i in rows], [outcome.texts[i] for i in rows]
    return Outcome(examples, texts, outcome.correct[index], outcome.nfe[index], outcome.gen_length)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)
