"""The flags of `unmask train`: a table each, and the most used ones first."""

import json

import pytest

from tests.cli.test_cli import run


def test_help_shows_the_most_used_first_and_then_a_group_for_each_table(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    groups = [line.strip("╭─╮ \n") for line in out.splitlines() if line.startswith("╭")]
    assert groups[0] == "Most used"
    assert groups[-7:] == ["Model", "Task", "Decode", "Policy", "Clone", "Algorithm", "Run"]
    first = out[out.index("Most used") : out.index("╰")]
    flags = [word for line in first.splitlines() for word in line.split() if word.startswith("--")]
    short = ["model", "task", "gen-length", "block-length", "clone-from", "algorithm", "alpha", "lr", "run"]
    assert flags == [f"--{name}" for name in (*short, "iterations")]


def resolved(capsys, *argv):
    code, out, err = run(capsys, "train", "--dry-run", *argv)
    assert code == 0, err
    return json.loads(out[out.index("{") : out.rindex("\n}") + 2])


def test_an_algorithm_takes_its_own_settings(capsys):
    found = resolved(capsys, "--algorithm", "ppo", "--algorithm.gae-lambda", 0.5, "--algorithm.prompts", 4)["algorithm"]
    assert (found["name"], found["gae_lambda"], found["prompts"]) == ("ppo", 0.5, 4)
    found = resolved(capsys, "--algorithm.group-size", 4, "--algorithm=rloo", "--alpha", 3)["algorithm"]
    assert (found["name"], found["group_size"], found["alpha"]) == ("rloo", 4, 3.0)


def test_flags_go_to_their_tables(capsys):
    flags = ["--clone.lr", 0.5, "--lr", 0.25, "--seed", 7, "--batch-size", 9, "--clone.batch-size", 11]
    found = resolved(capsys, *flags, "--policy.init", "house-base-full", "--block-length", "adaptive:default=8")
    assert (found["clone"]["lr"], found["algorithm"]["lr"]) == (0.5, 0.25)
    assert (found["run"]["seed"], found["decode"]["batch_size"], found["clone"]["batch_size"]) == (7, 9, 11)
    assert found["policy"]["init"] == "house-base-full"
    assert found["clone"]["rule"] == "none", "it is not cloned over"
    assert found["decode"]["block_length"] == "adaptive:default=8"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algorithm.groupsize", "3"], "Unknown option: --algorithm.groupsize. Did you mean --algorithm.group-size?"),
        (["--algorithm", "ppo", "--algorithm.experts", "factor"], "Unknown key 'experts' in [algorithm]"),
        (["--algorithm", "gpro"], "Unknown algorithm 'gpro': did you mean 'grpo'?"),
        (["--policy.wdth", "3"], "Unknown option: --policy.wdth. Did you mean --policy.width?"),
        (["--policy.type", "factor"], "type = 'factor' in [policy] is a rule, which has no weights to train."),
    ],
)
def test_bad_flags_are_refused(capsys, argv, message):
    code, _, err = run(capsys, "train", *argv)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_dry_run_checks_the_task_and_counts_weights_as_they_are_saved(capsys, tmp_path):
    rows = "".join(json.dumps({"prompt": f"hall: red{i}?", "answer": "hall"}) + "\n" for i in range(40))
    (tmp_path / "mine.jsonl").write_text(rows)
    flags = ["--gen-length", 16, "--dry-run"]
    code, out, _ = run(capsys, "train", "--task", tmp_path / "mine.jsonl", "--verifier", "exact", *flags)
    assert code == 0
    assert "2 MiB in float32 for the dLLM's 640,636 weights" in out, "as house-base is saved, not in bfloat16"
    for argv, message in (
        (["--task", tmp_path / "none.jsonl", "--verifier", "exact"], "none.jsonl"),
        (["--task", tmp_path / "mine.jsonl"], "has no verifier, and training needs one: pass --verifier"),
    ):
        code, _, err = run(capsys, "train", *argv, *flags)
        assert code == 2
        assert message in err


def test_a_value_that_begins_with_a_minus_is_told_how_to_be_given(capsys):
    code, _, err = run(capsys, "train", "--algorithm.beta", "-0.01,3")
    assert code == 2
    assert "Join a value that begins with a minus to it: --algorithm.beta=-0.01,3" in err
