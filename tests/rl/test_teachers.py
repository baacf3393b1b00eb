"""Cloning trained policies: one for each task of a mixture, at every speed."""

import json

import pytest
import torch

from tests.policies.test_speed import conditioned
from tests.rl.runs import config, told, trainer
from tests.rl.tasks import Easy, Hopeless, Short
from unmask.cli.main import main
from unmask.errors import UnmaskError
from unmask.policies import TransformerPolicy
from unmask.rl.card import describe
from unmask.rl.cloning import clone, together
from unmask.rl.config import CloneConfig, TrainDecodeConfig
from unmask.rl.plan import plan
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt
from unmask.rl.teachers import Teachers
from unmask.tasks.mixture import MixtureTask

EVERY = {"policy": {"use_speed": True, "use_entropy": True}, "beta": (0.1, 1.0), "speeds": 4}


class Other(Easy):
    name = "other"


def both():
    short, other = Short(), Other()
    short.endless = other.endless = True
    return MixtureTask([short, other], [1, 1])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        policy = conditioned()
        torch.nn.init.constant_(policy.output_proj.bias, 3.0 * seed - 3.0)  # a is careful, b is not
        policy.save(folder / name)
    return [str(folder / name) for name in "ab"]


def lessons(tiny, names, task, keep="all", parts=4):
    decode = TrainDecodeConfig(gen_length=8, batch_size=32)
    prompts = [Prompt(example, tiny.encode(example.prompt)) for example in task.examples("train", 8)]
    made = Teachers(names, tiny, task, decode, parts, keep, Processes())
    return prompts, made.lessons(conditioned(), prompts, 0, lambda done, total: None)


def test_each_teaches_its_task_at_speeds_of_the_whole_axis(tiny, teachers):
    prompts, found = lessons(tiny, teachers, both())
    assert list(found) == [f"{teachers[0]} on short", f"{teachers[1]} on other"]
    for task, each in zip(("short", "other"), found.values(), strict=True):
        numbers = each.steps.rollout
        assert {prompts[int(i) // 4].example.task for i in numbers} == {task}
        assert len(numbers.unique()) == 4 * 4  # prompts of the task, parts of the axis
        part = (each.steps.observation.speed * 4).floor()
        assert torch.equal(part, (numbers % 4).float())
        assert len(each.steps) == each.total == each.passes
    careful, eager = (each.passes for each in found.values())
    assert careful > eager
    merged = together(list(found.values()))
    assert merged.total == careful + eager
    assert sorted(merged.index.tolist()) == list(range(merged.total))


def test_one_teaches_all_tasks(tiny, teachers):
    _, found = lessons(tiny, teachers[:1], both())
    assert list(found) == [f"{teachers[0]} on short", f"{teachers[0]} on other"]
    _, found = lessons(tiny, teachers[:1], Short())
    assert list(found) == [f"{teachers[0]} on short"]


def test_what_it_teaches_is_learnt(tiny, teachers):
    torch.manual_seed(3)
    given = together(list(lessons(tiny, teachers, both())[1].values()))
    learner = TransformerPolicy(conditioned().settings)
    losses = clone(learner, [given], CloneConfig(updates=60, batch_size=64, lr=2e-3), seed=0)
    assert losses[-1] < 0.8 * losses[0]


def test_a_teacher_without_a_right_answer_is_refused(tiny, teachers):
    with pytest.raises(UnmaskError, match=r"The teacher .*a answers no prompt of short correctly: choose another"):
        lessons(tiny, teachers[:1], Hopeless(), keep="correct")


def test_a_run_begins_with_them_and_says_so(tiny, teachers, tmp_path):
    run = trainer(tiny, tmp_path / "run", both(), clone_teachers=teachers, clone_keep="all", iterations=1, **EVERY)
    run.run()
    line = next(line for line in told(tmp_path / "run") if line["stage"] == "clone")
    assert (line["rule"], line["block_length"]) == ("2 policies", 8)
    assert "cells" not in line
    assert not (tmp_path / "run" / "search.jsonl").exists()
    asked = config(tmp_path, clone_teachers=teachers, **EVERY)
    assert f"From fresh weights, clone {teachers[0]} and {teachers[1]}, then" in describe(asked, "tiny", "both", 8)
    with_rule = plan(config(tmp_path, **EVERY), 8, 1).most_passes
    assert plan(asked, 8, 1).most_passes == with_rule + 8 * 8 * (4 - 1)  # examples x positions x (parts - one rule)


@pytest.mark.parametrize(
    ("named", "changes", "message"),
    [
        (3, EVERY, "3 clone.teachers for 2 task(s): give one for each, or one for all."),
        (0, EVERY, "The teacher factor is a rule: clone it by clone.rule."),
        (1, {}, "and the policy to train has none; set policy.use_speed, or choose another teacher."),
    ],
)
def test_teachers_that_do_not_fit_are_refused(tiny, teachers, tmp_path, named, changes, message):
    names = {0: ["factor"], 1: teachers[:1], 3: [*teachers, teachers[0]]}[named]
    with pytest.raises(UnmaskError) as refused:
        trainer(tiny, tmp_path / "run", both(), clone_teachers=names, **changes)
    assert str(refused.value).endswith(message)
    assert not (tmp_path / "run").exists()


def test_one_without_a_speed_cannot_teach_one_with(tiny, tmp_path):
    TransformerPolicy().save(tmp_path / "plain")
    with pytest.raises(
        UnmaskError, match="the policy to train has a speed, and it has none; unset policy.use_speed, or choose"
    ):
        trainer(tiny, tmp_path / "run", clone_teachers=[str(tmp_path / "plain")], **EVERY)


def test_best_of_is_for_rules(tmp_path, teachers):
    with pytest.raises(ValueError, match=r"clone\.best_of goes with a rule, and clone\.teachers are policies"):
        config(tmp_path, clone_teachers=teachers, clone_best_of=2, **EVERY)


def test_from_the_command_line(capsys, tmp_path, teachers):
    words = ["clone", "--task", "house", "--policy.use-speed", "--policy.use-entropy", "--clone.examples", "4"]
    words += ["--clone.updates", "2", "--clone.keep", "all", "--validation-prompts", "4", "--run", str(tmp_path / "c")]
    main([*words, "--clone.teachers", teachers[0]])
    assert "steps of 1 policy in blocks of 32" in " ".join(capsys.readouterr().out.split())
    line = json.loads((tmp_path / "c" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["stage"] == "clone"
    assert f"fitted to `{teachers[0]}`" in (tmp_path / "c" / "best" / "README.md").read_text()
