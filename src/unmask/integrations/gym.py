"""Decoding as Gymnasium environments (`pip install unmask[gym]`): train unmasking policies with any RL library.

    import gymnasium, unmask.integrations.gym

    envs = gymnasium.make_vec("unmask/Decode-v0", num_envs=16, task="house", block_length=8)

An observation holds what the paper's policy sees: ``confidence`` (l, k), ``masked`` and ``selectable`` (l,), and
``step_fraction`` (1,). Where the weight of speed in the reward is a range, as in ``beta=(0.01, 3.0)``, each episode
draws its speed between 0 and 1, and the observation holds it: ``speed`` (1,). An action is multi-binary (l,): the
positions to reveal; those not selectable are ignored.
`info` holds ``nfe`` and, when an episode ends, ``correct`` and ``text`` (in ``final_info`` of a batch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.observation import Needs, Observation
from unmask.rl.env import DecodingEnv
from unmask.rl.rewards import load_reward
from unmask.settings import Ends, check_seed
from unmask.tasks.auto import load_task
from unmask.tasks.base import Example, Task

Arrays = dict[str, np.ndarray]


def _make(
    model: MaskedDiffusionModel | str | None,
    task: Task | str | None,
    verifier: str | None,
    top_k: int,
    reward: str | None,
    alpha: Ends,
    beta: Ends | None,
    **options: Any,
) -> DecodingEnv:
    alpha = tuple(alpha) if isinstance(alpha, list) else alpha
    beta = tuple(beta) if isinstance(beta, list) else beta
    given = reward or ("multiplicative" if beta is None else "scale_free")
    ranges = isinstance(beta if given == "scale_free" else alpha, tuple)
    return DecodingEnv(
        load_model(model) if model is None or isinstance(model, str) else model,
        load_task(task, verifier) if task is None or isinstance(task, str) else task,
        needs=Needs(top_k=top_k, positions="region", speed=ranges),
        reward=load_reward(given, alpha, 1.0 if beta is None else beta),
        **options,
    )


def _spaces(env: DecodingEnv) -> tuple[spaces.Dict, spaces.MultiBinary]:
    length = env.gen_length
    seen = {
        "confidence": spaces.Box(0.0, 1.0, (length, env.needs.top_k), np.float32),
        "masked": spaces.MultiBinary(length),
        "selectable": spaces.MultiBinary(length),
        "step_fraction": spaces.Box(0.0, max(1.0, env.max_steps / length), (1,), np.float32),
    }
    if env.needs.speed:
        seen["speed"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    return spaces.Dict(seen), spaces.MultiBinary(length)


def _arrays(seen: Observation) -> Arrays:
    arrays = {
        "confidence": seen.confidence.float().clamp(0, 1).cpu().numpy(),
        "masked": seen.masked.to(torch.int8).cpu().numpy(),
        "selectable": seen.selectable.to(torch.int8).cpu().numpy(),
        "step_fraction": seen.step_fraction[:, None].cpu().numpy(),
    }
    if seen.speed is not None:
        arrays["speed"] = seen.speed[:, None].cpu().numpy()
    return arrays


def _one_seed(seed: Any) -> int | None:
    """
    Raises:
        UnmaskError: several seeds, or one that Gymnasium does not take.
    """
    if isinstance(seed, Sequence | np.ndarray):
        raise UnmaskError(f"The seed is {seed!r}: give one number; all environments of a batch draw from it.")
    if seed is not None and check_seed(seed) < 0:
        raise UnmaskError(f"The seed is {seed}: give a number from 0.")
    return None if seed is None else check_seed(seed)


class DecodeVectorEnv(VectorEnv[Arrays, np.ndarray, np.ndarray]):
    """Many episodes in one batch: the dLLM runs once a step for all of them.

    Autoreset is in the same step: where an episode ends, the observation is already that of the next one, and
    ``info["final_obs"]`` and ``info["final_info"]`` hold the last one's.

    Args:
        model: a name, or an object from `unmask.load_model`.
        task: a name, or an object from `unmask.load_task`.
        verifier: of a task that is a JSONL file.
        examples: training prompts to draw from.
        top_k: confidences a position.
        reward: as in `unmask.rl.rewards`; by default ``multiplicative``, or ``scale_free`` where beta is given.
        alpha: weight of speed in the paper's rewards: a number, or those at speed 0 and 1.
        beta: weight of speed in ``scale_free``, likewise.
        options: those of `unmask.rl.env.DecodingEnv`: block_length, gen_length, max_steps.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        model: MaskedDiffusionModel | str | None = None,
        task: Task | str | None = None,
        verifier: str | None = None,
        examples: int = 2000,
        top_k: int = 1,
        reward: str | None = None,
        alpha: Ends = 1.0,
        beta: Ends | None = None,
        **options: Any,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("examples", examples)):
            if value < 1:
                raise UnmaskError(f"{name} is {value}: give at least 1.")
        self.env = _make(model, task, verifier, top_k, reward, alpha, beta, **options)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._pool = self.env.task.examples("train", examples)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=_one_seed(seed))
        drawn, speeds = list(self._draw(self.num_envs)), self._speeds(self.num_envs)
        seen = self.env.reset(drawn, seed=int(self.np_random.integers(2**31)), speeds=speeds)
        return _arrays(seen), {}

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward, terminated, truncated = self.env.act(torch.from_numpy(np.asarray(actions) > 0))
        over = terminated | truncated
        info: dict[str, Any] = {}
        rows = over.nonzero()[:, 0].tolist()
        if rows:
            last = np.full(self.num_envs, None, dtype=object)
            for row in rows:
                last[row] = {name: value[row] for name, value in _arrays(self.env.shown).items()}
            correct, texts = self.env.correct.numpy().copy(), np.array(self.env.texts, dtype=object)
            final = {"nfe": self.env.nfe.numpy().copy(), "correct": correct, "text": texts}
            final |= {f"_{key}": over.numpy().copy() for key in list(final)}
            info = {"final_obs": last, "_final_obs": over.numpy(), "final_info": final, "_final_info": over.numpy()}
            self.env.begin(rows, list(self._draw(len(rows))), self._speeds(len(rows)))
        info |= {"nfe": self.env.nfe.numpy().copy(), "_nfe": np.ones(self.num_envs, dtype=bool)}
        return (
            _arrays(self.env.observe()),
            reward.numpy().astype(np.float64),
            terminated.numpy(),
            truncated.numpy(),
            info,
        )

    def _draw(self, n: int) -> Iterator[Example]:
        return (self._pool[i] for i in self.np_random.integers(len(self._pool), size=n))

    def _speeds(self, n: int) -> list[float] | None:
        return self.np_random.random(n).tolist() if self.env.needs.speed else None


class DecodeEnv(gymnasium.Env[Arrays, np.ndarray]):
    """One episode at a time: a vector of one, without the autoreset. Arguments as in `DecodeVectorEnv`."""

    metadata = {"render_modes": []}

    def __init__(self, **options: Any) -> None:
        self._vector = DecodeVectorEnv(1, **options)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=_one_seed(seed))
        seen, _ = self._vector.reset(seed=seed)
        return {name: value[0] for name, value in seen.items()}, {"nfe": 0}

    def step(self, action: np.ndarray) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        env = self._vector.env
        seen, reward, terminated, truncated = env.step(torch.from_numpy(np.asarray(action) > 0)[None])
        info: dict[str, Any] = {"nfe": int(env.nfe[0])}
        if terminated[0] or truncated[0]:
            info |= {"correct": bool(env.correct[0]), "text": env.texts[0]}
        arrays = {name: value[0] for name, value in _arrays(seen).items()}
        return arrays, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


gymnasium.register(
    "unmask/Decode-v0",
    entry_point="unmask.integrations.gym:DecodeEnv",
    vector_entry_point="unmask.integrations.gym:DecodeVectorEnv",
)
