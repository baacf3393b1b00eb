"""Every shipped config parses, and names things that exist."""

from pathlib import Path

import pytest

from unmask.cli.evaluate import EvalConfig
from unmask.pretrain import PretrainConfig, build_network, build_tokenizer
from unmask.rl.trainer import TrainConfig
from unmask.settings import load_settings
from unmask.tasks.auto import load_task

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = {"pretrain": PretrainConfig, "train": TrainConfig, "eval": EvalConfig}
FILES = sorted(CONFIGS.rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_parses(path):
    config = load_settings(KINDS[path.parent.name], path)
    if isinstance(config, PretrainConfig):
        tokenizer = build_tokenizer([load_task(name) for name in config.tasks])
        assert build_network(config, tokenizer).num_parameters() > 100_000
    else:
        load_task(config.task)


def test_there_are_configs_of_every_kind():
    assert {path.parent.name for path in FILES} == set(KINDS)
