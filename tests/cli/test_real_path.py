"""The commands on a published LLaDA (tiny, random weights) and columns of real data sets: a mixture, files, chats."""

import json

import pytest
from benchmarks.published import DREAM, LLADA, tiny, write

from tests.cli.test_cli import run
from unmask.rl.run import read_metrics

GSM8K = [
    {"question": f"Tom has {i} apples and buys {i}. How many?", "answer": f"2 * {i}\n#### {2 * i}"} for i in range(120)
]
MATH = [
    {"problem": f"What is ${i}^2$?", "solution": rf"It is $\boxed{{{i * i}}}$.", "answer": str(i * i)}
    for i in range(120)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny dLLMs in the published layout, and two data sets."""
    found = tmp_path_factory.mktemp("real")
    texts = [row["question"] for row in GSM8K]
    write(found / "llada", tiny(LLADA), texts, shard=30_000, scale=0.3)
    write(found / "dream", tiny({**DREAM, "torch_dtype": "float32"}), texts, scale=0.3)
    for name, rows in (("gsm8k", GSM8K), ("math", MATH)):
        (found / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = f"""
tasks = ["gsm8k", "math"]
weights = [3, 1]
task_paths = {{ gsm8k = "{found}/gsm8k.jsonl", math = "{found}/math.jsonl" }}
"""
    (found / "mixture.toml").write_text(f"{mixture}gen_length = 16\nblock_length = 8\n")
    (found / "train.toml").write_text(f"[task]{mixture}[decode]\ngen_length = 16\nblock_length = 8\n")
    return found


def test_a_mixture_trains_and_each_task_keeps_its_metrics(folder, tmp_path, capsys):
    settings = ["--config", folder / "train.toml", "--model", folder / "llada", "--validation-prompts", 4]
    cheap = ["--clone-from", "none", "--iterations", 1, "--algorithm.prompts", 4, "--algorithm.group-size", 2]
    code, out, err = run(
        capsys,
        "train",
        *settings,
        *cheap,
        "--run",
        tmp_path / "run",
        "--algorithm.min-signal",
        0,
        "--train-examples",
        8,
    )
    assert code == 0, err
    assert "LLaDA, 46,240 weights in float32" in " ".join(out.split())
    assert "on gsm8k+math: blocks of 8" in " ".join(out.split())
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    step = next(line for line in lines if line["stage"] == "grpo")
    assert {"correct", "correct_gsm8k", "correct_math"} <= set(step)
    assert step["correct"] == pytest.approx((3 * step["correct_gsm8k"] + step["correct_math"]) / 4, abs=0.5)
    assert {"correct_gsm8k", "correct_math"} <= set(next(line for line in lines if line["stage"] == "validation"))


def test_a_mixture_is_compared_task_by_task(folder, tmp_path, capsys):
    mixed = json.dumps({name: str(folder / f"{name}.jsonl") for name in ("gsm8k", "math")})
    settings = ["--tasks", "gsm8k", "--tasks", "math", "--weights", 1, "--weights", 1, "--task-paths", mixed]
    where = ["--model", folder / "dream", "--gen-length", 16, "--block-lengths", 8, "--output", tmp_path / "eval"]
    rules = ["--policies", "top_k_confidence:k=4", "--prompts", 6, "--split", "train"]
    code, out, err = run(capsys, "eval", *settings, *where, *rules)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "eval" / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["task"] for row in rows) == ["gsm8k"] * 3 + ["math"] * 3
    assert "gsm8k+math, 6 train prompts" in " ".join(out.split())
    assert out.count("│ top-k") == 3, "one table for the mixture, one for each task"


def test_a_file_of_tests_is_used_whole(folder, tmp_path, capsys):
    settings = ["--task", "gsm8k", "--task-path", folder / "gsm8k.jsonl", "--model", folder / "llada"]
    rules = ["--policies", "top_k_confidence:k=8", "--gen-length", 8, "--output", tmp_path / "eval"]
    code, out, err = run(capsys, "eval", *settings, *rules)
    assert code == 0, err
    assert len((tmp_path / "eval" / "rows.jsonl").read_text().splitlines()) == 120
    assert "on gsm8k, 120 prompts" in " ".join(out.split())


def test_a_dllm_is_checked_and_described(folder, capsys):
    code, out, err = run(capsys, "check-model", folder / "llada", "--dtype", "float32")
    assert code == 0, err
    for line in ("family         LLaDA", "weights        46,240 in float32 on cpu", "mask           370 <|mdm_mask|>"):
        assert line in out
    assert "EOS            360 <|endoftext|>" in out
    assert "Checks passed" in out
    code, _, err = run(capsys, "check-model", folder / "none")
    assert code == 2
    assert "Cannot load the dLLM" in err


def test_a_chat_is_decoded(folder, capsys, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "How many?"}], "id": 1}, {"prompt": "How many?", "id": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["decode", "--model", folder / "llada", "--policy", "top_k_confidence:k=4", "--gen-length", 8]
    code, out, err = run(capsys, *argv, "--input", tmp_path / "in.jsonl", "--chat")
    assert code == 0, err
    messages, text = (json.loads(line) for line in out.splitlines())
    assert messages["tokens"] == text["tokens"], "--chat makes a message of the text"
    code, out, err = run(capsys, *argv, "--input", tmp_path / "in.jsonl")
    assert code == 0, err
    plain = json.loads(out.splitlines()[1])
    assert plain["tokens"] != text["tokens"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "gsm8k", "--tasks", "math"], "Give task or tasks, not both."),
        (["--task", "gsm9k"], "Unknown task 'gsm9k': did you mean 'gsm8k'?"),
        (["--task", "gsm8k"], "--task-path"),
        (["--task", "gsm8k", "--task-path", "none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_tasks_are_one_sentence(capsys, argv, message):
    code, _, err = run(capsys, "eval", *argv, "--policies", "top_k_confidence")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_messages_need_a_template(capsys):
    code, _, err = run(capsys, "decode", "hall: red?", "--chat")
    assert code == 2
    assert "has no chat template: pass a text instead of messages" in err
