"""Every shipped config parses, names things that exist, and says what it would cost."""

from pathlib import Path

import pytest

from unmask.cli.evaluate import EvalConfig
from unmask.cli.main import main
from unmask.cli.sweep import SweepConfig
from unmask.cli.transfer import TransferConfig
from unmask.cli.tune import tuning
from unmask.decoding.blocks import check_block_length
from unmask.errors import UnmaskError
from unmask.policies import load_policy
from unmask.pretrain import PretrainConfig, build_network, build_tokenizer
from unmask.rl.config import TrainConfig
from unmask.rl.plan import plan
from unmask.settings import load_settings
from unmask.tasks.auto import load_task

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = {
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "tune": TrainConfig,
    "eval": EvalConfig,
    "sweep": SweepConfig,
    "transfer": TransferConfig,
}
FILES = sorted(CONFIGS.rglob("*.toml"))
PAPER = CONFIGS / "train" / "paper"


def kind(path):
    return KINDS[path.relative_to(CONFIGS).parts[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix("")))
def test_config_parses(path):
    tunes = path.relative_to(CONFIGS).parts[0] == "tune"
    config = tuning(path, {}) if tunes else load_settings(kind(path), path)
    if isinstance(config, PretrainConfig):
        tokenizer = build_tokenizer([load_task(name) for name in config.tasks])
        assert build_network(config, tokenizer).num_parameters() > 100_000
    elif isinstance(config, SweepConfig | TransferConfig):
        command = path.relative_to(CONFIGS).parts[0]
        main([command, "--config", str(path), "--dry-run"])
    elif PAPER not in path.parents:
        load_task(config.task.task if isinstance(config, TrainConfig) else config.task)
    if isinstance(config, TrainConfig):
        gen_length = config.decode.gen_length or config.task.load_task().gen_length
        check_block_length(gen_length, config.decode.block_length)
        algorithm, prompts = config.algorithm.make(), config.algorithm.settings.prompts
        assert not any(load_policy(expert.policy).stochastic for expert in algorithm.experts)
        decoded = algorithm.members - algorithm.leaps
        assert plan(config, gen_length, 8, hidden_size=64).rows == prompts * decoded


def test_there_are_configs_of_every_kind():
    assert {path.relative_to(CONFIGS).parts[0] for path in FILES} == set(KINDS)


def test_the_papers_experiments_are_all_there():
    """LLaDA and Dream x blocks x alpha, steering, the action distributions, the ablations, the code domain."""
    configs = {path.stem: load_settings(TrainConfig, path) for path in sorted(PAPER.glob("*.toml"))}
    for name, config in configs.items():
        settings = config.algorithm.settings
        assert (settings.prompts, settings.group_size, settings.clip, settings.lr) == (16, 8, 0.5, 3e-5), name
        assert (settings.inner_iterations, settings.max_grad_norm, settings.weight_decay) == (2, 0.2, 0.1), name
        assert (config.decode.gen_length, settings.kl_weight, settings.scale_advantages) == (256, 0.0, "none"), name
        assert not config.clones
        text = (PAPER / f"{name}.toml").read_text()
        assert "arXiv 2512.09106" in text.partition("extends")[0], f"{name} quotes its source"
    for family in ("LLaDA-8B-Instruct", "Dream-v0-Instruct-7B"):
        mine = [config for config in configs.values() if family in config.model.model]
        for block_length in (32, 256):
            plain = [c for c in mine if c.decode.block_length == block_length and not c.algorithm.settings.experts]
            assert {c.algorithm.settings.alpha for c in plain} == {0.0, 0.3, 1.0, 3.0, 10.0}
        steered = [c.algorithm.settings.experts[0] for c in mine if c.algorithm.settings.experts]
        assert [expert.block_length for expert in steered] == [32]
    released = configs["llada-bl32"].policy.fresh(None)
    assert sum(p.numel() for p in released.parameters()) == 331_265


def test_a_dry_run_needs_neither_the_model_nor_the_data(capsys):
    main(["train", "--config", str(PAPER / "llada-bl256-expert.toml"), "--dry-run"])
    out = capsys.readouterr().out
    assert '"lr": 3e-05' in out
    assert "16 prompts x (8 roll-outs + 1 experts) = 144 rows per iteration" in out
    assert f"{936 * 144 * 256:,} if every roll-out spends its 256 steps" in out
    assert "so their size is not known" in out


def test_extends_lays_one_file_over_another(tmp_path):
    (tmp_path / "a.toml").write_text("[algorithm]\nalpha = 2.0\nlr = 0.5\n[policy]\ntop_k = 3\nwidth = 64\n")
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n[algorithm]\nlr = 0.25\n[policy]\ntop_k = 4\n')
    config = load_settings(TrainConfig, tmp_path / "b.toml", {"policy": {"heads": 4}})
    settings, network = config.algorithm.settings, config.policy.network
    assert (settings.alpha, settings.lr) == (2.0, 0.25)
    assert (network.top_k, network.width, network.heads) == (4, 64, 4)
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    with pytest.raises(UnmaskError, match="extends itself"):
        load_settings(TrainConfig, tmp_path / "b.toml")
    (tmp_path / "a.toml").unlink()
    with pytest.raises(UnmaskError, match=r"No config file at .*a.toml"):
        load_settings(TrainConfig, tmp_path / "b.toml")


def test_the_runs_of_the_benchmark_are_ones_that_train_takes(capsys, tmp_path):
    from benchmarks.paper import BLOCKS, COMMON, SCRATCH, STUDIES, options

    for name, flags in {name: flags for study in STUDIES.values() for name, flags in study.items()}.items():
        given = {**COMMON, **flags, "run": tmp_path / "run"}
        if given.pop("warm", False):
            given |= {**SCRATCH, "policy.init": "house-base-full"}
        main(["train", "--dry-run", *options(given)])
        told = capsys.readouterr().out
        assert f'"block_length": {BLOCKS["block-length"] if "block-length" in flags else "null"}' in told, name


def test_the_flags_of_the_studies_of_tuning_are_ones_that_tune_takes(capsys):
    from benchmarks.studies import PLACES, STUDIES, words_of

    together: dict = {}
    for place, flags in STUDIES.values():
        together |= PLACES[place] | flags
    # In place of beta, of the task, and of blocks.
    alone = {key: together.pop(key) for key in ("algorithm.alpha", "config", "algorithm.leaps")}
    full = {key: value for key, value in together.items() if key not in ("block-length", "gen-length", "task")}
    leaps = full | {"algorithm.leaps": alone["algorithm.leaps"]}
    for flags in (together, leaps, {"algorithm.alpha": alone["algorithm.alpha"]}):
        main(["tune", "--dry-run", *words_of(flags)])
        assert ('"reward": "scale_free"' in capsys.readouterr().out) == ("algorithm.alpha" not in flags)
    assert Path(alone["config"]).name in {path.name for path in FILES}
