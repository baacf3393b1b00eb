"""A file as a task: rows, splits, columns, and what is wrong with a file."""

import json

import pytest

from tests.tasks.data import write
from unmask.errors import UnmaskError
from unmask.tasks import FileTask, load_task
from unmask.tasks.base import Example


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} + 1", "answer": i + 1}) + "\n\n" for i in range(200)))
    return path


def test_rows_are_split_once_and_for_all(file):
    task = load_task(str(file), "number")
    assert (task.name, task.gen_length, task.verifiable) == ("sums", 256, True)
    parts = {split: task.examples(split, 1000) for split in ("train", "validation", "test")}
    prompts = [e.prompt for part in parts.values() for e in part]
    assert sorted(prompts) == sorted(f"{i} + 1" for i in range(200))
    assert len(parts["train"]) > 120
    assert min(len(part) for part in parts.values()) >= 8
    numbers = [int(e.prompt.split()[0]) for e in parts["train"]]
    assert numbers == sorted(numbers), "file order"
    assert task.examples("train", 3) == parts["train"][:3]
    assert [e.prompt for e in task.examples(n=2)] == ["0 + 1", "1 + 1"]
    assert len(task.examples()) == 200
    assert task.verify(Example("5 + 1", "6"), "that makes 6.0")
    assert not task.verify(Example("5 + 1", "6"), "6 or 7")
    with pytest.raises(UnmaskError, match="Unknown split 'trane'"):
        task.examples("trane", 1)


def test_the_split_of_a_prompt_never_changes(file):
    assert [e.prompt for e in load_task(str(file)).examples("test", 4)] == ["6 + 1", "26 + 1", "30 + 1", "37 + 1"]


def test_a_file_for_each_split(tmp_path):
    many = [{"prompt": f"{i}", "answer": i} for i in range(200)]
    train = write(tmp_path / "a.jsonl", many)
    test = write(tmp_path / "b.jsonl", [{"prompt": "x", "answer": 1}])
    task = load_task("file", path={"train": train, "test": test})
    assert not task.verifiable
    assert [e.prompt for e in task.examples("test")] == ["x"]
    assert 2 <= len(task.examples("validation")) <= 25
    assert len(task.examples("train")) + len(task.examples("validation")) == 200
    assert task.examples() == task.examples("test")
    task = load_task("file", path={"train": train, "validation": test})
    assert len(task.examples("train")) == 200
    with pytest.raises(
        UnmaskError, match="'file' has no test split .it has: train, validation.: give path={'test': ...}"
    ):
        task.examples("test")
    with pytest.raises(UnmaskError, match="Unknown split 'tests' in path: did you mean 'test'"):
        load_task("file", path={"tests": test})
    with pytest.raises(UnmaskError, match="path names no file"):
        load_task("file", path={})
    with pytest.raises(UnmaskError, match="Name a file, as in load_task.'mine.jsonl'."):
        load_task("file")


def test_a_prompt_in_two_splits_is_refused(tmp_path):
    train = write(tmp_path / "a.jsonl", [{"prompt": p, "answer": 1} for p in "abca"])
    test = write(tmp_path / "b.jsonl", [{"prompt": p, "answer": 1} for p in "xc"])
    with pytest.raises(
        UnmaskError, match="b.jsonl, row 2: the train split has the same prompt .*a.jsonl, row 3.: leave"
    ):
        load_task("file", path={"train": train, "test": test})


def test_other_columns_are_kept_and_odd_line_breaks_are_text(tmp_path):
    (tmp_path / "t.jsonl").write_text('\ufeff{"prompt": "a\u2028b", "answer": 1, "level": 5}\r\n', encoding="utf-8")
    (example,) = FileTask(tmp_path / "t.jsonl", chat=True).examples()
    assert (example.prompt, example.answer, example.columns) == ("a\u2028b", "1", {"level": 5})
    assert example.chat


def test_columns_can_go_by_other_names(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"Frage": "1+1", "answer": "2", "Stufe": 1}])
    (example,) = load_task(path, columns={"prompt": "Frage"}).examples()
    assert (example.prompt, example.answer, example.columns) == ("1+1", "2", {"Stufe": 1})
    with pytest.raises(UnmaskError, match="Unknown column 'promt': did you mean 'prompt'"):
        load_task(path, columns={"promt": "Frage"})
    with pytest.raises(UnmaskError, match="row 1: no column 'prompt' .it has: Frage, answer, Stufe.: rename or add it"):
        load_task(path)


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"prompt": f"{i}", "answer": i, "also": ["a"]} for i in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    examples = load_task(str(tmp_path / "t.parquet"), "exact").examples()
    assert [(e.prompt, e.answer, e.columns) for e in examples] == [(f"{i}", f"{i}", {"also": ["a"]}) for i in range(3)]
    (tmp_path / "u.parquet").write_text("not Parquet")
    with pytest.raises(UnmaskError, match="Cannot read the task file .*u.parquet .*: give a Parquet file"):
        load_task(str(tmp_path / "u.parquet"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}', "row 1: no column 'answer' .it has: prompt.: rename or add it"),
        ('{"answer": "a"}', "row 1: no column 'prompt'"),
        ('{"prompt": "a", "answer": "b"}\n[1]', "row 2: not a JSON object"),
        ('{"prompt": "a", "answer": "b"}\n\n{"prompt": ', "row 3, is not JSON"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 1, is not JSON"),
        ("[" * 100_000, "row 1, is not JSON"),
        ('{"prompt": null, "answer": "b"}', "row 1: column 'prompt' is empty: fill it or leave the row out"),
        ('{"prompt": ["a"], "answer": "b"}', "row 1: the prompt is a list: give text"),
        ("", "holds no rows: give one JSON object a line"),
        (" \n\n", "holds no rows"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UnmaskError, match=message):
        FileTask(tmp_path / "t.jsonl", "exact")


def test_a_file_that_nothing_verifies_needs_no_answers(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "answer": "c"}')
    task = FileTask(tmp_path / "t.jsonl")
    assert not task.verifiable
    assert [(one.prompt, one.answer) for one in task.examples()] == [("a", ""), ("b", "c")]


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UnmaskError, match="Cannot read the task file .*none.jsonl .there is none."):
        load_task(str(tmp_path / "none.jsonl"))
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UnmaskError, match="row 1, is not UTF-8 text .* write one object a line"):
        load_task(str(tmp_path / "t.jsonl"))
    with pytest.raises(UnmaskError, match="by a name that ends in .jsonl or .parquet"):
        load_task("gsm8k", path=str(tmp_path / "t.csv"))


def test_a_split_without_rows_is_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"prompt": "6 + 1", "answer": 7}])
    assert len(load_task(path).examples("test")) == 1
    with pytest.raises(UnmaskError, match="t has no train examples among its 1 rows: add rows"):
        load_task(path).examples("train", 1)


def test_what_a_file_has_no_use_for(file):
    with pytest.raises(UnmaskError, match="few_shot is for data sets"):
        load_task(str(file), few_shot=2)
    with pytest.raises(UnmaskError, match="Name a file"):
        load_task(str(file), path=str(file))


def test_bundled_tasks_take_no_file(file):
    for options, what in (
        ({"path": str(file)}, "path"),
        ({"columns": {}}, "columns"),
        ({"few_shot": 1}, "few_shot"),
        ({"chat": True}, "chat"),
    ):
        with pytest.raises(UnmaskError, match=f"The task 'house' has no use for {what}: leave it out"):
            load_task("house", **options)
    with pytest.raises(UnmaskError, match="'house' has a verifier of its own"):
        load_task("house", "number")
    with pytest.raises(UnmaskError, match="Unknown task 'gms8k': did you mean 'gsm8k'"):
        load_task("gms8k")


def test_a_task_of_ones_own_by_its_path():
    assert load_task("examples.my_task.task").name == "my_task"
    with pytest.raises(UnmaskError, match="The task 'os.getcwd' gave a str: return an unmask.tasks.Task"):
        load_task("os.getcwd")
    with pytest.raises(UnmaskError, match="Cannot import the task 'no.such'"):
        load_task("no.such")


def test_the_example():
    from examples.my_task import task

    mine = task()
    (example, *_) = mine.examples("test")
    assert mine.verify(example, f"go red den. the answer is {example.answer}")
    assert mine.verify(example, f"the answer is {example.columns['also'][0]}")
    assert not mine.verify(example, "the answer is roof")
    assert not mine.verify(example, "")
    assert {len(mine.examples(split)) > 2 for split in ("train", "validation", "test")} == {True}
