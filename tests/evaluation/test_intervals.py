"""Intervals over prompts and seeds; how often they cover the truth is in test_pareto.py, beside the difference's."""

import math

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.evaluation.intervals import between_seeds, bootstrap, t95


def test_seeds_that_differ_alone_give_the_t_interval():
    # Prompts do not differ: means 0.5, 0.6, 0.7 have standard error 0.1 / sqrt(3), and t(2 degrees) is 4.302653.
    interval = bootstrap(torch.tensor([[0.5], [0.6], [0.7]]).expand(3, 100))
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)


def test_equal_seeds_add_nothing():
    values = torch.rand(1, 120, generator=torch.Generator().manual_seed(0))
    one, four = bootstrap(values), bootstrap(values.expand(4, 120))
    assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=1e-6)


def test_the_interval_is_of_the_mean_and_the_same_every_time():
    values = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    found = bootstrap(values)
    assert found.mean == 0.75
    assert 0 <= found.low < 0.75 < found.high <= 1
    assert found == bootstrap(values)


def test_students_t_beyond_the_table():
    assert t95(1) == pytest.approx(12.7062, abs=1e-4)
    assert t95(30) == pytest.approx(2.0423, abs=1e-4)
    assert t95(1_000_000) == pytest.approx(1.96, abs=1e-4)


def test_one_seed_cannot_differ():
    assert between_seeds(torch.rand(1, 9)) == 0


def test_too_few_are_refused():
    with pytest.raises(
        UnmaskError, match="An interval over 0 seeds and 5 prompts: give at least 1 seed and 2 prompts."
    ):
        bootstrap(torch.ones(0, 5))
    with pytest.raises(UnmaskError, match="over 2 seeds and 1 prompts"):
        bootstrap(torch.ones(2, 1))
