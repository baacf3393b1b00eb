"""`unmask eval` keeps its rows as they are made: stopped, killed, added to, shared among processes."""

import json
import random
import shutil
import signal
import time

import pytest

from tests.cli.test_cli import run
from tests.launching import launched, start
from tests.one_speed import HOUSE_BLOCK8, HOUSE_FULL

POLICIES = ["--policies", "random_order:k=1", "--policies", "confidence_threshold:threshold=0.5"]
SMALL = ["--prompts", 12, "--seeds", 2, "--gen-length", 16, "--block-lengths", 8, "--batch-size", 4]


def rows(folder):
    return (folder / "rows.jsonl").read_text()


def parsed(folder):
    return [json.loads(line) for line in rows(folder).splitlines()]


def test_rows_say_what_made_them(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, *POLICIES, *SMALL, "--output", tmp_path / "a"]
    assert run(capsys, *argv)[0] == 0
    found = parsed(tmp_path / "a")
    assert len(found) == 12 * (2 + 1), "two seeds of the policy that draws, one of the other"
    assert [row["index"] for row in found[:12]] == list(range(12))
    first = found[0]
    assert {"text", "correct", "nfe", "tokens", "ended", "seed", "hardware", "versions", "policy"} <= first.keys()
    assert first["config"]["model"] == tiny_folder
    assert first["config"]["gen_length"] == 16
    assert all(0 <= row["tokens"] <= 16 for row in found)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "plot.png",
        "plot.svg",
        "rows.jsonl",
    ]


def test_under_a_cache_rows_count_positions_and_are_compared_with_their_like(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, *POLICIES, *SMALL, "--cost", "positions"]
    code, out, _ = run(capsys, *argv, "--cache", "dual", "--output", tmp_path / "dual")
    assert code == 0
    assert "whole" in out
    assert "positions" in out
    assert run(capsys, *argv, "--output", tmp_path / "plain")[0] == 0
    for cached, plain in zip(parsed(tmp_path / "dual"), parsed(tmp_path / "plain"), strict=True):
        assert cached["full_passes"] == 2 < cached["nfe"]
        assert plain["full_passes"] == plain["nfe"] == plain["equivalents"]
        assert cached["positions"] / cached["equivalents"] == pytest.approx(plain["positions"] / plain["nfe"])
    code, _, err = run(capsys, "report", tmp_path / "dual", tmp_path / "plain", "-o", tmp_path / "page.html")
    assert code == 2
    assert "results that differ in it are not comparable; report them apart" in " ".join(err.split())
    code, out, _ = run(capsys, "report", tmp_path / "dual", "--cost", "positions", "-o", tmp_path / "page.html")
    assert code == 0
    assert "NFE counts positions, as passes over the whole row" in (tmp_path / "page.html").read_text()
    code, _, err = run(capsys, *argv, "--cache", "prefix", "--output", tmp_path / "dual", "--resume")
    assert code == 2
    assert "cache" in err


def test_results_are_not_written_over(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, *POLICIES, *SMALL, "--output", tmp_path / "a"]
    assert run(capsys, *argv)[0] == 0
    before = rows(tmp_path / "a")
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "holds results: pass --resume to add what is missing, or another --output." in err
    assert run(capsys, *argv, "--resume")[0] == 0
    begun = json.loads((tmp_path / "a" / "config.json").read_text())
    begun.pop("judge_unfinished")
    (tmp_path / "a" / "config.json").write_text(json.dumps(begun))
    assert run(capsys, *argv, "--resume")[0] == 0, "begun by a version without this setting"
    code, _, err = run(capsys, *argv, "--resume", "--judge-unfinished")
    assert code == 2
    assert "was begun with judge_unfinished = False, not True" in err
    assert rows(tmp_path / "a") == before
    wider = [3 if value == 2 else value for value in argv]
    assert run(capsys, *wider, "--policies", "top_k_confidence:k=2", "--resume")[0] == 0
    assert len(parsed(tmp_path / "a")) == 12 * (3 + 1 + 1), "a rule and a seed more"
    shorter = [24 if value == 16 else value for value in argv]
    code, _, err = run(capsys, *shorter, "--resume")
    assert code == 2
    assert "was begun with gen_length = 16, not 24: resume with the same settings, or give another --output." in err
    code, _, err = run(capsys, *argv[:-1], tmp_path / "b", "--resume")
    assert code == 2
    assert "Nothing to resume" in err


def test_bounds_are_of_puzzles(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--task", "house", "--model", tiny_folder, "--policies", "random_order", "--output", tmp_path / "e"]
    code, _, err = run(capsys, *argv, "--bounds")
    assert code == 2
    assert "The task 'house' is no puzzle, and --bounds is for those: leave it out." in " ".join(err.split())
    assert not (tmp_path / "e").exists()


def test_a_file_without_a_verifier_is_refused(capsys, tmp_path, tiny_folder):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "hall: red?", "answer": "porch"}\n')
    argv = ["eval", "--model", tiny_folder, "--task", tmp_path / "mine.jsonl", *POLICIES, "--output", tmp_path / "a"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "The task 'mine' has no verifier, and evaluation needs to know what is correct: pass --verifier." in err


def test_broken_rows_are_named(capsys, tmp_path, tiny_folder):
    argv = ["eval", "--model", tiny_folder, *POLICIES[:2], *SMALL, "--output", tmp_path / "a"]
    assert run(capsys, *argv)[0] == 0
    whole = rows(tmp_path / "a")
    path = tmp_path / "a" / "rows.jsonl"
    path.write_text(whole + whole.splitlines(keepends=True)[3])
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 2
    assert "line 25, is a second row of prompt 3 and seed 0 in its entry: delete one." in err
    path.write_text(whole[:-20])
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 2
    assert "line 24, is no row of an evaluation (cut short, or of another version)" in err
    assert len(err.strip().splitlines()) == 1


def test_a_policy_retrained_under_its_name_is_another_cell(capsys, tmp_path, tiny_folder):
    for name in (HOUSE_FULL, HOUSE_BLOCK8):
        shutil.rmtree(tmp_path / "policy", ignore_errors=True)

        shutil.copytree(name, tmp_path / "policy")
        argv = ["eval", "--model", tiny_folder, "--policies", tmp_path / "policy", *SMALL, "--output", tmp_path / "a"]
        assert run(capsys, *argv, *(["--resume"] if (tmp_path / "a").exists() else []))[0] == 0
    assert len({row["policy"]["weights"] for row in parsed(tmp_path / "a")}) == 2
    assert len(parsed(tmp_path / "a")) == 2 * 24


def command(folder, tiny_folder):
    return ["eval", "--model", tiny_folder, *POLICIES, *SMALL, "--output", str(folder)]


def interrupted(capsys, folder, tiny_folder, number, pause):
    """Kill an evaluation some time after its first row; then end it. How many rows it had."""
    with start(1, *command(folder, tiny_folder)) as running:
        part, deadline = folder / "rows.0.jsonl", time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(pause)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    kept = part.read_text().count("\n") if part.exists() else 36
    assert running.returncode in (0, 130 if number == signal.SIGINT else -number), err
    if number == signal.SIGINT and running.returncode:
        assert "go on with --resume" in err
    if part.exists():
        with part.open("a") as file:
            file.write('{"index": 3, "prompt": "cut sho')  # what a kill may leave
    code, _, err = run(capsys, *command(folder, tiny_folder), "--resume")
    assert code == 0, err
    return kept


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_evaluation_goes_on_to_the_same_rows(capsys, tmp_path, tiny_folder, number):
    kept = interrupted(capsys, tmp_path / "cut", tiny_folder, number, pause=0.0)
    assert 0 < kept <= 36
    assert run(capsys, *command(tmp_path / "whole", tiny_folder))[0] == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert len(parsed(tmp_path / "whole")) == 36


@pytest.mark.slow
def test_killed_at_twenty_moments_it_makes_the_same_rows(capsys, tmp_path, tiny_folder):
    assert run(capsys, *command(tmp_path / "whole", tiny_folder))[0] == 0
    moments = random.Random(0)
    kept = []
    for i in range(20):
        kept.append(interrupted(capsys, tmp_path / f"{i}", tiny_folder, signal.SIGKILL, moments.uniform(0, 0.3)))
        assert rows(tmp_path / f"{i}") == rows(tmp_path / "whole")
    assert len(set(kept)) > 3, "moments that were all alike would show little"


@pytest.mark.slow  # a launch of two; `decode` has one among the fast tests
def test_processes_share_the_prompts(capsys, tmp_path, tiny_folder):
    assert run(capsys, *command(tmp_path / "one", tiny_folder))[0] == 0
    code, _, err = launched(2, *command(tmp_path / "two", tiny_folder))
    assert code == 0, err
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_a_dry_run_counts_the_prompts_of_a_file(capsys, tmp_path):
    rows = "".join(json.dumps({"prompt": f"hall: red{i}?", "answer": "hall"}) + "\n" for i in range(5))
    (tmp_path / "five.jsonl").write_text(rows)
    argv = ["eval", "--task", tmp_path / "five.jsonl", "--verifier", "exact", "--policies", "top_k_confidence"]
    code, out, err = run(capsys, *argv, "--gen-length", 8, "--dry-run")
    assert code == 0, err
    assert "on 5 prompts of five" in out


def test_settings_of_released_code_are_refused_or_told_apart(capsys, tmp_path):
    base = ["eval", "--policies", "top_k_confidence:k=4", "--prompts", 4, "--block-lengths", 8, "--trajectories", 0]
    code, _, err = run(capsys, *base, "--text-after-eos", "--stop-at-eos", "--dry-run")
    assert code == 2
    assert "text_after_eos keeps text behind an EOS" in err
    code, _, err = run(capsys, *base, "--output", tmp_path / "a")
    assert code == 0, err
    more = ["--max-block-steps", 1, "--judge-unfinished", "--policies", "top_k_confidence:k=8"]
    code, _, err = run(capsys, *base, *more, "--output", tmp_path / "b")
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "b" / "rows.jsonl").read_text().splitlines()]
    four = [row for row in rows if row["policy"]["k"] == 4]
    assert {row["nfe"] for row in four} == {4}
    assert not any(row["complete"] for row in four)
    assert all(sum(row["reveals"]) == 16 for row in four)
    code, _, err = run(capsys, "report", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "page.html")
    assert code == 2
    assert "judge_unfinished" in err or "max_block_steps" in err


def test_right_answers_say_what_revealing_together_cost(capsys, tmp_path, monkeypatch):
    """All of 8 but one at once: of `mark` that tells of 7 positions which is marked, 7 h(1/8) - ln 8 nats."""
    monkeypatch.setattr("unmask.evaluation.bounds.ROLL_OUTS", 4)
    argv = ["eval", "--model", "lists", "--task", "lists", "--policies", "top_k_confidence:k=7", "--prompts", 20]
    out = tmp_path / "a"
    assert run(capsys, *argv, "--output", out)[0] == 0
    assert not any("correlation" in row for row in parsed(out))
    code, shown, told = run(capsys, *argv, "--output", out, "--resume", "--bounds")
    assert code == 0
    assert "Rows made without --bounds have no nats" in " ".join((shown + told).split())
    code, shown, _ = run(capsys, *argv, "--output", tmp_path / "b", "--bounds")
    assert code == 0
    assert "nats" in shown
    found = {(row["correct"], round(row["correlation"] or 0, 3)) for row in parsed(tmp_path / "b")}
    assert found == {(True, 0.0), (True, 0.558), (False, 0.0)}
    assert all((row["correlation"] is None) is not row["correct"] for row in parsed(tmp_path / "b"))
    bounds = tmp_path / "b" / "bounds.json"
    for broken in ("[" * 100_000, bounds.read_text().replace('"mean": 1.0', '"mean": -7', 1), "[]", "{}"):
        bounds.write_text(broken)
        code, _, told = run(capsys, *argv, "--output", tmp_path / "b", "--bounds", "--resume")
        assert code == 2
        assert "bounds.json is broken: delete it, and --resume makes it again with --bounds" in " ".join(told.split())
