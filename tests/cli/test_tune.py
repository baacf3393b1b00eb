"""`unmask tune` from nothing to a policy that decodes at a speed; what it leaves, how it goes on, what is refused."""

import json
import shutil

import pytest

import unmask
from tests.cli.test_cli import run
from tests.one_speed import HOUSE_BLOCK8
from tests.policies.test_calibration import STEPS
from tests.policies.test_speed import conditioned
from unmask.cli.tune import DEFAULTS, calibrated_on, check_prompts, finalists, tuning
from unmask.errors import UnmaskError
from unmask.hub import weights_digest
from unmask.policies.calibration import read_calibrations, write_calibration
from unmask.rl.config import PolicyConfig, TrainTaskConfig
from unmask.rl.places import had_a_part
from unmask.rl.start import starting_policy
from unmask.tasks.unseen import unseen

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
    told = f"Speed 0.50: about {target:.1f} forward passes per prompt to the last position (calibrated on 24 prompts of"
    assert told in " ".join(err.split())
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
    steps = STEPS.model_copy(update={"weights": weights_digest(conditioned().weights())})
    write_calibration(tmp_path / "p", steps)
    write_calibration(tmp_path / "p", steps.model_copy(update={"task": "other"}))
    argv = ["decode", "hall: red?", "--policy", tmp_path / "p", "--model", tiny_folder, "--gen-length", 8]
    code, _, err = run(capsys, *argv, "--max-drop", "1%")
    assert code == 0
    assert "The promise does not carry over: the calibration is of model m, not" in " ".join(err.split())
    more = ["--calibrated-on", "other", "--temperature", 0.5, "--max-steps", 3]
    code, _, err = run(capsys, *argv, "--target-nfe", 4, *more)
    assert code == 0
    assert "prompts of other). It may take others here" in (said := " ".join(err.split()))
    assert "of the likeliest tokens, not temperature 0.5; of no budget, not one of 3 steps" in said
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
    code, out, err = run(capsys, *argv, "--prompts", 6, "--labels", "agreement")
    assert code == 0, err
    (rows,) = (path.name for path in (tmp_path / "p").iterdir() if path.is_dir())
    assert rows.endswith("-house-8-8"), "each place has its own"
    assert "agreement with speed 0, %" in " ".join(out.split())
    (table,) = read_calibrations(tmp_path / "p")
    assert table.labels == "agreement"
    assert table.rows[0].accuracy == 1.0
    assert unmask.load_policy(tmp_path / "p").settings.speed_axis == ((0.0, 0.0), (1.0, 1.0))
    code, _, err = run(capsys, "calibrate", "--policy", HOUSE_BLOCK8)
    assert code == 2
    assert "has no speed to calibrate: unmask tune trains one that has" in " ".join(err.split())
    code, _, err = run(capsys, "calibrate", "--policy", "house-base-full", "--prompts", 4)
    assert code == 2
    assert "house-base-full is no folder of yours: save it into one first" in " ".join(err.split())
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
    (tmp_path / "both.toml").write_text("[algorithm]\nalpha = [0.1, 3.0]\nbeta = [0.1, 3.0]\n")
    with pytest.raises(UnmaskError, match="give one of them"):
        tuning(tmp_path / "both.toml", {})
    with pytest.raises(UnmaskError, match="beta has no part in the reward multiplicative: leave it out"):
        tuning(None, {"algorithm": {"reward": "multiplicative", "beta": [0.1, 3.0]}})
    with pytest.raises(UnmaskError, match="two above 0, the smaller first"):
        tuning(None, {"algorithm": {"beta": [3.0, 0.1]}})
    with pytest.raises(UnmaskError, match="decode.temperature is 1.0, and tuning decodes the likeliest tokens"):
        tuning(None, {"decode": {"temperature": 1.0}})
    with pytest.raises(UnmaskError, match="Tuning makes a policy with a speed: leave policy.use_speed on"):
        tuning(None, {"policy": {"use_speed": False}, "algorithm": {"beta": 0.5}})


def test_a_dry_run_says_what_it_costs(capsys, tmp_path):
    code, out, _ = run(capsys, "tune", "--dry-run", "--gen-length", 32, "--run", tmp_path / "none")
    assert code == 0
    assert "Calibration and comparison: 422,400 forward passes at most, and those of the" in out
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


def test_prompts_are_counted_before_the_training(capsys, tmp_path):
    lines = [json.dumps({"prompt": f"hall: red blue? {'green ' * i}", "answer": "hall"}) for i in range(60)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    argv = ["tune", "--task", tmp_path / "few.jsonl", "--verifier", "exact", "--run", tmp_path / "none"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "too few prompts: --validation-prompts takes 256 to choose the checkpoint and leaves 0" in err
    assert not (tmp_path / "none").exists()
    task = {"task": str(tmp_path / "few.jsonl"), "verifier": "exact", "validation_prompts": 2}
    few = tuning(None, {"task": task})
    assert calibrated_on(few, 24) == ("validation", 4)  # its rows are 47 of training, 6 of validation, 7 of tests
    check_prompts(few, 24, 2)
    assert "The calibration has 4 prompts, not 24: the task 'few' has no more" in capsys.readouterr().err
    spared = tuning(None, {"task": {**task, "train_examples": 20}, "clone": {"examples": 30}})
    assert calibrated_on(spared, 17) == ("train", 17)
    check_prompts(spared, 17, 2)
    told = capsys.readouterr().err
    assert "decodes training prompts that are not trained on: the task 'few' has too few" in told
    assert "The calibration has" not in told
    check_prompts(spared, 24, 2)
    assert "The calibration has 17 prompts, not 24" in capsys.readouterr().err
    code, _, err = run(capsys, "tune", "--dry-run", "--calibration-prompts", 1)
    assert code == 2
    assert "1 calibration and 400 held-out prompts: give at least 2 of each." in err


def test_a_finished_run_keeps_its_tables(capsys, tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "mine")
    (table,) = read_calibrations(tmp_path / "mine" / "best")
    write_calibration(tmp_path / "mine" / "best", table.model_copy(update={"task": "other"}))
    before = json.loads((tmp_path / "mine" / "tuned.json").read_text())
    changed = {**before, "seconds": {**before["seconds"], "train": 1e6}}
    (tmp_path / "mine" / "tuned.json").write_text(json.dumps(changed))
    assert run(capsys, "tune", "--run", tmp_path / "mine", *SMALL, "--resume")[0] == 0
    assert [one.task for one in read_calibrations(tmp_path / "mine" / "best")] == ["house", "other"]
    assert json.loads((tmp_path / "mine" / "tuned.json").read_text())["seconds"]["train"] == 1e6


def test_calibrating_a_run_anew_leaves_out_the_prompts_that_had_a_part_in_it(capsys, tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "mine")
    argv = ["calibrate", "--policy", tmp_path / "mine", "--prompts", 3, "--output", tmp_path / "rows"]
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    whole = [example.prompt for example in unmask.load_task("house").examples("validation", 8 + 3)]
    assert {row["prompt"] for row in rows} == set(whole[8:])


def test_prompts_had_a_part_wherever_they_were_taken_from():
    """A mixture's are those of its tasks, turns take theirs, clones draw their own, and a file has all splits."""
    mixed = TrainTaskConfig.model_validate({"tasks": ("house", "ledger"), "weights": (1, 1), "validation_prompts": 64})
    chose = had_a_part(mixed, 0, "validation")
    ours = unseen(unmask.load_task("house"), "validation", 40, chose)
    assert len({example.prompt for example in ours}) == 40
    assert len(chose) == 64
    assert not chose & {example.prompt for example in ours}
    turns = TrainTaskConfig.model_validate({"also": ("lists @ lists",), "validation_prompts": 8, "train_examples": 5})
    both = [unmask.load_task(name).examples("validation", 8) for name in ("house", "lists")]
    assert had_a_part(turns, 0, "validation") == {example.prompt for examples in both for example in examples}
    cloned = unmask.load_task("lists").examples("train", 30, seed=1)
    assert {example.prompt for example in cloned} <= had_a_part(turns, 30, "train")
    assert had_a_part(turns, 30, None) == had_a_part(turns, 30, "train") | had_a_part(turns, 30, "validation")


def test_what_a_task_has_beside_those_seen():
    task = unmask.load_task("addition:digits=1")
    seen = {example.prompt for example in task.examples("validation", 4)}
    with pytest.raises(UnmaskError, match="ask for no more"):
        unseen(task, "validation", 500, seen)
    few = unseen(task, "validation", 5, seen)  # as many as can be drawn
    assert 0 < len(few) <= 5
    assert not seen & {example.prompt for example in few}


def test_a_policy_to_start_from_loses_its_table(tuned, tiny):
    house = unmask.load_model()
    started = starting_policy(PolicyConfig.model_validate({"init": str(tuned)}), house)
    assert started.settings.speed_axis == ()
    assert started.calibrations == ()


def test_defaults_that_an_algorithm_or_a_start_has_no_place_for_are_left_out(tuned):
    config = tuning(None, {"algorithm": {"name": "rloo", "inner_iterations": 1}})
    assert config.algorithm.name == "rloo"
    assert config.algorithm.settings.beta == (0.01, 3.0)
    config = tuning(None, {"policy": {"init": str(tuned)}})
    assert config.policy.network.model_fields_set == set()
    assert config.clone.rule == "none" or not config.clones


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cache", "exact"], "cache is 'exact', and 'house-base' can be decoded with prefix, dual, adaptive"),
        (["--cache", "dual", "--model", "house-block-causal"], "'house-block-causal' can be decoded with exact"),
        (["--cache", "dual", "--cfg-scale", 1], "cfg_scale runs the dLLM twice a pass"),
    ],
)
def test_a_dry_run_refuses_a_cache_that_there_is_not(capsys, words, message):
    for command in ("train",) if "--cfg-scale" in words else ("tune", "train"):  # tune has no cfg_scale
        code, _, err = run(capsys, command, *words, "--dry-run")
        assert code == 2
        assert message in " ".join(err.split())
