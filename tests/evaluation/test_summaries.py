"""What entries reached: means over prompts and seeds, the best, the frontier."""

import pytest

from unmask.errors import UnmaskError
from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary, best, costed, frontier, summarise
from unmask.evaluation.tables import table

ENTRY, _ = candidate("confidence_threshold:threshold=0.9", decoding(32, 8))


def point(accuracy, nfe):
    return Summary(ENTRY, Interval(accuracy, accuracy - 0.1, accuracy + 0.1), Interval(nfe, nfe, nfe), 100, 1)


def test_frontier_and_best():
    points = [point(0.5, 4), point(0.4, 6), point(0.9, 10), point(0.9, 12), point(0.7, 8), point(0.3, 4)]
    assert [(p.accuracy.mean, p.nfe.mean) for p in frontier(points)] == [(0.5, 4), (0.7, 8), (0.9, 10)]
    assert best(points).nfe.mean == 10


def test_summary_averages_seeds_of_a_prompt_first():
    rows = [
        {"prompt": p, "seed": s, "correct": correct, "nfe": nfe}
        for p, s, correct, nfe in [("a", 0, True, 4), ("b", 0, False, 8), ("a", 1, True, 6), ("b", 1, True, 10)]
    ]
    summary = summarise(ENTRY, rows)
    assert summary.accuracy.mean == pytest.approx(0.75)
    assert summary.nfe.mean == pytest.approx(7)
    assert (summary.prompts, summary.seeds) == (2, 2)


def test_cost_may_be_positions():
    """Whole passes that compute as many; a table then says so, and shows positions where passes were not whole."""
    found = [
        (ENTRY, [
            {"prompt": p, "seed": 0, "correct": True, "nfe": 4, "reveals": [1] * 4, "positions": n}
            | {"equivalents": n / 40, "full_passes": full}
            for p, n, full in [("a", 80, 1), ("b", 120, 2)]
        ])
    ]  # fmt: skip
    summary = summarise(*costed(found, "positions")[0], cost="positions")
    assert summary.nfe.mean == pytest.approx(2.5)
    assert (summary.positions, summary.partial) == (100, True)
    assert [column.header for column in table([summary], "").columns][-2:] == ["whole passes", "positions"]
    plain = summarise(*costed(found, "passes")[0])
    assert plain.nfe.mean == 4
    with pytest.raises(UnmaskError, match="These rows are older and do not tell positions: evaluate again"):
        costed([(ENTRY, [{"prompt": "a", "seed": 0, "correct": True, "nfe": 4}])], "positions")


def test_where_all_prompts_agree_the_interval_is_exact():
    for correct in (True, False):
        rows = [{"prompt": str(p), "seed": s, "correct": correct, "nfe": 4} for s in (0, 1) for p in range(100)]
        accuracy = summarise(ENTRY, rows).accuracy
        # 0.025 ** (1 / 100) = 0.9638: with that share right, all of 100 are in 2.5% of samples.
        assert (accuracy.low, accuracy.high) == pytest.approx((0.9638, 1) if correct else (0, 0.0362), abs=1e-4)


def test_one_prompt_has_no_interval():
    summary = summarise(ENTRY, [{"prompt": "a", "seed": 0, "correct": True, "nfe": 4}])
    assert summary.accuracy.mean == 1
    assert summary.accuracy.low != summary.accuracy.low, "NaN"
