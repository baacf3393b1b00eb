"""What a run keeps: the best policy, the optimiser's moments."""

import pytest
import torch

from tests.rl.runs import config, told, trainer
from tests.rl.tasks import Short
from unmask.errors import Stopped
from unmask.policies.base import LearnedPolicy
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.checkpoint import Keeper
from unmask.rl.trainer import Trainer


def test_the_best_on_validation_is_kept(tiny, tmp_path):
    seen = []
    policy = trainer(tiny, tmp_path / "run", log=seen.append).run()
    best = max(m["reward"] for m in seen if m["stage"] == "validation")
    assert sum(p.sum().item() for p in policy.parameters()) == pytest.approx(best, abs=1e-3)
    assert (tmp_path / "run" / "start" / "model.safetensors").exists()


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


def test_adam_moments_come_back_by_name(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", iterations=2)
    run.run()
    again = trainer(tiny, tmp_path / "run", iterations=2)
    assert type(again.optimiser.optimizer) is torch.optim.AdamW
    assert again.keeper.resume(again.optimiser, allow_changes=False)
    for (name, a), (_, b) in zip(run.policy.named_parameters(), again.policy.named_parameters(), strict=True):
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(run.optimiser.optimizer.state[a][moment], again.optimiser.optimizer.state[b][moment]), (
                name
            )


def by_first_bias(better, seen=None):
    """A validation that prefers the output bias to be a given number."""

    def validate(policy):
        bias = policy.output_proj.bias.item()
        if seen is not None:
            seen.append(round(bias, 4))
        return {"reward": -abs(bias - better), "correct": 0.5, "nfe": 1.0}

    return validate


def sharpened(tiny, run, better, seen=None, **settings):
    asked = config(run, iterations=1, temperatures=(0.5, 0.25), lr=1e-9, **settings)
    return Trainer(asked, tiny, Short(), by_first_bias(better, seen), lambda m: None)


@pytest.mark.parametrize(("better", "chosen"), [(-2.0, 1.0), (-4.5, 0.5), (-9.0, 0.25)])
def test_the_best_policy_is_kept_at_its_best_temperature(tiny, tmp_path, better, chosen):
    run = sharpened(tiny, tmp_path / "run", better)
    policy = run.run()
    assert run.keeper.progress.temperature == chosen
    assert policy.output_proj.bias.item() == pytest.approx(run.policy.output_proj.bias.item() / chosen)
    torch.testing.assert_close(policy.output_proj.weight, run.policy.output_proj.weight / chosen)
    tried = [line for line in told(tmp_path / "run") if line["stage"] == "temperature"]
    assert [line["temperature"] for line in tried] == [0.5, 0.25]


def test_a_resumed_run_does_not_choose_its_temperature_twice(tiny, tmp_path):
    seen = []
    sharpened(tiny, tmp_path / "run", -4.5).run()
    again = sharpened(tiny, tmp_path / "run", -4.5, seen).run(resume=True)
    assert seen == []
    assert again.output_proj.bias.item() == pytest.approx(-4.0, abs=0.1)


def test_stopped_before_its_checkpoint_it_chooses_again(tiny, tmp_path, monkeypatch):
    saves = Keeper.save

    def save(keeper, optimiser, counts):
        if keeper.progress.temperature is not None:
            raise KeyboardInterrupt
        saves(keeper, optimiser, counts)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        with pytest.raises(KeyboardInterrupt):
            sharpened(tiny, tmp_path / "run", -9.0).run()
    again = sharpened(tiny, tmp_path / "run", -9.0).run(resume=True)
    assert again.output_proj.bias.item() == pytest.approx(-8.0, abs=0.1), "a quarter once, not a sixteenth"


def test_a_temperature_of_other_settings_is_forgotten(tiny, tmp_path):
    sharpened(tiny, tmp_path / "run", -9.0).run()
    plain = Trainer(config(tmp_path / "run", iterations=2, lr=1e-9), tiny, Short(), by_first_bias(-9.0), lambda m: None)
    policy = plain.run(resume=True, allow_changes=True)
    assert policy.output_proj.bias.item() == pytest.approx(-2.0, abs=0.1)
    assert not [line for line in told(tmp_path / "run") if line["stage"] == "temperature"]


def test_a_stop_before_the_temperature_is_heard(tiny, tmp_path):
    run = sharpened(tiny, tmp_path / "run", -9.0)
    with pytest.raises(Stopped, match="Stopped before the temperature was chosen; go on with --resume."):
        run.run(stop=lambda: run.keeper.progress.iteration == 1)
    assert sharpened(tiny, tmp_path / "run", -9.0).run(resume=True).output_proj.bias.item() == pytest.approx(
        -8.0, abs=0.1
    )


def test_a_network_that_cannot_divide_its_logits_is_left_as_it_is(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(TransformerPolicy, "scale_logits", LearnedPolicy.scale_logits)
    run = sharpened(tiny, tmp_path / "run", -9.0)
    run.run()
    assert run.keeper.progress.temperature == 1.0
    notes = [line["message"] for line in told(tmp_path / "run") if line["stage"] == "note"]
    assert notes == ["A transformer policy cannot divide its logits: run.temperatures is left."]
