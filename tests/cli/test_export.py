"""`unmask export`: folders that engines read, wherever they go, and what is refused. Engines have tests of theirs."""

import json

import pytest
import yaml

import unmask
from unmask.cli.main import main
from unmask.integrations.transformers import policy_of


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as end:
        main(["export", *argv])
    assert end.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_transformers_gets_code_with_the_policy_inside(tmp_path, capsys):
    main(["export", "house-base-full", str(tmp_path / "out"), "--engine", "transformers"])
    assert f'custom_generate="{tmp_path / "out"}"' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        *("README.md", "generate.py", "policy.py", "requirements.txt"),
    ]
    inside = {}
    exec((tmp_path / "out" / "custom_generate" / "policy.py").read_text(), inside)
    found, wanted = policy_of(inside["CONFIG"], inside["WEIGHTS"]), unmask.load_policy("house-base-full")
    assert found.config() == wanted.config()
    assert all((found.weights()[name] == value).all() for name, value in wanted.weights().items())
    assert (tmp_path / "out" / "custom_generate" / "requirements.txt").read_text() == f"unmask>={unmask.__version__}\n"


def test_sglang_gets_a_yaml_file_and_a_command(tmp_path, capsys):
    argv = ["house-block-causal", str(tmp_path / "out"), "--engine", "sglang", "--speed", "0.7"]
    main(["export", *argv, "--block-length", "16", "--mask-id", "2"])
    told = capsys.readouterr().out
    assert told.startswith("python -m sglang.launch_server --model-path MODEL ")
    assert f"--dllm-algorithm Unmask --dllm-algorithm-config {tmp_path / 'out' / 'unmask.yaml'}" in told
    values = yaml.safe_load((tmp_path / "out" / "unmask.yaml").read_text())
    policy = values.pop("policy")
    assert values == {"speed": 0.7, "seed": 0, "block_size": 16, "mask_id": 2}
    assert unmask.load_policy(policy).config() == unmask.load_policy("house-block-causal").config()


def test_diffusers_gets_a_scheduler(tmp_path, capsys):
    pytest.importorskip("diffusers")
    from unmask.integrations.diffusers import UnmaskScheduler

    argv = ["entropy_bound:gamma=0.5 | max_reveal:n=4", str(tmp_path / "out"), "--engine", "diffusers"]
    main(["export", *argv, "--gen-length", "64", "--block-length", "16", "--seed", "3"])
    assert "UnmaskScheduler.from_pretrained(" in capsys.readouterr().out
    (tmp_path / "out").rename(tmp_path / "moved")
    found = UnmaskScheduler.from_pretrained(tmp_path / "moved")
    assert found.policy == unmask.load_policy("entropy_bound:gamma=0.5 | max_reveal:n=4")
    assert (found.config.gen_length, found.config.block_length, found.config.seed) == (64, 16, 3)
    assert json.loads((tmp_path / "moved" / "scheduler_config.json").read_text())["policy"] == "policy"


def test_bad_use_is_refused_and_nothing_is_written(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert "has no speed to choose" in refusal(
        capsys, "factor:factor=1", out, "--engine", "transformers", "--speed", "0.5"
    )
    assert "did you mean 'factor'" in refusal(capsys, "facto:factor=1", out, "--engine", "sglang")
    assert "--mask-id is for sglang: leave it out." in refusal(
        capsys, "factor:factor=1", out, "--engine", "diffusers", "--mask-id", "2"
    )
    assert "reads the KL history, and SGLang shows" in refusal(capsys, "klass", out, "--engine", "sglang")
    assert "engine" in refusal(capsys, "klass", out, "--engine", "vllm")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    assert "exists: give a folder that does not" in refusal(capsys, "klass", out, "--engine", "transformers")
