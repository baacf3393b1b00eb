"""Code tasks: prompts, the programs that they build of a reply, and a few of them run in the sandbox."""

import pytest

from tests.tasks.data import SAMPLES, folders, rows, write
from unmask.errors import UnmaskError
from unmask.tasks import load_task
from unmask.tasks.programs import called, imported, sandbox

STUB = 'from typing import List\n\ndef twice(x):\n    return 2 * x\n\ndef four(xs: List[int]):\n    """Four times."""\n'
BODY = "    return [twice(twice(x)) for x in xs]\n"
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": STUB,
    "canonical_solution": BODY,
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [4, 8]\n",
    "entry_point": "four",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0", "assert add(2, 2) == 4"],
    "test_setup_code": "",
}
KODCODE = {
    "question": "Add two numbers.",
    "solution": "def add(a, b):\n    return a + b",
    "test": "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "test_info": [{"function_name": "add", "function_declaration": "def add(a, b):"}],
}
ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def load(tmp_path):
    def load(name, *rows, **options):
        return load_task(name, path=write(tmp_path / f"{name}.jsonl", rows), **options)

    return load


@pytest.fixture
def needs_sandbox():
    try:
        sandbox()
    except UnmaskError as e:
        pytest.skip(str(e))


def test_humaneval_asks_as_lm_evaluation_harness_does(load):
    task = load("humaneval", HUMANEVAL)
    (example,) = task.examples("test")
    assert example == task.examples()[0]
    assert example.prompt == (
        f"Write a solution to the following problem and make sure that it passes the tests:\n```python\n{STUB}\n```\n"
    )
    assert example.prefix == f"Here is the completed function:\n```python\n{STUB}\n"
    assert (example.chat, example.answer, example.columns["task_id"]) == (True, BODY, "HumanEval/0")
    (example,) = load("humaneval", HUMANEVAL, chat=False).examples("test")
    assert (example.prompt, example.prefix, example.chat) == (STUB, "", False)
    with pytest.raises(UnmaskError, match="humaneval has no train examples among its 1 rows"):
        task.examples("train")
    with pytest.raises(UnmaskError, match="humaneval has 0 rows for worked examples: lower few_shot = 1"):
        load("humaneval", HUMANEVAL, few_shot=1).examples("test")


WHOLE = f"{STUB}{BODY}"
CHAT = {
    "goes on": f"{BODY}```",
    "goes on and shows it": f"{BODY}```\nIt works:\n```python\nfour([1])\n```",
    "goes on for ever": f"{BODY}\nprint(four([1]))\nassert four([1]) == 5\ndef half(",
    "begins again": f"{WHOLE}```",
    "opens a block": f"```python\n{WHOLE}```",
    "closes and opens": f"```\nBetter:\n```python\n{WHOLE}```",
    "guards a main": f"{BODY}\nif __name__ == '__main__':\n    print(four(input()))\n```",
    "a block for the body": f"```\n```python\n{BODY}```",
}
PLAIN = {
    "goes on": BODY,
    "goes on for ever": f"{BODY}\n\ndef other(x):\n    return x +",
    "and explains": f"{BODY}```\nThis is right.",
    "and prints": f"{BODY}\nprint(four([1]))\nif x",
}


@pytest.mark.usefixtures("needs_sandbox")
def test_humaneval_programs_pass(load):
    for chat, replies in ((True, CHAT), (False, PLAIN)):
        task = load("humaneval", HUMANEVAL, chat=chat)
        examples = task.examples("test") * len(replies)
        assert dict(zip(replies, task.verify_all(examples, list(replies.values())), strict=True)) == dict.fromkeys(
            replies, True
        )
        wrong = [reply.replace("twice(twice(x))", "twice(x)") for reply in replies.values()]
        assert not any(task.verify_all(examples, [*wrong[:-1], ""]))
        assert task.verify(examples[0], replies["goes on"])


def test_humaneval_programs_are_what_the_sandbox_needs(load):
    task = load("humaneval", HUMANEVAL)
    (example,) = task.examples()
    made = task.format.program(example, f"{BODY}```")
    assert (made.code, made.setup, made.names) == (f"{STUB}\n{BODY}", STUB, ("four",))
    assert made.tests == f"{HUMANEVAL['test']}\ncheck(four)"


def test_mbpp_asks_as_the_paper_does(load):
    shown = "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(-1, 1) == 0"
    given = f"Write a function to add.\nYour code should pass these tests:\n{shown}"
    ten = [{**MBPP, "task_id": i, "text": f"Task {i}."} for i in range(1, 11)]
    (example,) = load("mbpp", MBPP).examples("test")
    assert example.prompt == f"You are an expert Python programmer, and here is your task:\n{given}"
    assert example.prefix == "\n```python\n"
    (example,) = load("mbpp", *ten, MBPP, few_shot=3, chat=True).examples("test")
    assert example.prompt.count("```python\ndef add") == 3
    assert example.prompt.index("Task 1.") < example.prompt.index("Task 3.") < example.prompt.index("to add.")
    assert "Task 4." not in example.prompt
    (example,) = load("mbpp", *ten, MBPP, few_shot=1).examples("test")
    assert (example.chat, example.prefix) == (False, "")
    assert example.prompt == (
        "You are an expert Python programmer, and here is your task: Task 1. Your code should pass these tests:\n\n"
        f"{shown}\n[BEGIN]\n{MBPP['code']}\n[DONE]\n\nYou are an expert Python programmer, and here is your task: "
        f"Write a function to add. Your code should pass these tests:\n\n{shown}\n[BEGIN]\n"
    )
    (example,) = load("mbpp", {"prompt": "Add.", "test_list": MBPP["test_list"]}).examples()
    assert example.prompt.startswith("You are an expert Python programmer, and here is your task:\nAdd.\nYour")


def test_mbpp_is_split_by_task_id(load):
    task = load("mbpp", *({**MBPP, "task_id": i, "text": f"Task {i}."} for i in (1, 10, 11, 510, 511, 600, 601, 974)))
    split = {name: [e.columns["task_id"] for e in task.examples(name)] for name in ("test", "validation", "train")}
    assert split == {"test": [11, 510], "validation": [511, 600], "train": [601, 974]}
    assert len(task.examples()) == 8


@pytest.mark.usefixtures("needs_sandbox")
def test_mbpp_and_kodcode_programs_pass(load):
    for name, row in (("mbpp", MBPP), ("kodcode", KODCODE)):
        task = load(name, row)
        (example,) = task.examples()
        good = [f"{ADD}```", ADD, f"```python\n{ADD}```", f"{ADD}```\nUse it:\n```python\nadd(1)\n```"]
        bad = ["", "```", "pass\n```", f"{ADD}```".replace("+", "-"), "I cannot."]
        assert task.verify_all([example] * 9, good + bad) == [True] * 4 + [False] * 5, name
    plain = load("mbpp", MBPP, chat=False)
    assert plain.verify(plain.examples()[0], f"{ADD}[DONE]\n\nYou are an expert")
    hides = {**MBPP, "code": "def sum(a, b): ...", "test_list": ["assert sum(1, 2) == 3"]}
    task = load("mbpp", hides)
    assert task.verify(task.examples()[0], ADD.replace("add", "sum")), "a builtin's name"
    setup = {**MBPP, "test_setup_code": "one = add(0, 1)", "test_list": ["assert add(one, one) == 2"]}
    task = load("mbpp", setup)
    assert task.verify(task.examples()[0], ADD), "what sets up the tests may call the code"


@pytest.mark.usefixtures("needs_sandbox")
def test_kodcode_goes_on_after_the_declaration(load):
    task = load("kodcode", KODCODE)
    (example,) = task.examples()
    assert example.prompt == (
        "You are an expert Python programmer, and here is your task:\n\nAdd two numbers.\n\n"
        "Implement the function exactly as specified below."
    )
    assert example.prefix == "Here is the completed function:\n```python\ndef add(a, b):\n"
    assert task.verify(example, "    return a + b\n```")
    bare = load("kodcode", {**KODCODE, "test_info": None})
    (example,) = bare.examples()
    assert example.prompt.endswith("Add two numbers.")
    assert bare.verify(example, f"{ADD}```")


@pytest.mark.usefixtures("needs_sandbox")
def test_code_as_the_verifier_of_a_file(tmp_path):
    row = {"prompt": "Add.", "answer": "", "tests": ["assert add(1, 2) == 3"], "setup": "two = 2"}
    path = write(tmp_path / "mine.jsonl", [{**row, "answer": "any"}, {"prompt": "x", "answer": "y"}])
    task = load_task(path, "code")
    first, second = task.examples()
    assert task.verify(first, f"So:\n```python\n{ADD}```")
    assert not task.verify(first, "```python\nadd = 1\n```")
    with pytest.raises(UnmaskError, match="The verifier 'code' needs a column 'tests'"):
        task.verify(second, ADD)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("humaneval", HUMANEVAL, "test"),
        ("humaneval", HUMANEVAL, "entry_point"),
        ("mbpp", MBPP, "test_list"),
        ("kodcode", KODCODE, "test"),
    ],
)
def test_rows_without_tests_are_refused(load, name, row, column):
    with pytest.raises(UnmaskError, match=f"{name}.jsonl, row 2: no column '{column}'"):
        load(name, row, {key: value for key, value in row.items() if key != column})


def test_code_tasks_have_a_verifier_of_their_own(load):
    with pytest.raises(UnmaskError, match="'mbpp' is verified by its tests: leave out verifier"):
        load("mbpp", MBPP, verifier="exact")


def test_names():
    tests = (
        "import math\ndef help(x): return x\nclass Own: pass\nnode = Node(1)\nassert set(f(help(node))) == math.sqrt(4)"
    )
    assert called(tests) == ("Node", "f")
    assert called("assert (") == ()
    assert called("assert sum(sum(1, 2), len([])) == 3", "def sum(a, b): return a + b") == ("sum",)
    assert imported("from solution import (a,\n b as c)\nfrom x import d\nfrom solution import *", "solution") == (
        "a",
        "b",
    )
    assert imported("from (", "solution") == ()


@folders
@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_some_references_pass(folder, name):
    """All of them: tests/sandbox/test_references.py."""
    file = {"humaneval": "humaneval_test", "mbpp": "mbpp"}[name]
    for chat in (True, False):
        task = load_task(name, path=folder / f"{file}.jsonl", chat=chat)
        examples = task.examples("test")
        assert len(examples) == {"humaneval": (20, 164), "mbpp": (9, 500)}[name][folder != SAMPLES]
        some = examples[:: -(-len(examples) // 10)]
        ends = "\n```\nThis is it." if chat else "\n[DONE]" if name == "mbpp" else "\n\ndef more(x):"
        assert all(task.verify_all(some, [example.answer + ends for example in some]))
        assert not any(task.verify_all(some, ["    pass" + ends] * len(some)))


@folders
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_all_programs_are_built(folder):
    for name, file in (("humaneval", "humaneval_test"), ("mbpp", "mbpp")):
        task = load_task(name, path=folder / f"{file}.jsonl")
        examples = task.examples()
        assert len(examples) == len(rows(folder, file))
        for example in examples:
            made = task.format.program(example, f"{example.answer}\n```")
            assert compile(made.code, "code", "exec")
            assert compile(made.tests, "tests", "exec")
