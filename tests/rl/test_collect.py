"""Roll-outs of an iteration: groups, experts beside them, and how they ended."""

import torch

from tests.rl.runs import collected, trainer
from unmask.rl.algorithms.base import Expert


def test_experts_join_each_group_and_metrics_leave_them_out(tiny, tmp_path):
    seen = []
    experts = (Expert(block_length=4), Expert(policy="top_k_confidence:k=4", block_length=4))
    _, batch = collected(tiny, tmp_path / "a", experts=experts)
    steps, expert = batch.steps, batch.expert
    assert batch.reward.shape == (4, 6)
    assert expert.tolist() == ([False] * 4 + [True] * 2) * 4
    assert sorted(set(steps.rollout.tolist())) == list(range(24))
    second = steps.take(steps.rollout % 6 == 5)
    assert torch.bincount(second.rollout)[5::6].tolist() == [2] * 4, "top-4 reveals 8 positions in 2 steps"
    plain = trainer(tiny, tmp_path / "b", log=seen.append, clone_rule="none", iterations=1)
    plain.run()
    steered = trainer(tiny, tmp_path / "c", log=seen.append, clone_rule="none", iterations=1, experts=experts)
    steered.run()
    without, with_ = (m for m in seen if m["stage"] == "grpo")
    for name in ("reward", "correct", "nfe", "nfe_min", "nfe_max"):
        assert without[name] == with_[name]
    assert with_["passes"] > without["passes"]
