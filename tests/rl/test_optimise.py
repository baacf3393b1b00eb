"""Optimiser steps: chunks, the KL penalty, the entropy bonus, the learning rate."""

import pytest
import torch

from tests.rl.runs import collected, trainer
from unmask.errors import UnmaskError
from unmask.observation import Observation
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.algorithms.base import AlgorithmSettings, Credit, Expert, weights_of_steps
from unmask.rl.optimise import learning_rates, parameter_groups


@pytest.mark.parametrize("variant", [{}, {"kl_weight": 0.5, "normalisation": "step"}, {"experts": (Expert(),)}])
def test_the_gradient_does_not_depend_on_the_chunking(tiny, tmp_path, variant):
    gradients = []
    for size in (7, 1000):
        changes = {"update_batch_size": size, "inner_iterations": 1, "max_grad_norm": 1e9, **variant}
        run, batch = collected(tiny, tmp_path / str(size), **changes)
        torch.manual_seed(1)
        run.optimiser.reference = TransformerPolicy() if variant.get("kl_weight") else None
        advantage = torch.randn(len(batch.expert), generator=torch.Generator().manual_seed(0))[batch.steps.rollout]
        weight = weights_of_steps(batch, run.team, variant.get("normalisation", "rollout"))
        run.optimiser.learn(batch, Credit(advantage, weight, advantage != 0), rates=[1e-4])
        gradients.append(torch.cat([p.grad.flatten() for p in run.policy.parameters()]))
    assert gradients[0].norm() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_kl_holds_the_policy_back(tiny, tmp_path):
    moved = {}
    for weight in (0.0, 100.0):
        changes = {"kl_weight": weight, "clone_rule": "none", "lr": 3e-3, "warmup": 0, "iterations": 6}
        run = trainer(tiny, tmp_path / str(weight), **changes)
        before = torch.cat([p.detach().flatten().clone() for p in run.policy.parameters()])
        confidence, masked = torch.rand(64, 8, 1), torch.rand(64, 8) < 0.7
        seen = Observation(confidence, masked, masked, torch.rand(64), torch.zeros(64, 8))
        start = run.policy.logits(seen).detach()
        torch.manual_seed(3)
        run.run()
        after = run.policy.logits(seen).detach()
        moved[weight] = (after - start).abs().mean().item()
        assert not torch.equal(before, torch.cat([p.detach().flatten() for p in run.policy.parameters()]))
    assert moved[100.0] < 0.7 * moved[0.0]


def test_entropy_keeps_draws_apart(tiny, tmp_path):
    ends = {}
    for weight in (0.0, 10.0):
        changes = {"entropy_weight": weight, "clone_rule": "none", "lr": 3e-3, "warmup": 0, "iterations": 6}
        seen = []
        trainer(tiny, tmp_path / str(weight), log=seen.append, **changes).run()
        ends[weight] = [m["entropy"] for m in seen if m["stage"] == "grpo"]
    assert ends[10.0][0] == pytest.approx(ends[0.0][0], rel=0.2)
    assert ends[10.0][-1] > 1.5 * ends[0.0][-1]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_do(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", clone_rule="none")
    run.collectors[0].reward = lambda outcome: torch.full((len(outcome.texts),), torch.nan)
    with pytest.raises(UnmaskError, match=r"iteration 1 the gradient is not finite: resume with a lower lr .*best"):
        run.run()
    assert all(p.isfinite().all() for p in run.policy.parameters())
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = AlgorithmSettings(warmup=10, lr=1.0)
    assert learning_rates(settings, 0, 100) == pytest.approx([0.1] * 2, abs=1e-3)
    assert learning_rates(settings, 50, 100) == pytest.approx([0.5] * 2)
    assert max(learning_rates(settings, 99, 100)) < 0.001


def test_the_released_learning_rate_is_that_of_transformers():
    """The paper's run: 936 iterations of two optimiser steps, 100 steps of warm-up."""
    from transformers import get_cosine_schedule_with_warmup

    settings = AlgorithmSettings(warmup=50, lr=3e-5, inner_iterations=2, lr_schedule="transformers")
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-5)
    schedule = get_cosine_schedule_with_warmup(optimiser, 100, 1872)
    expected = []
    for _ in range(1872):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    found = [rate for i in range(936) for rate in learning_rates(settings, i, 936)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == 0
    assert found[936] / 3e-5 == pytest.approx(0.544, abs=5e-4), "the plain schedule has .5 here"


def test_released_weight_decay_spares_biases_and_norms():
    policy = TransformerPolicy()
    decayed, spared = parameter_groups(policy, 1.0, AlgorithmSettings(decay_biases=False))
    names = {id(p): name for name, p in policy.named_parameters()}
    assert "weight_decay" not in decayed
    assert spared["weight_decay"] == 0
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    free = {names[id(p)] for p in spared["params"]}
    assert {"final_norm.weight", "transformer_blocks.0.norm1.weight", "output_proj.bias"} <= free
    assert "mask_embedding.weight" not in free, "an embedding decays, as in transformers' trainer"
    assert len(free) + len(decayed["params"]) == len(names)
    assert len(parameter_groups(policy, 1.0, AlgorithmSettings())) == 1


def test_too_little_memory_for_an_update_names_the_setting(tiny, tmp_path, monkeypatch):
    run = trainer(tiny, tmp_path / "run")

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(run.optimiser, "learn", full)
    with pytest.raises(
        UnmaskError, match="to score 16 decoding steps at a time: resume with algorithm.update_batch_size 8"
    ):
        run.run()
