"""Run folders: checkpoints are whole or not there, resuming is refused by name, nothing is pickled."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.rl.runs import SMALL, checkpoint, config, tables, told, trainer, weights
from tests.rl.tasks import Hopeless
from tests.test_journal import holding
from unmask.errors import UnmaskError
from unmask.rl.run import RunFolder, read_metrics

LINE = '{"stage": "grpo", "iteration": %d}\n'


def test_bad_resumes_are_refused(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="Nothing to resume"):
        trainer(tiny, tmp_path / "none").run(resume=True)
    trainer(tiny, tmp_path / "run", iterations=1).run()
    with pytest.raises(UnmaskError, match="exists: pass --resume to go on, or another --run"):
        trainer(tiny, tmp_path / "run", iterations=1).run()
    changed = trainer(tiny, tmp_path / "run", iterations=2, lr=1e-3, batch_size=7)
    with pytest.raises(
        UnmaskError, match=r"with algorithm.lr = 0.0002, not 0.001; run.iterations = 1, not 2: .* --allow-changes"
    ):
        changed.run(resume=True)
    assert changed.run(resume=True, allow_changes=True) is not None
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algorithm"]["lr"] == 1e-3, "what it goes on with"
    assert checkpoint(tmp_path / "run").name == "checkpoint-2"


def test_a_run_of_an_older_version_goes_on_without_the_settings_it_did_not_have(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", iterations=2).run()
    path = tmp_path / "run" / "config.json"
    begun = json.loads(path.read_text())
    del begun["run"]["temperatures"], begun["algorithm"]["leaps"], begun["policy"]["use_rank"]
    path.write_text(json.dumps(begun))
    trainer(tiny, tmp_path / "run", iterations=2).run(resume=True)
    with pytest.raises(UnmaskError, match=r"was begun with algorithm.leaps = 0, not 1; run.temperatures = \[\], not"):
        trainer(tiny, tmp_path / "run", iterations=2, leaps=1, temperatures=(0.5,)).run(resume=True)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "progress.json", "policy/model.safetensors"])
def test_a_damaged_checkpoint_is_refused(tiny, tmp_path, name):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    file = checkpoint(tmp_path / "run") / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        UnmaskError, match=r"checkpoint-1 is damaged .*start another --run, or use the best policy so far"
    ):
        trainer(tiny, tmp_path / "run", iterations=1).run(resume=True)


@pytest.mark.parametrize("name", ["start", "best"])
def test_files_in_the_way_are_refused_before_anything_is_written(tiny, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / "notes.txt").write_text("mine")
    with pytest.raises(
        UnmaskError, match=f"{name} holds other files .notes.txt.: save the policy to a folder of its own"
    ):
        trainer(tiny, tmp_path / "run", iterations=1).run()
    assert {file.name for file in (tmp_path / "run").rglob("*") if file.is_file()} <= {"notes.txt", ".lock"}


@pytest.mark.parametrize("rule", ["confidence_threshol:threshold=0.9", "best:confidence_threshol", "no/such/policy"])
def test_a_misspelt_rule_begins_no_run(tiny, tmp_path, rule):
    with pytest.raises(UnmaskError, match="did you mean 'confidence_threshold'|No policy 'no/such/policy'"):
        trainer(tiny, tmp_path / "run", iterations=1, clone_rule=rule).run()
    assert not (tmp_path / "run").exists()


def test_nothing_in_a_run_folder_is_a_pickle(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    kinds = {file.suffix for file in (tmp_path / "run").rglob("*") if file.is_file() and file.name != ".lock"}
    assert kinds == {".json", ".jsonl", ".safetensors"}


def test_a_checkpoint_of_another_architecture_is_refused(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    other = trainer(tiny, tmp_path / "run", iterations=1, blocks=2)
    with pytest.raises(UnmaskError, match="with policy.blocks = 1, not 2"):
        other.run(resume=True)
    with pytest.raises(UnmaskError, match=r"with policy.blocks = 1, not 2, and its .* which cannot change: "):
        other.run(resume=True, allow_changes=True)
    ppo = trainer(tiny, tmp_path / "run", iterations=1, name="ppo")
    with pytest.raises(UnmaskError, match=r"with algorithm.name = 'grpo', not 'ppo', and its checkpoint holds weights"):
        ppo.run(resume=True, allow_changes=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", None, "metrics.jsonl lacks what the run logged: put the file back, or start another --run."),
        ("metrics.jsonl", "3\n", "metrics.jsonl holds 3, which no training run logs: delete the line."),
        ("metrics.jsonl", '{"a": 1}\n', 'metrics.jsonl holds {"a": 1}, which no training run logs'),
        ("metrics.jsonl", '{"stage": "validation", "iteration": 0}\n', "which no training run logs: delete the line."),
        ("config.json", '{"a": 1}', r"config.json is of no training run .a = 1.: start another --run."),
        ("config.json", "[]", "config.json must hold a JSON object: put the file back, or start another --run."),
        ("checkpoint-1/progress.json", '{"iteration": "x"}', r"is damaged .its progress.json: iteration = 'x' .input"),
        ("checkpoint-1/progress.json", "{}", r"is damaged .its progress.json does not say how far the run is"),
        ("checkpoint-1/progress.json", '{"counts": 3}', r"is damaged .its progress.json: counts = 3 .input should be"),
        ("checkpoint-1/progress.json", '{"b": 1}', r"is damaged .its progress.json: b = 1 .unexpected keyword"),
    ],
)
def test_damaged_files_of_a_run_are_named(tiny, tmp_path, name, content, message):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    file = tmp_path / "run" / name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UnmaskError, match=message):
        trainer(tiny, tmp_path / "run", iterations=1).run(resume=True)


def test_a_byte_order_mark_does_no_harm(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    for name in ("config.json", "checkpoint-1/progress.json", "checkpoint-1/policy/config.json"):
        file = tmp_path / "run" / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    trainer(tiny, tmp_path / "run", iterations=1).run(resume=True)


def test_a_best_policy_that_was_lost_comes_back(tiny, tmp_path):
    import shutil

    trainer(tiny, tmp_path / "run", iterations=1).run()
    shutil.rmtree(tmp_path / "run" / "best")
    assert trainer(tiny, tmp_path / "run", iterations=1).run(resume=True) is not None


def test_a_second_process_is_kept_out(tiny, tmp_path):
    sentence = "Another process .pid .* is writing .*run: wait until it ends, stop it, or give another --run."
    with holding(tmp_path / "run" / ".lock"), pytest.raises(UnmaskError, match=sentence):
        trainer(tiny, tmp_path / "run", iterations=1).run()
    trainer(tiny, tmp_path / "run", iterations=1).run()
    with holding(tmp_path / "run" / ".lock"), pytest.raises(UnmaskError, match="Another process"):
        trainer(tiny, tmp_path / "run", iterations=1).run(resume=True)
    assert trainer(tiny, tmp_path / "run", iterations=1).run(resume=True) is not None


def test_only_the_main_process_claims_the_folder(tiny, tmp_path):
    trainer(tiny, tmp_path / "run", iterations=1).run()
    other = trainer(tiny, tmp_path / "run", iterations=1)
    with holding(tmp_path / "run" / ".lock"):  # the main process of the same launch
        folder = RunFolder(tmp_path / "run", main=False)
        assert (
            folder.restore(other.policy, other.optimiser.module, other.optimiser.optimizer, other.config).iteration == 1
        )


def test_a_line_cut_short_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE % 1 + LINE % 2 + '{"iter')
    assert read_metrics(tmp_path / "m.jsonl") == [json.loads(LINE % i) for i in (1, 2)]
    folder = RunFolder(tmp_path)
    folder.metrics = tmp_path / "m.jsonl"
    folder.forget_after(1)
    assert read_metrics(folder.metrics) == [json.loads(LINE % 1)]
    folder.metrics.write_text(LINE % 1 + '{"iter\n' + LINE % 3)
    with pytest.raises(UnmaskError, match="m.jsonl, line 2, is not JSON .*: delete the line."):
        read_metrics(folder.metrics)


def test_a_disk_that_fills_leaves_the_last_checkpoint_as_it_was(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", iterations=2)
    run.run()
    before = weights(tmp_path / "run")
    again = trainer(tiny, tmp_path / "run", iterations=2)
    assert again.keeper.resume(again.optimiser, allow_changes=False)
    again.keeper.progress.iteration = 3
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, old[1]))  # the policy fits, Adam's moments do not
        with pytest.raises(Exception, match=r"(?i)file too large"):
            again.keeper.save(again.optimiser, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert all((before[name] == tensor).all() for name, tensor in weights(tmp_path / "run").items())


def command(folder, model, *more):
    changes = {"iterations": 40, "validate_every": 1, "prompts": 2, "clone_rule": "none", "reward": "additive"}
    asked = config(folder, **changes).model_dump(mode="json")
    short = {"run.folder": "run", "run.iterations": "iterations", "algorithm.lr": "lr", "clone.rule": "clone-from"}
    wanted = {**SMALL, **changes, "folder": None}
    flags = []
    for table, values in tables(**wanted).items():
        for key in values:
            name = short.get(f"{table}.{key}", key if table in ("run", "task", "decode") else f"{table}.{key}")
            flags.append(f"--{name.replace('_', '-')}={asked[table][key]}")
    argv = ["train", "--model", model, "--gen-length", "8", "--validation-prompts", "2", *flags, *more]
    return [sys.executable, "-m", "unmask.cli", *map(str, argv)]


def wait_for(folder, line, process):
    for _ in range(600):
        if any(m["stage"] == "grpo" and m["iteration"] >= line for m in read_metrics(folder / "metrics.jsonl")):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("no iteration in 30 s")


@pytest.mark.slow
def test_killed_and_stopped_runs_end_as_an_uninterrupted_one(tiny_folder, tmp_path):
    subprocess.run(command(tmp_path / "whole", tiny_folder), check=True, capture_output=True)
    cut = tmp_path / "cut"
    process = subprocess.Popen(command(cut, tiny_folder), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for at, number in ((3, signal.SIGKILL), (9, signal.SIGTERM), (15, signal.SIGKILL), (20, signal.SIGINT)):
        wait_for(cut, at, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
        process = subprocess.Popen(
            command(cut, tiny_folder, "--resume"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert told(tmp_path / "whole") == told(cut)
    whole, resumed = weights(tmp_path / "whole"), weights(cut)
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_a_failed_warm_start_does_not_stand_in_the_way(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="answers none of 8 prompts correctly"):
        trainer(tiny, tmp_path / "run", Hopeless(), iterations=1).run()
    assert not (tmp_path / "run" / "config.json").exists()
    trainer(tiny, tmp_path / "run", iterations=1).run()
    assert [line["stage"] for line in told(tmp_path / "run")] == ["clone", "validation", "grpo", "validation"]
