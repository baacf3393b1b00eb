"""Reference solutions of HumanEval and MBPP pass; emptied ones do not."""

import pytest
from benchmarks.sandbox import emptied, humaneval, mbpp, rows_of

from tests.sandbox import machine  # noqa: F401 (skips where there is no sandbox)
from tests.tasks.data import SAMPLES, WHOLE, whole
from unmask.sandbox import Limits, Sandbox


@pytest.mark.parametrize(
    "folder", [pytest.param(SAMPLES, id="sample"), pytest.param(WHOLE, id="whole", marks=[whole, pytest.mark.slow])]
)
def test_reference_solutions_pass_and_empty_ones_fail(folder):
    rows = [
        (make, row)
        for make, name in ((humaneval, "humaneval_test"), (mbpp, "mbpp"))
        for row in rows_of(folder / f"{name}.jsonl")
    ]
    gold = [make(row) for make, row in rows]
    verdicts = Sandbox(Limits(seconds=60, cpu_seconds=30)).run_all(gold)
    assert not [(p.code, v) for p, v in zip(gold, verdicts, strict=True) if not v.passed]
    empty = [make(row, emptied(program.code)) for (make, row), program in zip(rows, gold, strict=True)]
    assert not [p.code for p, v in zip(empty, Sandbox().run_all(empty), strict=True) if v.passed]
