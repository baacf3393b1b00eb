"""Rules as their released code has them, where it parts from the paper: counts and sets worked out by hand."""

import math

import pytest
import torch

from tests.conftest import make_tiny
from tests.policies.test_rules import chosen, seen
from unmask import AdaptiveBlocks, generate
from unmask.errors import UnmaskError
from unmask.policies import (
    KLASS,
    ConfidenceThreshold,
    Dilated,
    EntropyTopK,
    Factor,
    MarginTopK,
    MaxReveal,
    Origin,
    StepCount,
    TopKConfidence,
    load_policy,
)
from unmask.policies.ranking import level

INF = math.inf


def test_the_released_factor_takes_the_last_one_left_although_it_fails():
    assert chosen(Factor(1.0, released=True), [[0.99, 0.3]]) == [[0, 1]], "two left, one passes: both"
    assert chosen(Factor(1.0), [[0.99, 0.3]]) == [[0]]
    # n = 1: 2 (1 - 0.99) = 0.02; n = 2: 3 (1 - 0.9) = 0.3; n = 3: 4 (1 - 0.3): fails with another behind it
    assert chosen(Factor(1.0, released=True), [[0.99, 0.9, 0.3, 0.2]]) == [[0, 1]]
    assert chosen(Factor(1.0, released=True), [[0.99, 0.9, 0.8, 0.2]]) == [[0, 1, 2, 3]]
    assert chosen(Factor(1.0, released=True), [[0.1]]) == [[0]]


def test_released_klass_waits_in_a_new_block_and_can_take_one():
    confidence, kl = [[0.95, 0.99, 0.5]], [[[0.001, 0.001], [0.003, 0.001], [0.0, 0.0]]]
    assert chosen(KLASS(0.9, 0.01, 2, wait=True), confidence, kl=kl, block_step=[0]) == [[1]], "the most confident"
    assert chosen(KLASS(0.9, 0.01, 2, wait=True), confidence, kl=kl, block_step=[1]) == [[0, 1]]
    assert chosen(KLASS(0.9, 0.01, 2, strategy="max_conf"), confidence, kl=kl) == [[1]]
    assert chosen(KLASS(0.9, 0.01, 2, strategy="min_kl"), confidence, kl=kl) == [[0]]
    noise = [[0.2, 0.1, 0.9]]
    assert chosen(KLASS(0.9, 0.01, 2, strategy="random"), confidence, kl=kl, noise=noise) == [[0]], "of the ready ones"


def test_an_even_step_count_gives_what_does_not_divide_to_the_first_steps():
    model, counts = make_tiny(), {}
    for steps in (1, 3, 5, 8, 20):
        out = generate(model, StepCount(steps), [[5, 6], [7]], gen_length=16, block_length=8, stop_at_eos=False)
        counts[steps] = torch.bincount(out.revealed_at[0]).tolist()
    assert counts[3] == [3, 3, 2] * 2, "LLaDA: base 8 // 3 = 2, and one more in the first 8 % 3 = 2 steps"
    assert counts[5] == [2, 2, 2, 1, 1] * 2
    assert counts[1] == [8, 8]
    assert counts[8] == counts[20] == [1] * 16, "never less than one"


def test_the_linear_step_count_is_dreams():
    out = generate(make_tiny(), StepCount(4, "linear"), [[5, 6]], gen_length=16, stop_at_eos=False)
    # t = 1, .75025, .5005, .25075, .001: 16 * .24975 = 3.996; 13 * .33289 = 4.33; 9 * .499 = 4.49; the rest
    assert torch.bincount(out.revealed_at[0]).tolist() == [3, 4, 4, 5]
    long = generate(make_tiny(), StepCount(40, "linear"), [[5, 6]], gen_length=16, stop_at_eos=False, max_steps=40)
    assert 0 in torch.bincount(long.revealed_at[0], minlength=40).tolist(), "a step may reveal nothing"
    assert long.ended == ["complete"]
    assert long.nfe.tolist() == [40], "the last step reveals the rest"


def test_step_counts_order_by_what_they_are_told():
    confidence, entropy = [[[0.5, 0.45], [0.45, 0.1], [0.4, 0.3]]], [[0.3, 0.2, 0.1]]
    told = {"entropy": entropy, "block_step": [0]}
    orders = {
        name: chosen(StepCount(3, order=name), confidence, **told) for name in ("confidence", "margin", "entropy")
    }
    assert orders == {"confidence": [[0]], "margin": [[1]], "entropy": [[2]]}
    assert chosen(StepCount(3, order="random"), confidence, noise=[[0.1, 0.3, 0.9]], **told) == [[2]]


def test_origin_reveals_each_position_with_the_share_of_its_time():
    one = seen([[0.5] * 4], noise=[[0.2, 0.3, 0.24, 0.9]], block_step=torch.tensor([0]).tolist())
    assert Origin(4).select(one).tolist() == [[True, False, True, False]], "1 - .75025 = .24975"
    out = generate(make_tiny(), Origin(6), [[5, 6], [7, 8], [9]], gen_length=16, stop_at_eos=False, seed=1)
    assert out.nfe.max() == 6, "the last step reveals the rest"
    assert out.complete.all()


@pytest.mark.parametrize(("rule", "extra"), [(TopKConfidence, {}), (MarginTopK, {}), (EntropyTopK, {"entropy": 1})])
def test_alg_temp_draws_positions_by_their_score(rule, extra):
    """Frequencies of the first pick against softmax(score / alg_temp)."""
    n, temperature = 20_000, 0.4
    confidence = torch.tensor([[0.9, 0.05], [0.5, 0.3], [0.2, 0.15]]).expand(n, 3, 2)
    noise = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    entropy = torch.tensor([0.2, 0.6, 1.0]).expand(n, 3)
    scores = {TopKConfidence: confidence[0, :, 0], MarginTopK: confidence[0, :, 0] - confidence[0, :, 1]}
    score = scores.get(rule, -entropy[0])
    told = {"entropy": entropy.tolist()} if extra else {}
    picked = rule(1, alg_temp=temperature).select(seen(confidence.tolist(), noise=noise.tolist(), **told))
    assert picked.sum(dim=1).tolist() == [1] * n
    share, expected = picked.float().mean(dim=0), (score / temperature).softmax(dim=0)
    assert (share - expected).abs().max() < 4 * (0.25 / n) ** 0.5


def test_entropy_top_k_takes_the_lowest():
    assert chosen(EntropyTopK(2), [[0.5] * 4], entropy=[[0.3, 0.1, 0.9, 0.2]]) == [[1, 3]]


def test_dilated_reveals_coarse_positions_first():
    everything = Dilated(ConfidenceThreshold(0.0), 4)
    confidence, left = [[0.5] * 8], [1] * 8
    rounds = []
    while any(left):
        (now,) = chosen(everything, confidence, [left])
        rounds.append(now)
        left = [one and i not in now for i, one in enumerate(left)]
    assert rounds == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert chosen(Dilated(MaxReveal(ConfidenceThreshold(0.0), 1), 4), [[0.1, 0.9, 0.1, 0.1, 0.8]]) == [[4]]
    assert load_policy("confidence_threshold:threshold=0 | dilated:stride=8").stride == 8
    with pytest.raises(UnmaskError, match="stride is 6: give a power of 2, such as 8"):
        Dilated(ConfidenceThreshold(0.0), 6)


def test_a_level_is_relative_and_never_falls():
    scores = torch.cat([-torch.logspace(2, -9, 200), torch.zeros(1), torch.logspace(-30, 0, 400), torch.ones(1) * 2])
    levels = level(scores[None])[0]
    assert (levels.diff() >= 0).all()
    near = torch.tensor([[0.3, 0.3 * (1 + 5e-7), 0.3 * (1 + 1e-4), 1e-6, 1.001e-6, 1 - 5e-7, 1.0]])
    a, b, c, d, e, f, g = level(near)[0].tolist()
    assert (a == b, a < c, d < e, f == g) == (True, True, True, True)


def test_delimiters_that_are_as_sure_end_a_block_at_the_first():
    """Two commas whose confidences float32 rounding parts (findings of AdaBlock on `house`)."""
    from unmask.decoding.blocks import DelimitedBlocks

    blocks = DelimitedBlocks(8, torch.tensor([5]), 0.3, 8)
    masked, none = torch.ones(1, 8, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    predicted = torch.tensor([[1, 1, 5, 1, 1, 5, 1, 1]])
    confidence = torch.tensor([[0.5, 0.5, 0.9999994, 0.5, 0.5, 0.9999999, 0.5, 0.5]])
    assert blocks.end(masked, none, predicted, confidence).tolist() == [3]
    surer = confidence.clone()
    surer[0, 2] = 0.999
    assert blocks.end(masked, none, predicted, surer).tolist() == [6]
    assert AdaptiveBlocks().threshold == 0.3
