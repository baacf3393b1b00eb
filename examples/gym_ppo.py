"""Train an unmasking policy with somebody else's PPO: stable-baselines3 on `unmask.integrations.gym`.

    pip install 'unmask[gym]' stable-baselines3
    python examples/gym_ppo.py

The bundled dLLM decodes in blocks of 8; the reward is correctness times speed (alpha 1). Prints the mean reward of the
episodes of each stretch of training, which rises.
"""

import argparse

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

import unmask.integrations.gym  # noqa: F401 (registers the environment)


class Batch(VecEnv):
    """A Gymnasium vector environment in the terms of stable-baselines3."""

    def __init__(self, envs):
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self):
        return self.envs.reset(seed=0)[0]

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        seen, reward, terminated, truncated, info = self.envs.step(self.actions)
        done = terminated | truncated
        infos = [{} for _ in range(self.num_envs)]
        for i in done.nonzero()[0]:
            infos[i] = {
                "terminal_observation": info["final_obs"][i],
                "episode": {"r": reward[i], "l": info["final_info"]["nfe"][i], "t": 0.0},  # all reward is at the end
                "correct": bool(info["final_info"]["correct"][i]),
            }
        return seen, reward.astype(np.float32), done, infos

    def close(self):
        self.envs.close()

    def get_attr(self, name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, name, value, indices=None):
        raise NotImplementedError

    def env_method(self, name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * self.num_envs


class Positions(BaseFeaturesExtractor):
    """What one position shows, each through the same small network, so that a position's logit sees its neighbours."""

    def __init__(self, space, width=16):
        super().__init__(space, space["masked"].shape[0] * width)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(4, width, 9, padding=4), torch.nn.ReLU(), torch.nn.Conv1d(width, width, 9, padding=4)
        )

    def forward(self, seen):
        step = seen["step_fraction"].expand_as(seen["masked"])
        channels = torch.stack([seen["confidence"][..., 0], seen["masked"], seen["selectable"], step], dim=1)
        return self.layers(channels).flatten(1)


class Tell(BaseCallback):
    """Mean reward, correctness and steps of the episodes that ended since the last time."""

    def __init__(self):
        super().__init__()
        self.ended, self.told = [], []

    def _on_step(self):
        self.ended += [
            (i["episode"]["r"], i["correct"], i["episode"]["l"]) for i in self.locals["infos"] if "episode" in i
        ]
        return True

    def _on_rollout_end(self):
        reward, correct, steps = np.mean(self.ended, axis=0)
        self.told.append(reward)
        print(
            f"{self.num_timesteps:>7} steps  reward {reward:.3f}  correct {correct:.0%}  NFE {steps:.1f}"
            f"  ({len(self.ended)} episodes)",
            flush=True,
        )
        self.ended = []


def main(steps=60_000, envs=32, seed=0):
    """Train and return the mean rewards told."""
    batch = Batch(gymnasium.make_vec("unmask/Decode-v0", num_envs=envs, block_length=8, alpha=1.0))
    model = PPO(
        "MultiInputPolicy",
        batch,
        n_steps=64,
        batch_size=512,
        n_epochs=4,
        learning_rate=1e-3,
        gamma=1.0,
        policy_kwargs={"features_extractor_class": Positions, "net_arch": []},
        seed=seed,
        device="cpu",
    )
    tell = Tell()
    model.learn(steps, callback=tell)
    return tell.told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    main(args.steps, seed=args.seed)
