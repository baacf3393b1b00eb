"""The MDP as an environment: it is the decode loop, one step at a time."""

import pytest
import torch

from tests.conftest import make_tiny
from unmask.decoding.decode import decode
from unmask.decoding.generate import generate
from unmask.decoding.options import DecodeConfig
from unmask.decoding.session import Session
from unmask.errors import UnmaskError
from unmask.observation import Needs
from unmask.policies import ConfidenceThreshold, TransformerPolicy
from unmask.rl.env import DecodingEnv
from unmask.rl.rewards import load_reward
from unmask.rl.rollout import roll_out
from unmask.tasks.auto import load_task


def play(env, policy, examples, seed=0):
    """All episodes to their end: reward, terminated and truncated as they came."""
    seen = env.reset(examples, seed=seed)
    total, ends = torch.zeros(len(examples)), []
    while env.live.any():
        seen, reward, terminated, truncated = env.step(policy.select(seen))
        total += reward
        ends.append((terminated, truncated))
    return total, ends


@pytest.mark.parametrize("block_length", [4, 8])
@pytest.mark.parametrize("make", [lambda: ConfidenceThreshold(0.5), TransformerPolicy], ids=["rule", "learned"])
def test_an_episode_is_what_decode_does(tiny, make, block_length):
    torch.manual_seed(0)
    policy, task = make(), load_task("house")
    examples = task.examples("train", 6)
    env = DecodingEnv(tiny, task, gen_length=8, block_length=block_length)
    _, ends = play(env, policy, examples, seed=5)
    prompts = [tiny.encode(example.prompt) for example in examples]
    out = decode(tiny, policy, prompts, gen_length=8, block_length=block_length, seed=5, stop_at_eos=False)
    assert env.nfe.tolist() == out.nfe.tolist()
    assert env.texts == [tiny.text(row) for row in out.tokens.tolist()]
    terminated = torch.stack([t for t, _ in ends])
    assert (terminated.sum(dim=0) == 1).all()
    assert terminated.int().argmax(dim=0).add(1).tolist() == out.nfe.tolist()
    assert not any(t.any() for _, t in ends)


def test_reward_comes_at_the_end_and_only_then(tiny):
    class Right(type(load_task("house"))):
        def verify(self, example, text):
            return True

    task = Right("house", lengths=(6,))
    env = DecodingEnv(tiny, task, gen_length=8, reward=load_reward("multiplicative", 1.0))
    env.reset(task.examples("train", 2))
    one = torch.zeros(2, 8, dtype=torch.bool)
    one[:, :4] = True
    step = env.step(one)
    assert step.reward.tolist() == [0.0, 0.0]
    assert not step.terminated.any()
    step = env.step(~one)
    assert step.reward.tolist() == [7 / 8, 7 / 8]
    assert step.terminated.all()
    assert not step.truncated.any()
    assert not step.observation.selectable.any()


def test_a_spent_budget_truncates_and_is_wrong(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8, max_steps=3)
    env.reset(task.examples("train", 2))
    nothing = torch.zeros(2, 8, dtype=torch.bool)
    first = nothing.clone()
    first[0] = True
    assert env.step(first).terminated.tolist() == [True, False]
    assert env.live.tolist() == [False, True]
    env.step(nothing)
    last = env.step(nothing)
    assert last.truncated.tolist() == [False, True]
    assert last.terminated.tolist() == [False, False]
    assert last.reward.tolist() == [0.0, 0.0]
    assert last.observation.masked.sum(dim=1).tolist() == [0, 8], "what was left masked shows"
    assert env.nfe.tolist() == [1, 3]


def test_only_selectable_positions_can_be_revealed(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8, block_length=4)
    seen = env.reset(task.examples("train", 1))
    assert seen.selectable[0].tolist() == [True] * 4 + [False] * 4
    after = env.step(torch.ones(1, 8, dtype=torch.bool)).observation
    assert after.masked[0].tolist() == [False] * 4 + [True] * 4
    assert after.step_fraction.tolist() == [1 / 8]


def test_a_row_begins_anew_while_others_go_on(tiny):
    task = load_task("house")
    examples = sorted(task.examples("train", 40), key=lambda e: len(e.prompt))
    short, long = examples[0], examples[-1]
    env = DecodingEnv(tiny, task, gen_length=8, needs=Needs(top_k=2, positions="region", entropy=True))
    env.reset([short, short])
    half = torch.zeros(2, 8, dtype=torch.bool)
    half[0] = True
    half[1, :2] = True
    env.act(half)
    with pytest.raises(UnmaskError, match="row 1 has not ended"):
        env.begin([1], [long])
    env.begin([0], [long])
    seen = env.observe()
    alone = DecodingEnv(tiny, task, gen_length=8, needs=env.needs)
    fresh = alone.reset([long])
    assert torch.allclose(seen.confidence[0], fresh.confidence[0], atol=1e-6)
    assert torch.allclose(seen.entropy[0], fresh.entropy[0], atol=1e-5)
    assert seen.step_fraction.tolist() == [0.0, 1 / 8]
    assert env.nfe.tolist() == [0, 1]
    with pytest.raises(UnmaskError, match="give one boolean for each of 2 rows and 8 positions"):
        env.act(torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 5], "There is no row 5: the environment has 3, from 0 to 2."),
        ([0, -1], "There is no row -1"),
        ([0, 0], "Row 0 is given twice: give each row one example."),
        ([0, 1], "The episode in row 1 has not ended"),
        ([0], "There are 1 rows and 2 examples: give one example per row."),
    ],
)
def test_rows_that_cannot_begin_change_nothing(tiny, rows, message):
    task = load_task("house")
    examples = task.examples("train", 3)
    env = DecodingEnv(tiny, task, gen_length=8)
    with pytest.raises(UnmaskError, match="The environment has no episodes: reset it first."):
        env.begin([0], examples[:1])
    env.reset(examples)
    env.act(torch.tensor([[True] * 8, [False] * 8, [True] * 8]))
    with pytest.raises(UnmaskError, match=message):
        env.begin(rows, examples[:2])
    assert env.live.tolist() == [False, True, False]
    assert env.nfe.tolist() == [1, 1, 1]
    env.begin([0, 2], examples[:2])
    assert env.step(torch.ones(3, 8, dtype=torch.bool)).terminated.all()


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", [torch.long, torch.float32, "numpy"])
def test_an_action_of_another_kind_reveals_nothing(tiny, kind):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8)
    seen = env.reset(task.examples("train", 2))
    action = torch.ones(2, 8).bool().numpy() if kind == "numpy" else torch.ones(2, 8, dtype=kind)
    name = "ndarray" if kind == "numpy" else str(kind)
    with pytest.raises(
        UnmaskError, match=rf"The action is a {name} of shape \(2, 8\): give one .* as a torch.bool tensor"
    ):
        env.step(action)
    assert env.observe().masked.equal(seen.masked)
    assert env.nfe.tolist() == [0, 0]


@pytest.mark.unchecked
def test_before_its_first_reset_the_environment_is_empty(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8, reward=lambda outcome: outcome.nfe * torch.nan)
    assert (env.live.tolist(), env.nfe.tolist(), env.texts) == ([], [], [])
    with pytest.raises(UnmaskError, match="The environment has shown nothing yet: reset it first."):
        _ = env.shown
    with pytest.raises(UnmaskError, match="The seed is None: give a whole number of at most 64 bits."):
        env.reset(task.examples("train", 1), seed=None)
    assert env.live.tolist() == []
    env.reset(task.examples("train", 1))
    with pytest.raises(UnmaskError, match=r"The reward gave \[nan\] for episodes that ended: return finite numbers."):
        env.step(torch.ones(1, 8, dtype=torch.bool))


def test_episodes_in_a_row_draw_other_noise(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8)
    one, everything = task.examples("train", 1), torch.ones(1, 8, dtype=torch.bool)
    noise = [env.reset(one, seed=1).noise]
    env.act(everything)
    env.begin([0], one)
    noise.append(env.observe().noise)
    assert not torch.equal(*noise)
    assert torch.equal(env.reset(one, seed=1).noise, noise[0])


def test_a_task_without_a_verifier_is_refused(tiny):
    task = load_task("house")
    task.verifiable = False
    with pytest.raises(UnmaskError, match="'house' has no verifier, so that no episode can be rewarded"):
        DecodingEnv(tiny, task)


def test_nothing_is_left_to_see_when_all_have_ended(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8)
    env.reset(task.examples("train", 1))
    env.step(torch.ones(1, 8, dtype=torch.bool))
    with pytest.raises(UnmaskError, match="All episodes have ended"):
        env.observe()


def test_nan_logits_are_refused_by_name(tiny):
    broken, task = make_tiny(), load_task("house")
    with torch.no_grad():
        broken.network.lm_head.decoder.bias.fill_(torch.nan)
    examples = task.examples("train", 2)
    with pytest.raises(UnmaskError, match="The dLLM 'tiny' returned NaN logits"):
        DecodingEnv(broken, task, gen_length=8).reset(examples)
    env = DecodingEnv(tiny, task, gen_length=8)
    env.reset(examples)
    env.model = env._running.model = broken
    with pytest.raises(UnmaskError, match="The dLLM 'tiny' returned NaN logits"):
        env.step(torch.eye(2, 8) > 0)
    prompts = [broken.encode(example.prompt) for example in examples]
    config = DecodeConfig(gen_length=8)
    with pytest.raises(UnmaskError, match="The dLLM 'tiny' returned NaN logits"):
        roll_out(broken, ConfidenceThreshold(0.5), task, examples, config, prompts=prompts, needs=Needs(), seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"suppress_eos": True},
        {"temperature": 1.0},
        {"stop_at_eos": True},
        {"block_length": "adaptive:default=3,delimiters=[red],window=0.5,threshold=0.1"},
        {"max_steps": 3},
    ],
    ids=str,
)
def test_the_environment_decodes_with_every_option_as_generate_does(tiny, monkeypatch, options):
    task, policy = load_task("house"), TransformerPolicy()
    examples = [example for example in task.examples("train", 3) for _ in range(2)]  # copies share passes
    env = DecodingEnv(tiny, task, DecodeConfig(gen_length=8, stop_at_eos=False), **options)
    tokens = torch.zeros(len(examples), 8, dtype=torch.long)
    reveal = Session.reveal

    def recorded(session, picks):
        ended = reveal(session, picks)
        if ended is not None:
            tokens[ended.row] = ended.tokens
        return ended

    monkeypatch.setattr(Session, "reveal", recorded)
    play(env, policy, examples, seed=5)
    monkeypatch.undo()
    out = generate(
        tiny,
        policy,
        [example.prompt for example in examples],
        gen_length=8,
        seed=5,
        **{"stop_at_eos": False, **options},
    )
    assert torch.equal(tokens, out.tokens)
    assert env.nfe.tolist() == out.nfe.tolist()
    assert env.texts == out.texts


@pytest.mark.parametrize("make", [lambda: ConfidenceThreshold(0.5), TransformerPolicy], ids=["rule", "learned"])
def test_copies_decode_as_they_would_without_sharing(tiny, make):
    task, (one, other) = load_task("house"), load_task("house").examples("train", 2)
    torch.manual_seed(0)
    policy, env = make(), DecodingEnv(tiny, task, gen_length=8, block_length=4)
    play(env, policy, [one, one, other], seed=5)
    shared = env.nfe.tolist(), env.texts
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        started = Session.__init__
        patched.setattr(Session, "__init__", lambda self, *a, share, **k: started(self, *a, share=False, **k))
        play(env, policy, [one, one, other], seed=5)
    assert (env.nfe.tolist(), env.texts) == shared


def test_copies_in_the_environment_share_passes(tiny, monkeypatch):
    rows, original = [], tiny.hidden
    monkeypatch.setattr(tiny, "hidden", lambda tokens, *rest: (rows.append(len(tokens)), original(tokens, *rest))[1])
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8)
    env.reset(task.examples("train", 1) * 4)
    assert rows == [1]


def test_policies_see_what_they_declared_and_no_more(tiny):
    task = load_task("house")
    env = DecodingEnv(tiny, task, gen_length=8, block_length=4, needs=Needs())
    seen = env.reset(task.examples("train", 2))
    assert (seen.confidence[..., 0] > 0).equal(seen.selectable)
