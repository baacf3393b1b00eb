"""Each rule against sets worked out by hand, its file, and its bad settings."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.observation import Observation
from unmask.policies import (
    KLASS,
    BetaScaling,
    ConfidenceThreshold,
    Dilated,
    EntropyBound,
    EntropyTopK,
    Exclusive,
    Factor,
    FixedSchedule,
    MarginThreshold,
    MarginTopK,
    MaxReveal,
    MinReveal,
    Origin,
    RandomOrder,
    Revising,
    RisingThreshold,
    StepCount,
    Temperature,
    TopKConfidence,
    TransformerConfig,
    TransformerPolicy,
    load_policy,
)
from unmask.policies.fixed_schedule import average_pace
from unmask.policies.registry import policy_types
from unmask.testing import check_policy


def seen(confidence, selectable=None, noise=None, **extra):
    """An observation; `confidence` is (b, l) or (b, l, k)."""
    c = torch.tensor(confidence)
    c = c if c.ndim == 3 else c[..., None]
    may = torch.ones(c.shape[:2], dtype=torch.bool)
    may = may if selectable is None else torch.tensor(selectable, dtype=torch.bool)
    u = torch.full(may.shape, 0.5) if noise is None else torch.tensor(noise)
    given = {name: torch.tensor(value) for name, value in extra.items()}
    return Observation(c, given.pop("masked", may), may, given.pop("step_fraction", torch.zeros(len(c))), u, **given)


def chosen(policy, *args, **kwargs):
    return [row.nonzero()[:, 0].tolist() for row in policy.select(seen(*args, **kwargs))]


def test_threshold_takes_all_above_or_the_most_confident_row_by_row():
    confidence = [[0.95, 0.2, 0.91, 0.9], [0.1, 0.3, 0.2, 0.25], [0.99, 0.5, 0.4, 0.3]]
    selectable = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]
    assert chosen(ConfidenceThreshold(0.9), confidence, selectable) == [[0, 2], [1], [1]]


def test_top_k_takes_k_or_what_there_is_leftmost_on_ties():
    assert chosen(TopKConfidence(2), [[0.1, 0.9, 0.5, 0.9]]) == [[1, 3]]
    assert chosen(TopKConfidence(1), [[0.5, 0.5, 0.5, 0.5]]) == [[0]]
    assert chosen(TopKConfidence(3), [[0.1, 0.9, 0.5, 0.9]], [[0, 1, 0, 0]]) == [[1]]


def test_what_float32_cannot_tell_apart_is_tied_and_goes_to_the_left():
    assert chosen(TopKConfidence(1), [[0.2, 0.9999994, 0.9999999]]) == [[1]]
    assert chosen(TopKConfidence(1), [[0.2, 0.9994, 0.9999]]) == [[2]]
    assert chosen(TopKConfidence(1), [[0.00012, 0.00013, 0.00011]]) == [[1]], "small confidences decide"
    assert chosen(EntropyTopK(1), [[0.5] * 3], entropy=[[3e-7, 1e-7, 2.0]]) == [[0]]
    assert chosen(EntropyTopK(1), [[0.5] * 3], entropy=[[1.2e-4, 1.1e-4, 2.0]]) == [[1]]


def test_random_order_follows_the_rows_noise_not_the_confidence():
    noise = [[0.1, 0.8, 0.3, 0.9], [0.7, 0.1, 0.2, 0.3]]
    assert chosen(RandomOrder(2), [[0.9, 0, 0, 0]] * 2, noise=noise) == [[1, 3], [0, 3]]


def test_factor_by_hand():
    # n = 1: 2 (1 - 0.99) = 0.02; n = 2: 3 (1 - 0.9) = 0.3; n = 3: 4 (1 - 0.8) = 0.8; n = 4: 5 (1 - 0.7) = 1.5
    confidence = [[0.8, 0.99, 0.7, 0.9]]
    assert chosen(Factor(0.25), confidence) == [[1]]
    assert chosen(Factor(0.5), confidence) == [[1, 3]]
    assert chosen(Factor(1.0), confidence) == [[0, 1, 3]]
    assert chosen(Factor(2.0), confidence) == [[0, 1, 2, 3]]
    assert chosen(Factor(0.01), confidence) == [[1]], "always one"
    assert chosen(Factor(1.0), [[0.9, 0.1]]) == [[0]], "the last one left is not let through as in the released code"
    assert chosen(Factor(2.0), confidence, [[1, 0, 1, 0]]) == [[0, 2]]


def test_margin_is_the_lead_over_the_second_token():
    confidence = [[[0.5, 0.45], [0.4, 0.1], [0.9, 0.05], [0.6, 0.4]]]  # margins 0.05, 0.3, 0.85, 0.2
    assert chosen(MarginTopK(2), confidence) == [[1, 2]]
    assert chosen(MarginThreshold(0.25), confidence) == [[1, 2]]
    assert chosen(MarginThreshold(0.9), confidence) == [[2]]


def test_entropy_bound_by_hand():
    confidence = [[0.9, 0.5, 0.8, 0.3]]
    entropy = [[0.3, 0.1, 0.2, 0.9]]  # in order 0.1, 0.2, 0.3, 0.9: sums less the largest 0, 0.1, 0.3, 0.6
    assert chosen(EntropyBound(0.0), confidence, entropy=entropy) == [[1]]
    assert chosen(EntropyBound(0.15), confidence, entropy=entropy) == [[1, 2]]
    assert chosen(EntropyBound(0.35), confidence, entropy=entropy) == [[0, 1, 2]]
    assert chosen(EntropyBound(0.61), confidence, entropy=entropy) == [[0, 1, 2, 3]]
    # by confidence 0.3, 0.2, 0.1, 0.9: sums less the largest 0, 0.2, 0.3, 0.6
    assert chosen(EntropyBound(0.25, "confidence"), confidence, entropy=entropy) == [[0, 2]]
    assert chosen(EntropyBound(9.0), confidence, [[0, 1, 0, 1]], entropy=entropy) == [[1, 3]]
    assert chosen(EntropyBound(0.0), confidence, entropy=[[0.0, 0.0, 0.2, 0.0]]) == [[0, 1, 2, 3]], (
        "three of entropy 0, and one more"
    )


def test_klass_wants_confidence_and_stability():
    confidence = [[0.95, 0.95, 0.5, 0.97]]
    kl = [[[0.001, 0.002], [0.001, 0.5], [0.001, 0.001], [0.02, 0.001]]]
    assert chosen(KLASS(0.9, 0.01, 2), confidence, kl=kl) == [[0]]
    assert chosen(KLASS(0.9, 0.03, 2), confidence, kl=kl) == [[0, 3]]
    assert chosen(KLASS(0.4, 0.01, 2), confidence, kl=kl) == [[0, 2]]
    nothing_yet = [[[math.inf, math.inf]] * 4]
    assert chosen(KLASS(0.9, 0.01, 2), confidence, kl=nothing_yet) == [[3]], "falls back to the most confident"


def test_rising_threshold_by_hand():
    confidence = [[0.55, 0.65, 0.65, 0.85]]  # thresholds 0.5, 0.6, 0.7, 0.8
    assert chosen(RisingThreshold(0.5, 0.8), confidence) == [[0, 1, 3]]
    assert chosen(RisingThreshold(0.9, 0.99), confidence) == [[3]]


def test_fixed_schedule_makes_up_for_what_a_block_held_back():
    policy = FixedSchedule((1, 2, 3))
    confidence = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]
    assert chosen(policy, confidence) == [[7]]
    masked = [[1, 1, 1, 1, 1, 1, 1, 0]]
    assert chosen(policy, confidence, masked, step_fraction=[1 / 8]) == [[5, 6]]
    behind = {"masked": torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool).tolist()}
    assert chosen(policy, confidence, masked, step_fraction=[2 / 8], **behind) == [[2, 3, 4, 5, 6]], "6 due, 1 done"
    past = [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert chosen(policy, confidence, past, step_fraction=[2 / 8]) == [[1]], "6 due, 6 done: still one"
    assert chosen(policy, confidence, past, step_fraction=[3 / 8]) == [[0, 1]], "past the end: the last count again"


def test_average_pace_keeps_the_mean_number_of_steps():
    # Row 0: 4 positions at step 0, 4 at step 1. Row 1: 2 a step for 4 steps. Mean NFE 3; both reveal evenly.
    revealed_at = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]])
    assert average_pace(revealed_at, torch.tensor([2, 4])) == [3, 2, 3]
    slow_start = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]])
    assert average_pace(slow_start, torch.tensor([2])) == [1, 7]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=8, max_size=8), min_size=1, max_size=4))
def test_a_pace_is_a_schedule_of_the_whole_region(rows):
    revealed_at = torch.tensor(rows)
    counts = average_pace(revealed_at, revealed_at.max(dim=1).values + 1)
    assert sum(counts) == 8
    assert min(counts) >= 1
    FixedSchedule(tuple(counts))


def test_min_and_max_reveal_add_and_drop_by_confidence():
    confidence = [[0.95, 0.2, 0.99, 0.92], [0.1, 0.3, 0.2, 0.25]]
    assert chosen(MaxReveal(ConfidenceThreshold(0.9), 2), confidence) == [[0, 2], [1]]
    assert chosen(MinReveal(ConfidenceThreshold(0.9), 2), confidence) == [[0, 2, 3], [1, 3]]
    assert chosen(MinReveal(ConfidenceThreshold(0.9), 3), confidence, [[0, 1, 0, 0], [1, 1, 1, 1]]) == [[1], [1, 2, 3]]


class Fixed(TransformerPolicy):
    """A learned policy with given logits."""

    def logits(self, observation):
        return torch.tensor([[2.0, -1.0, 0.0, -30.0]])


def test_temperature_and_beta_change_a_learned_policys_logits():
    policy, observation = Fixed(), seen([[0.5] * 4])
    assert torch.allclose(Temperature(policy, 0.5).logits(observation), torch.tensor([[4.0, -2.0, 0.0, -60.0]]))
    scaled = BetaScaling(policy, 1.5).logits(observation).sigmoid()
    expected = (1.5 * torch.tensor([[2.0, -1.0, 0.0, -30.0]]).sigmoid()).clamp(max=1)
    assert torch.allclose(scaled, expected, atol=1e-6)
    assert scaled[0, 0] == 1
    drawn = BetaScaling(policy, 1.5).select(seen([[0.5] * 4], noise=[[0.999, 0.42, 0.76, 0.9]]))
    assert drawn.tolist() == [[True, False, False, False]], "0.40 < 0.42 and 0.75 < 0.76"
    assert not policy.actions.drawn(force_progress=False).force_progress


@pytest.mark.parametrize("wrap", [lambda p: Temperature(p, 0.5), lambda p: MaxReveal(BetaScaling(p, 2.0), 3)])
def test_wrapped_learned_policies_save_and_load(wrap, tmp_path):
    policy = wrap(TransformerPolicy(TransformerConfig(width=16, feed_forward=8)))
    policy.save(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert again.config() == policy.config()
    check_policy(again, batches=3)
    assert all(torch.equal(a, b) for a, b in zip(policy.weights().values(), again.weights().values(), strict=True))


RULES = [
    ConfidenceThreshold(0.7),
    TopKConfidence(3),
    RandomOrder(2),
    Factor(1.5),
    MarginTopK(2),
    MarginThreshold(0.5),
    EntropyBound(0.1),
    EntropyBound(0.5, "confidence"),
    EntropyBound(0.5, "margin"),
    KLASS(0.6, 0.015, 2),
    RisingThreshold(0.4, 0.9),
    FixedSchedule((1, 2, 3)),
    MaxReveal(ConfidenceThreshold(0.1), 2),
    MinReveal(RandomOrder(1), 2),
    Factor(1.0, released=True),
    KLASS(0.6, 0.015, 2, wait=True, strategy="min_kl"),
    KLASS(0.6, 0.015, 1, strategy="random"),
    TopKConfidence(2, alg_temp=0.3),
    MarginTopK(2, alg_temp=0.3),
    EntropyTopK(2),
    EntropyTopK(2, alg_temp=0.3),
    StepCount(3, order="margin"),
    StepCount(3, "linear", "entropy", 0.2),
    StepCount(2, order="random"),
    Origin(3),
    Dilated(ConfidenceThreshold(0.5), 4),
    Exclusive(0.3, 0.2),
    Revising(KLASS(0.6, 0.015, 2), 0.5),
    MaxReveal(Revising(ConfidenceThreshold(0.1)), 2),
]


def test_every_type_is_tried_here():
    learned = {"transformer", "temperature", "beta_scaling", "mode", "plain"}
    assert {rule.type_name for rule in RULES} | learned == set(policy_types())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 2**20))
def test_rules_keep_the_contract(rule, seed):
    check_policy(rule, batches=2, seed=seed)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**20))
@example(29, 1256)  # logits that only float32's rounding parts: forced progress takes the leftmost
def test_the_transformer_keeps_the_contract(top_k, seed):
    torch.manual_seed(seed)
    config = TransformerConfig(width=16, feed_forward=8, top_k=top_k)
    check_policy(TransformerPolicy(config), batches=2, seed=seed)
    check_policy(Temperature(BetaScaling(TransformerPolicy(config), 3.0), 0.5), batches=2, seed=seed)


@pytest.mark.parametrize("policy", RULES, ids=lambda rule: rule.type_name)
def test_rules_save_and_load(policy, tmp_path):
    policy.save(tmp_path / "rule")
    assert load_policy(tmp_path / "rule") == policy
    config = {"type": policy.type_name, **policy.config()}
    assert load_policy(config) == policy
    assert load_policy(json.loads(json.dumps(config))) == policy


def test_specs_with_lists_and_wrappers():
    assert load_policy("fixed_schedule:counts=[1,2,3]") == FixedSchedule((1, 2, 3))
    assert load_policy("klass:threshold=0.6, kl=0.02") == KLASS(0.6, 0.02)
    wrapped = load_policy("confidence_threshold:threshold=0.8 | max_reveal:n=4 | min_reveal:n=2")
    assert wrapped == MinReveal(MaxReveal(ConfidenceThreshold(0.8), 4), 2)
    tempered = load_policy("house-base-full | temperature:tau=0.5")
    assert isinstance(tempered, Temperature)
    assert tempered.stochastic
    assert dataclasses.is_dataclass(tempered)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("confidence_threshold:treshold=0.9", "Unknown key 'treshold' in .*did you mean 'threshold'"),
        ("confidence_threshold:threshold=1.5", "threshold = '1.5' .input should be less than or equal to 1"),
        ("confidence_threshold:threshold", "write it as type:key=value"),
        ("confidence_treshold:threshold=0.9", "Unknown policy type .*did you mean 'confidence_threshold'"),
        ("no/such/policy", "No policy 'no/such/policy'"),
        ("no/such/policy | max_reveal:n=2", "^No policy 'no/such/policy'"),
        ("top_k_confidence:k=0", "k = '0' .input should be greater than or equal to 1"),
        ("fixed_schedule:counts=[1,0]", "counts.1 = '0' .input should be greater than or equal to 1"),
        ("confidence_threshold | max_reveal", "n is missing"),
        ("confidence_threshold | temperature:tau=2", "'confidence_threshold' has none: wrap a learned policy"),
    ],
)
def test_bad_specs_are_refused(spec, message):
    with pytest.raises(UnmaskError, match=message):
        load_policy(spec)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ConfidenceThreshold(1.5),
            "ConfidenceThreshold: threshold = 1.5 .input should be less than or equal to 1",
        ),
        (lambda: TopKConfidence(k=0), "TopKConfidence: k = 0 .input should be greater than or equal to 1"),
        (lambda: MaxReveal(TopKConfidence(1), 0), "MaxReveal: n = 0 .input should be greater than or equal to 1"),
        (lambda: RisingThreshold(0.5, 2), "RisingThreshold: end = 2 .input should be less than or equal to 1"),
        (
            lambda: ConfidenceThreshold(thresold=0.3),
            "Unknown key 'thresold' in ConfidenceThreshold: did you mean 'th",
        ),
        (lambda: MaxReveal(TopKConfidence(1), n=2, foo=3), "Unknown key 'foo' in MaxReveal: known: 'n', 'policy'."),
        (lambda: ConfidenceThreshold(float("inf")), "ConfidenceThreshold: threshold = inf .input should be a finite"),
        (
            lambda: EntropyBound(0.1, "confidense"),
            "EntropyBound: order = 'confidense' .input should be 'confidence', 'margin' or 'entropy'",
        ),
    ],
)
def test_bad_values_are_refused_on_construction(build, message):
    with pytest.raises(UnmaskError, match=message):
        build()


def test_a_rule_given_weights_is_refused(tmp_path):
    TransformerPolicy(TransformerConfig(width=16, feed_forward=8)).save(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text('{"type": "factor"}')
    with pytest.raises(UnmaskError, match="holds weights, but a factor policy has none"):
        load_policy(tmp_path / "p")
