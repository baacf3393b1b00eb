"""The trainer on a tiny random dLLM: resume, determinism, no step without signal, chunking."""

import json

import pytest
import torch
from safetensors.torch import load_file

from unmask.errors import UnmaskError
from unmask.policies.confidence_threshold import ConfidenceThreshold
from unmask.rl.clone import clone, expert_trajectories
from unmask.rl.rollout import roll_out
from unmask.rl.trainer import TrainConfig, Trainer, learning_rate
from unmask.tasks.auto import load_task
from unmask.tasks.base import Task


class Short(Task):
    """Any text counts as right if it is short: a reward that a random dLLM can earn."""

    name, gen_length, block_length = "short", 8, 4

    def examples(self, split, n, seed=0):
        return load_task("house").examples(split, n, seed)

    def verify(self, example, text):
        return len(text.split()) % 2 == 0


class Hopeless(Short):
    def verify(self, example, text):
        return False


def config(folder, **changes):
    settings = {
        "run": str(folder),
        "iterations": 4,
        "prompts": 4,
        "group_size": 4,
        "train_examples": 20,
        "clone_examples": 8,
        "clone_updates": 3,
        "clone_batch_size": 16,
        "validate_every": 2,
        "update_batch_size": 16,
        "min_signal": 0.0,
    }
    return TrainConfig(**{**settings, **changes})


def trainer(tiny, folder, task=None, log=lambda metrics: None, **changes):
    def validate(policy):
        return {"reward": sum(p.sum().item() for p in policy.parameters())}

    return Trainer(config(folder, **changes), tiny, task or Short(), validate, log)


def weights(folder):
    return load_file(folder / "last" / "policy" / "model.safetensors")


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path):
    trainer(tiny, tmp_path / "whole").run()
    stops = iter([False, False, True])
    assert trainer(tiny, tmp_path / "cut").run(stop=lambda: next(stops)) is None
    resumed = trainer(tiny, tmp_path / "cut")
    resumed.run(resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)

    def told(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]

    assert told(tmp_path / "whole") == told(tmp_path / "cut")


def test_the_run_folder_holds_config_metrics_and_the_best(tiny, tmp_path):
    seen = []
    policy = trainer(tiny, tmp_path / "run", log=seen.append).run()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["prompts"] == 4
    assert [m["stage"] for m in seen] == [
        "clone",
        "validation",
        "grpo",
        "grpo",
        "validation",
        "grpo",
        "grpo",
        "validation",
    ]
    assert any(m["stage"] == "grpo" and m["updated"] for m in seen)
    best = max(m["reward"] for m in seen if m["stage"] == "validation")
    assert sum(p.sum().item() for p in policy.parameters()) == pytest.approx(best, abs=1e-3)
    assert (tmp_path / "run" / "clone" / "model.safetensors").exists()


def test_without_signal_nothing_moves(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, clone_from="none")
    before = {name: p.clone() for name, p in run.policy.state_dict().items()}
    run.run()
    assert all(torch.equal(before[name], p) for name, p in run.policy.state_dict().items())
    assert not any(m["updated"] for m in seen if m["stage"] == "grpo")


def test_the_gradient_does_not_depend_on_the_chunking(tiny, tmp_path):
    gradients = []
    for size in (7, 1000):
        run = trainer(tiny, tmp_path / str(size), update_batch_size=size, inner_iterations=1, max_grad_norm=1e9)
        examples = [e for e in run.examples[:4] for _ in range(4)]
        steps, _, _ = roll_out(
            tiny,
            run.policy.drawing(force_progress=False),
            Short(),
            examples,
            gen_length=8,
            block_length=8,
            batch_size=16,
            seed=0,
            top_k=1,
        )
        run._update(steps, torch.randn(16, generator=torch.Generator().manual_seed(0)))
        gradients.append(torch.cat([p.grad.flatten() for p in run.policy.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_cloning_learns_the_rule(tiny):
    torch.manual_seed(0)
    from unmask.policies.transformer import TransformerPolicy

    policy, losses = TransformerPolicy(), []
    steps, share = expert_trajectories(
        tiny,
        ConfidenceThreshold(0.5),
        Short(),
        Short().examples("train", 16),
        gen_length=8,
        expert_block_length=4,
        block_length=8,
        batch_size=16,
        seed=0,
        top_k=1,
    )
    assert 0 < share <= 1
    assert torch.equal(steps.selectable, steps.masked)  # full diffusion: everything masked was the student's to reveal
    assert not (steps.action & ~steps.selectable).any()
    clone(policy, steps, updates=60, batch_size=64, lr=2e-3, seed=0, on_update=lambda i, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_rollouts_pack_every_step_once(tiny):
    steps, decoded, _ = roll_out(
        tiny,
        ConfidenceThreshold(0.5),
        Short(),
        Short().examples("train", 5),
        gen_length=8,
        block_length=4,
        batch_size=2,
        seed=0,
        top_k=2,
    )
    assert torch.equal(torch.bincount(steps.rollout), decoded.nfe)
    assert steps.confidence.shape == (len(steps), 8, 2)
    for row in range(5):
        mine = steps.take(steps.rollout == row)
        assert mine.action.sum(dim=0).tolist() == [1] * 8
        assert mine.step_fraction.mul(8).tolist() == list(range(len(mine)))


def test_learning_rate_warms_up_and_falls_to_zero():
    c = TrainConfig(iterations=100, warmup=10, lr=1.0)
    assert learning_rate(c, 0) == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(c, 50) == pytest.approx(0.5)
    assert learning_rate(c, 99) < 0.001


def test_bad_runs_are_refused(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="Nothing to resume"):
        trainer(tiny, tmp_path / "none").run(resume=True)
    trainer(tiny, tmp_path / "run", iterations=1).run()
    with pytest.raises(UnmaskError, match="exists: pass --resume to go on, or another --run"):
        trainer(tiny, tmp_path / "run", iterations=1).run()
    state = tmp_path / "run" / "last" / "trainer.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[:500])
    with pytest.raises(UnmaskError, match=r"trainer.pt is damaged .*use the best policy so far"):
        trainer(tiny, tmp_path / "run", iterations=1).run(resume=True)
    state.write_bytes(whole)
    with pytest.raises(UnmaskError, match="was started with lr = 0.0002, not 0.001"):
        trainer(tiny, tmp_path / "run", iterations=1, lr=1e-3).run(resume=True)
