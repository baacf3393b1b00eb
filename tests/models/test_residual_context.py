"""Residual Context Diffusion: against a plain computation, and in a batch that refills."""

import math

import pytest
import torch
from benchmarks.published import LLADA, random_weights, tiny, write

from tests.conftest import make_tiny
from tests.models.plain import plain_logits
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.models.residual_context import ResidualContext
from unmask.policies import ConfidenceThreshold, TopKConfidence
from unmask.rl.env import DecodingEnv
from unmask.tasks.auto import load_task
from unmask.testing import check_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("rcd") / "llada"
    write(found, tiny(LLADA), ["some text"], scale=0.3)
    return found


def test_two_steps_are_those_of_the_paper(folder):
    """Top-1 decoding of 4 positions, each step's confidences against the formula in float64."""
    config = tiny(LLADA)
    weights = random_weights(config, torch.float32, 0, 0.3)
    embeddings = weights["model.transformer.wte.weight"].double()
    model = load_model(folder, residual_context=True)
    prompt, seen = [5, 9, 40], []

    def note(step):
        seen.append((step.observation.confidence[0, :, 0].clone(), step.action[0].clone(), step.written[0].clone()))

    decode(model, TopKConfidence(1), [prompt], gen_length=4, stop_at_eos=False, callback=note)
    tokens = torch.tensor([*prompt, *[model.mask_id] * 4])
    embedded = embeddings[tokens]
    for confidence, action, written in seen:
        p = plain_logits(weights, config, tokens, embedded).softmax(dim=-1)[3:]
        masked = tokens[3:] == model.mask_id
        allowed = p.clone()
        allowed[:, model.mask_id] = 0
        assert torch.allclose(confidence[masked].double(), allowed.max(dim=-1).values[masked], atol=1e-4)
        tokens[3:] = torch.where(action, written, tokens[3:])
        weight = torch.special.entr(p).sum(dim=-1, keepdim=True) / math.log(400)
        mixed = (1 - weight) * embeddings[model.mask_id] + weight * (p @ embeddings)
        still = (tokens[3:] == model.mask_id)[:, None]
        embedded = torch.cat([embeddings[tokens[:3]], torch.where(still, mixed, embeddings[tokens[3:]])])
    assert len(seen) == 4


def test_it_changes_what_is_decoded(folder):
    prompts = [[5 + i] * 3 for i in range(6)]
    options = {"gen_length": 12, "stop_at_eos": False}
    plain = decode(load_model(folder), TopKConfidence(2), prompts, **options)
    carried = decode(load_model(folder, residual_context=True), TopKConfidence(2), prompts, **options)
    assert not torch.equal(plain.tokens, carried.tokens)


@pytest.mark.parametrize("block_length", [4, 12])
def test_rows_are_decoded_as_alone_whoever_joins_late(folder, block_length):
    model = load_model(folder, residual_context=True)
    prompts = [[5 + i] * (1 + 2 * i) for i in range(8)] + [[5], [7] * 5]
    options = {"gen_length": 12, "block_length": block_length}
    for batch_size in (3, 10):
        together = decode(model, ConfidenceThreshold(0.3), prompts, batch_size=batch_size, **options)
        for i, prompt in enumerate(prompts):
            alone = decode(model, ConfidenceThreshold(0.3), [prompt], **options)
            assert torch.equal(together.tokens[i], alone.tokens[0])
            assert torch.equal(together.nfe[i], alone.nfe[0])


def test_policies_still_see_only_what_they_declared(folder):
    model, seen = load_model(folder, residual_context=True), []
    decode(
        model, TopKConfidence(1), [[5, 6]], gen_length=8, block_length=4,
        callback=lambda step: seen.append(step.observation),
    )  # fmt: skip
    for observation in seen:
        assert (observation.confidence[..., 0] > 0).equal(observation.selectable)


def test_the_environment_carries_too(tiny):
    model, task = ResidualContext(tiny), load_task("house")
    env = DecodingEnv(model, task, block_length=8)
    examples = task.examples("train", 3)
    seen = env.reset(examples)
    policy = TopKConfidence(4)
    while env.live.any():
        seen, *_ = env.step(policy.select(seen))
    out = decode(
        model, policy, [model.encode(e.prompt) for e in examples], gen_length=32, block_length=8, stop_at_eos=False
    )
    assert env.nfe.tolist() == out.nfe.tolist()


def test_any_family_with_embeddings_can_carry():
    check_model(ResidualContext(make_tiny()))
    assert "residual context" in ResidualContext(make_tiny()).summary()


def test_a_family_without_embeddings_is_refused(tiny, monkeypatch):
    from unmask.models.base import MaskedDiffusionModel

    monkeypatch.setattr(type(tiny), "embeddings", MaskedDiffusionModel.embeddings)
    with pytest.raises(UnmaskError, match="does not take input embeddings"):
        ResidualContext(tiny)
