"""Each algorithm raises the reward on `house` within a short run, from a short clone."""

import json

import pytest

from tests.cli.test_cli import run

SHORT = ["--block-length", 8, "--clone.examples", 32, "--clone.updates", 100, "--algorithm.group-size", 4]
WATCHED = ["--validation-prompts", 64, "--validate-every", 100, "--iterations", 32, "--lr", 4e-4]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_a_short_run_raises_the_reward(capsys, tmp_path, algorithm):
    code, _, err = run(capsys, "train", *SHORT, *WATCHED, "--algorithm", algorithm, "--run", tmp_path / "run")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    start, end = (line["reward"] for line in lines if line["stage"] == "validation")
    assert end > start + 0.08, "on the same validation prompts"
    earned = [line["reward"] for line in lines if line["stage"] == algorithm]
    assert sum(earned[-5:]) / 5 > sum(earned[:5]) / 5 + 0.05
