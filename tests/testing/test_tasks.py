"""`check_task`: the tasks of the house pass, and each way to break the contract is named."""

import itertools
from dataclasses import replace

import pytest
from examples.my_task import task as my_task

from tests.tasks.data import SAMPLES, has_math_verify, write
from unmask.errors import UnmaskError
from unmask.tasks import Example, MixtureTask, Task, load_task
from unmask.tasks.auto import TASKS
from unmask.tasks.base import SPLITS
from unmask.tasks.programs import sandbox
from unmask.testing import check_task


def says(example):
    return f"the answer is {example.answer}"


@pytest.mark.parametrize("name", TASKS)
def test_the_drawn_tasks_pass(name):
    check_task(load_task(name), solve=says, splits=SPLITS)


def test_gsm8k_passes():
    path = {split: SAMPLES / f"gsm8k_{split}.jsonl" for split in ("train", "test")}
    check_task(load_task("gsm8k", path=path), solve=lambda example: example.columns["solution"])
    check_task(load_task("gsm8k", path=path, few_shot=2), solve=lambda example: f" It is {example.answer}.")


@has_math_verify
def test_math_passes():
    task = load_task("math", path={"test": SAMPLES / "math500_test.jsonl"})
    check_task(task, solve=lambda example: example.columns["solution"])


@pytest.mark.parametrize(("name", "file", "chat"), [("humaneval", "humaneval_test", True), ("mbpp", "mbpp", False)])
def test_code_tasks_pass(name, file, chat):
    try:
        sandbox()
    except UnmaskError as e:
        pytest.skip(str(e))
    task = load_task(name, path=SAMPLES / f"{file}.jsonl", chat=chat)
    check_task(task, solve=lambda example: f"{example.answer}\n```")


def test_files_and_mixtures_pass(tmp_path):
    check_task(my_task(), solve=lambda example: example.answer)
    path = write(tmp_path / "mine.jsonl", [{"prompt": f"{i}?", "answer": i} for i in range(100)])
    check_task(load_task(path))  # for decoding only
    check_task(load_task(path, "exact"), solve=lambda example: example.answer)
    mixture = MixtureTask([load_task("house"), load_task("ledger")], weights=[1, 1])
    check_task(mixture, solve=says)


class Good(Task):
    """Sums: i + i."""

    name, gen_length, block_length, endless = "sums", 32, 8, True

    def examples(self, split=None, n=None, seed=0):
        first = SPLITS.index(split or "test") + 4 * seed
        return [Example(f"{i} + {i} =", str(2 * i)) for i in range(first, first + 4 * n, 4)]

    def verify(self, example, text):
        return text.strip() == example.answer


class Nameless(Good):
    name = ""


class NoLength(Good):
    gen_length = 0


class OddBlocks(Good):
    block_length = 5


class Nothing(Good):
    def examples(self, split=None, n=None, seed=0):
        raise UnmaskError("There is none.")


class TooMany(Good):
    def examples(self, split=None, n=None, seed=0):
        return super().examples(split, n + 1, seed)


class Numbers(Good):
    def examples(self, split=None, n=None, seed=0):
        some = super().examples(split, n, seed)
        for example in some:
            object.__setattr__(example, "answer", int(example.answer))  # the hook of conftest.py refuses it otherwise
        return some


class Blank(Good):
    def examples(self, split=None, n=None, seed=0):
        return [replace(e, prompt=" ") for e in super().examples(split, n, seed)]


class Opaque(Good):
    def examples(self, split=None, n=None, seed=0):
        return [replace(e, columns={"made": object()}) for e in super().examples(split, n, seed)]


class Repeats(Good):
    def examples(self, split=None, n=None, seed=0):
        return super().examples(split, 1, seed) * n


class Unseeded(Good):
    def __init__(self):
        self.calls = itertools.count()

    def examples(self, split=None, n=None, seed=0):
        return super().examples(split, n, next(self.calls))


class OtherColumns(Unseeded):
    def examples(self, split=None, n=None, seed=0):
        return [replace(e, columns={"call": next(self.calls)}) for e in Good().examples(split, n, seed)]


class OneSplit(Good):
    def examples(self, split=None, n=None, seed=0):
        return super().examples("test", n, seed)


class Cheerful(Good):
    def verify(self, example, text):
        return text in ("", example.answer)


class Fragile(Good):
    def verify(self, example, text):
        return float(text or 0) == float(example.answer)


class Vague(Good):
    def verify(self, example, text):
        return text and text == example.answer


class SeesTheBatch(Good):
    def verify_all(self, examples, texts):
        return [text.strip() == examples[0].answer for text in texts]


class Drops(Good):
    def verify_all(self, examples, texts):
        return super().verify_all(examples, texts)[1:]


class FailsOnNothing(Good):
    def verify_all(self, examples, texts):
        return super().verify_all(examples, texts) if texts else None


class Strict(Good):
    def verify(self, example, text):
        return text == f"#{example.answer}"


class AnyNumber(Good):
    def verify(self, example, text):
        return text.isdecimal() and len(text) < 9


class Modest(Good):
    verifiable = False


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Nameless(), "must have a name: set name to some text"),
        (NoLength(), "has the gen_length 0: give a whole number above 0"),
        (OddBlocks(), "has a block_length of 5 that does not divide its gen_length of 32: choose a divisor"),
        (Nothing(), "has no example in train, validation, test: give it some, or name its splits"),
        (TooMany(), "gave 21 examples of the train split for n = 20: give no more than n"),
        (Numbers(), "has an example of the train split whose prompt, answer or prefix is no text: call str"),
        (Blank(), "has an empty prompt of the train split: leave it out"),
        (Opaque(), "must have columns of plain values of the train split: Object of type object is not JSON"),
        (Repeats(), "gave a prompt of the train split twice: give distinct examples"),
        (Unseeded(), "gave other examples of the train split for the same seed: draw with random.Random.seed."),
        (OtherColumns(), "gave other examples of the train split for the same seed"),
        (OneSplit(), "has '3 . 3 =' in train and in validation: keep its splits apart"),
        (Cheerful(), "calls '' correct: let an empty text be wrong"),
        (Fragile(), r"fails to verify ' \\n' .ValueError: .*: return False for what cannot be read, or set verifiable"),
        (Vague(), "gave '' for '': return True or False from verify"),
        (SeesTheBatch(), "gives another verdict from verify_all than from verify: verify each text by itself"),
        (Drops(), "must give one verdict per text from verify_all"),
        (FailsOnNothing(), r"must give \[\] from verify_all of nothing"),
        (Strict(), "calls the solution '6' wrong: correct verify, or the gold answer"),
        (AnyNumber(), "calls the solution of any prompt correct for each: compare the answers"),
        (Modest(), "gives verdicts though verifiable is False: set it to True, or let verify raise"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_each_broken_promise_is_named(task, message):
    check_task(Good(), solve=lambda example: example.answer)
    with pytest.raises(UnmaskError, match=f"^The task .* {message}"):
        check_task(task, solve=lambda example: example.answer)


def test_what_a_machine_lacks_is_said():
    class Unprepared(Good):
        def prepare(self):
            raise UnmaskError("Install it.")

    with pytest.raises(UnmaskError, match="^Install it"):
        check_task(Unprepared())
