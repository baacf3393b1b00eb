"""The quick start on the bundled dLLM, shortened; its claims need the whole run (`make seeds`)."""

import json
import shutil
from pathlib import Path

import pytest

from unmask.cli import quickstart
from unmask.cli.main import main
from unmask.evaluation.gather import read_results
from unmask.hub import bundled, write_origin
from unmask.policies import load_policy


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_what_was_trained_is_compared_like_everything_else(tmp_path, capsys, monkeypatch):
    """With bundled policies in place of a training."""
    run = tmp_path / "q"

    def trained(*_):
        for part, name in (("best", "house-base-full"), ("start", "house-base-block8")):
            shutil.copytree(bundled("policies")[name], run / "train" / part)
        write_origin(run / "train" / "best", run / "train" / "start")
        return load_policy(run / "train" / "best")

    monkeypatch.setattr(quickstart, "_train", trained)
    main(["quickstart", "--run", str(run), "--prompts", "6", "--block-lengths", "16"])
    out = " ".join(capsys.readouterr().out.split())
    for part in ("Full diffusion", "full diffusion: the policy answers", "· masked", "in all (", "unmask report"):
        assert part in out
    rows = rows_of(run)
    assert {row["kind"] for row in rows} == {"rule", "policy", "clone"}
    assert len([row for row in rows if row["kind"] == "clone"]) == 3 * 6
    assert all({"config", "versions", "hardware", "split", "reveals"} <= row.keys() for row in rows)
    assert len([row for row in rows if "trajectory" in row and row["kind"] == "policy"]) == 4
    assert {row["block_length"] for row in rows} == {16, 32}
    results = read_results([run])
    assert results[1][0].controls(results[0][0])
    summary = json.loads((run / "summary.json").read_text())
    assert [one["entry"]["kind"] for one in summary["summaries"]][:3] == ["policy", "clone", "rule"]
    assert len(summary["summaries"]) == len(results)
    assert summary["seconds"]["model"] > 0
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "plot.png",
        "plot.svg",
        "rows.jsonl",
        "summary.json",
    }


def test_folders_are_never_written_over(tmp_path):
    assert quickstart.fresh_folder(tmp_path / "q") == tmp_path / "q"
    (tmp_path / "q").mkdir()
    (tmp_path / "q-2").mkdir()
    assert quickstart.fresh_folder(tmp_path / "q") == tmp_path / "q-3"


@pytest.mark.slow
def test_a_short_quickstart_writes_everything(tmp_path, capsys):
    run = Path(tmp_path / "q")
    main(["quickstart", "--run", str(run), "--iterations", "3", "--prompts", "40", "--block-lengths", "8"])
    out = capsys.readouterr().out
    assert "1. Train" in out
    assert "3. See the difference" in out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["verdict"]["gap"] > 0.1
    assert summary["seconds"]["rest"] < 0.1 * summary["total_seconds"]
    for name in ("rows.jsonl", "plot.png", "plot.svg", "train/best/model.safetensors", "train/metrics.jsonl"):
        assert (run / name).exists()
