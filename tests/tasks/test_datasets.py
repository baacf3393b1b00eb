"""Data sets: prompts, splits, columns, from files and from the Hub."""

import sys

import pytest

from tests.tasks.data import has_math_verify, write
from unmask.errors import UnmaskError
from unmask.tasks import DataSet, Format, Prompts, load_task
from unmask.tasks.auto import DATA_SETS, HUB_NAMES

GSM8K = [{"question": f"{i} eggs?", "answer": f"{i} of them.\n#### {i:,}"} for i in range(1000, 1060)]
MATHS = [{"problem": f"{i}?", "solution": f"It is \\boxed{{{i}}}."} for i in range(60)]
TESTS = [{"problem": f"Is it {i}?", "solution": "See.", "answer": f"{i}", "level": 5} for i in range(3)]
FORMAT = "Respond in the following format:\n<reasoning>\n"


@pytest.fixture
def gsm8k(tmp_path):
    return write(tmp_path / "gsm8k.jsonl", GSM8K)


@pytest.fixture
def maths(tmp_path):
    return {"train": write(tmp_path / "train.jsonl", MATHS), "test": write(tmp_path / "test.jsonl", TESTS)}


def test_gsm8k_asks_as_the_paper_does(gsm8k):
    task = load_task("gsm8k", path=gsm8k)
    assert (task.name, task.gen_length, task.block_length, task.verifiable) == ("gsm8k", 256, 32, True)
    first = task.examples("train", 1)[0]
    assert first.prompt == f"\n{FORMAT}...\n</reasoning>\n<answer>\n...\n</answer>\n\n\n1000 eggs?"
    assert (first.prefix, first.chat, first.answer) == ("", True, "1,000")
    assert first.columns == {"solution": GSM8K[0]["answer"]}
    boxed = (
        "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in"
    )
    for split in ("validation", "test", None):
        example = task.examples(split, 1)[0]
        assert example.prompt.startswith(
            f"{boxed} a \\boxed{{}}.\n{FORMAT}Your reasoning here\n</reasoning>\n<answer>\n"
        )
        assert "\n\\boxed{...}\n</answer>\n\n1" in example.prompt
        assert (example.prefix, example.chat) == ("<reasoning>", True)
        assert task.verify(example, f"it is {example.answer}.</reasoning><answer>\\boxed{{{example.answer}}}</answer>")
        assert not task.verify(example, "\\boxed{7}")


def test_few_shot_prompts_are_for_base_models(gsm8k):
    task = load_task("gsm8k", path=gsm8k, few_shot=2)
    zero = load_task("gsm8k", path=gsm8k)
    shots = zero.examples("train", 2)
    example = task.examples("test", 1)[0]
    questions = [f"Question: {shot.prompt.split()[-2]} eggs?\nAnswer: {shot.columns['solution']}\n\n" for shot in shots]
    gold = zero.examples("test", 1)[0]
    assert example.prompt == f"{''.join(questions)}Question: {gold.prompt.split()[-2]} eggs?\nAnswer:"
    assert (example.chat, example.prefix, example.answer) == (False, "", gold.answer)
    assert len(task.examples("train")) == len(zero.examples("train")) - 2, "a worked example is no question"
    assert shots[0].answer not in [example.answer for example in task.examples("train")]
    assert task.verify(example, f" They are {gold.answer}.\n\nQuestion: 5 eggs?\nAnswer: 5"), "it goes on"
    assert not task.verify(example, f" They are 5.\n\nQuestion: eggs?\nAnswer: {gold.answer}")
    with pytest.raises(UnmaskError, match="gsm8k has .* rows for worked examples: lower few_shot = 99"):
        load_task("gsm8k", path=gsm8k, few_shot=99).examples("test")
    with pytest.raises(UnmaskError, match="few_shot must be 0 or more, not -1"):
        load_task("gsm8k", path=gsm8k, few_shot=-1)
    chats = load_task("gsm8k", path=gsm8k, few_shot=1, chat=True).examples("test", 1)[0]
    assert chats.chat
    assert "</answer>\n\nQuestion: 100" in chats.prompt
    assert chats.prompt.endswith("eggs?\nAnswer:\n")


@has_math_verify
def test_math(maths):
    task = load_task("math", path=maths)
    train, test = task.examples("train", 1)[0], task.examples("test")
    assert train.prompt.startswith(f"\n{FORMAT}...")
    assert "Wrap the final answer in a \\boxed{}. \n\n0?" in train.prompt
    assert (train.answer, train.columns) == ("0", {"solution": "It is \\boxed{0}."})
    assert [e.answer for e in test] == ["0", "1", "2"]
    assert test[0].prompt.endswith('</answer>"\n\n\nIs it 0?')
    assert test[0].columns == {"solution": "See.", "level": 5}
    assert task.verify(test[2], "\\boxed{4/2}")
    assert not task.verify(test[2], "\\boxed{4/3}")
    plain = load_task("math", path=maths, few_shot=1).examples("test", 1)[0]
    assert plain.prompt == "Problem:\n0?\n\nSolution: It is \\boxed{0}.\n\nProblem:\nIs it 0?\n\nSolution:"
    strings = load_task("math", "exact", path=maths)
    assert not strings.verify(test[2], "\\boxed{2}")


@has_math_verify
def test_validation_is_held_out_from_training(maths):
    task = load_task("math", path=maths)
    parts = [{e.prompt.split("\n")[-1] for e in task.examples(split)} for split in ("train", "validation")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 60
    assert 1 <= len(parts[1]) <= 8
    with pytest.raises(
        UnmaskError, match="'math' has no pretrain split .it has: train, test.: give path={'pretrain': ..."
    ):
        task.examples("pretrain")


def test_columns_are_recognised_or_named(tmp_path):
    usual = load_task("gsm8k", path=write(tmp_path / "a.jsonl", [{"prompt": "1?", "answer": "1"}]))
    assert usual.examples()[0].answer == "1"
    odd = write(tmp_path / "b.jsonl", [{"q": "1?", "answer": "#### 1", "id": 3}, {"q": "2?", "answer": "#### 2"}])
    example = load_task("gsm8k", path=odd, columns={"prompt": "q"}).examples()[0]
    assert (example.answer, example.columns) == ("1", {"id": 3, "solution": "#### 1"})
    with pytest.raises(
        UnmaskError, match="b.jsonl, row 1: no column 'question' or 'prompt' .it has: q, answer, id.: rename"
    ):
        load_task("gsm8k", path=odd)
    with pytest.raises(UnmaskError, match="Unknown column 'question': known: 'answer', 'prompt'"):
        load_task("gsm8k", path=odd, columns={"question": "q"})
    with pytest.raises(UnmaskError, match="b.jsonl, row 2: column 'answer' is empty"):
        load_task("gsm8k", path=write(tmp_path / "b.jsonl", [*GSM8K[:1], {"question": "2?", "answer": ""}]))


@has_math_verify
def test_a_solution_that_boxes_nothing_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"problem": "1?", "solution": "1"}])
    with pytest.raises(
        UnmaskError, match=r"a.jsonl, row 1: no answer, and no \\boxed{} in the solution: add one of them"
    ):
        load_task("math", path=path)


def test_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnmaskError, match=r"Hub need the package 'datasets': pip install 'unmask\[tasks\]'"):
        load_task("gsm8k").examples("test")


@pytest.fixture
def hub(monkeypatch):
    """A Hub with three rows a split: `datasets.load_dataset` is replaced, the data sets it gives are real."""
    datasets = pytest.importorskip("datasets")
    loaded = []

    def load_dataset(repo, config, split):
        loaded.append((repo, config, split))
        if repo == "openai/openai_humaneval":
            raise ConnectionError("Couldn't reach the Hub.\nTry again.")
        where = f"{config}/{split}"
        rows = [
            {"question": f"{where} {i}", "problem": f"{where} {i}", "answer": f"{i}", "trials": i} for i in range(40)
        ]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return loaded


def test_from_the_hub(hub):
    task = load_task("openai/gsm8k")
    assert hub == [], "loaded when asked for"
    assert [e.prompt.split("\n")[-1] for e in task.examples("test", 2)] == ["main/test 0", "main/test 1"]
    assert task.examples() == task.examples("test")
    assert hub == [("openai/gsm8k", "main", "test")], "once"
    train, validation = task.examples("train"), task.examples("validation")
    assert hub[1:] == [("openai/gsm8k", "main", "train")]
    assert len(train) + len(validation) == 40
    assert "trials" not in train[0].columns
    with pytest.raises(
        UnmaskError, match="The task 'gsm8k' has no pretrain split .it has: train, test.: give another task"
    ):
        task.examples("pretrain")


@has_math_verify
def test_math_from_the_hub(hub):
    task = load_task("HuggingFaceH4/MATH-500")
    assert len(task.examples("train")) + len(task.examples("validation")) == 7 * 40
    assert len(task.examples("test")) == 40
    assert hub[0] == ("EleutherAI/hendrycks_math", "algebra", "train")
    assert hub[-1] == ("HuggingFaceH4/MATH-500", None, "test")


def test_a_hub_out_of_reach(hub):
    with pytest.raises(
        UnmaskError,
        match="Cannot load openai/openai_humaneval .Couldn't reach the Hub.: go online, or give path=",
    ):
        load_task("humaneval").examples("test")


def test_every_name_is_known():
    assert set(HUB_NAMES.values()) == set(DATA_SETS)
    for name, task in DATA_SETS.items():
        assert {part.repo for parts in task.hub.values() for part in parts} <= set(HUB_NAMES), name


@pytest.mark.network
def test_the_real_hub():
    assert len(load_task("gsm8k").examples("test")) == 1319
    assert len(load_task("math").examples("test")) == 500
    assert len(load_task("humaneval").examples("test")) == 164
    assert len(load_task("mbpp").examples("test")) == 500
    assert len(load_task("kodcode").examples("train")) > 7000


def test_a_format_of_ones_own(tmp_path):
    sums = Format(
        columns={"prompt": ("sum",), "answer": ("total",)},
        prompts=Prompts(
            message=lambda row, split, shots: (f"{shots}How much is {row.text('prompt')}?", "It is "),
            plain=lambda row: f"{row.text('prompt')} =",
            shot=lambda row, chat: f"{row.text('prompt')} = {row.text('answer')}",
            stops=("\n",),
        ),
        verifier="number",
    )
    path = write(tmp_path / "sums.jsonl", [{"sum": f"{i} + 1", "total": i + 1} for i in range(40)])
    task = DataSet("sums", sums, path, few_shot=1)
    example = task.examples("test", 1)[0]
    assert example.prompt.startswith("0 + 1 = 1\n\n")
    assert task.verify(example, f" {example.answer}\n9 + 9 = 18")
    chat = DataSet("sums", sums, path, gen_length=16).examples("validation", 1)[0]
    assert (chat.prompt.startswith("How much is"), chat.prefix) == (True, "It is ")
