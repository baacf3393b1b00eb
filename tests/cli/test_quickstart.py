"""The quick start on the bundled dLLM, shortened; its claims need the whole run (`benchmarks/tuning.py`)."""

import json

import pytest

from unmask.cli import quickstart
from unmask.cli.main import main
from unmask.cli.tune import tuning

TINY = {
    "clone": {"rule": "best:factor", "examples": 16, "updates": 30, "batch_size": 64},
    "algorithm": {"prompts": 8, "group_size": 2},
    "task": {"validation_prompts": 8},
}


def test_it_tunes_and_shows_one_prompt_at_three_speeds(tmp_path, capsys, monkeypatch):
    run = tmp_path / "q"
    monkeypatch.setattr(quickstart, "tuning", lambda config, own: tuning(config, {**TINY, **own}))
    main(["quickstart", "--run", str(run), "--prompts", "8", "--iterations", "1", "--seed", "3"])
    out = " ".join(capsys.readouterr().out.split())
    for part in ("1. Find the best rules", "2. Calibrate", "3. Compare", "4. See it decode", "· masked", "speed_for("):
        assert part in out
    for speed in ("0.00", "0.57", "1.00"):
        assert f"speed {speed}: " in out
    shown = out.split("4. See it decode")[1]
    assert shown.count("forward passes") >= 3
    assert json.loads((run / "config.json").read_text())["run"]["seed"] == 3
    expected = {"best", "calibration", "comparison", "curve.png", "report.html", "tuned.json"}
    assert {path.name for path in run.iterdir()} >= expected


def test_a_plan_writes_nothing(tmp_path, capsys):
    main(["quickstart", "--run", str(tmp_path / "q"), "--dry-run"])
    out = " ".join(capsys.readouterr().out.split())
    assert "one policy for every speed" in out
    assert not (tmp_path / "q").exists()


def test_folders_are_never_written_over(tmp_path):
    assert quickstart.fresh_folder(tmp_path / "q") == tmp_path / "q"
    (tmp_path / "q").mkdir()
    (tmp_path / "q-2").mkdir()
    assert quickstart.fresh_folder(tmp_path / "q") == tmp_path / "q-3"


@pytest.mark.slow
def test_a_short_quickstart_is_above_the_rules(tmp_path, capsys):
    run = tmp_path / "q"
    main(["quickstart", "--run", str(run), "--iterations", "10", "--prompts", "100"])
    told = json.loads((run / "tuned.json").read_text())
    assert len(told["verdict"]) == 8
    assert any("(95% interval +" in sentence or "no rule is as fast" in sentence for sentence in told["verdict"])
