"""Each rule against sets worked out by hand, its file, and its bad settings."""

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.policies import ConfidenceThreshold, RandomOrder, TopKConfidence, load_policy
from unmask.types import Observation


def seen(confidence, selectable=None, noise=None):
    c = torch.tensor(confidence)
    may = torch.ones_like(c, dtype=torch.bool) if selectable is None else torch.tensor(selectable, dtype=torch.bool)
    u = torch.full_like(c, 0.5) if noise is None else torch.tensor(noise)
    return Observation(c[..., None], may, may, torch.zeros(len(c)), u)


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


def test_random_order_follows_the_rows_noise_not_the_confidence():
    noise = [[0.1, 0.8, 0.3, 0.9], [0.7, 0.1, 0.2, 0.3]]
    assert chosen(RandomOrder(2), [[0.9, 0, 0, 0]] * 2, noise=noise) == [[1, 3], [0, 3]]


@pytest.mark.parametrize("policy", [ConfidenceThreshold(0.7), TopKConfidence(3), RandomOrder(2)])
def test_rules_save_and_load(policy, tmp_path):
    policy.save(tmp_path / "rule")
    assert load_policy(tmp_path / "rule") == policy
    spec = ",".join(f"{key}={value}" for key, value in policy.config().items())
    assert load_policy(f"{policy.type_name}:{spec}") == policy
    assert load_policy({"type": policy.type_name, **policy.config()}) == policy


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("confidence_threshold:treshold=0.9", "Unknown key 'treshold' in .*did you mean 'threshold'"),
        ("confidence_threshold:threshold=1.5", "threshold = '1.5': Input should be less than or equal to 1"),
        ("confidence_threshold:threshold", "write it as type:key=value"),
        ("confidence_treshold:threshold=0.9", "Unknown policy type .*did you mean 'confidence_threshold'"),
        ("no/such/policy", "No policy 'no/such/policy'"),
        ("top_k_confidence:k=0", "k = '0': Input should be greater than or equal to 1"),
    ],
)
def test_bad_specs_are_refused(spec, message):
    with pytest.raises(UnmaskError, match=message):
        load_policy(spec)
