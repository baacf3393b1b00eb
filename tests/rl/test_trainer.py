"""The trainer on a tiny random dLLM: resume, determinism, variants, collapse, refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.rl.tasks import Easy, Hopeless, Short
from unmask.errors import UnmaskError
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.rl.config import Expert, TrainConfig
from unmask.rl.prompts import Prompt, draw_prompts
from unmask.rl.trainer import Clock, Trainer, starting_policy
from unmask.rl.update import Batch, Updater, adamw, learning_rate
from unmask.tasks.base import Example


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
        "lr": 2e-4,
    }
    return TrainConfig(**{**settings, **changes})


def trainer(tiny, folder, task=None, log=lambda metrics: None, **changes):
    def validate(policy):
        return {"reward": sum(p.sum().item() for p in policy.parameters()), "correct": 0.0, "nfe": 0.0}

    return Trainer(config(folder, **changes), tiny, task or Short(), validate, log)


def checkpoint(folder):
    (found,) = folder.glob("checkpoint-*")
    return found


def weights(folder):
    return load_file(checkpoint(folder) / "policy" / "model.safetensors")


def told(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


VARIANTS = [
    {},
    {"experts": (Expert(block_length=4), Expert(policy="top_k_confidence:k=2", block_length=2)), "clone_from": "none"},
    {"policy": TransformerConfig(actions="dpls"), "kl_weight": 0.1, "scale_advantages": "batch"},
    {"force_progress": True, "normalisation": "step", "scale_advantages": "group", "reward": "additive"},
    {"policy": TransformerConfig(reads="hidden_states"), "clone_keep": "all", "block_length": 4},
    {"policy": TransformerConfig(use_time=False, blocks=2, top_k=3), "inner_iterations": 3, "reward": "correctness"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "default")
def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path, variant):
    trainer(tiny, tmp_path / "whole", **variant).run()
    cut = trainer(tiny, tmp_path / "cut", **variant)
    assert cut.run(stop=lambda: cut.progress.iteration == 3) is None
    assert checkpoint(tmp_path / "cut").name == "checkpoint-3"
    trainer(tiny, tmp_path / "cut", **variant).run(resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert told(tmp_path / "whole") == told(tmp_path / "cut")
    assert any(line["updated"] for line in told(tmp_path / "cut") if line["stage"] == "grpo")


def test_a_run_stopped_while_cloning_starts_over(tiny, tmp_path):
    trainer(tiny, tmp_path / "whole").run()
    assert trainer(tiny, tmp_path / "cut").run(stop=lambda: True) is None
    assert not list((tmp_path / "cut").glob("checkpoint-*"))
    trainer(tiny, tmp_path / "cut").run(resume=True)
    assert told(tmp_path / "whole") == told(tmp_path / "cut")


def test_each_iteration_is_logged_whole(tiny, tmp_path):
    seen = []
    trainer(tiny, tmp_path / "run", log=seen.append, kl_weight=0.1).run()
    stages = ["clone", "validation", "grpo", "grpo", "validation", "grpo", "grpo", "validation"]
    assert [m["stage"] for m in seen] == stages
    iterations = [m for m in seen if m["stage"] == "grpo"]
    names = {
        *("reward", "correct", "nfe", "nfe_min", "nfe_max", "reveal_probability", "revealed", "entropy", "signal"),
        *("clip_share", "grad_norm", "ratio", "ratio_max", "kl", "passes", "passes_run", "lr", "updated"),
        *("seconds", "seconds_model", "seconds_policy", "seconds_update"),
    }
    for metrics in iterations:
        assert names <= set(metrics)
        assert metrics["nfe_min"] <= metrics["nfe"] <= metrics["nfe_max"] <= 8
        assert 0 < metrics["reveal_probability"] < 1
        assert metrics["seconds_model"] + metrics["seconds_update"] <= metrics["seconds"]
    assert all(a["passes_run"] <= a["passes"] for a in iterations)
    spent = [m["passes"] for m in seen if m["stage"] in ("clone", "grpo")]
    assert (torch.tensor(spent).diff() == torch.tensor([16 * m["nfe"] for m in iterations])).all()
    (tmp_path / "run" / "versions.json").read_text().index('"torch"')
    assert json.loads((tmp_path / "run" / "config.json").read_text())["prompts"] == 4


def test_the_best_on_validation_is_kept(tiny, tmp_path):
    seen = []
    policy = trainer(tiny, tmp_path / "run", log=seen.append).run()
    best = max(m["reward"] for m in seen if m["stage"] == "validation")
    assert sum(p.sum().item() for p in policy.parameters()) == pytest.approx(best, abs=1e-3)
    assert (tmp_path / "run" / "start" / "model.safetensors").exists()


def test_without_signal_nothing_moves(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, clone_from="none")
    before = {name: p.clone() for name, p in run.policy.state_dict().items()}
    run.run()
    assert all(torch.equal(before[name], p) for name, p in run.policy.state_dict().items())
    iterations = [m for m in seen if m["stage"] == "grpo"]
    assert not any(m["updated"] for m in iterations)
    assert all(m["entropy"] > 0 for m in iterations), "logged all the same"
    assert all(m["ratio"] is None for m in iterations), "nothing was updated"


def test_a_run_without_signal_stops_and_says_so(tiny, tmp_path):
    seen = []
    changes = {"clone_from": "none", "iterations": 50, "patience": 3, "validate_every": 100}
    run = trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, **changes)
    assert run.run() is not None, "the best policy so far"
    assert [m["stage"] for m in seen] == ["validation", "grpo", "grpo", "grpo", "collapse", "validation"]
    assert "for 3 iterations no step was taken, and no roll-out is right" in seen[-2]["message"]

    del seen[:]
    assert trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, **changes).run(resume=True) is not None
    assert [m["stage"] for m in seen] == ["note"], "it does not go on to stop again"
    assert "has collapsed before: to go on, resume it with another setting" in seen[0]["message"]
    again = trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, **{**changes, "alpha": 2.0})
    again.run(resume=True, allow_changes=True)
    assert sum(m["stage"] == "grpo" for m in seen) == 3


def test_a_policy_that_reveals_everything_at_once_is_noticed(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", Easy(), log=seen.append, clone_from="none", iterations=9, patience=2)
    torch.nn.init.constant_(run.policy.output_proj.bias, 50.0)
    run.run()
    assert "every roll-out has revealed each block in one step" in seen[-2]["message"]


def steps_of(tiny, folder, **changes):
    run = trainer(tiny, folder, **changes)
    prompts = [Prompt(e, tiny.encode(e.prompt)) for e in Short().examples("train", 4)]
    rolled = run._roll_out(range(4), prompts, 0, Clock())
    return run, run._pack(rolled)


@pytest.mark.parametrize("variant", [{}, {"kl_weight": 0.5, "normalisation": "step"}, {"experts": (Expert(),)}])
def test_the_gradient_does_not_depend_on_the_chunking(tiny, tmp_path, variant):
    gradients = []
    for size in (7, 1000):
        changes = {"update_batch_size": size, "inner_iterations": 1, "max_grad_norm": 1e9, **variant}
        run, (steps, expert) = steps_of(tiny, tmp_path / str(size), **changes)
        torch.manual_seed(1)
        reference = TransformerPolicy() if variant.get("kl_weight") else None
        updater = Updater(run.policy, run.optimizer, run.config, run.actor.actions, reference, run.team)
        advantage = torch.randn(len(expert), generator=torch.Generator().manual_seed(0))
        updater.update(Batch(steps, advantage, expert), len(expert))
        gradients.append(torch.cat([p.grad.flatten() for p in run.policy.parameters()]))
    assert gradients[0].norm() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_experts_join_each_group_and_metrics_leave_them_out(tiny, tmp_path):
    seen = []
    experts = (Expert(block_length=4), Expert(policy="top_k_confidence:k=4", block_length=4))
    _, (steps, expert) = steps_of(tiny, tmp_path / "a", experts=experts)
    assert expert.tolist() == ([False] * 4 + [True] * 2) * 4
    assert sorted(set(steps.rollout.tolist())) == list(range(24))
    second = steps.take(steps.rollout % 6 == 5)
    assert torch.bincount(second.rollout)[5::6].tolist() == [2] * 4, "top-4 reveals 8 positions in 2 steps"
    plain = trainer(tiny, tmp_path / "b", log=seen.append, clone_from="none", iterations=1)
    plain.run()
    steered = trainer(tiny, tmp_path / "c", log=seen.append, clone_from="none", iterations=1, experts=experts)
    steered.run()
    without, with_ = (m for m in seen if m["stage"] == "grpo")
    for name in ("reward", "correct", "nfe", "nfe_min", "nfe_max"):
        assert without[name] == with_[name]
    assert with_["passes"] > without["passes"]


def test_kl_holds_the_policy_back(tiny, tmp_path):
    moved = {}
    for weight in (0.0, 100.0):
        changes = {"kl_weight": weight, "clone_from": "none", "lr": 3e-3, "warmup": 0, "iterations": 6}
        run = trainer(tiny, tmp_path / str(weight), **changes)
        before = torch.cat([p.detach().flatten().clone() for p in run.policy.parameters()])
        features, masked = torch.rand(64, 8, 1), torch.rand(64, 8) < 0.7
        start = run.policy(features, masked, torch.rand(64)).detach()
        torch.manual_seed(3)
        run.run()
        after = run.policy(features, masked, torch.rand(64)).detach()
        moved[weight] = (after - start).abs().mean().item()
        assert not torch.equal(before, torch.cat([p.detach().flatten() for p in run.policy.parameters()]))
    assert moved[100.0] < 0.7 * moved[0.0]


def test_entropy_keeps_draws_apart(tiny, tmp_path):
    ends = {}
    for weight in (0.0, 10.0):
        changes = {"entropy_weight": weight, "clone_from": "none", "lr": 3e-3, "warmup": 0, "iterations": 6}
        run = trainer(tiny, tmp_path / str(weight), **changes)
        seen = []
        run.log = seen.append
        run.run()
        ends[weight] = [m["entropy"] for m in seen if m["stage"] == "grpo"]
    assert ends[10.0][0] == pytest.approx(ends[0.0][0], rel=0.2)
    assert ends[10.0][-1] > 1.5 * ends[0.0][-1]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_do(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", clone_from="none")
    run.reward = lambda outcome: torch.full((len(outcome.texts),), torch.nan)
    with pytest.raises(UnmaskError, match=r"iteration 1 the gradient is not finite: resume with a lower lr .*best"):
        run.run()
    assert all(p.isfinite().all() for p in run.policy.parameters())
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_too_little_signal_is_noticed_too(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", log=seen.append, clone_from="none", patience=2, min_signal=1.0, iterations=9)
    run.reward = lambda outcome: torch.arange(len(outcome.texts)) // 15 * 1.0  # one group of four has signal
    run.run()
    assert "too few groups had roll-outs that earn differently" in seen[-2]["message"]


def test_changed_settings_choose_the_best_anew(tiny, tmp_path):
    scores = iter([9.0, 8.0, 1.0, 0.5, 0.4])

    def validate(policy):
        return {"reward": next(scores), "correct": 0.0, "nfe": 0.0}

    first = Trainer(config(tmp_path / "run", iterations=2), tiny, Short(), validate, lambda m: None)
    first.run()
    assert first.progress.best == 9.0
    again = Trainer(config(tmp_path / "run", iterations=4, alpha=3.0), tiny, Short(), validate, lambda m: None)
    best = again.run(resume=True, allow_changes=True)
    assert again.progress.best == 1.0
    at_2 = [m for m in told(tmp_path / "run") if m["stage"] == "validation" and m["iteration"] == 2]
    assert [m["reward"] for m in at_2] == [8.0, 1.0]
    assert best is not None


def test_of_equal_rewards_the_faster_policy_is_best(tiny, tmp_path):
    scores = iter([(1.0, 9.0), (1.0, 7.0), (1.0, 8.0)])

    def validate(policy):
        reward, nfe = next(scores)
        return {"reward": reward, "correct": 1.0, "nfe": nfe}

    run = Trainer(config(tmp_path / "run"), tiny, Short(), validate, lambda m: None)
    run.run()
    assert (run.progress.best, run.progress.best_nfe) == (1.0, 7.0)


def test_a_policy_that_goes_on_is_not_cloned_over():
    assert TrainConfig(init="somewhere").clone_from == "none"
    assert TrainConfig(init="somewhere", clone_from="confidence_threshold").clones
    assert TrainConfig().clones


def test_prompts_are_all_used_once_an_epoch():
    prompts = [Prompt(Example(str(i), ""), [i]) for i in range(10)]
    drawn = [p.tokens[0] for iteration in range(10) for p in draw_prompts(prompts, 4, 0, iteration)]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert [p.tokens[0] for p in draw_prompts(prompts, 4, 0, 3)] == drawn[12:16]


def test_learning_rate_warms_up_and_falls_to_zero():
    c = TrainConfig(iterations=100, warmup=10, lr=1.0)
    assert learning_rate(c, 0) == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(c, 50) == pytest.approx(0.5)
    assert learning_rate(c, 99) < 0.001


def test_training_goes_on_from_a_policy(tiny, tmp_path):
    torch.manual_seed(5)
    start = TransformerPolicy()
    start.save(tmp_path / "p")
    policy = starting_policy(TrainConfig(init=str(tmp_path / "p")), tiny)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), policy.parameters(), strict=True))
    with pytest.raises(UnmaskError, match="has another architecture than the policy asked for"):
        starting_policy(TrainConfig(init=str(tmp_path / "p"), policy=TransformerConfig(blocks=2)), tiny)
    with pytest.raises(UnmaskError, match="is a confidence_threshold policy, which has no weights to train"):
        starting_policy(TrainConfig(init="confidence_threshold"), tiny)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ("random_order:k=2 @ 4",)}, "'random_order:k=2' draws at random, and steering needs"),
        (
            {"experts": ("confidence_threshold @ 3",)},
            "an expert's block_length 3 does not divide the policy's blocks of 8",
        ),
        ({"block_length": 2, "clone_block_length": 4}, "clone_block_length 4 does not divide the policy's blocks of 2"),
        ({"block_length": 2, "experts": ("confidence_threshold @ 4",)}, "an expert's block_length 4 does not divide"),
        ({"reward": "multiplicativ"}, "did you mean 'multiplicative'"),
        ({"max_prompt_length": 5}, r"20 of 20 prompts have more than 5 tokens \(the longest \d+\): set long_prompts"),
        ({"max_prompt_length": 5, "long_prompts": "skip"}, "All 20 prompts have more than 5 tokens"),
        ({"max_prompt_length": 95}, "leaves 88 for a prompt beside gen_length 8: lower gen_length or max_prompt_len"),
    ],
)
def test_bad_settings_are_refused(tiny, tmp_path, changes, message):
    with pytest.raises(UnmaskError, match=message):
        trainer(tiny, tmp_path / "run", **changes).run()
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_verifier_is_refused(tiny, tmp_path):
    task = Short()
    task.verifiable = False
    with pytest.raises(UnmaskError, match="'short' has no verifier, and training needs"):
        trainer(tiny, tmp_path / "run", task)


def test_long_prompts_are_skipped_or_truncated_when_told(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "a", max_prompt_length=10, long_prompts="skip")
    kept, note = run._fitting(20, seed=0)
    assert 0 < len(kept) < 20
    assert note == f"{20 - len(kept)} of 20 prompts have more than 10 tokens and were left out."
    assert max(len(p.tokens) for p in kept) <= 10
    run = trainer(tiny, tmp_path / "b", max_prompt_length=5, long_prompts="truncate")
    cut, note = run._fitting(20, seed=0)
    assert note == "20 of 20 prompts have more than 5 tokens and lost their beginning."
    assert [p.tokens for p in cut] == [tiny.encode(p.example.prompt)[-5:] for p in cut]
    run.run()
    told_of = told(tmp_path / "b")[0]
    assert (told_of["stage"], told_of["message"]) == ("note", f"Training: {note}")


def test_adam_moments_come_back_by_name(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", iterations=2)
    run.run()
    again = trainer(tiny, tmp_path / "run", iterations=2)
    again.folder.restore(again.policy, again.optimizer, again.config)
    for (name, a), (_, b) in zip(run.policy.named_parameters(), again.policy.named_parameters(), strict=True):
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(run.optimizer.state[a][moment], again.optimizer.state[b][moment]), name
    assert type(adamw(run.policy, run.config)) is type(run.optimizer)
