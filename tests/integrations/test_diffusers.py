"""A policy as the scheduler of diffusers' own LLaDA2Pipeline: the tokens are those of `unmask.generate`."""

import warnings

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import LLaDA2Pipeline

import unmask
from unmask.errors import UnmaskError
from unmask.integrations import engine
from unmask.integrations.diffusers import PipelineModel, UnmaskScheduler

POLICIES = [
    ("confidence_threshold:threshold=0.7", None),
    ("entropy_bound:gamma=0.5", None),
    ("random_order:k=3", None),
    ("step_count:steps=3", None),
    ("house-block-causal", 0.0),
    ("house-block-causal", 0.8),
    ("house-block-causal | mode | max_reveal:n=4", 0.5),
]


@pytest.fixture(scope="module")
def dllm():
    return unmask.load_model("house-block-causal")


@pytest.fixture(scope="module")
def prompts(dllm):
    texts = ["hall: red blue gold green?", "hall: red blue gold red?", "hall: gold blue red green?"]
    return torch.tensor([dllm.encode(text) for text in texts])


def run(dllm, scheduler, prompts, **options):
    pipe = LLaDA2Pipeline(model=PipelineModel(dllm), scheduler=scheduler, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    usual = {"block_length": dllm.block_length, "mask_token_id": dllm.mask_id, "eos_early_stop": False}
    return pipe(input_ids=prompts, output_type="seq", **usual | options).sequences


@pytest.mark.parametrize(("policy", "speed"), POLICIES)
def test_the_tokens_are_generates(dllm, prompts, policy, speed):
    """The prompt shares the first block, and the last one goes beyond the region."""
    got = run(dllm, UnmaskScheduler(policy, speed=speed, gen_length=30), prompts, gen_length=30)
    want = unmask.generate(dllm, unmask.load_policy(policy), prompts, gen_length=30, speed=speed, stop_at_eos=False)
    assert torch.equal(got, want.tokens)


def test_a_block_is_its_own_region_unless_the_length_is_told(dllm, prompts):
    got = run(dllm, UnmaskScheduler("house-block-causal", speed=0.3, seed=7), prompts, gen_length=25)
    policy, rows = unmask.load_policy("house-block-causal"), prompts
    for length in (9, 16):  # the rest of the block that the prompt ends in, and a whole one
        out = unmask.generate(dllm, policy, rows, gen_length=length, speed=0.3, seed=7, stop_at_eos=False)
        rows = torch.cat([rows, out.tokens], dim=1)
    assert torch.equal(got, rows[:, prompts.shape[1] :])


def test_it_takes_as_many_passes_as_the_slowest_row(dllm, prompts, monkeypatch):
    passes, forward = [], PipelineModel.forward
    monkeypatch.setattr(PipelineModel, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    run(dllm, UnmaskScheduler("top_k_confidence:k=1", gen_length=9), prompts, gen_length=9, num_inference_steps=2)
    assert len(passes) == 9, "num_inference_steps leaves nothing masked"


def test_rows_stop_at_their_eos(dllm, prompts):
    end = int(dllm.eos_ids[0])
    scheduler = UnmaskScheduler("confidence_threshold:threshold=0.7", gen_length=41)
    got = run(dllm, scheduler, prompts, gen_length=41, eos_early_stop=True, eos_token_id=end)
    want = unmask.generate(dllm, scheduler.policy, prompts, gen_length=41).tokens
    for ours, theirs in zip(want.tolist(), got.tolist(), strict=True):
        assert ours[: ours.index(end) + 1] == theirs[: ours.index(end) + 1]


def test_tokens_can_be_drawn(dllm, prompts):
    scheduler = UnmaskScheduler("top_k_confidence:k=1")
    drawn = [
        run(dllm, scheduler, prompts, gen_length=9, temperature=5.0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not (drawn[0] == dllm.mask_id).any()


@pytest.mark.parametrize("policy", ["house-block-causal", "factor:factor=1"])
def test_it_is_saved_with_its_policy(dllm, prompts, tmp_path, policy):
    speed = 0.6 if policy == "house-block-causal" else None
    scheduler = UnmaskScheduler(policy, speed=speed, seed=3, gen_length=25, block_length=16)
    scheduler.save_pretrained(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    again = UnmaskScheduler.from_pretrained(tmp_path / "two")
    assert (again.speed, again.config.seed, again.config.gen_length) == (speed or 0.0, 3, 25)
    assert again.config.policy == str(tmp_path / "two" / "policy")
    same = [run(dllm, each, prompts, gen_length=25, block_length=None) for each in (scheduler, again)]
    assert torch.equal(*same)


def test_a_scheduler_on_the_hub_comes_with_its_policy(tmp_path, monkeypatch):
    UnmaskScheduler("factor:factor=1", seed=3).save_pretrained(tmp_path / "saved" / "scheduler")
    asked = []
    monkeypatch.setattr(
        "unmask.integrations.diffusers.snapshot_download",
        lambda name, revision: asked.append((name, revision)) or str(tmp_path / "saved"),
    )
    again = UnmaskScheduler.from_pretrained("user/repo", subfolder="scheduler", revision="abc")
    assert asked == [("user/repo", "abc")]
    assert again.policy == unmask.load_policy("factor:factor=1")
    assert again.config.policy == str(tmp_path / "saved" / "scheduler" / "policy")


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("klass", "reads the KL history, and diffusers' pipeline shows the logits of a block alone"),
        ("confidence_threshold:threshold=0.7 | revising", "revises revealed tokens"),
        ("house-base-full | plain", "may reveal nothing in a step.*min_reveal:n=1"),
        ("confidence_treshold", "did you mean 'confidence_threshold'"),
    ],
)
def test_policies_that_need_more_are_refused(policy, told):
    with pytest.raises(UnmaskError, match=told):
        UnmaskScheduler(policy)


def test_bad_use_is_refused(dllm, prompts):
    with pytest.raises(UnmaskError, match="This policy has no speed to choose"):
        UnmaskScheduler("factor:factor=1", speed=0.5)
    with pytest.raises(UnmaskError, match="has no mask token: use it in LLaDA2Pipeline"):
        UnmaskScheduler().step(torch.zeros(1, 4, 9), 0, torch.zeros(1, 4, dtype=torch.long))
    logits = torch.full((1, 4, 9), float("nan"))
    with pytest.raises(UnmaskError, match="hold NaN"):
        UnmaskScheduler().step(logits, 0, torch.full((1, 4), 8), mask_token_id=8)


def test_another_version_is_told(monkeypatch):
    monkeypatch.setattr(engine, "version", lambda package: "0.50.0")
    with pytest.warns(UserWarning, match=r"diffusers 0.50.0 is not among .* known to work with \(0.42.\*\)"):
        engine.tell_version("diffusers", ("0.42.",))
    monkeypatch.setattr(engine, "version", lambda package: "0.42.7")
    with warnings.catch_warnings(action="error"):
        engine.tell_version("diffusers", ("0.42.",))
