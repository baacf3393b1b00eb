"""Validation scores a policy as it would be used."""

import pytest
import torch

from tests.rl.tasks import Short
from unmask import generate
from unmask.policies import TransformerPolicy
from unmask.rl.algorithms.base import AlgorithmSettings
from unmask.rl.config import TrainDecodeConfig
from unmask.rl.processes import Processes
from unmask.rl.prompts import fitting
from unmask.rl.validation import SEED, validator


class OneOfTwo(Processes):
    """One of two processes, which hears nothing of the other."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.size = rank, 2

    def total(self, *values):
        return list(values)

    def gather(self, items):
        return list(items)


def fresh():
    torch.manual_seed(0)
    return TransformerPolicy()


def scored(tiny, config, processes=None):
    task = Short()
    prompts, _ = fitting(tiny, task.examples("validation", 7), 8)
    return validator(tiny, task, prompts, config, AlgorithmSettings(), processes)(fresh())


@pytest.mark.parametrize("batch_size", [2, 64])
def test_it_is_what_generate_does(tiny, batch_size):
    task, config = Short(), TrainDecodeConfig(block_length=4, batch_size=batch_size)
    found = scored(tiny, config)
    examples = task.examples("validation", 7)
    prompts = [example.prompt for example in examples]
    out = generate(tiny, fresh(), prompts, config, gen_length=8, seed=SEED)
    right = [task.verify(example, text) for example, text in zip(examples, out.texts, strict=True)]
    assert found["nfe"] == pytest.approx(out.nfe.float().mean().item())
    assert found["correct"] == pytest.approx(sum(right) / 7)
    earned = [ok * (8 - nfe + 1) / 8 for ok, nfe in zip(right, out.nfe.tolist(), strict=True)]
    assert found["reward"] == pytest.approx(sum(earned) / 7)
    assert 0 < found["correct"] < 1


def test_shares_of_processes_add_up(tiny):
    config = TrainDecodeConfig(block_length=4)
    whole = scored(tiny, config)
    parts = [scored(tiny, config, OneOfTwo(rank)) for rank in (0, 1)]
    for name in ("reward", "correct", "nfe"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name])
