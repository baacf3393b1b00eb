"""Frontiers, areas and intervals: numbers worked by hand, properties, and coverage where the truth is known."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.pareto import (
    Point,
    accuracy_at,
    aup,
    dominated,
    frontier,
    hypervolume,
    near_frontier,
    tpf,
)

STAIRS = [Point(4, 0.2), Point(8, 0.3), Point(16, 0.9), Point(12, 0.25), Point(20, 0.9), Point(4, 0.1)]
# Coarse numbers, so that ties and equal points come up.
points = st.lists(st.builds(Point, st.integers(1, 12), st.integers(0, 8).map(lambda n: n / 8)), max_size=12)
some = points.filter(bool)
speeds = st.floats(0.5, 14)


def pairs(found):
    return [(p.nfe, p.accuracy) for p in found]


def beats(a, b):
    return a.nfe <= b.nfe and a.accuracy >= b.accuracy and (a.nfe < b.nfe or a.accuracy > b.accuracy)


def test_frontier_by_hand():
    assert pairs(frontier(STAIRS)) == [(4, 0.2), (8, 0.3), (16, 0.9)]
    assert [(*pairs([p]), *pairs([by])) for p, by in dominated(STAIRS)] == [
        ((12, 0.25), (8, 0.3)),
        ((20, 0.9), (16, 0.9)),
        ((4, 0.1), (4, 0.2)),
    ]


def test_of_equal_points_the_first_stays():
    twins = [Point(3, 0.5, "first"), Point(3, 0.5, "second")]
    assert [p.cell for p in frontier(twins)] == ["first"]
    assert [(p.cell, by.cell) for p, by in dominated(twins)] == [("second", "first")]


@given(points)
def test_frontier_is_what_none_dominates(given_points):
    kept = frontier(given_points)
    undominated = {pair for pair in pairs(given_points) if not any(beats(q, Point(*pair)) for q in given_points)}
    assert set(pairs(kept)) == undominated
    assert all(a.nfe < b.nfe and a.accuracy < b.accuracy for a, b in pairwise(kept))
    others = dominated(given_points)
    assert sorted(pairs(kept) + pairs(p for p, _ in others)) == sorted(pairs(given_points))
    assert all(beats(by, p) or pairs([by]) == pairs([p]) for p, by in others)
    assert all(by in kept for _, by in others)


@given(some, st.data(), speeds)
def test_a_dominated_point_changes_nothing(given_points, data, nfe):
    of = data.draw(st.sampled_from(given_points))
    worse = Point(of.nfe + data.draw(st.integers(0, 3)), of.accuracy * data.draw(st.sampled_from([0, 0.5, 1])))
    more = [*given_points, worse]
    assert pairs(frontier(more)) == pairs(frontier(given_points))
    assert hypervolume(more, 10) == hypervolume(given_points, 10)
    for hull in (False, True):
        assert accuracy_at(more, nfe, hull) == pytest.approx(accuracy_at(given_points, nfe, hull), nan_ok=True)


# Accuracy at an NFE


@pytest.mark.parametrize(
    ("nfe", "line", "hull"),
    # The hull runs from (4, 0.2) straight to (16, 0.9): 0.7 / 12 a pass.
    [
        (3.99, math.nan, math.nan),
        (4, 0.2, 0.2),
        (6, 0.25, 0.2 + 2 * 0.7 / 12),
        (8, 0.3, 0.2 + 4 * 0.7 / 12),
        (12, 0.6, 0.2 + 8 * 0.7 / 12),
        (16, 0.9, 0.9),
        (1000, 0.9, 0.9),
    ],
)
def test_accuracy_at_by_hand(nfe, line, hull):
    assert accuracy_at(STAIRS, nfe) == pytest.approx(line, nan_ok=True)
    assert accuracy_at(STAIRS, nfe, hull=True) == pytest.approx(hull, nan_ok=True)


def test_near_the_frontier_by_hand():
    cells = [Point(2, 0.2), Point(4, 0.6), Point(3, 0.33), Point(3, 0.35), Point(6, 0.6), Point(6.1, 0.6)]
    assert near_frontier(cells) == [cells[0], cells[1], cells[3], cells[4]]  # 0.4 at 3 by the mixture of two
    assert near_frontier(cells, margin=0.1, slowest=1) == cells[:4]
    assert near_frontier([]) == []


def test_no_points_reach_nothing():
    assert math.isnan(accuracy_at([], 5))
    assert (frontier([]), dominated([]), hypervolume([], 5)) == ([], [], 0)


@given(some, speeds)
def test_accuracy_at_is_the_line_between_neighbours_of_the_frontier(given_points, nfe):
    kept = frontier(given_points)
    for p in kept:
        assert accuracy_at(given_points, p.nfe) == p.accuracy
    left = [p for p in kept if p.nfe <= nfe]
    right = [p for p in kept if p.nfe > nfe]
    found, best = accuracy_at(given_points, nfe), accuracy_at(given_points, nfe, hull=True)
    if not left:
        assert math.isnan(found)
        assert math.isnan(best)
    elif not right:
        assert found == best == left[-1].accuracy
    else:
        share = (nfe - left[-1].nfe) / (right[0].nfe - left[-1].nfe)
        assert found == pytest.approx((1 - share) * left[-1].accuracy + share * right[0].accuracy)
        mixtures = [
            a.accuracy + (b.accuracy - a.accuracy) * (nfe - a.nfe) / (b.nfe - a.nfe) for a in left for b in right
        ]
        assert best == pytest.approx(max([left[-1].accuracy, *mixtures]))
        assert best >= found - 1e-12


# Hypervolume, TPF, AUP


def test_hypervolume_by_hand():
    assert hypervolume(STAIRS, 20) == pytest.approx((4 * 0.2 + 8 * 0.3 + 4 * 0.9) / 20)
    assert hypervolume(STAIRS, 10) == pytest.approx((4 * 0.2 + 2 * 0.3) / 10)
    assert hypervolume(STAIRS, 4) == 0
    with pytest.raises(UnmaskError, match=r"reference NFE is 0: give one above 0"):
        hypervolume(STAIRS, 0)


@given(points, st.builds(Point, st.integers(1, 12), st.integers(0, 8).map(lambda n: n / 8)), speeds)
def test_hypervolume_never_falls_with_a_point_more(given_points, more, reference):
    assert 0 <= hypervolume(given_points, reference) <= hypervolume([*given_points, more], reference) + 1e-12
    assert hypervolume([*given_points, more], reference) <= 1


def test_tokens_per_forward_and_its_two_means():
    tokens, nfe = torch.tensor([32, 32]), torch.tensor([4, 16])
    assert tpf(tokens, nfe) == pytest.approx(3.2)
    assert tpf(tokens, nfe, "mean_of_ratios") == pytest.approx(5)
    with pytest.raises(UnmaskError, match="drop the prompts that have none"):
        tpf(tokens, torch.tensor([4, 0]))


def test_aup_of_the_authors_data():
    # d3LLM-LLaDA on GSM8K-CoT in AUP_leaderboard/data_llada.yaml; the best of all methods is D2F's 74.98. By hand:
    # W(74.02) = exp(-0.038410) = 0.962318, W(73.09) = exp(-0.075620) = 0.927168,
    # 74.02 + 8.11 * (71.230798 + 67.766743) / 2.
    assert aup([(9.11, 0.7309), (1.0, 0.7402)], best=0.7498) == pytest.approx(637.655, abs=0.005)


def test_aup_by_hand():
    assert aup([(2, 0.8)]) == pytest.approx(160)
    assert aup([(1, 0.8), (3, 0.8)]) == pytest.approx(80 + 160)  # without loss, the plain area
    w = math.exp(-3 * (1 - 76 / 80))
    assert aup([(1, 0.8), (3, 0.76)]) == pytest.approx(80 + 2 * (80 + 76 * w) / 2)
    assert aup([(1, 0.8), (3, 0.76), (5, 0.7)]) == aup([(1, 0.8), (3, 0.76)])  # more than 5 points below
    assert aup([(1, 0.8), (3, 0.7), (5, 0.8)]) == pytest.approx(80 + 4 * 80)  # one in between is left out
    assert aup([(1, 0.62), (3, 0.57)]) > 62  # exactly 5 below, whatever the rounding
    assert aup([(1, 0.8), (1, 0.3), (3, 0.8)]) == pytest.approx(240)  # equal x: the most accurate
    assert aup([(1, 0.4), (2, 0.9)], best=0.5) == pytest.approx(40 + (40 * math.exp(-0.6) + 90) / 2)  # W at most 1
    assert aup([(1, 0.0), (3, 0.0)]) == 0


@pytest.mark.parametrize("curve", [[], [(1, 74.02)], [(0, 0.5)], [(math.nan, 0.5)]])
def test_aup_refuses(curve):
    with pytest.raises(UnmaskError, match="accuracy between 0 and 1"):
        aup(curve)


def test_aup_refuses_a_best_in_percent():
    with pytest.raises(UnmaskError, match=r"is 80.0: give a share above 0"):
        aup([(1, 0.5)], best=80.0)


@pytest.mark.parametrize(("nfe", "accuracy", "message"), [(0, 0.5, "NFE is 0"), (3, 74.0, "not percent")])
def test_a_point_out_of_range(nfe, accuracy, message):
    with pytest.raises(UnmaskError, match=message):
        Point(nfe, accuracy)


# Intervals
