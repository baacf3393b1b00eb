"""The rows' own random streams."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.noise import row_keys, uniform

seeds = st.integers(0, 2**62)


@given(seeds, st.integers(0, 500), st.integers(1, 64), st.integers(1, 6))
def test_a_row_draws_the_same_in_any_batch(seed, step, n, rows):
    keys = row_keys(seed, torch.arange(rows))
    steps = torch.full((rows,), step)
    together = uniform(keys, steps, n)
    assert ((together > 0) & (together < 1)).all()
    for row in range(rows):
        assert torch.equal(together[row], uniform(keys[row : row + 1], steps[:1], n)[0])


def test_streams_are_uniform_and_unrelated():
    keys = row_keys(0, torch.arange(400))
    draws = torch.stack([uniform(keys, torch.full((400,), step), 32) for step in range(16)])
    counts = torch.histc(draws, bins=20, min=0, max=1)
    expected = draws.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    flat = draws.permute(1, 0, 2).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(400)
    assert correlation.abs().max() < 6 / flat.shape[1] ** 0.5
    neighbours = torch.corrcoef(torch.stack([draws[:-1].flatten(), draws[1:].flatten()]))[0, 1]
    assert neighbours.abs() < 4 / draws[1:].numel() ** 0.5
