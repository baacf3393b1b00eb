"""Roll-outs: every step once, and what is recorded does not hang on how rows were scheduled."""

import pytest
import torch

from unmask.decoding.blocks import FixedBlocks
from unmask.decoding.options import DecodeConfig
from unmask.observation import Needs
from unmask.policies import ConfidenceThreshold, Plain, TransformerConfig, TransformerPolicy
from unmask.rl.experts import as_seen, in_order
from unmask.rl.plan import step_bytes
from unmask.rl.rollout import roll_out
from unmask.tasks.auto import load_task


def recorded(tiny, policy, examples, reader=None, **options):
    reader = reader or TransformerPolicy(TransformerConfig(top_k=2))
    streams = options.pop("streams", None)
    config = DecodeConfig(**{"gen_length": 8, "block_length": 8, "batch_size": 64, "stop_at_eos": False, **options})
    prompts = [tiny.encode(e.prompt) for e in examples]
    task = load_task("house")
    return roll_out(tiny, policy, task, examples, config, prompts=prompts, needs=reader.needs, seed=3, streams=streams)


@pytest.mark.parametrize("actions", ["bernoulli", "dpls"])
def test_roll_outs_do_not_hang_on_what_was_live_together(tiny, actions):
    task = load_task("house")
    examples = [example for example in task.examples("train", 5) for _ in range(3)]
    torch.manual_seed(0)
    policy = Plain(TransformerPolicy(TransformerConfig(actions=actions)))
    few, many = (recorded(tiny, policy, examples, batch_size=size) for size in (2, 64))
    a, b = few.steps, many.steps
    assert torch.equal(few.outcome.nfe, many.outcome.nfe)
    assert torch.equal(few.outcome.correct, many.outcome.correct)
    for name in ("masked", "selectable", "step_fraction"):
        assert torch.equal(getattr(a.observation, name), getattr(b.observation, name)), name
    assert torch.equal(a.picks, b.picks)
    assert torch.equal(a.rollout, b.rollout)
    assert torch.allclose(a.observation.confidence, b.observation.confidence, atol=1e-6)
    steps = (b.observation.step_fraction * 8).round().long()
    assert (steps.diff() >= 0).all(), "by step"
    assert (b.rollout.diff()[steps.diff() == 0] > 0).all(), "and then by roll-out"
    assert len(b) == int(many.outcome.nfe.sum())
    assert (b.picks.max() > 1) == (actions == "dpls")


def test_roll_outs_pack_every_step_once(tiny):
    examples = load_task("house").examples("train", 5)
    rolled = recorded(tiny, ConfidenceThreshold(0.5), examples, block_length=4, batch_size=2)
    steps = rolled.steps
    assert torch.equal(torch.bincount(steps.rollout), rolled.out.nfe)
    assert steps.observation.confidence.shape == (len(steps), 8, 2)
    for row in range(5):
        mine = steps.take(steps.rollout == row)
        assert mine.picks.sum(dim=0).tolist() == [1] * 8
        assert mine.observation.step_fraction.mul(8).tolist() == list(range(len(mine)))
    seen = {name: value for name, value in vars(steps.observation).items() if value is not None}
    assert seen.pop("noise").untyped_storage().nbytes() <= 4, "none is kept"
    held = sum(tensor.element_size() * tensor.numel() for tensor in [*seen.values(), steps.picks, steps.rollout])
    assert held == len(steps) * step_bytes(8, Needs(top_k=2), 1), "the estimate of --dry-run"


def test_streams_give_each_example_its_own_noise(tiny):
    examples = load_task("house").examples("train", 4)
    torch.manual_seed(0)
    policy = Plain(TransformerPolicy())
    whole = recorded(tiny, policy, examples)
    part = recorded(tiny, policy, examples[1::2], streams=[1, 3])
    assert part.outcome.nfe.tolist() == whole.outcome.nfe[1::2].tolist()


def test_an_experts_steps_count_every_masked_position_of_the_learners_block(tiny):
    examples = load_task("house").examples("train", 3)
    learner = TransformerPolicy()
    steps = recorded(tiny, ConfidenceThreshold(0.5), examples, learner, block_length=2).steps
    full = as_seen(steps, FixedBlocks(8), learner)
    assert torch.equal(full.observation.selectable, full.observation.masked)
    half = as_seen(steps, FixedBlocks(4), learner)
    selectable, masked = half.observation.selectable, half.observation.masked
    assert torch.equal(selectable[:, 4:], masked[:, 4:] & ~masked[:, :4].any(dim=1, keepdim=True))
    for seen in (full, half):
        assert not ((seen.picks > 0) & ~seen.observation.selectable).any()
    ordered = as_seen(steps, FixedBlocks(8), TransformerPolicy(TransformerConfig(actions="dpls"))).picks
    assert torch.equal(ordered > 0, steps.picks > 0)
    hidden = TransformerPolicy(TransformerConfig(actions="dpls", reads="hidden_states", hidden_size=2))
    assert torch.equal(as_seen(steps, FixedBlocks(8), hidden).picks > 0, steps.picks > 0)


def test_steps_that_look_the_same_are_scored_once(tiny):
    torch.manual_seed(0)
    policy = TransformerPolicy()
    examples = [example for example in load_task("house").examples("train", 3) for _ in range(4)]
    steps = recorded(tiny, Plain(policy), examples, policy).steps
    states, of = steps.distinct()
    seen = steps.observation
    assert len(states.masked) < len(steps)
    assert (of[seen.step_fraction == 0].view(3, 4) == of[seen.step_fraction == 0].view(3, 4)[:, :1]).all()
    assert torch.allclose(policy.logits(states)[of], policy.logits(seen), atol=1e-6)
    for name in ("confidence", "masked", "selectable", "step_fraction"):
        assert torch.equal(getattr(states, name)[of], getattr(seen, name))


def test_the_most_confident_pick_comes_first():
    picks = torch.tensor([[1, 0, 1, 1]], dtype=torch.int16)
    assert in_order(torch.tensor([[0.2, 0.9, 0.7, 0.5]]), picks).tolist() == [[3, 0, 1, 2]]
