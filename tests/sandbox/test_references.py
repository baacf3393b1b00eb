"""Reference solutions of HumanEval and MBPP pass; emptied ones do not."""

from pathlib import Path

import pytest
from benchmarks.sandbox import emptied, humaneval, mbpp, rows_of

from unmask.sandbox import Limits, Sandbox

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets")
@pytest.mark.parametrize("share", [pytest.param(48, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_reference_solutions_pass_and_empty_ones_fail(share):
    rows = [
        (make, row)
        for make, name in ((humaneval, "humaneval_test"), (mbpp, "mbpp"))
        for row in rows_of(DATA / f"{name}.jsonl")[:: share if make is mbpp else -(-share // 6)]
    ]
    gold = [make(row) for make, row in rows]
    verdicts = Sandbox(Limits(seconds=60, cpu_seconds=30)).run_all(gold)
    assert not [(p.code, v) for p, v in zip(gold, verdicts, strict=True) if not v.passed]
    empty = [make(row, emptied(program.code)) for (make, row), program in zip(rows, gold, strict=True)]
    assert not [p.code for p, v in zip(empty, Sandbox().run_all(empty), strict=True) if v.passed]
