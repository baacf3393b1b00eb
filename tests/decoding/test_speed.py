"""Speeds through every face of the decode loop: per prompt, in batches, in shared passes, in the environment."""

import pytest
import torch

import unmask
from tests.policies.test_speed import conditioned
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.observation import Needs
from unmask.policies.wrappers import MaxReveal
from unmask.rl.env import DecodingEnv
from unmask.tasks.auto import load_task

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [4, 4, 4, 4]]
SPEEDS = [0.0, 0.5, 1.0, 0.25]


def test_each_prompt_is_decoded_at_its_own_speed(tiny):
    policy = conditioned()
    together = decode(tiny, policy, PROMPTS, gen_length=8, batch_size=3, speeds=SPEEDS, seed=2)
    for i, (prompt, speed) in enumerate(zip(PROMPTS, SPEEDS, strict=True)):
        alone = decode(tiny, policy, [prompt], gen_length=8, speed=speed, streams=[i], seed=2)
        assert torch.equal(alone.revealed_at[0], together.revealed_at[i])
    others = decode(tiny, policy, PROMPTS, gen_length=8, batch_size=3, seed=2)
    assert not torch.equal(others.revealed_at, together.revealed_at), "by default all are at speed 0"


def test_rows_that_share_a_pass_keep_their_speeds(tiny):
    """Copies hold equal tokens: one forward pass, but the policy's network runs at each speed."""
    copies, speeds = [[5, 6, 7]] * 4, [0.0, 1.0, 0.0, 1.0]
    together = decode(tiny, conditioned(), copies, gen_length=8, speeds=speeds)
    assert together.passes_run < together.passes
    for i, speed in enumerate(speeds):
        alone = decode(tiny, conditioned(), copies[:1], gen_length=8, speed=speed, streams=[i])
        assert torch.equal(alone.revealed_at[0], together.revealed_at[i])


def test_generate_takes_a_number_or_one_per_prompt(tiny):
    policy, texts = conditioned(), ["hall: red?", "hall: blue red?"]
    both = unmask.generate(tiny, policy, texts, gen_length=8, speed=[0.2, 0.9])
    assert (
        both.nfe.tolist()
        == decode(tiny, policy, [tiny.encode(text) for text in texts], gen_length=8, speeds=[0.2, 0.9]).nfe.tolist()
    )
    one = unmask.generate(tiny, policy, texts, unmask.DecodeConfig(gen_length=8, speed=0.1), speed=0.9)
    assert torch.equal(one.revealed_at, unmask.generate(tiny, policy, texts, gen_length=8, speed=0.9).revealed_at)


@pytest.mark.parametrize(
    ("policy", "speed", "message"),
    [
        (unmask.policies.ConfidenceThreshold(0.9), 0.5, "This policy has no speed to choose: leave speed out"),
        (unmask.policies.ConfidenceThreshold(0.9), [0.5], "This policy has no speed to choose: leave speed out"),
        (None, [0.5, 0.5], "There are 2 speeds for 1 prompts: give one number, or one per prompt"),
        (None, [1.5], "The speed of prompt 0 is 1.5: give a number from 0"),
        (None, 1.5, r"speed = 1.5 \(input should be less than or equal to 1\)"),
        (None, -0.1, r"speed = -0.1 \(input should be greater than or equal to 0\)"),
    ],
)
def test_what_is_no_speed_is_refused(tiny, policy, speed, message):
    with pytest.raises(UnmaskError, match=message):
        unmask.generate(tiny, policy or conditioned(), ["hall: red?"], gen_length=8, speed=speed)


def test_wrappers_and_engines_see_the_speed(tiny):
    wrapped = MaxReveal(conditioned(), 1)
    assert wrapped.needs.speed
    assert decode(tiny, wrapped, PROMPTS, gen_length=8, speed=1.0).nfe.tolist() == [8] * 4
    masked, logits = torch.ones(2, 4, dtype=torch.bool), torch.randn(2, 4, 9)
    needs = conditioned().needs
    assert unmask.see(logits, needs=needs, masked=masked, speed=0.7).speed.tolist() == pytest.approx([0.7, 0.7])
    assert unmask.see(logits, needs=needs, masked=masked, speed=torch.tensor([0.1, 0.2])).speed.tolist() == (
        pytest.approx([0.1, 0.2])
    )
    assert unmask.see(logits, needs=Needs(), masked=masked, speed=0.7).speed is None


def test_the_environment_decodes_as_generate_does(tiny):
    policy, task = conditioned(), load_task("house")
    examples = task.examples("test", 3)
    env = DecodingEnv(tiny, task, gen_length=8, needs=policy.needs)
    shown = env.reset(examples, seed=4, speeds=[0.0, 0.5, 1.0])
    assert shown.speed.tolist() == [0.0, 0.5, 1.0]
    while env.live.any():
        shown = env.step(policy.select(shown)).observation
    prompts = [tiny.encode(example.prompt) for example in examples]
    out = decode(tiny, policy, prompts, gen_length=8, stop_at_eos=False, seed=4, speeds=[0.0, 0.5, 1.0])
    assert env.nfe.tolist() == out.nfe.tolist()
    with pytest.raises(UnmaskError, match="This policy has no speed to choose"):
        DecodingEnv(tiny, task, gen_length=8).reset(examples, speeds=[0.0, 0.5, 1.0])
