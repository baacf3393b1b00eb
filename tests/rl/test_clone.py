"""Behaviour cloning: what is taught, by whom, and that it is learnt."""

import pytest
import torch

from tests.rl.tasks import Easy, Hopeless, Short
from unmask.errors import UnmaskError
from unmask.policies import TransformerPolicy
from unmask.policies.grids import GRIDS, grid
from unmask.rl.clone import Demonstration, best_demonstration, clone, demonstrations, lesson
from unmask.rl.processes import Processes
from unmask.rl.prompts import fitting
from unmask.rl.rewards import load_reward


def prompts_of(tiny, task, n):
    return fitting(tiny, task.examples("train", n), 8)[0]


def taught(tiny, policy, task=None, keep="correct", block_length=8, cell=None):
    task = task or Short()
    return lesson(
        tiny,
        cell or Demonstration("confidence_threshold:threshold=0.5", 4),
        policy,
        task,
        prompts_of(tiny, task, 16),
        keep=keep,
        gen_length=8,
        block_length=block_length,
        batch_size=16,
        seed=0,
        team=Processes(),
    )


def test_cloning_learns_the_rule(tiny):
    torch.manual_seed(0)
    policy, losses = TransformerPolicy(), []
    given = taught(tiny, policy)
    assert torch.equal(
        given.steps.selectable, given.steps.masked
    )  # full diffusion: every mask was the student's choice
    clone(policy, given, updates=60, batch_size=64, lr=2e-3, seed=0, on_update=lambda i, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_only_correct_trajectories_are_kept_unless_told(tiny):
    policy = TransformerPolicy()
    right, all_ = taught(tiny, policy), taught(tiny, policy, keep="all")
    assert 0 < right.kept == right.correct < 1
    assert all_.kept == 1
    assert len(right.steps) < len(all_.steps) == all_.total
    assert right.passes == all_.passes == all_.total
    assert sorted(all_.place.tolist()) == list(range(all_.total))
    with pytest.raises(UnmaskError, match="confidence_threshold:threshold=0.5 in blocks of 4, answers none of 16"):
        taught(tiny, policy, Hopeless())
    assert taught(tiny, policy, Hopeless(), keep="all").total > 0


def test_best_means_the_best_cell_of_the_grid(tiny):
    cells = demonstrations("best:top_k_confidence", None, 4, 8)
    assert len(cells) == 2 * len(grid("top_k_confidence"))
    assert {cell.block_length for cell in cells} == {4, 8}
    assert {cell.block_length for cell in demonstrations("best:top_k_confidence", 2, 4, 8)} == {2}
    assert demonstrations("factor", 2, 4, 8) == [Demonstration("factor", 2)]
    task = Easy()
    reward = load_reward("multiplicative", 1.0)
    options = {"gen_length": 8, "batch_size": 16, "team": Processes()}
    best, passes = best_demonstration(tiny, cells, task, prompts_of(tiny, task, 4), reward, **options)
    assert (best.policy, best.block_length, best.reward) == ("top_k_confidence:k=8", 8, 1.0)
    assert passes == 4 * sum(max(8 // min(k, length), 8 // length) for length in (4, 8) for k in (1, 2, 4, 8))
    one = demonstrations("confidence_threshold:threshold=0.9", None, 4, 8)
    assert best_demonstration(tiny, one, task, [], reward, **options) == (one[0], 0)
    with pytest.raises(UnmaskError, match="No grid of settings for 'confidence_treshold': did you mean"):
        demonstrations("best:confidence_treshold", None, 4, 8)


def test_every_grid_is_of_rules_that_load():
    from unmask.policies import load_policy

    for type_name in GRIDS:
        for spec in grid(type_name):
            assert load_policy(spec).type_name == type_name
