"""A rule that keeps apart what would write the same."""

import torch

from unmask.evaluation.entries import Entry, decoding
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.observation import Observation
from unmask.policies.exclusive import Exclusive
from unmask.tasks.auto import load_task
from unmask.testing import ExactModel, check_policy


def reached(operation, policy, n=60):
    task = load_task(f"lists:operation={operation},items=6")
    setup = Setup(ExactModel(task), task, task.examples("test", n), decode={"temperature": 1.0})
    rows = evaluate(setup, Entry.of_policy("exclusive", policy, decoding(6)), policy)
    return sum(row["correct"] for row in rows) / n, sum(row["nfe"] for row in rows) / n


def test_it_keeps_the_contract():
    check_policy(Exclusive())
    check_policy(Exclusive(0.0, 0.0))


def test_by_hand():
    p = torch.tensor([[[0.6, 0.4], [0.5, 0.5], [0.7, 0.1], [0.3, 0.2]]])
    tokens = torch.tensor([[[3, 4], [4, 3], [5, 6], [7, 8]]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    seen = Observation(p, masked, masked, torch.zeros(1), torch.rand(1, 4), tokens=tokens)
    assert Exclusive(0.4, 0.1).select(seen).tolist() == [[True, False, True, False]], "1 would write what 0 writes"
    assert Exclusive(0.4, 0.6).select(seen).tolist() == [[True, True, True, False]]
    assert Exclusive(0.9, 0.1).select(seen).tolist() == [[False, False, True, False]], "one at least"


def test_it_finds_partners_where_confidence_cannot():
    """Of an exact dLLM, tokens drawn: two passes for pairs, one per shuffled item, one for what is known."""
    rule = Exclusive(threshold=0.1, overlap=0.05)
    assert reached("pairs", rule) == (1.0, 2.0)
    assert reached("shuffle", rule) == (1.0, 6.0)
    assert reached("reverse", rule) == (1.0, 1.0)
