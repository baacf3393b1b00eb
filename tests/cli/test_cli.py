"""The command line as a person meets it: help, dry runs, refusals with exit code 2."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from unmask.cli.console import Stop
from unmask.cli.main import main

ROOT = Path(__file__).parents[2]
RUN_ALL = """
import json, sys
from unmask.cli.main import main
for argv in json.loads(sys.argv[1]):
    code = 0
    try:
        main(argv)
    except SystemExit as e:
        code = e.code
    print("exit code", code)
"""


def run(capsys, *argv):
    """Exit code, stdout, stderr of a command."""
    code = 0
    try:
        main([str(a) for a in argv])
    except SystemExit as e:
        code = e.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(
    "command",
    [
        "check-model",
        "lm-eval",
        "quickstart",
        "decode",
        "train",
        "clone",
        "eval",
        "sweep",
        "report",
        "transfer",
        "view",
        "pretrain",
    ],
)
def test_help_explains_every_flag(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"unmask {command}" in out
    assert "Example" in out or command == "quickstart"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--lrr", "1"], "Did you mean --lr?"),
        (["train", "--lr", "-1"], "lr"),
        (["train", "--config", "none.toml"], "No config file at none.toml"),
        (["train", "--model", "no/such/model"], "Cannot load the dLLM 'no/such/model'"),
        (["train", "--algorithm.group-size", "1"], "group_size = '1' (input should be greater than or equal to 2"),
        (["train", "--alpha", "-1"], "Bad value in [algorithm]: alpha is -1.0: give a finite number from 0."),
        (["train", "--algorithm.reward", "my.reward"], "Cannot import the reward 'my.reward'"),
        (["train", "--policy.width", "30"], "width 30 must be a multiple of 2 * heads = 4"),
        (["train", "--algorithm.experts", "confidence_threshold @ x"], "block_length 'x'"),
        (["train", "--trackers", "wandb"], "The tracker 'wandb' is not installed: pip install wandb"),
        (["train", "--verifier", "exact"], "The task 'house' has a verifier of its own"),
        (["train", "--resume", "--run", "none/such"], "Nothing to resume in none/such: start without --resume."),
        (["train", "--dtype", "bf16", "--dry-run"], "Unknown dtype 'bf16': use auto, float32, bfloat16 or float16."),
        (["clone", "--clone-from", "none"], "Nothing to clone: set clone.rule, such as"),
        (["train", "--task", "huose", "--dry-run"], "Unknown task 'huose': did you mean 'house'?"),
        (["eval"], "Nothing to evaluate: give --policies"),
        (["eval", "--policies", "confidence_treshold:threshold=0.9"], "did you mean 'confidence_threshold'?"),
        (["eval", "--heuristics", "--block-lengths", "5"], "block_length 5 does not divide gen_length 32"),
        (["decode"], "No prompt was given"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, argv, message):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_unknown_words_and_long_prompts_are_refused(capsys, tiny_folder):
    policy = "confidence_threshold:threshold=0.9"
    code, _, err = run(capsys, "decode", "What is 12 * 7?", "--model", tiny_folder, "--policy", policy)
    assert code == 2
    assert "has words that the dLLM" in err
    long = "hall: " + " ".join(["red"] * 80) + "?"
    code, _, err = run(capsys, "decode", long, "--model", tiny_folder, "--policy", policy)
    assert code == 2
    assert "needs 115 positions, but the dLLM has 96: shorten the prompt, or lower gen_length." in err


def test_a_key_misspelt_in_toml_is_refused(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[run]\niteration = 3\n")
    code, _, err = run(capsys, "train", "--config", tmp_path / "c.toml")
    assert code == 2
    assert "Unknown key 'iteration'" in err
    assert "did you mean 'iterations'?" in err
    (tmp_path / "c.toml").write_text("iterations = = 3\n")
    code, _, err = run(capsys, "train", "--config", tmp_path / "c.toml")
    assert code == 2
    assert "is not a TOML file" in err


def test_flags_override_the_file(capsys, tmp_path, tiny_folder):
    (tmp_path / "c.toml").write_text("[run]\niterations = 3\n[algorithm]\nlr = 0.5\n")
    argv = ["train", "--config", tmp_path / "c.toml", "--lr", "0.25", "--model", tiny_folder, "--dry-run"]
    code, out, _ = run(capsys, *argv, "--run", tmp_path / "run")
    assert code == 0
    assert '"lr": 0.25' in out
    assert '"iterations": 3' in out
    assert not (tmp_path / "run").exists()


def test_decode_prints_texts_and_steps(capsys, tiny_folder):
    argv = ["decode", "hall: red blue?", "attic: gold?", "--model", tiny_folder, "--gen-length", 8]
    code, out, _ = run(capsys, *argv, "--policy", "top_k_confidence:k=2")
    assert code == 0
    assert out.count("(4 forward passes)") == 2
    code, out, _ = run(capsys, *argv, "--policy", "top_k_confidence:k=2", "--steps")
    assert code == 0
    assert out.count("·") == 2 * (6 + 4 + 2)


def test_eval_writes_rows_plot_and_table(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, "--policies", "random_order:k=2", "--prompts", 4, "--seeds", 2]
    code, out, _ = run(capsys, *argv, "--gen-length", 8, "--block-lengths", 4, "--output", tmp_path / "out")
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert {row["seed"] for row in rows} == {0, 1}
    assert (tmp_path / "out" / "plot.png").exists()
    assert (tmp_path / "out" / "plot.svg").exists()
    assert "random" in out


def test_eval_takes_any_rule_adaptive_blocks_and_early_stops(capsys, tmp_path, tiny_folder):
    policies = ["--policies", "factor", "--policies", "klass:threshold=0.5 | max_reveal:n=2"]
    blocks = ["--block-lengths", "adaptive:default=4,delimiters=[.]", "--block-lengths", "8", "--stop-at-eos"]
    argv = ["eval", "--model", tiny_folder, *policies, *blocks, "--prompts", 4, "--gen-length", 8]
    code, out, err = run(capsys, *argv, "--output", tmp_path / "out")
    assert code == 0, err
    assert "adaptive" in out
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert {row["block_length"] for row in rows} == {8, "adaptive:default=4,delimiters=[.]"}
    assert {row["policy"]["type"] for row in rows} == {"factor", "max_reveal"}
    assert all(row["stop_at_eos"] for row in rows)
    code, _, err = run(capsys, *argv[:-2], "--block-lengths", "adaptive:default=0")
    assert code == 2
    assert "default = '0' (input should be greater than or equal to 1" in err


def test_train_and_its_policy_decodes(capsys, tmp_path, tiny_folder):
    argv = ["train", "--model", tiny_folder, "--run", tmp_path / "run", "--iterations", 2, "--algorithm.prompts", 2]
    small = ["--gen-length", 8, "--clone-from", "none", "--validation-prompts", 4]
    code, out, err = run(capsys, *argv, *small)
    assert code == 0, err
    assert "validation at   2" in out
    code, _, err = run(capsys, *argv, *small)
    assert code == 2
    assert "exists: pass --resume" in err
    policy = tmp_path / "run" / "best"
    assert "gen_length=8)" in (policy / "README.md").read_text()
    code, out, _ = run(capsys, "decode", "hall: red?", "--model", tiny_folder, "--policy", policy, "--gen-length", 8)
    assert code == 0
    assert "forward passes" in out


def test_clone_stands_alone(capsys, tmp_path, tiny_folder):
    argv = ["clone", "--model", tiny_folder, "--run", tmp_path / "run", "--gen-length", 8, "--clone.keep", "all"]
    small = ["--clone.examples", 4, "--clone.updates", 3, "--validation-prompts", 4, "--clone-from", "best:factor"]
    code, out, err = run(capsys, *argv, *small)
    assert code == 0, err
    assert "clone best:factor; run folder" in out.replace("\n", " ")
    assert "cloned" in out
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "No reinforcement learning followed." in card
    assert isinstance(unmask.load_policy(tmp_path / "run" / "best"), unmask.policies.TransformerPolicy)


def test_numbers_go_to_a_tracker(capsys, tmp_path, tiny_folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    argv = ["train", "--model", tiny_folder, "--run", tmp_path / "run", "--iterations", 2, "--algorithm.prompts", 2]
    small = ["--gen-length", 8, "--clone-from", "none", "--validation-prompts", 4, "--trackers", "tensorboard"]
    code, _, err = run(capsys, *argv, *small)
    assert code == 0, err
    (events,) = (tmp_path / "run" / "unmask").glob("events.out.tfevents*")
    told = EventAccumulator(str(events.parent)).Reload()
    assert [event.step for event in told.Scalars("grpo/reward")] == [1, 2]
    assert len(told.Scalars("validation/nfe")) == 2


def test_a_file_of_prompts_trains(capsys, tmp_path, tiny_folder):
    from unmask.tasks.auto import load_task

    rows = [{"prompt": e.prompt, "answer": e.answer} for e in load_task("house").examples("train", 60)]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["train", "--model", tiny_folder, "--gen-length", 8, "--task", data, "--clone-from", "none"]
    small = ["--iterations", 1, "--algorithm.prompts", 2, "--validation-prompts", 4, "--algorithm.reward", "additive"]
    code, _, err = run(capsys, *argv, *small, "--run", tmp_path / "a")
    assert code == 2
    assert "The task 'mine' has no verifier, and training needs to know what is correct: pass --verifier" in err
    code, out, err = run(capsys, *argv, *small, "--run", tmp_path / "a", "--verifier", "exact")
    assert code == 0, err
    assert "on mine" in out
    data.write_text(data.read_text() + '{"prompt": "hall: red?", "gold": "attic"}\n')
    code, _, err = run(capsys, *argv, *small, "--run", tmp_path / "b", "--verifier", "exact")
    assert code == 2
    assert "mine.jsonl, row 61: no column 'answer' (it has: prompt, gold): rename or add it." in err
    assert not (tmp_path / "b").exists()


def test_prompts_over_the_limit_are_counted(capsys, tmp_path, tiny_folder):
    argv = ["train", "--model", tiny_folder, "--gen-length", 8, "--max-prompt-length", 9, "--run", tmp_path / "a"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "prompts have more than 9 tokens (the longest 11): set long_prompts to 'skip' or 'truncate'" in err
    assert not (tmp_path / "a").exists()


def test_a_new_rule_is_one_file(tmp_path, tiny_folder):
    """In a copy of the package: add policies/leftmost.py; eval with heuristics, decode and TOML know it."""
    package = tmp_path / "unmask"
    shutil.copytree(Path(unmask.__file__).parent, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (package / "policies" / "leftmost.py").write_text(
        '''"""Left to right, k positions per step."""
from typing import ClassVar
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions

@rule
class Leftmost(Rule):
    type_name: ClassVar[str] = "leftmost"
    label: ClassVar[str] = "left to right"
    grid: ClassVar[Grid] = {"k": (1, 2)}
    k: int = 1
    def select(self, observation):
        return topk_positions(observation.noise * 0, observation.selectable, self.k)
'''
    )
    (tmp_path / "c.toml").write_text('policies = ["leftmost:k=2"]\nprompts = 3\ngen_length = 8\n')

    commands = [
        ["sweep", "--dry-run", "--gen-length", 8, "--block-lengths", 8],
        ["eval", "--config", "c.toml", "--output", "out"],
        ["decode", "hall: red?", "--policy", "leftmost:k=4", "--gen-length", 8],
        ["decode", "hall: red?", "--policy", "leftmost:q=4", "--gen-length", 8],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps([[*map(str, argv), "--model", tiny_folder] for argv in commands])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    grid, _, decoded, refused, end = done.stdout.split("exit code")
    assert grid.count("left to right  block_length 8") == 2, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert {row["policy"]["type"] for row in rows} == {"leftmost"}
    assert {row["nfe"] for row in rows} == {4}
    assert "(2 forward passes)" in decoded
    assert [part.split()[0] for part in (decoded, refused, end)] == ["0", "0", "2"]
    assert "Unknown key 'q'" in done.stderr


def test_stop_is_asked_once_and_gives_the_signals_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "Stopping after this step" in capsys.readouterr().err


def test_a_key_outside_its_table_is_told_its_table(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("iterations = 3\n")
    code, _, err = run(capsys, "train", "--config", tmp_path / "c.toml")
    assert code == 2
    assert "The key 'iterations' of" in err
    assert "belongs into a table: put it under [run]." in err


def test_the_options_that_most_people_need_come_first(capsys):
    _, out, _ = run(capsys, "train", "--help")
    groups = ["Most used", "Start", "Model", "Task", "Decode", "Policy", "Clone", "Algorithm", "Run"]
    places = [out.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places)
    first = out[places[0] : places[1]]
    short = (
        "model",
        "task",
        "gen-length",
        "block-length",
        "clone-from",
        "algorithm",
        "alpha",
        "lr",
        "run",
        "iterations",
    )
    assert [f"--{name} " in first for name in short] == [True] * 10
    assert first.count(" --") == 10
