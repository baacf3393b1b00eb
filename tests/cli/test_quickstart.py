"""The quick start on the bundled dLLM, shortened; its claims need the whole run (`make seeds`)."""

import json

import pytest

from unmask.cli.main import main


@pytest.mark.slow
def test_a_short_quickstart_writes_everything(tmp_path, capsys):
    run = tmp_path / "q"
    main(["quickstart", "--run", str(run), "--iterations", "3", "--prompts", "40", "--block-lengths", "8"])
    out = capsys.readouterr().out
    assert "1. Train" in out
    assert "3. See the difference" in out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["verdict"]["gap"] > 0.1
    assert summary["seconds"]["rest"] < 0.1 * summary["total_seconds"]
    for name in ("rows.jsonl", "plot.png", "plot.svg", "train/best/model.safetensors", "train/metrics.jsonl"):
        assert (run / name).exists()
