"""Behaviour cloning: what is taught, by whom, and that it is learnt."""

import pytest
import torch

from tests.rl.tasks import Easy, Hopeless, Short
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.policies import TransformerPolicy
from unmask.policies.grids import grid
from unmask.policies.registry import tuned_rules
from unmask.rl.cloning import clone
from unmask.rl.config import CloneConfig
from unmask.rl.processes import Processes
from unmask.rl.prompts import fitting
from unmask.rl.rewards import load_reward
from unmask.rl.search import Demonstration, demonstrations
from unmask.rl.start import expert_block
from unmask.rl.warm_start import WarmStart


def prompts_of(tiny, task, n):
    return fitting(tiny, task.examples("train", n), 8)[0]


def warm(tiny, task=None, block_length=8, **settings):
    config = DecodeConfig(gen_length=8, block_length=block_length, batch_size=16, stop_at_eos=False)
    return WarmStart(
        tiny, task or Short(), config, load_reward("multiplicative", 1.0), CloneConfig(**settings), Processes()
    )


def taught(tiny, policy, task=None, keep="correct"):
    cell = Demonstration("confidence_threshold:threshold=0.5", 4)
    return warm(tiny, task, keep=keep).lessons(cell, policy, prompts_of(tiny, task or Short(), 16))


def test_cloning_learns_the_rule(tiny):
    torch.manual_seed(0)
    policy = TransformerPolicy()
    given = taught(tiny, policy)
    seen = given.steps.observation
    assert torch.equal(seen.selectable, seen.masked)  # full diffusion: every mask was the student's choice
    losses = clone(policy, [given], CloneConfig(updates=60, batch_size=64, lr=2e-3), seed=0)
    assert losses[-1] < 0.7 * losses[0]


def test_only_correct_trajectories_are_kept_unless_told(tiny):
    policy = TransformerPolicy()
    right, all_ = taught(tiny, policy), taught(tiny, policy, keep="all")
    assert 0 < right.kept == right.correct < 1
    assert all_.kept == 1
    assert len(right.steps) < len(all_.steps) == all_.total
    assert right.passes == all_.passes == all_.total
    assert sorted(all_.index.tolist()) == list(range(all_.total))
    with pytest.raises(UnmaskError, match="confidence_threshold:threshold=0.5 in blocks of 4, answers none of 16"):
        taught(tiny, policy, Hopeless())
    assert taught(tiny, policy, Hopeless(), keep="all").total > 0


def test_best_means_the_best_setting_of_the_grid(tiny):
    cells = demonstrations("best:top_k_confidence", None, 4, 8)
    assert len(cells) == 2 * len(grid("top_k_confidence")) - 1, "eight positions in blocks of four are four"
    assert {cell.block_length for cell in cells} == {4, 8}
    assert {cell.block_length for cell in demonstrations("best:top_k_confidence", 2, 4, 8)} == {2}
    assert demonstrations("factor", 2, 4, 8) == [Demonstration("factor", 2)]
    task = Easy()
    (best,), passes = warm(tiny, task).search([None]).best(cells, prompts_of(tiny, task, 4))
    assert (best.policy, best.block_length, best.reward) == ("top_k_confidence:k=8", 8, 1.0)
    assert passes == 4 * sum(
        max(8 // min(k, length), 8 // length) for length in (4, 8) for k in (1, 2, 4, 8) if k <= length
    )
    one = demonstrations("confidence_threshold:threshold=0.9", None, 4, 8)
    assert warm(tiny, task).search([None]).best(one, []) == ([one[0]], 0)
    with pytest.raises(UnmaskError, match="No grid of settings for 'confidence_treshold': did you mean"):
        demonstrations("best:confidence_treshold", None, 4, 8)


def test_in_adaptive_blocks_teacher_and_learner_have_the_same():
    task, adaptive = Short(), AdaptiveBlocks(default=4)
    config = DecodeConfig(gen_length=8, block_length=adaptive)
    assert expert_block(None, task, config, "clone.block_length") == adaptive
    assert expert_block(adaptive, task, config, "clone.block_length") == adaptive
    with pytest.raises(
        UnmaskError, match="clone.block_length is 4, and the policy's blocks are adaptive: leave it out"
    ):
        expert_block(4, task, config, "clone.block_length")
    assert {cell.block_length for cell in demonstrations("best:factor", None, adaptive, adaptive)} == {adaptive}


def test_every_grid_is_of_rules_that_load():
    from unmask.policies import load_policy

    for type_name in tuned_rules():
        for spec in grid(type_name):
            assert load_policy(spec).type_name == type_name
