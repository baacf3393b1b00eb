"""What the tests check beside what they assert: types and shapes at the first calls of each test."""

import gc
import random

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from unmask.decoding.passes import deduplicate
from unmask.journal import Claim
from unmask.observation import Needs, Observation


def seen(b: int = 2, of_mask: int = 3) -> Observation:
    mask = torch.ones(b, of_mask, dtype=torch.bool)
    return Observation(torch.zeros(b, 3, 1), mask, mask, torch.zeros(b), torch.zeros(b, 3))


def test_a_dataclass_of_shapes_that_do_not_fit_is_refused():
    assert seen().confidence.shape == (2, 3, 1)
    with pytest.raises(BeartypeCallHintViolation):
        seen(of_mask=4)


def test_a_method_given_another_type_is_refused():
    assert seen().only(Needs()).entropy is None
    with pytest.raises(BeartypeCallHintViolation):
        seen().only("confidence")


def test_arguments_whose_shapes_do_not_fit_are_refused():
    looked = torch.zeros(2, 3, dtype=torch.long)
    assert len(deduplicate(looked, torch.zeros(2, dtype=torch.bool)).rows) == 1
    with pytest.raises(BeartypeCallHintViolation):
        deduplicate(looked, torch.zeros(3, dtype=torch.bool))


def test_a_check_draws_from_a_generator_of_its_own(tmp_path):
    """Where the collector finds a claim that another test left, nothing changes that a test draws with `random`."""
    claim = Claim("the folder", tmp_path / "made" / "lock", "--output")
    left = [claim]
    left.append(left)
    before = random.getstate()
    del claim, left
    gc.collect()
    assert random.getstate() == before
    assert not (tmp_path / "made").exists()
