"""Settings in tables: defaults, what stands for what, refusals by name."""

import json

import pytest

from unmask.errors import UnmaskError
from unmask.rl.algorithms.auto import names
from unmask.rl.algorithms.base import Expert
from unmask.rl.config import TrainConfig
from unmask.rl.run import by_dots
from unmask.settings import load_settings


def made(**tables):
    return TrainConfig.model_validate(tables)


def test_a_policy_that_goes_on_is_not_cloned_over():
    assert made(policy={"init": "somewhere"}).clone.rule == "none"
    assert made(policy={"init": "somewhere"}, clone={"rule": "confidence_threshold"}).clones
    assert TrainConfig().clones


def test_a_name_stands_for_its_table():
    config = made(model="house-small", task="ledger", algorithm="rloo")
    assert (config.model.model, config.task.task, config.algorithm.name) == ("house-small", "ledger", "rloo")
    config = made(model={"name": "house-small"}, task={"name": "ledger", "few_shot": 2}, algorithm={"name": "ppo"})
    assert (config.model.model, config.task.task, config.task.few_shot) == ("house-small", "ledger", 2)
    assert config.algorithm.settings.gae_lambda == 0.95


def test_an_expert_is_a_policy_at_a_block_length():
    config = made(algorithm={"experts": ["confidence_threshold:threshold=0.7 @ 4", "factor"]})
    assert config.algorithm.make().experts == (
        Expert(policy="confidence_threshold:threshold=0.7", block_length=4),
        Expert(policy="factor", block_length=None),
    )


@pytest.mark.parametrize("algorithm", names())
def test_what_a_run_writes_down_is_read_back(algorithm):
    config = made(
        algorithm={"name": algorithm, "alpha": 3.0},
        policy={"reads": "hidden_states", "width": 64},
        decode={"block_length": "adaptive:default=8,delimiters=[red]"},
    )
    again = TrainConfig.model_validate(json.loads(config.model_dump_json()))
    assert again == config
    flat = by_dots(json.loads(config.model_dump_json()))
    assert (flat["algorithm.alpha"], flat["policy.width"]) == (3.0, 64)
    assert flat["decode.block_length"] == "adaptive:default=8,delimiters=[red]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[decode]\nblok_length = 8", r"Unknown key 'blok_length' in \[decode\] of .*x.toml: did you mean 'block_leng"),
        ("[run]\nname = 'a'", r"Unknown key 'name' in \[run\] of .*x.toml: "),
        ("[algoritm]\nalpha = 3", r"Unknown key 'algoritm' in .*x.toml: did you mean 'algorithm'\?"),
        ("[algorithm]\nalfa = 3", r"Unknown key 'alfa' in \[algorithm\]: did you mean 'alpha'\?"),
        ("[algorithm]\nname = 'ppo'\ngae_lamda = 1", r"Unknown key 'gae_lamda' in \[algorithm\]: did you mean 'gae_la"),
        ("[algorithm]\nname = 'rloo'\nexperts = ['factor']", r"Unknown key 'experts' in \[algorithm\]"),
        ("[policy]\nwdth = 64", r"Unknown key 'wdth' in \[policy\]: did you mean 'width'\?"),
        ("[policy]\ntype = 'transfomer'", r"Unknown policy type 'transfomer' in \[policy\]: did you mean 'transformer"),
        ("[policy]\ntype = 'factor'", r"type = 'factor' in \[policy\] is a rule, which has no weights to train."),
        ("iterations = 3", r"The key 'iterations' of .*x.toml belongs into a table: put it under \[run\]."),
        ("alpha = 3", r"The key 'alpha' of .*x.toml belongs into a table: put it under \[algorithm\]."),
        ("lr = 0.1", r"The key 'lr' of .*x.toml belongs into a table: put it under \[clone\] or \[algorithm\]."),
        ("width = 64", r"The key 'width' of .*x.toml belongs into a table: put it under \[policy\]."),
        ("[algorithm]\nalpha = -1", r"Bad value in \[algorithm\]: alpha is -1.0: give a finite number from 0\."),
        ("[policy]\nwidth = 30", r"width 30 must be a multiple of 2 \* heads = 4"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UnmaskError, match=message):
        load_settings(TrainConfig, tmp_path / "x.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf[algorithm]\nlr = 1e-3\n")
    assert load_settings(TrainConfig, tmp_path / "x.toml").algorithm.settings.lr == 1e-3


@pytest.mark.parametrize("table", [{"lr": "inf"}, {"alpha": "inf"}, {"weight_decay": "inf"}, {"entropy_weight": "nan"}])
def test_numbers_are_finite(table):
    with pytest.raises(UnmaskError, match="input should be a finite number"):
        load_settings(TrainConfig, None, {"algorithm": table})
    with pytest.raises(UnmaskError, match="Bad value in .*lr = .*input should be a finite number"):
        load_settings(TrainConfig, None, {"clone": {"lr": "inf"}})
