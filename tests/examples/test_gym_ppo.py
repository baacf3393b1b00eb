"""Another library's PPO learns in the environment."""

import pytest

pytest.importorskip("stable_baselines3")


@pytest.mark.slow
def test_the_reward_rises():
    from examples.gym_ppo import main

    told = main(steps=40_000)
    assert sum(told[-3:]) / 3 > 1.5 * sum(told[:3]) / 3
