"""Differences at equal NFE: numbers worked by hand, and how often intervals cover where the truth is known."""

import math

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.evaluation.differences import Outcomes, paired_bootstrap, paired_curves
from unmask.evaluation.intervals import bootstrap


def outcomes(correct, nfe):
    return Outcomes(torch.as_tensor(correct).float(), torch.as_tensor(nfe).float())


# Frontier


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


def test_curves_at_one_nfe_by_hand():
    # At 6 passes two speeds taking turns reach (0.9 + 0.5) / 2; the best mixture of two cells half way from 0.2 to 0.8.
    speeds = [outcomes([[0.9] * 50], [[8] * 50]), outcomes([[0.5] * 50], [[4] * 50])]
    cells = [outcomes([[right] * 50], [[nfe] * 50]) for nfe, right in ((4, 0.2), (6, 0.3), (8, 0.8))]
    found = paired_curves(speeds, cells, 6.0, hull=True)
    assert (found.mean, found.low, found.high, found.undefined) == pytest.approx((0.2, 0.2, 0.2, 0))
    assert paired_curves(speeds, cells, 6.0).mean == pytest.approx(0.4)
    assert paired_curves(speeds, cells, 20.0).mean == pytest.approx(0.1)  # past the slowest, its accuracy stays
    assert math.isnan(paired_curves(speeds, cells, 3.9).mean)
    worse = [*speeds, outcomes([[0.1] * 50], [[6] * 50])]  # a speed that is no good is part of the curve all the same
    assert paired_curves(worse, cells, 6.0).mean == pytest.approx(0.1 - 0.3)
    assert paired_curves(worse, cells, 5.0).mean == pytest.approx(0.3 - 0.25)
    for alike in (worse, worse[::-1]):  # 0.5 and 0.1 at 6 passes are 0.3 there, in whatever order
        alike = [outcomes([[0.5] * 50], [[6] * 50]), *alike]
        assert paired_curves(alike, cells, 6.0).mean == pytest.approx(0.3 - 0.3, abs=1e-6)
    with pytest.raises(UnmaskError, match="needs cells"):
        paired_curves([], cells, 6.0)


def test_a_curve_is_as_uncertain_as_its_points():
    generator = torch.Generator().manual_seed(0)
    right = (torch.rand(1, 400, generator=generator) < 0.6).float()
    point = outcomes(right, torch.full((1, 400), 8.0))
    cell = outcomes(torch.rand(1, 400, generator=generator) < 0.5, torch.full((1, 400), 8.0))
    assert paired_curves([point], [cell], 8.0) == paired_bootstrap(point, [cell])


def test_a_seed_that_trades_speed_for_accuracy_along_the_rule_is_no_better():
    cells = [outcomes([[0.2] * 50], [[4] * 50]), outcomes([[0.8] * 50], [[16] * 50])]
    policy = outcomes([[0.4] * 50, [0.6] * 50, [0.7] * 50], [[6] * 50, [10] * 50, [12] * 50])  # slope 0.05, as theirs
    found = paired_bootstrap(policy, cells)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)
    apart = outcomes(policy.correct, torch.full((3, 50), 28 / 3))  # the same spread, no longer bought with speed
    assert paired_bootstrap(apart, cells).high > 0.3


@pytest.mark.unchecked
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
