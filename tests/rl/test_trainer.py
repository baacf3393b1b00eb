"""The trainer on a tiny random dLLM: resume, determinism, variants, collapse, refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.rl.runs import checkpoint, told, trainer
from tests.rl.tasks import Easy, Hopeless, Short
from unmask.errors import Stopped, UnmaskError
from unmask.rl.algorithms.base import Expert

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
    whole, cut = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    more = bool(trainer(tiny, tmp_path / "more", **variant).algorithm.modules())
    assert len(files) == 3 + more, "policy, best, moments, and the algorithm's own, such as a value head or a scale"
    for file in files:
        a, b = load_file(whole / file), load_file(cut / file)
        assert all(torch.equal(a[name], b[name]) for name in a), file
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


def test_too_little_signal_is_noticed_too(tiny, tmp_path):
    seen = []
    run = trainer(tiny, tmp_path / "run", log=seen.append, clone_rule="none", patience=2, min_signal=1.0, iterations=9)
    run.collectors[0].reward = lambda outcome: (
        torch.arange(len(outcome.texts)) // 15 * 1.0
    )  # one group of four has signal
    run.run()
    assert "too few groups had roll-outs that earn differently" in seen[-2]["message"]


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
        (
            {"max_prompt_length": 5, "long_prompts": "skip"},
            "20 of 20 prompts have more than 5 tokens: raise max_prompt",
        ),
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
