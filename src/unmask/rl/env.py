"""The Markov decision process: decoding, one step at a time, for any learner (arXiv 2512.09106, section 3).

    env = DecodingEnv(model, task, block_length=8)
    seen = env.reset(task.examples("train", 16))
    while env.live.any():
        seen, reward, terminated, truncated = env.step(policy.select(seen))

It runs the same `observe`, `write`, `transition` and `ended` as `unmask.generate`, so that what is learnt here is what
decodes there. `unmask.integrations.gym` shows it as a Gymnasium environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.blocks import AdaptiveBlocks, make_blocks, parse_block_length
from unmask.decoding.source import begin, check_prompts, encode_example
from unmask.decoding.step import BUDGET, RUNNING, Observed, ended, observe, transition, write
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.rl.rewards import Outcome, Reward, load_reward
from unmask.tasks.base import Example, Task
from unmask.types import DecodingState, Needs, Observation


class Transition(NamedTuple):
    """What `DecodingEnv.step` gives, one entry a row.

    Attributes:
        observation: what the policy sees next; rows that have ended show their last confidences, what they left masked,
            and nothing selectable.
        reward: 0 until a row ends.
        terminated: the row has ended because nothing is masked.
        truncated: the row has ended because its step budget was spent with masks left.
    """

    observation: Observation
    reward: Float[Tensor, " n"]
    terminated: Bool[Tensor, " n"]
    truncated: Bool[Tensor, " n"]


class DecodingEnv:
    """n episodes side by side: each row decodes one example; rows never wait for each other nor change each other.

    An episode that has ended stays as it is and costs nothing, until `begin` puts a new one into its row.

    Args:
        block_length: as in `unmask.generate`; None is full diffusion.
        reward: of an episode's outcome; the multiplicative one with alpha 1 by default.
        max_steps: step budget of an episode, gen_length by default.
        needs: what the observation must hold.

    Attributes:
        live: (n,) rows whose episode has not ended.
        nfe: (n,) forward passes of each row's episode so far.
        texts, correct: of each row's last ended episode.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        task: Task,
        *,
        gen_length: int | None = None,
        block_length: int | str | AdaptiveBlocks | None = None,
        reward: Reward | None = None,
        max_steps: int | None = None,
        needs: Needs | None = None,
    ) -> None:
        if not task.verifiable:
            raise UnmaskError(
                f"The task {task.name!r} has no verifier, so that no episode can be rewarded: give it one."
            )
        self.model = model
        self.task = task
        self.gen_length = gen_length or task.gen_length
        self.needs = needs or Needs(positions="region")
        self.reward = reward or load_reward("multiplicative", 1.0)
        self.max_steps = self.gen_length if max_steps is None else max_steps
        self._blocks = make_blocks(parse_block_length(block_length), self.gen_length, model)
        self._state: DecodingState | None = None
        self._seen: Observed | None = None
        self._shown: Observation | None = None

    def reset(self, examples: Sequence[Example], *, seed: int = 0) -> Observation:
        """Start one episode for each example.

        Args:
            seed: of the noise in observations; each episode from here on has a stream of its own.

        Raises:
            UnmaskError: no example, or a prompt too long for the dLLM.
        """
        n = len(examples)
        self._state, self._shown, self._examples = None, None, list(examples)
        self.live = torch.zeros(n, dtype=torch.bool)
        self.nfe = torch.zeros(n, dtype=torch.long)
        self.correct = torch.zeros(n, dtype=torch.bool)
        self.texts = [""] * n
        self._seed, self._episodes = seed, 0
        self.begin(range(n), examples)
        return self.observe()

    def begin(self, rows: Sequence[int], examples: Sequence[Example]) -> None:
        """Start new episodes in rows whose last one has ended; call `observe` for what they show.

        Raises:
            UnmaskError: a row is still live, or a prompt is too long.
        """
        prompts = [encode_example(self.model, example) for example in examples]
        check_prompts(self.model, prompts, self.gen_length, 1, self.max_steps)
        for row, example in zip(rows, examples, strict=True):
            if self.live[row]:
                raise UnmaskError(f"The episode in row {row} has not ended: step until it has, or reset.")
            self._examples[row] = example
            self.live[row], self.nfe[row] = True, 0
        keys = row_keys(self._seed, torch.arange(self._episodes, self._episodes + len(rows)))
        self._episodes += len(rows)
        fresh = begin(self.model, prompts, self.gen_length, rows=list(rows), keys=keys)
        self._state = self._state.join(fresh, self.model.pad_id) if self._state is not None else fresh
        self._seen = None

    @torch.no_grad()
    def observe(self) -> Observation:
        """One forward pass of the live rows: what the policy sees, one row an episode."""
        if self._state is None or not len(self._state):
            raise UnmaskError("All episodes have ended: reset, or begin new ones.")
        if self._seen is None:
            self._seen = observe(self.model, self._state, self.needs, self._blocks)
            self._show(self._seen.state, self._seen.observation)
        assert self._shown is not None
        return self._shown

    @property
    def shown(self) -> Observation:
        """The last observation, with what `act` has changed since."""
        assert self._shown is not None
        return self._shown

    def step(self, action: Bool[Tensor, "n l"]) -> Transition:
        """`act`, then `observe` unless all rows have ended."""
        reward, terminated, truncated = self.act(action)
        return Transition(self.observe() if self.live.any() else self.shown, reward, terminated, truncated)

    @torch.no_grad()
    def act(self, action: Bool[Tensor, "n l"]) -> tuple[Tensor, Tensor, Tensor]:
        """Reveal the chosen positions that are selectable; others are ignored. No forward pass.

        Returns:
            reward, terminated, truncated, as in `Transition`.
        """
        self.observe()
        seen = self._seen
        assert seen is not None
        if tuple(action.shape) != (len(self.live), self.gen_length):
            raise UnmaskError(
                f"The action has shape {tuple(action.shape)}: give one boolean for each of {len(self.live)} rows and "
                f"{self.gen_length} positions."
            )
        chosen = action.to(self.model.device)[seen.state.row] & seen.observation.selectable
        state = transition(seen.state, write(self.model, seen, chosen, 0.0), chosen)
        after = replace(
            seen.observation,
            masked=state.masked,
            selectable=torch.zeros_like(state.masked),
            step_fraction=state.step.to(torch.float32) / self.gen_length,
        )
        self._show(state, after)
        why = ended(state, self.model.eos_ids, self.max_steps, stop_at_eos=False).cpu()
        over = why != RUNNING
        rows = state.row.cpu()
        self.nfe[rows] = state.step.cpu()
        reward = torch.zeros(len(self.live))
        terminated, truncated = torch.zeros_like(self.live), torch.zeros_like(self.live)
        if over.any():
            gone = rows[over]
            self.live[gone] = False
            terminated[gone], truncated[gone] = why[over] != BUDGET, why[over] == BUDGET
            outcome = self._judge(state.take(over.to(state.row.device)), gone, ~truncated[gone])
            reward[gone] = self.reward(outcome).cpu().float()
            state = state.take(~over.to(state.row.device)).trim()
        self._state, self._seen = state, None
        return reward, terminated, truncated

    def _show(self, state: DecodingState, seen: Observation) -> None:
        """Put the live rows in their places."""
        n, rows = len(self.live), state.row
        last = vars(self._shown) if self._shown is not None else {}
        self._shown = replace(
            seen,
            **{
                name: (value.new_zeros(n, *value.shape[1:]) if last.get(name) is None else last[name]).index_copy(
                    0, rows, value
                )
                for name, value in vars(seen).items()
                if value is not None
            },
        )

    def _judge(self, gone: DecodingState, rows: Int[Tensor, " r"], complete: Bool[Tensor, " r"]) -> Outcome:
        examples = [self._examples[row] for row in rows.tolist()]
        texts = [self.model.text(row) for row in gone.region.tolist()]
        verified = self.task.verify_all(examples, texts)
        correct = torch.tensor(verified) & complete
        for row, text in zip(rows.tolist(), texts, strict=True):
            self.texts[row] = text
        self.correct[rows] = correct
        return Outcome(examples, texts, correct, gone.step.cpu(), self.gen_length)
