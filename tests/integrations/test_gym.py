"""The Gymnasium face: Gymnasium's own checker, autoreset, and the same episodes one by one and in a batch."""

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.rl.tasks import Easy
from unmask.errors import UnmaskError
from unmask.integrations.gym import DecodeVectorEnv


def options(tiny):
    return {"model": tiny, "task": "house", "gen_length": 8, "block_length": 4, "top_k": 2, "examples": 20}


def test_gymnasiums_checker_passes(tiny):
    check_env(gymnasium.make("unmask/Decode-v0", **options(tiny)).unwrapped, skip_render_check=True)


def test_a_batch_resets_where_an_episode_ends(tiny):
    envs = gymnasium.make_vec("unmask/Decode-v0", num_envs=3, **options(tiny))
    seen, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(seen)
    assert seen["confidence"].shape == (3, 8, 2)
    everything = np.ones((3, 8), dtype=np.int8)
    only_first = everything * np.array([[1], [0], [0]], dtype=np.int8)
    seen, _, terminated, _, _ = envs.step(everything)
    assert seen["selectable"][:, 4:].all()
    assert not terminated.any()
    seen, _reward, terminated, truncated, info = envs.step(only_first)
    assert terminated.tolist() == [True, False, False]
    assert not truncated.any()
    assert envs.observation_space.contains(seen)
    assert seen["step_fraction"][:, 0].tolist() == [0.0, 0.25, 0.25], "the next episode has begun"
    assert seen["masked"][0].all()
    assert info["_final_obs"].tolist() == [True, False, False]
    assert not info["final_obs"][0]["masked"].any()
    assert info["final_obs"][0]["step_fraction"].tolist() == [0.25]
    assert info["final_info"]["nfe"][0] == 2
    assert isinstance(info["final_info"]["text"][0], str)


def test_a_range_of_weights_gives_each_episode_a_speed(tiny):
    envs = DecodeVectorEnv(4, beta=(0.01, 3.0), **options(tiny))
    seen, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(seen)
    first = seen["speed"][:, 0]
    assert len(set(first.tolist())) == 4
    seen, _, _, _, _ = envs.step(np.ones((4, 8), dtype=np.int8))
    assert (seen["speed"][:, 0] == first).all()
    envs.env.task = Easy()
    seen, reward, terminated, _, _ = envs.step(np.ones((4, 8), dtype=np.int8))
    assert terminated.all()
    assert reward == pytest.approx(2.0 ** -(0.01 * 300.0**first)), "right in two passes: NFE ** -beta"
    assert (seen["speed"][:, 0] != first).all()
    check_env(gymnasium.make("unmask/Decode-v0", beta=(0.01, 3.0), **options(tiny)).unwrapped, skip_render_check=True)
    plain, _ = DecodeVectorEnv(1, beta=0.5, **options(tiny)).reset(seed=0)
    assert "speed" not in plain


def test_a_spent_budget_truncates(tiny):
    envs = DecodeVectorEnv(2, max_steps=2, **options(tiny))
    envs.reset(seed=0)
    nothing = np.zeros((2, 8), dtype=np.int8)
    envs.step(nothing)
    _seen, reward, terminated, truncated, info = envs.step(nothing)
    assert truncated.all()
    assert not terminated.any()
    assert (reward == 0).all()
    assert info["final_obs"][0]["masked"].all()


def test_gymnasiums_wrappers_count_episodes(tiny):
    envs = RecordEpisodeStatistics(DecodeVectorEnv(4, **options(tiny)))
    envs.reset(seed=1)
    for _ in range(6):
        envs.step(np.ones((4, 8), dtype=np.int8))
    assert list(envs.length_queue) == [2] * 12


def test_a_batch_and_single_episodes_agree(tiny):
    single = gymnasium.make("unmask/Decode-v0", **options(tiny)).unwrapped
    envs = DecodeVectorEnv(1, **options(tiny))
    one, _ = single.reset(seed=7)
    many, _ = envs.reset(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(4):
        assert all(np.allclose(one[name], many[name][0]) for name in one)
        action = rng.integers(0, 2, 8).astype(np.int8)
        one, reward, terminated, truncated, info = single.step(action)
        many, rewards, ends, cuts, infos = envs.step(action[None])
        assert (reward, terminated, truncated) == (rewards[0], ends[0], cuts[0])
        if terminated or truncated:
            assert info["text"] == infos["final_info"]["text"][0]
            break
    assert terminated or truncated or torch.tensor(many["masked"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0: give at least 1."),
        ({"examples": 0}, "examples is 0: give at least 1."),
        ({"top_k": 0}, "top_k is 0: a policy needs at least 1."),
        ({"alpha": float("nan")}, "alpha is nan: give a finite number from 0."),
        ({"alpha": -1.0}, "alpha is -1.0: give a finite number from 0."),
    ],
)
def test_bad_options_are_refused(tiny, options, message):
    with pytest.raises(UnmaskError, match=message):
        DecodeVectorEnv(**{"num_envs": 2, "model": tiny, "gen_length": 8, **options})


def test_one_seed_is_for_the_whole_batch(tiny):
    envs = DecodeVectorEnv(2, model=tiny, gen_length=8)
    first, again = (envs.reset(seed=seed)[0]["confidence"] for seed in (7, np.int64(7)))
    assert (first == again).all()
    for seed, message in (
        ([1, 2], "The seed is .1, 2.: give one number; all env"),
        (-1, "The seed is -1: give a number f"),
    ):
        with pytest.raises(UnmaskError, match=message):
            envs.reset(seed=seed)
