"""The Markov decision process: decoding, one step at a time, for any learner (arXiv 2512.09106, section 3).

    env = DecodingEnv(model, task, block_length=8)
    seen = env.reset(task.examples("train", 16))
    while env.live.any():
        seen, reward, terminated, truncated = env.step(policy.select(seen))

It is a face of `unmask.decoding.session.Session`, as `unmask.generate` is: what is learnt here is what decodes there.
`unmask.integrations.gym` shows it as a Gymnasium environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.options import DecodeConfig, decode_config, speeds_of
from unmask.decoding.results import Ended
from unmask.decoding.session import Session
from unmask.decoding.source import check_prompts, encode_example
from unmask.decoding.step import BUDGET, refuse_nan
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.observation import Needs, Observation
from unmask.rl.rewards import Outcome, Reward, judge, load_reward
from unmask.settings import check_seed
from unmask.tasks.base import Example, Task


class Transition(NamedTuple):
    """What `DecodingEnv.step` gives, one entry a row.

    Attributes:
        observation: what the policy sees next; rows that have ended show their last confidences, what they left masked,
            and nothing selectable.
        reward: 0 until a row ends.
        terminated: the row has ended because nothing is masked, or its text and EOS stand (`stop_at_eos`).
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
        config: how to decode; by default as the paper counts, to the last position.
        reward: of an episode's outcome; the multiplicative one with alpha 1 by default.
        needs: what the observation must hold.
        options: fields of `DecodeConfig` such as block_length, max_steps or suppress_eos; they override `config`.

    Attributes:
        live: (n,) rows whose episode has not ended.
        nfe: (n,) forward passes of each row's episode so far.
        texts: of each row's last ended episode.
        correct: the verdict on it.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        task: Task,
        config: DecodeConfig | None = None,
        *,
        reward: Reward | None = None,
        needs: Needs | None = None,
        **options: Any,
    ) -> None:
        if not task.verifiable:
            raise UnmaskError(
                f"The task {task.name!r} has no verifier, so that no episode can be rewarded: give it one."
            )
        self.model = model
        self.task = task
        config = decode_config(config or DecodeConfig(stop_at_eos=False), options)
        self.options = config.resolve(model, task)
        self.gen_length, self.max_steps = self.options.gen_length, self.options.max_steps
        self.needs = needs or Needs(positions="region")
        if self.needs.differs:
            raise UnmaskError("An action of the environment reveals and cannot revise: leave differs out of needs.")
        self.reward = reward or load_reward("multiplicative", 1.0)
        self._session: Session | None = None
        self._clear([])

    def reset(
        self, examples: Sequence[Example], *, seed: int = 0, speeds: Sequence[float] | None = None
    ) -> Observation:
        """Start an episode in each of n rows.

        Args:
            seed: of drawn tokens and of the noise in observations; each episode from here on has a stream of its own.
            speeds: of each row, where `needs` has a speed; by default that of the config, or else 0.

        Returns:
            What the policy sees first.

        Raises:
            UnmaskError: no example, a prompt too long for the dLLM, or a seed or speed that is none.
        """
        seed, (prompts, each) = check_seed(seed), self._read(examples, speeds)
        repeats = len({example.prompt for example in examples}) < len(examples)
        self._session = Session(self.model, self.needs, self.options, share=repeats)
        self._clear(examples)
        self._seed, self._episodes = seed, 0
        self._begin(range(len(examples)), examples, prompts, each)
        return self.observe()

    def begin(self, rows: Sequence[int], examples: Sequence[Example], speeds: Sequence[float] | None = None) -> None:
        """Start new episodes in rows whose last one has ended; call `observe` for what they show.

        Raises:
            UnmaskError: a row's episode has not ended, there is no such row, a row is given twice, a prompt is too
                long, a speed is none. Nothing has changed then.
        """
        if self._session is None:
            raise UnmaskError("The environment has no episodes: reset it first.")
        n = len(self.live)
        if len(rows) != len(examples):
            raise UnmaskError(f"There are {len(rows)} rows and {len(examples)} examples: give one example per row.")
        for i, row in enumerate(rows):
            if not 0 <= row < n:
                raise UnmaskError(f"There is no row {row}: the environment has {n}, from 0 to {n - 1}.")
            if row in rows[:i]:
                raise UnmaskError(f"Row {row} is given twice: give each row one example.")
            if self.live[row]:
                raise UnmaskError(f"The episode in row {row} has not ended: step until it has, or reset.")
        self._begin(rows, examples, *self._read(examples, speeds))

    def _clear(self, examples: Sequence[Example]) -> None:
        n = len(examples)
        self._shown: Observation | None = None
        self._fresh = False  # what is shown is the last pass
        self._examples = list(examples)
        self.live = torch.zeros(n, dtype=torch.bool)
        self.nfe = torch.zeros(n, dtype=torch.long)
        self.correct = torch.zeros(n, dtype=torch.bool)
        self.texts = [""] * n
        self._speeds = [0.0] * n

    def _read(
        self, examples: Sequence[Example], speeds: Sequence[float] | None
    ) -> tuple[list[list[int]], list[float] | None]:
        """Prompts and speeds, checked."""
        prompts = [encode_example(self.model, example) for example in examples]
        check_prompts(self.model, prompts, self.gen_length)
        return prompts, speeds_of(self.needs, self.options.speed, speeds, len(examples))

    def _begin(
        self,
        rows: Sequence[int],
        examples: Sequence[Example],
        prompts: Sequence[Sequence[int]],
        speeds: Sequence[float] | None,
    ) -> None:
        for row, example, speed in zip(rows, examples, speeds or [0.0] * len(rows), strict=True):
            self._examples[row], self._speeds[row] = example, speed
            self.live[row], self.nfe[row] = True, 0
        keys = row_keys(self._seed, torch.arange(self._episodes, self._episodes + len(rows)))
        self._episodes += len(rows)
        self._running.add(prompts, list(rows), keys, speeds)
        self._fresh = False

    @property
    def _running(self) -> Session:
        if self._session is None:
            raise UnmaskError("The environment has no episodes: reset it first.")
        return self._session

    def observe(self) -> Observation:
        """One forward pass of the active rows: what the policy sees, one row per episode.

        Raises:
            UnmaskError: all episodes have ended, or the dLLM's logits are NaN.
        """
        session = self._running
        if not len(session):
            raise UnmaskError("All episodes have ended: reset, or begin new ones.")
        if not self._fresh:
            seen = session.observe().only(self.needs)
            refuse_nan(bool(seen.confidence.isnan().any()), self.model)
            self._show(session.rows, seen)
            self._fresh = True
        return self.shown

    @property
    def shown(self) -> Observation:
        """The last observation, with what `act` has changed since.

        Raises:
            UnmaskError: there is none yet.
        """
        if self._shown is None:
            raise UnmaskError("The environment has shown nothing yet: reset it first.")
        return self._shown

    def step(self, action: Bool[Tensor, "n l"]) -> Transition:
        """`act`, then `observe` unless all rows have ended."""
        reward, terminated, truncated = self.act(action)
        return Transition(self.observe() if self.live.any() else self.shown, reward, terminated, truncated)

    def act(self, action: Bool[Tensor, "n l"]) -> tuple[Tensor, Tensor, Tensor]:
        """Reveal the chosen positions that are selectable; others are ignored. No forward pass.

        Returns:
            reward, terminated, truncated, as in `Transition`.
        """
        self.observe()
        shape = (len(self.live), self.gen_length)
        if not isinstance(action, Tensor) or action.dtype != torch.bool or tuple(action.shape) != shape:
            kind = str(action.dtype) if isinstance(action, Tensor) else type(action).__name__
            raise UnmaskError(
                f"The action is a {kind} of shape {tuple(getattr(action, 'shape', ()))}: give one boolean for each of "
                f"{shape[0]} rows and {shape[1]} positions, as a torch.bool tensor."
            )
        session, rows = self._running, self._running.rows
        seen = session.observe().only(self.needs)
        chosen = action.to(self.model.device)[rows] & seen.selectable
        ended = session.reveal(chosen.long())
        steps = (seen.step_fraction * self.gen_length).round() + 1
        after = replace(
            seen,
            masked=seen.masked & ~chosen,
            selectable=torch.zeros_like(seen.masked),
            step_fraction=steps / self.gen_length,
        )
        self._show(rows, after)
        self._fresh = False
        self.nfe[rows.cpu()] += 1
        reward = torch.zeros(len(self.live))
        terminated, truncated = torch.zeros_like(self.live), torch.zeros_like(self.live)
        if ended is not None:
            over, spent = ended.row.cpu(), torch.tensor(ended.why) == BUDGET
            self.live[over] = False
            terminated[over], truncated[over] = ~spent, spent
            reward[over] = self._rewards(self._judge(ended, over, ~spent))
        return reward, terminated, truncated

    def _rewards(self, outcome: Outcome) -> Float[Tensor, " r"]:
        values = self.reward(outcome).cpu().float()
        if not values.isfinite().all():
            raise UnmaskError(f"The reward gave {values.tolist()} for episodes that ended: return finite numbers.")
        return values

    def _show(self, rows: Int[Tensor, " b"], seen: Observation) -> None:
        """Put the active rows in their places."""
        n = len(self.live)
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

    def _judge(self, ended: Ended, rows: Int[Tensor, " r"], complete: Bool[Tensor, " r"]) -> Outcome:
        examples = [self._examples[row] for row in rows.tolist()]
        speeds = [self._speeds[row] for row in rows.tolist()] if self.needs.speed else None
        lenient = self.options.judge_unfinished
        ends = (self.gen_length, speeds, lenient, ended.equivalents.cpu())
        outcome = judge(self.task, examples, ended.texts, ended.nfe.cpu(), complete, *ends)
        for row, text in zip(rows.tolist(), ended.texts, strict=True):
            self.texts[row] = text
        self.correct[rows] = outcome.correct
        return outcome
