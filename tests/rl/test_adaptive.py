"""Training in adaptive blocks, on the bundled dLLM: with a clone, with an expert, and what cannot be asked for."""

import pytest

import unmask
from tests.rl.runs import told
from unmask.errors import UnmaskError
from unmask.rl.algorithms.base import AlgorithmSettings
from unmask.rl.config import TrainConfig
from unmask.rl.prompts import fitting
from unmask.rl.trainer import Trainer
from unmask.rl.validation import validator

ADAPTIVE = "adaptive:default=8,delimiters=[veranda],threshold=0.1,window=0.5"
CLONE = {"examples": 8, "updates": 8, "batch_size": 16}


@pytest.fixture(scope="module")
def house():
    return unmask.load_model("house-base")


def trained(model, folder, clone, **algorithm):
    tables = {
        "decode": {"block_length": ADAPTIVE},
        "clone": clone,
        "algorithm": {"prompts": 2, "group_size": 3, "min_signal": 0.0, **algorithm},
        "run": {"folder": str(folder), "iterations": 2},
        "task": {"train_examples": 12},
    }
    config, task = TrainConfig.model_validate(tables), unmask.load_task("house")
    prompts, _ = fitting(model, task.examples("validation", 6), 32)
    validate = validator(model, task, prompts, config.decode, AlgorithmSettings())
    return Trainer(config, model, task, validate, lambda metrics: None)


@pytest.mark.parametrize(
    ("clone", "algorithm"),
    [
        (CLONE, {}),
        ({"rule": "none"}, {"experts": ["confidence_threshold:threshold=0.9"]}),
        ({**CLONE, "rule": "best:factor"}, {"name": "ppo"}),
    ],
    ids=["clone", "expert", "best clone"],
)
def test_it_trains(house, tmp_path, clone, algorithm):
    trained(house, tmp_path / "run", clone, **algorithm).run()
    lines = told(tmp_path / "run")
    assert any(line.get("updated") for line in lines)
    cloned = [line for line in lines if line["stage"] == "clone"]
    assert all(line["block_length"] == ADAPTIVE and line["expert_correct"] > 0.5 for line in cloned)
    assert len(cloned) == (clone.get("rule") != "none")


@pytest.mark.parametrize(
    ("clone", "algorithm", "message"),
    [
        (CLONE, {"experts": ["factor @ 8"]}, "an expert's block_length is 8, and the policy's blocks are adaptive: "),
        ({**CLONE, "block_length": 8}, {}, "clone.block_length is 8, and the policy's blocks are adaptive: leave it"),
    ],
)
def test_other_blocks_beside_adaptive_ones_are_refused(house, tmp_path, clone, algorithm, message):
    with pytest.raises(UnmaskError, match=message):
        trained(house, tmp_path / "run", clone, **algorithm)
