"""`unmask tune` from nothing to a policy that decodes at a speed; what it leaves, how it goes on, what is refused."""

import json

import pytest

import unmask
from tests.cli.test_cli import run
from tests.one_speed import HOUSE_BLOCK8
from tests.policies.test_calibration import STEPS
from tests.policies.test_speed import conditioned
from unmask.cli.tune import DEFAULTS, finalists, tuning
from unmask.errors import UnmaskError
from unmask.policies.calibration import read_calibrations, write_calibration

SMALL = ["--iterations", 1, "--clone-from", "best:factor", "--clone.examples", 16, "--clone.updates", 40]
SMALL += ["--clone.batch-size", 64, "--algorithm.prompts", 8, "--algorithm.group-size", 2, "--validation-prompts", 8]
SMALL += ["--calibration-prompts", 24, "--held-out-prompts", 8]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "mine"
    from unmask.cli.main import main

    main([str(word) for word in ["tune", "--run", folder, *SMALL]])
    return folder


def test_it_leaves_a_policy_a_table_a_comparison_and_a_page(capsys, tuned):
    (table,) = read_calibrations(tuned / "best")
    assert (table.model, table.task, table.prompts) == ("house-base", "house", 24)
    assert table.rows[0].accuracy == max(row.accuracy for row in table.rows)
    assert table.rows[0].speed == 0.0
    assert table.rows[-1].speed == pytest.approx(1.0)
    policy = unmask.load_policy(tuned)
    assert policy.settings.speed_axis[0] == (0.0, table.rows[0].knob)
    assert policy.calibrations == (table,)
    rows = [json.loads(line) for line in (tuned / "comparison" / "rows.jsonl").read_text().splitlines()]
    assert sorted({row["speed"] for row in rows if row["kind"] == "policy"}) == pytest.approx([i / 7 for i in range(8)])
    assert {row["speed"] for row in rows if row["kind"] == "rule"} == {None}
    assert {row["policy"]["type"] for row in rows} == {"factor", "transformer", "fixed_schedule"}
    replays = {row["of"] for row in rows if row["kind"] == "replay"}
    assert len(replays) == 8, "of the pace at each speed"
    assert len(json.loads((tuned / "tuned.json").read_text())["verdict"]) == 8
    assert (tuned / "report.html").exists()
    assert (tuned / "curve.png").exists()
    rules = {(str(row["policy"]), row["block_length"]) for row in rows if row["kind"] == "rule"}
    assert len(finalists(tuned)) == len(rules)


def test_a_tuned_run_decodes_at_a_speed_for_a_number_of_passes(capsys, tuned):
    (table,) = read_calibrations(tuned / "best")
    target = (table.rows[0].nfe * min(row.nfe for row in table.rows)) ** 0.5
    code, out, err = run(capsys, "decode", "hall: red blue?", "--policy", tuned, "--target-nfe", target)
    assert code == 0
    assert "forward passes)" in out
    assert f"Speed 0.50: about {target:.1f} forward passes per prompt (calibrated on 24 prompts of house)." in err
    assert "carry over" not in err
    code, _, err = run(capsys, "decode", "hall: red?", "--policy", tuned, "--target-nfe", target, "--block-length", 8)
    assert code == 0
    assert "It may take others here: the calibration is of block length 32, not 8. unmask calibrate makes one" in err
    code, _, err = run(capsys, "decode", "hall: red?", "--policy", tuned, "--target-nfe", 1.01)
    assert code == 2
    assert "No speed of this policy takes 1.01 forward passes: its fastest takes" in err
    code, _, err = run(capsys, "decode", "hall: red?", "--policy", tuned, "--max-drop", "1%")
    assert code == 2
    assert "No speed above 0 can be promised to lose at most 1 points at 95% confidence with 24 prompts" in err


def test_it_goes_on_where_it_was(capsys, tuned):
    before = (tuned / "comparison" / "rows.jsonl").read_text()
    code, out, _ = run(capsys, "tune", "--run", tuned, *SMALL, "--resume")
    assert code == 0
    assert (tuned / "comparison" / "rows.jsonl").read_text() == before
    assert "training" not in out
    code, _, err = run(capsys, "tune", "--run", tuned, *SMALL)
    assert code == 2
    assert "exists: pass --resume to go on" in err


def test_eval_takes_a_policy_with_a_speed_as_a_curve(capsys, tmp_path, tuned):
    argv = ["eval", "--policies", tuned, "--policies", "factor", "--prompts", 4, "--output", tmp_path / "e"]
    assert run(capsys, *argv, "--seeds", 1)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "e" / "rows.jsonl").read_text().splitlines()]
    assert [row["speed"] for row in rows[::4]] == [0.0, 0.25, 0.5, 0.75, 1.0, None]
    code, _, err = run(capsys, "eval", "--policies", "factor", "--speeds", 0.5, "--output", tmp_path / "f")
    assert code == 2
    assert "No policy here has a speed to choose: leave out --speeds." in err


def test_sweep_has_the_clone_and_the_pace_at_each_speed(capsys, tmp_path, tuned):
    argv = ["sweep", "--policies", tuned, "--no-heuristics", "--speeds", 0, "--speeds", 1, "--block-lengths", 32]
    assert run(capsys, *argv, "--prompts", 4, "--seeds", 1, "--output", tmp_path / "s")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "s" / "rows.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["speed"]) for row in rows[::4]] == [
        ("policy", 0.0),
        ("policy", 1.0),
        ("clone", 0.0),
        ("clone", 1.0),
        ("replay", None),
        ("replay", None),
    ]


def test_view_shows_a_rule_beside_a_policy_at_a_speed(capsys, tuned):
    argv = ["view", "hall: red?", "--policies", tuned, "--policies", "factor", "--speed", 0.9]
    assert run(capsys, *argv)[0] == 0
    code, _, err = run(capsys, "view", "hall: red?", "--policies", "factor", "--speed", 0.9)
    assert code == 2
    assert "None of these policies has a speed to choose: leave out --speed." in err


def test_another_dllm_is_told_that_the_promise_does_not_carry_over(capsys, tmp_path, tiny_folder):
    conditioned().save(tmp_path / "p")
    write_calibration(tmp_path / "p", STEPS)
    argv = ["decode", "hall: red?", "--policy", tmp_path / "p", "--model", tiny_folder, "--gen-length", 8]
    code, _, err = run(capsys, *argv, "--max-drop", "1%")
    assert code == 0
    assert "The promise does not carry over: the calibration is of model m, not" in " ".join(err.split())
    code, _, err = run(capsys, *argv, "--max-drop", "5%", "--speed", 0.5)
    assert code == 2
    assert "Give one of --speed, --target-nfe and --max-drop." in err
    for value, message in (("200%", "above 0 and below 100"), ("some", "such as 1%")):
        code, _, err = run(capsys, *argv, "--max-drop", value)
        assert code == 2
        assert message in err
    code, _, err = run(capsys, *argv[:3], "factor", *argv[4:], "--target-nfe", 4)
    assert code == 2
    assert "This policy has no speed to choose" in err


def test_calibrating_elsewhere_keeps_the_axis_and_both_tables(capsys, tmp_path, tiny_folder):
    conditioned(speed_axis=((0.0, 0.0), (1.0, 1.0))).save(tmp_path / "p")
    argv = ["calibrate", "--policy", tmp_path / "p", "--model", tiny_folder, "--gen-length", 8]
    code, out, err = run(capsys, *argv, "--prompts", 6, "--labels", "agreement", "--output", tmp_path / "rows")
    assert code == 0, err
    assert "agreement with speed 0, %" in " ".join(out.split())
    (table,) = read_calibrations(tmp_path / "p")
    assert table.labels == "agreement"
    assert table.rows[0].accuracy == 1.0
    assert unmask.load_policy(tmp_path / "p").settings.speed_axis == ((0.0, 0.0), (1.0, 1.0))
    code, _, err = run(capsys, "calibrate", "--policy", HOUSE_BLOCK8)
    assert code == 2
    assert "has no speed to calibrate: unmask tune trains one that has" in " ".join(err.split())
    code, _, err = run(capsys, "calibrate")
    assert code == 2
    assert "Nothing to calibrate: give --policy" in err


def test_the_users_settings_win(tmp_path):
    (tmp_path / "mine.toml").write_text('[algorithm]\nlr = 1e-5\n[clone]\nrule = "best:factor"\n')
    found = tuning(tmp_path / "mine.toml", {"run": {"iterations": 3}})
    assert (found.algorithm.settings.lr, found.run.iterations, found.clone.rule) == (1e-5, 3, "best:factor")
    assert found.algorithm.settings.prompts == DEFAULTS["algorithm"]["prompts"]
    assert found.algorithm.settings.beta == tuple(DEFAULTS["algorithm"]["beta"])
    paper = tuning(None, {"algorithm": {"alpha": [0.1, 30.0]}})
    assert paper.algorithm.settings.reward == "multiplicative"
    with pytest.raises(UnmaskError, match="Tuning makes a policy with a speed: leave policy.use_speed on"):
        tuning(None, {"policy": {"use_speed": False}, "algorithm": {"beta": 0.5}})


def test_a_dry_run_says_what_it_costs(capsys, tmp_path):
    code, out, _ = run(capsys, "tune", "--dry-run", "--gen-length", 32, "--run", tmp_path / "none")
    assert code == 0
    assert "Calibration and comparison: 320,000 forward passes at most, and those of the" in out
    assert not (tmp_path / "none").exists()


def test_calibration_prompts_did_not_choose_the_checkpoint_and_held_out_ones_are_of_the_test_split(tuned):
    calibration, comparison = (
        [json.loads(line) for line in (tuned / name / "rows.jsonl").read_text().splitlines()]
        for name in ("calibration", "comparison")
    )
    task = unmask.load_task("house")
    whole = [example.prompt for example in task.examples("validation", 8 + 24)]
    assert {row["prompt"] for row in calibration} == set(whole[8:])
    assert {row["split"] for row in comparison} == {"test"}


def test_defaults_that_an_algorithm_or_a_start_has_no_place_for_are_left_out(tuned):
    config = tuning(None, {"algorithm": {"name": "rloo", "inner_iterations": 1}})
    assert config.algorithm.name == "rloo"
    assert config.algorithm.settings.beta == (0.01, 3.0)
    config = tuning(None, {"policy": {"init": str(tuned), "use_speed": True}})
    assert config.policy.network.model_fields_set == {"use_speed"}
    assert config.clone.rule == "none" or not config.clones
