"""The arithmetic that --dry-run prints."""

import pytest

from tests.rl.runs import tables
from unmask.rl.algorithms.base import Expert
from unmask.rl.config import TrainConfig
from unmask.rl.plan import plan
from unmask.rl.search import demonstrations


def train_config(**settings):
    return TrainConfig.model_validate(tables(**settings))


def test_the_papers_batch():
    config = train_config(
        prompts=16,
        group_size=8,
        iterations=936,
        train_examples=14976,
        clone_rule="none",
        batch_size=64,
        validate_every=50,
    )
    p = plan(config, 256, processes=8)
    assert (p.rows, p.rows_here, p.active) == (128, 16, 16)
    assert p.epochs == pytest.approx(1.0)
    assert p.updates == 1872
    assert p.most_passes == 936 * 128 * 256
    assert p.validation_passes == 20 * 256 * 256
    assert p.policy_parameters == 331_265
    assert p.recorded_bytes == 16 * 256 * (256 * 8 + 12)


def test_experts_and_cloning_cost_passes_too():
    config = train_config(prompts=3, group_size=4, iterations=10, experts=(Expert(), Expert()), clone_examples=5)
    p = plan(config, 32, processes=2)
    assert (p.rows, p.rows_here, p.active) == (18, 12, 8)
    assert p.most_passes == (10 * 18 + 5) * 32


def test_so_do_the_clones_own_roll_outs_and_slow_answers():
    changes = {"prompts": 3, "group_size": 4, "iterations": 10, "clone_examples": 5}
    plain = plan(train_config(**changes), 32, processes=1)
    own = plan(train_config(**changes, clone_best_of=6), 32, processes=1)
    assert own.most_passes - plain.most_passes == 5 * 6 * 32
    assert plain.label_passes == 0
    labelled = plan(train_config(**changes, labels="agreement", validation_prompts=7), 32, processes=1)
    assert labelled.label_passes == (10 * 3 + 7 + 5) * 32


def test_a_sweep_in_place_of_a_search_costs_nothing():
    changes = {"clone_rule": "best:klass", "clone_search_prompts": 10, "clone_examples": 5}
    searched = plan(train_config(**changes), 32, processes=1)
    swept = plan(train_config(**changes, clone_sweep="s"), 32, processes=1)
    assert searched.most_passes - swept.most_passes == 10 * 32 * len(demonstrations("best:klass", None, 32, 32)) > 0


def test_hidden_states_take_memory():
    config = train_config(reads="hidden_states")
    assert plan(config, 32, 1, hidden_size=128).recorded_bytes > 20 * plan(TrainConfig(), 32, 1).recorded_bytes
