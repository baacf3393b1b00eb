"""Every gold answer of GSM8K and MATH-500 is right, in every form, and wrong once it is changed."""

import re

import pytest

from tests.tasks.data import SAMPLES, folders, has_math_verify, rows
from unmask.tasks import load_task
from unmask.tasks.math_judge import equal_formulas
from unmask.tasks.reading import boxed
from unmask.tasks.verifiers import gsm8k, gsm8k_strict
from unmask.tasks.verifiers import math as math_verifier

COUNTS = {"gsm8k_train": (20, 7473), "gsm8k_test": (20, 1319), "math500_test": (22, 500)}  # sample, whole
MARKED = (
    "#### {}",
    "\\boxed{{{}}}",
    "<reasoning>\n7\n</reasoning>\n<answer>\n{}\n</answer>",
    "<answer>\n\\boxed{{{}}}",
)
LOOSE = ("It is 3 times that, ${}.", "**{} dollars**", "= {}.00")


@folders
@pytest.mark.parametrize("file", [pytest.param("gsm8k_train", marks=pytest.mark.slow), "gsm8k_test"])
def test_gsm8k(folder, file):
    examples = load_task("gsm8k", path=str(folder / f"{file}.jsonl")).examples()
    assert len(examples) == COUNTS[file][folder != SAMPLES]
    for example in examples:
        gold, solution = example.answer, example.columns["solution"]
        value = int(gold.replace(",", ""))
        assert gsm8k_strict(solution, gold), gold
        for form in MARKED:
            assert gsm8k_strict(form.format(gold), gold), (form, gold)
        for form in LOOSE:
            assert gsm8k(form.format(value), gold), (form, gold)
        for wrong in (value + 1, -value or 1, value * 10 or 10, value + 0.5):
            assert not gsm8k(MARKED[wrong % 2 == 0].format(wrong), gold), (wrong, gold)
            assert not gsm8k(f"It is {wrong}.", gold), (wrong, gold)


def perturbed(answer):
    """The answer with its first number raised by one; without numbers, another word or formula."""
    if re.search(r"\d", answer):
        return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), answer, count=1)
    if answer.startswith("\\text"):
        return "\\text{(A)}" if "(" in answer else "\\text{other}"
    return f"{answer} + 1"


@has_math_verify
@folders
def test_math(folder):
    examples = load_task("math", path={"test": folder / "math500_test.jsonl"}).examples("test")
    assert len(examples) == COUNTS["math500_test"][folder != SAMPLES]
    for example in examples:
        gold = example.answer
        assert math_verifier(example.columns["solution"], gold), gold
        assert math_verifier(f"\\boxed{{{next(boxed(example.columns['solution']))}}}", gold), gold
        assert math_verifier(f"so \\boxed{{{gold}}}.", gold), gold
        assert math_verifier(f"<answer>\n${gold}$\n</answer>", gold), gold
        assert equal_formulas(gold, gold, True), gold  # by math-verify itself, not because the strings are equal
        wrong = perturbed(gold)
        assert not math_verifier(f"so \\boxed{{{wrong}}}.", gold), (wrong, gold)


@has_math_verify
@folders
@pytest.mark.slow
def test_math_in_more_ways(folder):
    golds = [row["answer"] for row in rows(folder, "math500_test")]
    for gold, other in zip(golds, [*golds[1:], golds[0]], strict=True):
        assert math_verifier(f"The final answer is ${gold}$.", gold), gold
        assert not math_verifier(f"The final answer is ${perturbed(gold)}$.", gold), gold
        if gold not in ("0", "x=5"):  # -0 is 0, and -(x = 5) is x = 5
            assert not math_verifier(f"\\boxed{{-({gold})}}", gold), gold
        same = {gold, other} == {"x=5", "5"} or gold == other
        assert math_verifier(f"\\boxed{{{other}}}", gold) is same, (other, gold)
    intervals = [gold for gold in golds if re.fullmatch(r"[(\[][^,]*,[^,]*\]", gold.replace("\\left", ""))]
    assert len(intervals) >= 3
    for gold in intervals:
        assert not math_verifier(f"\\boxed{{{gold[:-1]})}}", gold), gold
