"""Frontiers, areas and intervals: numbers worked by hand, properties, and coverage where the truth is known."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.evaluation.intervals import bootstrap
from unmask.evaluation.pareto import (
    Outcomes,
    Point,
    accuracy_at,
    aup,
    dominated,
    frontier,
    hypervolume,
    paired_bootstrap,
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


def outcomes(correct, nfe):
    return Outcomes(torch.as_tensor(correct).float(), torch.as_tensor(nfe).float())


# Frontier


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


def test_paired_by_hand():
    # Cells (4, 0.25) and (8, 0.75); at the policy's NFE of 6 they reach 0.5.
    cells = [outcomes([[1, 0, 0, 0]], [[4] * 4]), outcomes([[1, 1, 1, 0]], [[8] * 4])]
    policy = outcomes([[1, 1, 1, 1], [1, 1, 1, 0]], [[5] * 4, [7] * 4])
    found = paired_bootstrap(policy, cells)
    assert found.mean == pytest.approx(7 / 8 - 1 / 2)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    assert found.undefined == 0
    assert found == paired_bootstrap(policy, cells)
    assert found != paired_bootstrap(policy, cells, seed=1)


def test_what_is_the_same_on_every_prompt_cancels():
    correct = torch.rand(1, 200, generator=torch.Generator().manual_seed(0)) < 0.6
    cell = outcomes(correct, torch.full((1, 200), 9.0))
    found = paired_bootstrap(cell, [cell, cell])
    assert (found.mean, found.low, found.high, found.selection) == pytest.approx((0, 0, 0, 0), abs=1e-12)


def test_draws_in_which_the_rule_is_not_as_fast_are_counted():
    slow = outcomes([[0, 1] * 50], [[8.0] * 100])
    fast = outcomes([[1, 1] * 50], [[7.0] * 100])
    found = paired_bootstrap(fast, [slow])
    assert found.undefined == 1
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    level = outcomes([[1, 1] * 50], [[7.0, 9.0] * 50])  # 8 on the sample, below it in nearly half of the draws
    found = paired_bootstrap(level, [slow])
    assert found.mean == pytest.approx(0.5)
    assert 0.4 < found.undefined < 0.5


def test_the_hull_is_the_harder_rival():
    cells = [
        outcomes([[0.2] * 50], [[4] * 50]),
        outcomes([[0.3] * 50], [[8] * 50]),
        outcomes([[0.9] * 50], [[16] * 50]),
    ]
    policy = outcomes([[0.5] * 50], [[8] * 50])
    assert paired_bootstrap(policy, cells).mean == pytest.approx(0.2)
    assert paired_bootstrap(policy, cells, hull=True).mean == pytest.approx(0.3 - 0.7 / 3)


def test_a_seed_that_trades_speed_for_accuracy_along_the_rule_is_no_better():
    cells = [outcomes([[0.2] * 50], [[4] * 50]), outcomes([[0.8] * 50], [[16] * 50])]
    policy = outcomes([[0.4] * 50, [0.6] * 50, [0.7] * 50], [[6] * 50, [10] * 50, [12] * 50])  # slope 0.05, as theirs
    found = paired_bootstrap(policy, cells)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)
    apart = outcomes(policy.correct, torch.full((3, 50), 28 / 3))  # the same spread, no longer bought with speed
    assert paired_bootstrap(apart, cells).high > 0.3


def test_refusals():
    right = torch.ones(1, 3)
    with pytest.raises(UnmaskError, match=r"cells with outcomes on the policy's 3 prompts: evaluate them on those"):
        paired_bootstrap(Outcomes(right, right), [Outcomes(torch.ones(1, 4), torch.ones(1, 4))])
    with pytest.raises(UnmaskError, match="needs cells"):
        paired_bootstrap(Outcomes(right, right), [])
    with pytest.raises(UnmaskError, match=r"shapes \(1, 3\) and NFE \(1, 2\)"):
        Outcomes(right, torch.ones(1, 2))


# Coverage: how often 95% intervals hold a known truth. Seeds of these tests are fixed, so they pass or fail for good.


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def coverage_over_prompts(share, prompts, repeats, generator):
    samples = (torch.rand(repeats, prompts, generator=generator) < share).float()
    return sum(covered(bootstrap(sample[None], seed=i), share) for i, sample in enumerate(samples)) / repeats


def coverage_nested(between, seeds, prompts, repeats, generator):
    """Answers of prompts that differ (0.35), drawn anew by each seed (0.3), of seeds that differ as told."""
    shape = (repeats, seeds, prompts)
    values = 0.7 + 0.35 * torch.randn(repeats, 1, prompts, generator=generator)
    values = values + 0.3 * torch.randn(shape, generator=generator)
    values = values + between * torch.randn(repeats, seeds, 1, generator=generator)
    return sum(covered(bootstrap(one, draws=400, seed=i), 0.7) for i, one in enumerate(values)) / repeats


def coverage_paired(between, seeds, prompts, repeats, generator, cells=7):
    """Rule cells on the line from (4, 0.3) to (16, 0.8), a policy 0.1 above it at NFE 10."""
    level = torch.linspace(0, 1, cells)[:, None]
    hits = 0
    for i in range(repeats):
        hard = torch.randn(prompts, generator=generator)  # of a prompt, for all: what pairing takes out
        noise = torch.randn(cells, prompts, generator=generator)
        right = (0.8 * hard + 0.6 * noise < torch.special.ndtri(0.3 + 0.5 * level)).float()
        nfe = 4 + 12 * level + 0.5 * hard + torch.randn(cells, prompts, generator=generator)
        shift = between * torch.randn(seeds, 1, generator=generator)
        policy_noise = torch.randn(seeds, prompts, generator=generator)
        policy_right = (0.8 * hard + 0.6 * policy_noise < torch.special.ndtri(torch.tensor(0.65))).float() + shift
        policy_nfe = 10 + 0.5 * hard + torch.randn(seeds, prompts, generator=generator)
        rule = [Outcomes(right[c : c + 1], nfe[c : c + 1]) for c in range(cells)]
        found = paired_bootstrap(Outcomes(policy_right, policy_nfe), rule, draws=400, seed=i)
        hits += covered(found, 0.1)
    return hits / repeats


def test_intervals_cover_the_truth():
    generator = torch.Generator().manual_seed(0)
    assert 0.93 <= coverage_over_prompts(0.7, 150, 400, generator) <= 0.97
    assert 0.93 <= coverage_nested(0.0, 3, 150, 400, generator) <= 0.98
    assert 0.93 <= coverage_nested(0.05, 3, 150, 400, generator) <= 0.98
    assert 0.93 <= coverage_paired(0.0, 1, 150, 300, generator) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [100, 200, 500])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_coverage_over_prompts(share, prompts):
    found = coverage_over_prompts(share, prompts, 2000, torch.Generator().manual_seed(prompts))
    print(f"bootstrap, {share}, {prompts} prompts: {found:.3f}")
    assert 0.93 <= found <= 0.975  # of 100 answers half of which are right, the exact coverage is 0.965


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 0.02, 0.05, 0.15])
@pytest.mark.parametrize(("seeds", "prompts"), [(3, 100), (3, 500), (5, 100), (5, 500)])
def test_coverage_over_seeds_and_prompts(seeds, prompts, between):
    found = coverage_nested(between, seeds, prompts, 2000, torch.Generator().manual_seed(prompts + seeds))
    print(f"nested, {seeds} seeds {between} apart, {prompts} prompts: {found:.3f}")
    assert 0.93 <= found <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [100, 500])
@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.0), (3, 0.05)])
def test_coverage_of_the_difference(seeds, between, prompts):
    found = coverage_paired(between, seeds, prompts, 1000, torch.Generator().manual_seed(prompts))
    print(f"paired, {seeds} seeds {between} apart, {prompts} prompts: {found:.3f}")
    assert 0.93 <= found <= 0.985  # errs on the wide side: the longer side is taken on both
