"""`unmask decode` in several processes: the rows of one, whoever is killed, and one sentence for an error."""

import json
import os
import random
import signal
import time

import psutil
import pytest

from tests.cli.test_cli import run
from tests.cli.test_decode import broken_by_gold, lines, write
from tests.launching import launched, start
from unmask.cli.prompts import Job, decode_all, read_prompts
from unmask.decoding.options import DecodeConfig
from unmask.journal import Halted, Parts
from unmask.policies.auto import load_policy
from unmask.rl.processes import Processes

DRAWS = ["--policy", "random_order", "--gen-length", 32, "--batch-size", 4, "--temperature", 1.0, "--seed", 5]


@pytest.fixture
def prompts(tmp_path):
    return write(tmp_path / "in.jsonl", *({"prompt": f"hall: {'red ' * (i % 5 + 1)}blue?", "id": i} for i in range(60)))


class Half(Processes):
    """One of two processes that hears nothing of the other."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.size, self.main = rank, 2, rank == 0

    def gather(self, items):
        return list(items)


@pytest.fixture
def job(tiny, prompts):
    policy, config = load_policy("random_order"), DecodeConfig(gen_length=8, temperature=1.0)
    return Job(tiny, policy, read_prompts(str(prompts), "prompt"), False, config, 5, {"seed": 5})


def test_each_process_takes_its_share_of_what_is_left(tmp_path, job):
    output = tmp_path / "out.jsonl"
    decode_all(job, tmp_path / "one.jsonl", Processes())
    decode_all(job, output, Half(1))
    mine = lines(tmp_path / "out.jsonl.part.1")
    assert sorted(row["index"] for row in mine) == list(range(0, 60, 2))
    decode_all(job, output, Half(1))
    assert len(lines(tmp_path / "out.jsonl.part.1")) == 45, "half of what was left"
    assert not output.exists(), "the first process writes it"
    decode_all(job, output, Processes())
    assert of(lines(output)) == of(lines(tmp_path / "one.jsonl"))
    assert not list(tmp_path.glob("*.part*"))


def test_a_process_leaves_when_another_cannot_go_on(tmp_path, job):
    parts = Parts(tmp_path / "out.jsonl.part", 1)
    parts.halt()
    decode_all(job, tmp_path / "out.jsonl", Half(1))
    assert not parts.paths(), "not one row was waited for"
    with pytest.raises(Halted):
        parts.check()
    parts.begin()
    parts.check()


def of(rows):
    return [{**row, "seconds": 0} for row in rows]


def test_two_processes_make_the_rows_of_one(capsys, tmp_path, tiny_folder, prompts):
    """A run of two that was killed is gone on with by two, and a bad line is told once."""
    with prompts.open("a") as file:
        file.write('{"promt": "hall: red?"}\n')
    argv = ["decode", "--input", prompts, "--model", tiny_folder, *DRAWS, "--output"]
    assert run(capsys, *argv, tmp_path / "one.jsonl")[0] == 2
    whole = lines(tmp_path / "one.jsonl")
    for number, found in enumerate((whole[10:20], whole[25:28])):  # of two processes, not in order
        part = tmp_path / ("two.jsonl.part" + (f".{number}" if number else ""))
        part.write_text("".join(json.dumps(row) + "\n" for row in found[::-1]) + '{"prompt": "cut sho')
    code, out, err = launched(2, *argv, tmp_path / "two.jsonl", "--resume")
    assert code != 0
    assert out == ""
    assert err.count("unmask: ") == err.count("line 61 has no text under 'prompt': did you mean 'promt'?") == 1
    assert err.count("60 prompts in") == 1
    assert of(lines(tmp_path / "two.jsonl")) == of(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "one.jsonl", "two.jsonl"]


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(tmp_path):
    texts = [f"hall: {'gold ' * 9}?", *["hall: red?"] * 400]
    source = write(tmp_path / "in.jsonl", *({"prompt": text} for text in texts))
    argv = ["decode", "--input", source, "--output", tmp_path / "out.jsonl", "--policy", "random_order"]
    argv += ["--temperature", 1.0, "--batch-size", 1, "--gen-length", 64, "--model", broken_by_gold(tmp_path / "m")]
    code, out, err = launched(2, *argv)
    assert code != 0
    assert out == ""
    assert err.count("unmask: ") == err.count("returned NaN logits: load it with dtype float32") == 1
    assert "--resume goes on from there." in err
    parts = Parts(tmp_path / "out.jsonl.part").paths()
    assert len([line for part in parts for line in lines(part)]) < 190, "the other one left before its share was done"
    assert not (tmp_path / "out.jsonl").exists()


def killed(output, argv, moments, tiny_folder):
    """Kill one process of two, or both and their launcher, some time after the first row. How many rows there were."""
    with start(2, *argv, output) as running:
        deadline = time.monotonic() + 120
        parts = [output.with_name(output.name + end) for end in (".part", ".part.1")]
        while not any(part.exists() for part in parts) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 1.5))
        children = psutil.Process(running.pid).children()
        if moments.random() < 0.5 or not children:
            os.killpg(running.pid, signal.SIGKILL)
        else:
            moments.choice(children).kill()
        running.communicate(timeout=120)
    return sum(part.read_bytes().count(b"\n") for part in parts if part.exists())


@pytest.mark.slow
def test_killed_at_twenty_moments_two_processes_make_the_rows_of_one(capsys, tmp_path, tiny_folder, prompts):
    argv = ["decode", "--input", prompts, "--model", tiny_folder, *DRAWS, "--output"]
    assert run(capsys, *argv, tmp_path / "one.jsonl")[0] == 0
    moments, kept = random.Random(0), []
    for i in range(20):
        output = tmp_path / f"{i}.jsonl"
        kept.append(killed(output, argv, moments, tiny_folder))
        code, _, err = launched(1 + i % 2, *argv, output, "--resume")
        assert code == 0, err
        assert of(lines(output)) == of(lines(tmp_path / "one.jsonl"))
        assert not list(tmp_path.glob(f"{output.name}.part*"))
    assert len(set(kept)) > 3, "moments that were all alike would show little"
