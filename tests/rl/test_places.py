"""One policy on several dLLMs and tasks: who is trained on when, and by which teacher."""

import json

import pytest

from tests.rl.runs import config
from unmask.cli.main import main
from unmask.errors import Stopped, UnmaskError
from unmask.models.auto import load_model
from unmask.policies import ConfidenceThreshold
from unmask.policies.auto import load_policy
from unmask.pretrain import PretrainConfig, pretrain
from unmask.rl.places import Place, at_all, first_of, places_of
from unmask.rl.prompts import fitting
from unmask.rl.trainer import Trainer
from unmask.rl.validation import validator

SPEED = {"policy": {"use_speed": True}, "beta": (0.01, 3.0), "clone_rule": "best:confidence_threshold"}


@pytest.fixture(scope="module")
def dllms(tmp_path_factory):
    """Two tiny dLLMs, of lists and of clauses, that hardly know anything."""
    folder = tmp_path_factory.mktemp("dllms")
    for task, length, prompt in (("lists:items=4", 4, 5), ("nae-sat:latents=6,clauses=2", 8, 6)):
        recipe = {"layers": 1, "width": 16, "heads": 2, "steps": 60, "batch_size": 16, "lr": 5e-3, "curriculum": 0.0}
        name = str(folder / task.partition(":")[0])
        pretrain(
            PretrainConfig(
                output=name, tasks={task: 1.0}, gen_length=length, max_prompt=prompt, double_share=0.0, **recipe
            )
        )
    return folder


def run_of(dllms, folder, **changes):
    """A trainer on both, by what the command does."""
    also = f"nae-sat:latents=6,clauses=2 @ {dllms / 'nae-sat'}"
    asked = config(folder, clone_keep="all", prompts=8, iterations=4, **changes)
    task = asked.task.model_copy(update={"task": "lists:items=4", "also": (also,)})
    asked = asked.model_copy(
        update={"task": task, "model": asked.model.model_copy(update={"model": str(dllms / "lists")})}
    )
    places = [asked, *places_of(asked)]
    found = [Place(one, load_model(one.model.model), one.task.load_task()) for one in places]
    validations = {}
    for place in found:
        prompts, _ = fitting(place.model, place.task.examples("validation", 8), place.task.gen_length)
        validations[place.name] = validator(
            place.model, place.task, prompts, place.config.decode, asked.algorithm.settings
        )
    return Trainer(asked, found[0].model, found[0].task, at_all(validations), lambda m: None, also=found[1:])


def lines(folder, stage):
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if line["stage"] == stage]


def test_iterations_take_turns_and_both_are_validated(dllms, tmp_path):
    trainer = run_of(dllms, tmp_path / "run", **SPEED)
    trainer.run()
    names = [place.name for place in trainer.places]
    assert names == [f"lists:items=4 @ {dllms / 'lists'}", f"nae-sat:latents=6,clauses=2 @ {dllms / 'nae-sat'}"]
    assert [line["place"] for line in lines(tmp_path / "run", "grpo")] == names * 2
    for line in lines(tmp_path / "run", "validation"):
        own = [line[f"reward[{name}]"] for name in names]
        assert line["reward"] == pytest.approx(sum(own) / 2)
    assert trainer.algorithm.scale.square.shape == (16,), "advantages are scaled for each speed of each place"
    assert (tmp_path / "run" / "search-1.jsonl").exists()
    assert load_policy(tmp_path / "run" / "best").needs.speed


def test_tasks_of_a_mixture_at_a_place_keep_their_numbers():
    one = {"reward": 0.5, "reward_house": 0.4, "correct_house": 0.9, "correct": 0.8, "correct@0.00": 1.0, "nfe": 3.0}
    other = {"reward": 0.7, "correct": 0.6, "correct@0.00": 0.5, "nfe": 5.0}
    found = at_all({"a": lambda policy: one, "b": lambda policy: other})(ConfidenceThreshold(0.9))
    assert found["reward_house[a]"] == 0.4
    assert found["correct_house[a]"] == 0.9
    assert {key for key in found if "[" not in key} == set(other)
    assert found["correct@0.00"] == 0.75


def test_a_run_that_is_stopped_between_places_goes_on_as_if_it_were_not(dllms, tmp_path):
    whole = run_of(dllms, tmp_path / "whole", **SPEED).run()
    with pytest.raises(Stopped):
        run_of(dllms, tmp_path / "cut", **SPEED).run(stop=lambda: len(lines(tmp_path / "cut", "grpo")) == 1)
    again = run_of(dllms, tmp_path / "cut", **SPEED).run(resume=True)
    assert all((a == b).all() for a, b in zip(whole.weights().values(), again.weights().values(), strict=True))


def test_each_place_has_its_own_teachers(tmp_path):
    asked = config(tmp_path / "run", **SPEED)
    task = asked.task.model_copy(update={"task": "house", "also": ("lists @ runs/lists", "house+ledger @ house-small")})
    teachers = ("a", "b", "c", "d")
    asked = asked.model_copy(update={"task": task, "clone": asked.clone.model_copy(update={"teachers": teachers})})
    with pytest.raises(UnmaskError, match="give weights"):
        [one.task.load_task().examples("train", 4) for one in places_of(asked)]
    assert [one.clone.teachers for one in (first_of(asked), *places_of(asked))] == [("a",), ("b",), ("c", "d")]
    assert [one.model.model for one in places_of(asked)] == ["runs/lists", "house-small"]
    one = asked.model_copy(update={"clone": asked.clone.model_copy(update={"teachers": ("a",)})})
    assert {each.clone.teachers for each in (first_of(one), *places_of(one))} == {("a",)}
    few = asked.model_copy(update={"clone": asked.clone.model_copy(update={"teachers": ("a", "b")})})
    with pytest.raises(UnmaskError, match="2 clone.teachers for 4 tasks: give one for each, or one for all"):
        places_of(few)


def test_a_place_is_written_as_task_at_dllm(tmp_path):
    asked = config(tmp_path / "run")
    for wrong in ("lists", "lists @", "@ runs/lists"):
        bad = asked.model_copy(update={"task": asked.task.model_copy(update={"task": "house", "also": (wrong,)})})
        with pytest.raises(UnmaskError, match=f"Cannot read '{wrong}' in task.also: write TASK @ DLLM, such as"):
            places_of(bad)
    labels = asked.task.model_copy(update={"task": "house", "also": ("lists @ x",), "labels": "agreement"})
    with pytest.raises(UnmaskError, match="task.also goes with gold answers, and task.labels is agreement"):
        places_of(asked.model_copy(update={"task": labels}))


def test_places_cannot_change_in_a_run(dllms, tmp_path):
    with pytest.raises(Stopped):
        run_of(dllms, tmp_path / "run", **SPEED).run(stop=lambda: len(lines(tmp_path / "run", "grpo")) == 1)
    other = run_of(dllms, tmp_path / "run", **SPEED)
    alone = other.config.model_copy(update={"task": other.config.task.model_copy(update={"also": ()})})
    first = other.places[0]
    again = Trainer(alone, first.model, first.task, lambda policy: {}, lambda m: None)
    with pytest.raises(UnmaskError, match="was begun with .*task.also = .* which cannot change: resume with the same"):
        again.run(resume=True, allow_changes=True)


def test_a_dry_run_knows_the_places(capsys):
    main(["train", "--dry-run", "--also", "lists @ runs/lists"])
    told = " ".join(capsys.readouterr().out.split())
    # 90 iterations in turns, 8 prompts x 8 roll-outs, 256 cloned prompts; 7 validations of 256 prompts.
    assert f"8 positions: {(45 * 64 + 256) * 8:,} of the forward passes below, and {7 * 256 * 8:,} of the valid" in told
    assert f"(rows): {(45 * 64 + 256) * (8 + 32):,} if every roll-out" in told
    assert f"validations {7 * 256 * (8 + 32):,} at most" in told
    for wrong, message in (
        (["--also", "lists"], "Cannot read 'lists' in task.also: write TASK @ DLLM"),
        (["--algorithm.leaps", "1", "--block-length", "8"], "algorithm.leaps is for full diffusion"),
    ):
        with pytest.raises(SystemExit):
            main(["train", "--dry-run", *wrong])
        assert message in " ".join(capsys.readouterr().err.split())
