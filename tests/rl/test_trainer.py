"""The trainer on a tiny random dLLM: resume, determinism, variants, collapse, refusals."""

import json

import pytest
import torch

from tests.rl.runs import checkpoint, config, told, trainer, weights
from tests.rl.tasks import Easy, Hopeless, Short
from unmask.errors import Stopped, UnmaskError
from unmask.observation import Observation
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.algorithms.base import AlgorithmSettings, Expert
from unmask.rl.config import PolicyConfig, TrainConfig
from unmask.rl.optimise import learning_rate
from unmask.rl.prompts import Prompt, draw_prompts, training_prompts
from unmask.rl.start import starting_policy
from unmask.rl.trainer import Trainer
from unmask.tasks.base import Example

VARIANTS = [
    {},
    {"experts": (Expert(block_length=4), Expert(policy="top_k_confidence:k=2", block_length=2)), "clone_rule": "none"},
    {"actions": "dpls", "kl_weight": 0.1, "scale_advantages": "batch"},
    {"force_progress": True, "normalisation": "step", "scale_advantages": "group", "reward": "additive"},
    {"reads": "hidden_states", "clone_keep": "all", "block_length": 4},
    {"use_time": False, "blocks": 2, "top_k": 3, "inner_iterations": 3, "reward": "correctness"},
    {"name": "rloo", "entropy_weight": 0.01},
    {"name": "ppo", "group_size": 2},
    {"block_length": "adaptive:default=4,delimiters=[red]", "experts": ("confidence_threshold",)},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "default")
def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path, variant):
    trainer(tiny, tmp_path / "whole", **variant).run()
    cut = trainer(tiny, tmp_path / "cut", **variant)
    with pytest.raises(Stopped, match="Stopped at iteration 3; go on with --resume."):
        cut.run(stop=lambda: cut.keeper.progress.iteration == 3)
    assert checkpoint(tmp_path / "cut").name == "checkpoint-3"
    trainer(tiny, tmp_path / "cut", **variant).run(resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert told(tmp_path / "whole") == told(tmp_path / "cut")
    assert any(line.get("updated") for line in told(tmp_path / "cut"))


def test_a_run_stopped_while_cloning_starts_over(tiny, tmp_path):
    trainer(tiny, tmp_path / "whole").run()
    with pytest.raises(Stopped, match="Stopped while cloning"):
        trainer(tiny, tmp_path / "cut").run(stop=lambda: True)
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
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"]["prompts"] == 4


def test_the_best_on_validation_is_kept(tiny, tmp_path):
    seen = []
    policy = trainer(tiny, tmp_path / "run", log=seen.append).run()
    best = max(m["reward"] for m in seen if m["stage"] == "validation")
    assert sum(p.sum().item() for p in policy.parameters()) == pytest.approx(best, abs=1e-3)
    assert (tmp_path / "run" / "start" / "model.safetensors").exists()


def test_without_signal_nothing_moves(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", Hopeless(), log=seen.append, clone_rule="none")
    before = {name: p.clone() for name, p in run.policy.state_dict().items()}
    run.run()
    assert all(torch.equal(before[name], p) for name, p in run.policy.state_dict().items())
    iterations = [m for m in seen if m["stage"] == "grpo"]
    assert not any(m["updated"] for m in iterations)
    assert all(m["entropy"] > 0 for m in iterations), "logged all the same"
    assert all(m["ratio"] is None for m in iterations), "nothing was updated"


def test_a_run_without_signal_stops_and_says_so(tiny, tmp_path):
    seen = []
    changes = {"clone_rule": "none", "iterations": 50, "patience": 3, "validate_every": 100}
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
    run = trainer(tiny, tmp_path / "run", Easy(), log=seen.append, clone_rule="none", iterations=9, patience=2)
    torch.nn.init.constant_(run.policy.output_proj.bias, 50.0)
    run.run()
    assert "every roll-out has revealed each block in one step" in seen[-2]["message"]


def collected(tiny, folder, **changes):
    run = trainer(tiny, folder, **changes)
    prompts = [Prompt(e, tiny.encode(e.prompt)) for e in Short().examples("train", 4)]
    return run, run.collector.collect(list(enumerate(prompts)), 0).batch


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
    run.collector.reward = lambda outcome: torch.full((len(outcome.texts),), torch.nan)
    with pytest.raises(UnmaskError, match=r"iteration 1 the gradient is not finite: resume with a lower lr .*best"):
        run.run()
    assert all(p.isfinite().all() for p in run.policy.parameters())
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_too_little_signal_is_noticed_too(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", log=seen.append, clone_rule="none", patience=2, min_signal=1.0, iterations=9)
    run.collector.reward = lambda outcome: torch.arange(len(outcome.texts)) // 15 * 1.0  # one group of four has signal
    run.run()
    assert "too few groups had roll-outs that earn differently" in seen[-2]["message"]


def test_changed_settings_choose_the_best_anew(tiny, tmp_path):
    scores = iter([9.0, 8.0, 1.0, 0.5, 0.4])

    def validate(policy):
        return {"reward": next(scores), "correct": 0.0, "nfe": 0.0}

    first = Trainer(config(tmp_path / "run", iterations=2), tiny, Short(), validate, lambda m: None)
    first.run()
    assert first.keeper.progress.best == 9.0
    again = Trainer(config(tmp_path / "run", iterations=4, alpha=3.0), tiny, Short(), validate, lambda m: None)
    best = again.run(resume=True, allow_changes=True)
    assert again.keeper.progress.best == 1.0
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
    assert (run.keeper.progress.best, run.keeper.progress.best_nfe) == (1.0, 7.0)


def test_a_policy_that_goes_on_is_not_cloned_over():
    assert TrainConfig.model_validate({"policy": {"init": "somewhere"}}).clone.rule == "none"
    asked = {"policy": {"init": "somewhere"}, "clone": {"rule": "confidence_threshold"}}
    assert TrainConfig.model_validate(asked).clones
    assert TrainConfig().clones


def test_prompts_are_all_used_once_an_epoch():
    prompts = [Prompt(Example(str(i), ""), [i]) for i in range(10)]
    drawn = [p.tokens[0] for iteration in range(10) for p in draw_prompts(prompts, 4, 0, iteration)]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert [p.tokens[0] for p in draw_prompts(prompts, 4, 0, 3)] == drawn[12:16]


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = AlgorithmSettings(warmup=10, lr=1.0)
    assert learning_rate(settings, 0, 100) == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(settings, 50, 100) == pytest.approx(0.5)
    assert learning_rate(settings, 99, 100) < 0.001


def policy_config(**table):
    return PolicyConfig.model_validate(table)


def test_training_goes_on_from_a_policy(tiny, tmp_path):
    torch.manual_seed(5)
    start = TransformerPolicy()
    start.save(tmp_path / "p")
    policy = starting_policy(policy_config(init=str(tmp_path / "p")), tiny)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), policy.parameters(), strict=True))
    with pytest.raises(UnmaskError, match="has another architecture than the policy asked for"):
        starting_policy(policy_config(init=str(tmp_path / "p"), blocks=2), tiny)
    with pytest.raises(UnmaskError, match="is a confidence_threshold policy, which has no weights to train"):
        starting_policy(policy_config(init="confidence_threshold"), tiny)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ("random_order:k=2 @ 4",)}, "'random_order:k=2' draws at random, and steering needs"),
        (
            {"experts": ("confidence_threshold @ 3",)},
            "an expert's block_length 3 does not divide the policy's blocks of 8",
        ),
        ({"block_length": 2, "clone_block_length": 4}, "clone.block_length 4 does not divide the policy's blocks of 2"),
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
    limits = config(tmp_path / "a", max_prompt_length=10, long_prompts="skip")
    kept, note = training_prompts(tiny, Short(), limits, 20, seed=0, processes=1)
    assert 0 < len(kept) < 20
    assert note == f"{20 - len(kept)} of 20 prompts have more than 10 tokens and were left out."
    assert max(len(p.tokens) for p in kept) <= 10
    limits = config(tmp_path / "b", max_prompt_length=5, long_prompts="truncate")
    cut, note = training_prompts(tiny, Short(), limits, 20, seed=0, processes=1)
    assert note == "20 of 20 prompts have more than 5 tokens and lost their beginning."
    assert [p.tokens for p in cut] == [tiny.encode(p.example.prompt)[-5:] for p in cut]
    trainer(tiny, tmp_path / "b", max_prompt_length=5, long_prompts="truncate").run()
    told_of = told(tmp_path / "b")[0]
    assert (told_of["stage"], told_of["message"]) == ("note", f"Training: {note}")


def test_adam_moments_come_back_by_name(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", iterations=2)
    run.run()
    again = trainer(tiny, tmp_path / "run", iterations=2)
    assert again.keeper.resume(again.optimiser, allow_changes=False)
    for (name, a), (_, b) in zip(run.policy.named_parameters(), again.policy.named_parameters(), strict=True):
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(run.optimiser.optimizer.state[a][moment], again.optimiser.optimizer.state[b][moment]), (
                name
            )
