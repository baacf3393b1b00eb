"""A JSONL file as a task: rows, splits, verifiers, and what is wrong with a file."""

import json

import pytest

from unmask.errors import UnmaskError
from unmask.tasks.auto import load_task
from unmask.tasks.base import Example
from unmask.tasks.jsonl import JsonlTask, exact, load_verifier, number


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} + 1", "answer": i + 1}) + "\n\n" for i in range(200)))
    return path


def test_rows_are_split_once_and_for_all(file):
    task = load_task(str(file), "number")
    parts = {split: task.examples(split, 1000) for split in ("train", "validation", "test")}
    prompts = [e.prompt for part in parts.values() for e in part]
    assert sorted(prompts) == sorted(f"{i} + 1" for i in range(200))
    assert len(parts["train"]) > 120
    assert min(len(part) for part in parts.values()) >= 8
    numbers = [int(e.prompt.split()[0]) for e in parts["train"]]
    assert numbers == sorted(numbers), "file order"
    assert task.examples("train", 3) == parts["train"][:3]
    assert task.verify(Example("5 + 1", "6"), "that makes 6.0")
    assert not task.verify(Example("5 + 1", "6"), "6 or 7")
    with pytest.raises(UnmaskError, match="Unknown split 'trane'"):
        task.examples("trane", 1)


def test_other_columns_are_kept_and_odd_line_breaks_are_text(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "a\u2028b", "answer": 1, "level": 5}\n', encoding="utf-8")
    (example,) = [e for split in ("train", "validation", "test") for e in _some(tmp_path / "t.jsonl", split)]
    assert (example.prompt, example.answer, example.columns) == ("a\u2028b", "1", {"level": 5})


def _some(path, split):
    try:
        return JsonlTask(path).examples(split, 9)
    except UnmaskError:
        return []


def test_verifiers():
    assert exact(" hall ", "hall")
    assert not exact("the hall", "hall")
    assert number("#### 1,234", "so 1234")
    assert number("-3.50", "-3.5")
    assert not number("none", "3")
    assert load_verifier("unmask.tasks.jsonl:exact") is exact
    with pytest.raises(UnmaskError, match="Unknown verifier 'exct': use exact, number, or module.function"):
        load_verifier("exct")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}', "row 1: no column 'answer' .it has: prompt.: rename or add it"),
        ('{"answer": "a"}', "row 1: no column 'prompt'"),
        ('{"prompt": "a", "answer": "b"}\n[1]', "row 2: not a JSON object"),
        ('{"prompt": ', "row 1: not valid JSON"),
        ('{"prompt": null, "answer": "b"}', "row 1: column 'prompt' is empty: fill it or leave the row out"),
        ("", "has no train examples among its 0 rows"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UnmaskError, match=message):
        JsonlTask(tmp_path / "t.jsonl").examples("train", 1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UnmaskError, match="Cannot read the task file"):
        load_task(str(tmp_path / "none.jsonl"))
