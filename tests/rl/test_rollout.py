"""Roll-outs: what is recorded does not hang on how rows were scheduled."""

import torch

from unmask.policies import TransformerPolicy
from unmask.rl.rollout import roll_out
from unmask.tasks.auto import load_task


def test_roll_outs_do_not_hang_on_what_was_live_together(tiny):
    task = load_task("house")
    examples = [example for example in task.examples("train", 5) for _ in range(3)]
    torch.manual_seed(0)
    policy = TransformerPolicy().drawing(force_progress=False)

    def recorded(batch_size):
        options = {"gen_length": 8, "block_length": 8, "seed": 3, "top_k": 2}
        return roll_out(tiny, policy, task, examples, batch_size=batch_size, **options)

    (few, a, right), (many, b, same) = recorded(2), recorded(64)
    assert torch.equal(a.nfe, b.nfe)
    assert torch.equal(right, same)
    for name in ("masked", "selectable", "step_fraction", "action", "rollout"):
        assert torch.equal(getattr(few, name), getattr(many, name)), name
    assert torch.allclose(few.confidence, many.confidence, atol=1e-6)
    steps = (many.step_fraction * 8).round().long()
    assert (steps.diff() >= 0).all(), "by step"
    assert (many.rollout.diff()[steps.diff() == 0] > 0).all(), "and then by roll-out"
    assert len(many) == int(b.nfe.sum())
