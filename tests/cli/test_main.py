"""How a command ends: bad input 2, a stop 130, each with one sentence."""

import json
import os
import subprocess
import sys

import pytest

from tests.cli.test_cli import run
from tests.test_journal import holding
from unmask.cli import main as entry
from unmask.errors import Stopped, explain_system


def test_a_stop_that_nobody_caught_ends_with_130(capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise Stopped("Stopped after step 3; go on with --resume.")

    monkeypatch.setattr(entry, "app", stopped)
    assert run(capsys, "train") == (130, "", "Stopped after step 3; go on with --resume.\n")


@pytest.mark.parametrize(
    ("argv", "lock", "flag"),
    [
        (["train", "--iterations", 1, "--validation-prompts", 2], "o/.lock", "--run"),
        (["clone", "--clone-from", "factor", "--validation-prompts", 2], "o/.lock", "--run"),
        (["eval", "--policies", "factor", "--prompts", 2], "o/.lock", "--output"),
        (["pretrain", "--layers", 1, "--steps", 1], ".o.lock", "--output"),
        (["decode", "hall: red?"], ".o.lock", "--output"),
    ],
)
def test_a_second_process_is_refused_and_after_a_kill_the_next_begins(capsys, tmp_path, tiny_folder, argv, lock, flag):
    argv = [*argv, flag, tmp_path / "o", *([] if argv[0] == "pretrain" else ["--model", tiny_folder])]
    with holding(tmp_path / lock) as other:
        code, _, err = run(capsys, *argv)
    assert code == 2
    assert f"Another process (pid {other.pid} on " in err
    assert f") is writing {tmp_path / 'o'}: wait until it ends, stop it, or give another {flag}." in err
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [".o.lock" if "/" not in lock else ".lock"]
    if argv[0] in ("decode", "eval"):
        assert run(capsys, *argv)[0] == 0
        assert not (tmp_path / lock).exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--run"], "The path of an output is empty"),
        (["eval", "--heuristics", "--output"], "The path of an output is empty"),
        (["sweep", "--output"], "The path of an output is empty"),
        (["quickstart", "--run"], "The path of an output is empty"),
        (["pretrain", "--output"], "The path of an output is empty"),
        (["lm-eval", "--tasks", "gsm8k", "--output"], "The path of an output is empty"),
        (["decode", "hall: red?", "--output"], "--output . is a folder: give the path of a file."),
        (["report", "runs", "--output"], "--output . is a folder: give the path of a file."),
    ],
)
def test_an_unset_variable_is_no_path(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *argv, "")
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["decode", "view", "train", "quickstart", "pretrain"])
def test_a_seed_has_64_bits(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for seed in (2**63, -(2**63) - 1):
        code, _, err = run(capsys, command, *(["hall: red?"] if command in ("decode", "view") else []), "--seed", seed)
        assert code == 2
        assert "give a whole number of at most 64 bits" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("iterations = " + "9" * 5000, "is not a TOML file: Exceeds the limit (4300 digits)"),
        ("a = " + "[" * 3000 + "]" * 3000, "cannot be read: it has brackets within brackets, too deep."),
        ('extends = "a\\u0000b"', "holds a NUL character, which no file's name may: give another."),
        ("[decode]\ngen_length = true", "decode.gen_length = True (give a number)."),
        ("[run]\niterations = false", "run.iterations = False (give a number)."),
        ("[clone]\nlr = true", "clone.lr = True (give a number)."),
    ],
)
def test_odd_config_files(capsys, tmp_path, content, message):
    path = tmp_path / "odd.toml"
    path.write_text(content + "\n")
    code, _, err = run(capsys, "train", "--config", path, "--dry-run")
    assert code == 2
    assert message in err


def test_a_terminal_of_ascii_shows_what_it_can(tiny_folder):
    words = [sys.executable, "-m", "unmask.cli", "decode", "hall: red?", "--model", str(tiny_folder), "--steps"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*words, "--gen-length", "4"], env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "\\xb7" in done.stdout


def test_a_closed_standard_input_is_said(capsys, monkeypatch, tiny_folder):
    monkeypatch.setattr(sys, "stdin", None)  # as Python finds it after `<&-`
    code, _, err = run(capsys, "decode", "--input", "-", "--model", tiny_folder)
    assert code == 2
    assert "Standard input is closed: pipe JSONL into the command, or give --input a file." in err


def test_a_file_of_ones_own_is_evaluated_whole(capsys, tmp_path, tiny_folder):
    path = tmp_path / "five.jsonl"
    path.write_text("".join(json.dumps({"prompt": "hall: red?" + " go" * i, "answer": "x"}) + "\n" for i in range(5)))
    for flags in (["--task", path], ["--task", "file", "--task-path", path]):
        words = [*flags, "--verifier", "exact", "--policies", "factor", "--gen-length", 8, "--model", tiny_folder]
        code, _, _ = run(capsys, "eval", *words, "--output", tmp_path / f"o{len(flags)}")
        assert code == 0
        rows = (tmp_path / f"o{len(flags)}" / "rows.jsonl").read_text().splitlines()
        assert [json.loads(row)["split"] for row in rows] == ["all"] * 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sweep", "--no-heuristics"], "Nothing to sweep: give --policies"),
        (["decode", "hall: red?", "--policy", "transformer"], "'transformer' is a network without weights"),
        (["decode", "hall: red?", "--policy", "mode"], "mode changes a policy: write it behind one, 'NAME | mode'."),
        (["decode", "hall: red?", "--policy", "factor | klass"], "klass changes no policy: leave out what is before"),
        (["decode", "hall: red?", "--confidence", 0.5], "--confidence is that of a promise: give --max-drop, too."),
        (
            ["decode", "hall: red?", "--target-nfe", 5, "--calibrated-on", "lists"],
            "The policy is not calibrated on lists, but on house: name one of these",
        ),
        (["pretrain", "--test-prompts", 0], "--test-prompts is 0: give a whole number from 1."),
        (["pretrain", "--threads", -2], "--threads is -2: give a whole number from 1."),
        (["pretrain", "--lengths", 0, "--lengths", 1], "lengths are weights from problems of 1 step on"),
        (["pretrain", "--styles.full", 0], "styles are weights: give each above 0, or leave it out"),
        (
            ["train", "--dry-run", "--gen-length", 96],
            "The dLLM 'house-base' has 96 positions, which leaves 0 for a prompt beside gen_length 96: lower",
        ),
        (
            ["train", "--dry-run", "--max-prompt-length", 70],
            "which leaves 64 for a prompt beside gen_length 32: lower gen_length or max_prompt_length",
        ),
        (["eval", "--verifiers", "a.b"], "verifiers = 'a.b': give each its own, such as verifiers.NAME=VALUE."),
        (["train", "--dry-run", "--policy.init", "klass"], "is a klass policy, which has no weights to train"),
        (["serve", "--gen-length", 500], "--gen-length 500 leaves no position for a prompt, and house-base has 96"),
        (["eval", "--policies", "factor", "--skip", 10**9, "--task", "FILE"], "no prompts behind the first 1000000000"),
        (["eval", "--policies", "factor", "--prompts", 2, "--chat", "--task", "FILE"], "has no chat template"),
        (
            ["export", "house-base-full", "o", "--engine", "diffusers", "--gen-length", 32, "--block-length", 7],
            "--block-length 7 does not divide --gen-length 32: give a divisor.",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "hall: red?", "answer": "hall"}\n', encoding="utf-8")
    own = ["mine.jsonl", "--verifier", "exact", "--gen-length", 8]
    argv = [each for word in argv for each in (own if word == "FILE" else [word])]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert message in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]


def test_held_out_prompts_are_counted_before_the_training(capsys, tmp_path):
    few = ["--task", "addition:digits=1", "--held-out-prompts", 500]
    code, _, err = run(capsys, "tune", *few, "--run", tmp_path / "o")
    assert code == 2
    assert "test prompts, not 500: ask for no more than that. (--held-out-prompts)" in err
    assert not (tmp_path / "o").exists()


def test_a_folder_in_which_nothing_could_be_decoded_is_free_again(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, "--prompts", 2, "--output", tmp_path / "o"]
    code, _, _ = run(capsys, *argv, "--policies", "factor", "--cache", "exact")
    assert code == 2
    assert not (tmp_path / "o" / "config.json").exists()
    assert run(capsys, *argv, "--policies", "factor")[0] == 0
    (tmp_path / "o" / "config.json").unlink()
    code, _, err = run(capsys, *argv, "--policies", "factor", "--resume")
    assert code == 2
    assert "config.json is missing: put it back, or give another --output." in " ".join(err.split())


def test_a_page_takes_the_place_of_no_other_file(capsys, tmp_path, tiny_folder):
    """Names with square brackets are no markup, either."""
    folder = tmp_path / "of[b]mine[/b]"
    argv = ["eval", "--model", tiny_folder, "--prompts", 2, "--policies", "factor", "--output", folder]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert "of[b]mine[/b]" in "".join(out.split())
    rows = (folder / "rows.jsonl").read_text()
    code, _, err = run(capsys, "report", folder, "-o", folder / "rows.jsonl")
    assert code == 2
    assert "is there, and is no page: give the path of a new file." in " ".join(err.split())
    assert (folder / "rows.jsonl").read_text() == rows
    for _ in range(2):  # an earlier page is one that may be replaced
        assert run(capsys, "report", folder, "-o", tmp_path / "page.html")[0] == 0


def test_what_the_system_refuses_has_a_remedy():
    told = explain_system(PermissionError(13, "Permission denied", "ro/.out.jsonl.lock"))
    assert told == "Cannot read or write ro: Permission denied; change its permissions, or choose another place."
    full = explain_system(OSError(28, "No space left on device", "runs/.mine.abcd_123/policy"))
    assert full == "Cannot read or write runs: No space left on device; make room there, and run the command again."
    assert (
        explain_system(FileNotFoundError(2, "No such file", "x.toml")) == "Cannot read or write x.toml: No such file."
    )
