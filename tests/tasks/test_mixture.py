"""Several tasks as one: shares, names, verdicts."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.data import write
from unmask.errors import UnmaskError
from unmask.tasks import FileTask, MixtureTask, load_task
from unmask.tasks.house import House


@pytest.fixture
def files(tmp_path):
    """Two tasks of 300 and 100 rows."""
    rows = {
        name: [{"question": f"{name} {i}?", "answer": f"{i}"} for i in range(n)] for name, n in (("a", 300), ("b", 100))
    }
    return {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in rows.items()}


@pytest.fixture
def tasks(files):
    return [FileTask(files[name], "number", columns={"prompt": "question"}) for name in "ab"]


def test_without_weights_it_is_the_union(tasks):
    mixture = MixtureTask(tasks)
    assert mixture.name == "a+b"
    union = mixture.examples()
    assert [e.task for e in union] == ["a"] * 300 + ["b"] * 100
    drawn = mixture.examples(n=200)
    assert len({e.prompt for e in drawn}) == 200
    assert 30 <= Counter(e.task for e in drawn)["b"] <= 70
    assert drawn == MixtureTask(tasks).examples(n=200), "the same for the same seed"
    assert drawn != mixture.examples(n=200, seed=1)
    assert drawn[:50] == mixture.examples(n=50), "fewer are the first of more"
    assert len(mixture.examples(n=1000)) == 400
    assert len(mixture.examples("train")) == sum(len(task.examples("train")) for task in tasks)


def test_with_weights_each_has_its_share(tasks):
    mixture = MixtureTask(tasks, weights=[1, 1])
    drawn = mixture.examples(n=101)
    assert sorted(Counter(e.task for e in drawn).values()) == [50, 51]
    assert len({e.prompt for e in drawn}) == 101
    assert [e.task for e in drawn[:4]] == ["a", "b", "a", "b"], "each in its turn"
    assert drawn == MixtureTask(tasks, [3, 3]).examples(n=101)
    assert Counter(e.task for e in mixture.examples()) == {"a": 100, "b": 100}, "as many as the weights allow"
    assert Counter(e.task for e in MixtureTask(tasks, [0.9, 0.1]).examples(n=10)) == {"a": 9, "b": 1}
    with pytest.raises(UnmaskError, match="b has 100 test examples, and its weight asks for 101: ask for fewer"):
        mixture.examples(n=202)


@given(
    n=st.integers(1, 40),
    more=st.integers(0, 40),
    weights=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    seed=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_fewer_examples_are_the_first_of_more(n, more, weights, seed):
    """Prompts behind the first n are then others than those: what chose a policy does not measure it."""
    three = [load_task("house"), load_task("ledger"), House("third", lengths=(2, 3, 4, 5))]
    mixture = MixtureTask(three, weights)
    whole = mixture.examples("test", n + more, seed)
    assert mixture.examples("test", n, seed) == whole[:n]
    for task, weight in zip(three, weights, strict=True):
        count = sum(example.task == task.name for example in whole)
        assert abs(count - weight / sum(weights) * len(whole)) < 2


def test_each_task_verifies_its_own(files, tasks):
    exact = FileTask(files["b"], "exact", columns={"prompt": "question"})
    mixture = MixtureTask([tasks[0], exact])
    examples = mixture.examples(n=100)
    assert mixture.verify_all(examples, [e.answer for e in examples]) == [True] * 100
    said = mixture.verify_all(examples, [f"It is {e.answer}" for e in examples])
    assert said == [e.task == "a" for e in examples]
    assert [mixture.verify(e, f"It is {e.answer}") for e in examples] == said
    with pytest.raises(UnmaskError, match="The mixture 'a.b' has no task '': verify examples of its own"):
        mixture.verify(tasks[0].examples(n=1)[0], "1")


def test_drawn_tasks_need_weights_and_a_number():
    for options, n in (({}, 10), ({"weights": [1, 1]}, None)):
        with pytest.raises(UnmaskError, match="'house' are drawn and have no end: give weights, and say how many"):
            load_task("house+ledger", **options).examples("test", n)
    mixture = load_task("house+ledger", weights=[2, 1])
    assert Counter(e.task for e in mixture.examples("test", 30)) == {"house": 20, "ledger": 10}
    assert (mixture.gen_length, mixture.block_length) == (32, 8)


def test_lengths(tasks):
    mixture = MixtureTask([load_task("house"), tasks[0]], [1, 1])
    assert (mixture.gen_length, mixture.block_length, mixture.verifiable) == (256, 8, True)
    assert Counter(e.task for e in mixture.examples("train", 20)) == {"house": 10, "a": 10}


def test_by_name(files):
    columns = {files["a"]: {"prompt": "question"}}
    path = {"gsm8k": files["b"]}
    mixture = load_task(f"{files['a']}+gsm8k", {files["a"]: "number"}, columns=columns, path=path)
    assert mixture.name == "a+gsm8k"
    assert mixture.verifiable
    assert len(mixture.examples()) == 400
    weighted = load_task([files["a"], "gsm8k"], columns=columns, path=path, weights=[1, 3])
    assert not weighted.verifiable
    assert Counter(e.task for e in weighted.examples(n=100)) == {"a": 25, "gsm8k": 75}
    train = {"train": files["a"], "test": files["b"]}
    assert len(load_task("gsm8k+house", path={"gsm8k": train}, weights=[1, 1]).examples("test", 20)) == 20


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gsm8k", {"weights": [1]}, "Weights are for mixtures, and 'gsm8k' is one task"),
        ("house+house", {}, "Two tasks of the mixture are called 'house': name each once"),
        (["house"], {}, "A mixture needs two tasks or more"),
        ("house+ledger", {"weights": [1]}, "1 weights for 2 tasks: give one for each"),
        ("house+ledger", {"weights": [1, 0]}, "Weights must be numbers above 0"),
        ("house+ledger", {"weights": [1, float("nan")]}, "Weights must be numbers above 0"),
        ("house+leger", {}, "Unknown task 'leger': did you mean 'ledger'"),
        ("gsm8k+house", {"path": "a.jsonl"}, "A mixture needs path by task, such as {'gsm8k': ...}, not 'a.jsonl'"),
        ("gsm8k+house", {"path": {"train": "a.jsonl"}}, "Unknown task 'train' in path: known: 'gsm8k', 'house'"),
        ("gsm8k+house", {"verifier": "number"}, "A mixture needs verifier by task"),
    ],
)
def test_bad_mixtures_are_refused(name, options, message):
    with pytest.raises(UnmaskError, match=message):
        load_task(name, **options)
