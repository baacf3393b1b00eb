"""Training at every speed: strata, scales, rewards, the search for rules, and a run that is resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.rl.runs import checkpoint, config, told, trainer
from tests.rl.tasks import Easy, Odd, Short
from unmask.errors import Stopped, UnmaskError
from unmask.pareto import Point, curve_volume
from unmask.policies import load_policy
from unmask.policies.wrappers import Plain
from unmask.rl.algorithms.grpo import MovingScale
from unmask.rl.collect import draw_speeds, part_of
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt, fitting
from unmask.rl.rewards import Outcome, load_reward, scale_free, weight_at
from unmask.rl.rollout import roll_out
from unmask.rl.search import Demonstration, Search, demonstrations
from unmask.rl.validation import validator
from unmask.rl.warm_start import WarmStart
from unmask.tasks.mixture import MixtureTask

SPEED = {"policy": {"use_speed": True, "use_entropy": True}, "speeds": 3, "prompts": 6, "group_size": 4}


def test_scale_free_reward():
    correct, nfe = torch.tensor([True, True, False, True]), torch.tensor([1, 4, 1, 16])
    assert scale_free(correct, nfe, 32, 0.5).tolist() == pytest.approx([1.0, 0.5, 0.0, 0.25])
    each = scale_free(correct, nfe, 32, torch.tensor([1.0, 1.0, 1.0, 2.0]))
    assert each.tolist() == pytest.approx([1.0, 0.25, 0.0, 1 / 256])


def test_the_weight_of_a_speed_is_linear_in_its_logarithm():
    assert weight_at((0.01, 1.0), torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.01, 0.1, 1.0])
    assert weight_at(3.0, None) == 3.0
    with pytest.raises(UnmaskError, match=r"The weight of speed is \(0.01, 1.0\), for a policy with a speed"):
        weight_at((0.01, 1.0), None)
    outcome = Outcome([], [""] * 2, torch.tensor([True, True]), torch.tensor([4, 4]), 32, torch.tensor([0.0, 1.0]))
    assert load_reward("scale_free", beta=(0.5, 1.0))(outcome).tolist() == pytest.approx([0.5, 0.25])
    assert load_reward("multiplicative", (1.0, 2.0))(outcome).tolist() == pytest.approx([29 / 32, (29 / 32) ** 2])


def test_speeds_are_spread_over_each_iteration():
    drawn = draw_speeds(12, 4, seed=0, iteration=3)
    assert sorted(part_of(drawn, 4, 12).tolist()) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert all(0 <= speed <= 1 for speed in drawn)
    assert len(set(drawn)) > 6, "drawn continuously"
    assert drawn == draw_speeds(12, 4, 0, 3) != draw_speeds(12, 4, 0, 4)
    assert part_of(None, 4, 2).tolist() == [0, 0]


def test_each_part_has_a_scale_that_moves_slowly():
    scale = MovingScale(3)
    advantage, reward = torch.tensor([[1.0, -1.0], [0.001, -0.001]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    part = torch.tensor([0, 2])
    # Part 0: mean square 1. Part 1 is not seen. Part 2: the floor, 0.05 of the mean reward 0.5.
    assert scale.update(advantage, reward, part, Processes()).tolist() == pytest.approx([1.0, 1.0, 0.025])
    # 0.9 of before and 0.1 of now: 0.9 * 1 + 0.1 * 4, and no floor any more.
    found = scale.update(2 * advantage, reward, part, Processes()).square()
    assert found.tolist() == pytest.approx([1.3, 1.0, 0.9 * 0.025**2 + 0.1 * 0.002**2], rel=1e-4)
    assert scale.square[1] == 0


def test_no_signal_leaves_a_scale_of_one():
    zeros = torch.zeros(1, 2)
    assert MovingScale(2).update(zeros, zeros, torch.tensor([0]), Processes()).tolist() == [1.0, 1.0]


def test_the_area_under_a_curve_over_log_nfe():
    curve = [Point(2, 0.5), Point(8, 1.0), Point(4, 0.2)]
    # From 2 to 8 at 0.75 on average, from 8 to 16 at 1: (0.75 * 2 + 1 * 1) of 4 doublings; (4, 0.2) is dominated.
    assert curve_volume(curve, 16) == pytest.approx(2.5 / 4)
    assert curve_volume(curve, 1.5) == 0.0
    with pytest.raises(UnmaskError, match="The reference NFE is 1: give one above 1"):
        curve_volume(curve, 1)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path):
    changes = {**SPEED, "clone_rule": "best:top_k_confidence", "scale_advantages": "ema"}
    trainer(tiny, tmp_path / "whole", **changes).run()
    cut = trainer(tiny, tmp_path / "cut", **changes)
    with pytest.raises(Stopped):
        cut.run(stop=lambda: cut.keeper.progress.iteration == 2)
    trainer(tiny, tmp_path / "cut", **changes).run(resume=True)
    whole, cut = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors")):
        a, b = load_file(whole / file), load_file(cut / file)
        assert all(torch.equal(a[name], b[name]) for name in a), file
    assert load_file(whole / "algorithm.safetensors")["scale.square"].max() > 0
    assert told(tmp_path / "whole") == told(tmp_path / "cut")
    lines = told(tmp_path / "whole")
    assert [cell["speed"] for cell in lines[0]["cells"]] == [0.0, 0.5, 1.0]
    assert {"correct@0.00", "nfe@0.50", "correct@1.00"} <= lines[2].keys()
    assert load_policy(tmp_path / "whole" / "best").needs.speed


def test_what_one_speed_finds_the_others_learn(tiny, tmp_path):
    trained = trainer(tiny, tmp_path / "a", **SPEED, other_speeds=2, clone_rule="none")
    prompts = [Prompt(e, tiny.encode(e.prompt)) for e in Short().examples("train", 6)]
    asked = draw_speeds(6, 3, seed=0, iteration=0)
    found = trained.collectors[0].collect(list(enumerate(prompts)), 0, asked)
    batch = found.batch
    assert batch.reward.shape == (6, 4 + 2)
    assert batch.expert.view(6, 6).tolist() == [[False] * 4 + [True] * 2] * 6
    speed = batch.steps.observation.speed.view(-1)
    assert torch.equal(speed, torch.tensor(asked)[batch.steps.rollout // 6]), "all learnt at their group's own"
    assert len(found.outcome.nfe) == 24, "metrics leave them out"
    # Judged at the group's own speed, too: the reward of equal outcomes is equal within a group.
    half = trained.collectors[0].collect(list(enumerate(prompts))[3:], 0, asked).batch
    assert torch.equal(half.reward, batch.reward[3:]), "another split over processes draws the same"


def test_other_speeds_need_a_speed(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="algorithm.other_speeds is 1, and the policy has no speed: leave it out"):
        trainer(tiny, tmp_path / "a", other_speeds=1)


def test_a_stopped_search_goes_on(tiny, tmp_path):
    cells = demonstrations("best:confidence_threshold", None, 4, 8)
    prompts = fitting(tiny, Short().examples("train", 20), 8)[0]

    def search(stop=lambda: False):
        decode = config(tmp_path).decode.model_copy(update={"gen_length": 8})
        reward = load_reward("scale_free", beta=(0.01, 3.0))
        journal = tmp_path / "search.jsonl"
        return Search(tiny, Short(), decode, reward, Processes(), [1.0], journal, lambda *a: None, stop)

    calls = iter(range(100))
    with pytest.raises(Stopped, match="Stopped while trying rules; what was tried is kept"):
        search(lambda: next(calls) == 3).best(cells, prompts)
    with (tmp_path / "search.jsonl").open("a") as file:
        file.write('{"policy": "cut sho')  # what a kill may leave
    resumed, passes = search().best(cells, prompts)
    (tmp_path / "search.jsonl").unlink()
    whole, all_passes = search().best(cells, prompts)
    assert resumed == whole
    assert 0 < passes < all_passes
    rows = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert len(rows[0]["index"]) == 16, "all cells try a few prompts"
    assert sum(len(row["index"]) == 4 for row in rows) == 8 < len(cells), "and the best eight the rest"
    assert Demonstration("factor", 4).key == "factor @ 4"


def test_every_rule_is_tried_and_settings_that_act_alike_once(tiny):
    cells = demonstrations("best:*", None, 8, 8)
    assert {cell.policy.partition(":")[0] for cell in cells} >= {"entropy_bound", "factor", "klass", "random_order"}
    assert {cell.block_length for cell in cells} == {4, 8}
    assert "top_k_confidence:k=8" not in {cell.policy for cell in cells if cell.block_length == 4}


def test_a_policy_with_a_speed_is_judged_by_its_curve(tiny, tmp_path):
    run = config(tmp_path, **SPEED)
    prompts = fitting(tiny, Short().examples("validation", 10), 8)[0]
    policy = run.policy.fresh(None)
    found = validator(tiny, Short(), prompts, run.decode.model_copy(update={"gen_length": 8}), run.algorithm.settings)(
        policy
    )
    points = [Point(found[f"nfe@{s}"], found[f"correct@{s}"]) for s in ("0.00", "0.50", "1.00")]
    assert found["reward"] == pytest.approx(curve_volume(points, 8))
    assert found["nfe"] == pytest.approx(sum(point.nfe for point in points) / 3)


def test_tasks_of_a_mixture_are_judged_by_a_curve_each(tiny, tmp_path):
    run = config(tmp_path, **SPEED)
    task = MixtureTask([Easy(), Odd()], weights=[3, 1])
    examples = sorted(task.examples("validation", 8), key=lambda example: example.task)
    prompts = fitting(tiny, examples, 8)[0]
    assert [prompt.example.task for prompt in prompts] == ["odd"] * 2 + ["short"] * 6

    def judged(some):
        decode, settings = run.decode.model_copy(update={"gen_length": 8}), run.algorithm.settings
        torch.manual_seed(0)
        return validator(tiny, task, some, decode, settings)(run.policy.fresh(None))

    found, odd = judged(prompts), judged(prompts[:2])
    assert found["reward_odd"] == odd["reward"]
    points = [Point(odd[f"nfe@{s}"], odd[f"correct@{s}"]) for s in ("0.00", "0.50", "1.00")]
    assert odd["reward"] == pytest.approx(curve_volume(points, 8))
    assert found["reward"] == pytest.approx((found["reward_odd"] + 3 * found["reward_short"]) / 4)
    pooled = [Point(found[f"nfe@{s}"], found[f"correct@{s}"]) for s in ("0.00", "0.50", "1.00")]
    assert found["reward"] != pytest.approx(curve_volume(pooled, 8)), "one curve of both would hide what each is worth"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": (0.1, 3.0)}, r"algorithm.beta is \[0.1, 3.0\], a range for a policy with a speed"),
        ({**SPEED, "alpha": 1.0}, "algorithm.alpha is 1, and a policy with a speed learns at a range of them: give"),
        ({"alpha": 1.0, "beta": 0.1}, "alpha weighs speed in the paper's rewards and beta in scale_free: give one"),
        ({**SPEED, "beta": (0.0, 3.0)}, "give one number, or two above 0, the smaller first"),
        ({"beta": -1.0}, "beta is -1.0: give a finite number from 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(Exception, match=message):
        config(tmp_path, **changes)


def test_one_weight_trains_a_policy_without_a_speed(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", beta=0.5, iterations=1).run()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"]["reward"] == "scale_free"


def test_the_clones_own_best_roll_outs_are_cloned_too(tiny, tmp_path):
    changes = {**SPEED, "clone_rule": "confidence_threshold", "iterations": 0}
    trainer(tiny, tmp_path / "a", **changes).run()
    trainer(tiny, tmp_path / "b", **changes, clone_best_of=3).run()
    (plain, _), (best, _) = told(tmp_path / "a"), told(tmp_path / "b")
    assert best["passes"] > plain["passes"] + 3 * 8 * 3, "3 roll-outs of 8 prompts at 3 speeds, of at least a pass"
    a, b = (load_file(tmp_path / name / "start" / "model.safetensors") for name in ("a", "b"))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_the_best_of_several_roll_outs_is_the_one_that_earns_most(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "a", Easy(), **SPEED, clone_rule="none", max_steps=100)
    prompts = [Prompt(e, tiny.encode(e.prompt)) for e in Easy().examples("train", 6)]
    settings = run.config.clone.model_copy(update={"best_of": 4})
    warm = WarmStart(tiny, Easy(), run.config.decode, run.reward, settings, Processes(), seed=5)
    found, passes = warm.best_of(run.policy, 0.5, prompts)
    repeated = [prompt for prompt in prompts for _ in range(4)]
    rolled = roll_out(
        tiny,
        Plain(run.policy),
        Easy(),
        [prompt.example for prompt in repeated],
        run.config.decode,
        prompts=[prompt.tokens for prompt in repeated],
        seed=5,
        needs=run.policy.needs,
        speeds=[0.5] * 24,
    )
    fewest = rolled.outcome.nfe.view(6, 4).amin(dim=1)
    assert (rolled.outcome.nfe.view(6, 4).amax(dim=1) > fewest).any()
    assert passes == rolled.outcome.nfe.sum()
    assert torch.equal(torch.bincount(found.steps.rollout, minlength=6), fewest)
