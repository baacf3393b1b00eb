"""What the tests check beside what they assert: types and shapes at every call of unmask."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

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
