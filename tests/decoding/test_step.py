"""`see`: what a policy sees of somebody else's forward pass is what the loop would show it."""

import pytest
import torch

from tests.conftest import make_tiny
from unmask import see
from unmask.decoding.generate import generate
from unmask.errors import UnmaskError
from unmask.noise import row_keys
from unmask.observation import Needs
from unmask.policies import KLASS, ConfidenceThreshold, EntropyBound, MarginTopK, RandomOrder, TransformerPolicy

TINY = make_tiny()
PROMPTS = [[5, 6, 7], [8, 9, 10]]
POLICIES = [ConfidenceThreshold(0.3), MarginTopK(2), EntropyBound(1.0), RandomOrder(2), TransformerPolicy()]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.type_name)
@pytest.mark.parametrize("block_length", [8, 4])
def test_an_engine_that_calls_see_decodes_as_generate(policy, block_length):
    """A loop of ten lines around the bare network: an engine's."""
    out = generate(TINY, policy, PROMPTS, gen_length=8, block_length=block_length, stop_at_eos=False)
    tokens = torch.tensor([[*prompt, *[TINY.mask_id] * 8] for prompt in PROMPTS])
    region, keys, step = tokens[:, 3:], row_keys(0, torch.arange(2)), 0
    while (masked := region == TINY.mask_id).any():
        with torch.no_grad():
            logits = TINY.network(input_ids=tokens).logits[:, 3:]
        first = masked.int().argmax(dim=1) // block_length * block_length
        selectable = masked & (torch.arange(8) < (first + block_length)[:, None])
        seen = see(
            logits, needs=policy.needs, masked=masked, selectable=selectable, step=step, key=keys,
            banned_ids=[TINY.mask_id],
        )  # fmt: skip
        chosen = policy.select(seen) & selectable
        logits[..., TINY.mask_id] = -torch.inf
        region[:] = torch.where(chosen, logits.argmax(dim=-1), region)
        step += 1
    assert torch.equal(region, out.tokens)
    assert step == out.nfe.max()


def test_probabilities_that_an_engine_kept_are_as_good_as_logits():
    logits = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0))
    masked = torch.rand(2, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    p = logits.softmax(dim=-1)
    top = p.index_fill(-1, torch.tensor([3]), 0).topk(3, dim=-1).values
    needs = Needs(top_k=2, entropy=True, positions="region")
    a = see(logits, needs=needs, masked=masked, step=2, banned_ids=[3])
    b = see(
        probabilities=top,
        entropy=torch.special.entr(p).sum(dim=-1),
        needs=needs,
        masked=masked,
        step=torch.tensor([2, 2]),
    )
    for name in ("confidence", "entropy"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-6)
    for name in ("masked", "selectable", "step_fraction", "noise"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.step_fraction.tolist() == [0.25, 0.25]


def test_logits_are_left_as_they_were():
    logits = torch.randn(1, 4, 9)
    before = logits.clone()
    see(logits, needs=Needs(entropy=True), masked=torch.ones(1, 4, dtype=torch.bool), banned_ids=[2])
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("given", "needs", "message"),
    [
        ({}, Needs(), "Give either logits or the top-k probabilities of each position."),
        (
            {"logits": torch.full((1, 4, 9), torch.nan)},
            Needs(),
            "The logits hold NaN: run the dLLM in float32 or bfloat16, or check its weights.",
        ),
        ({"probabilities": torch.full((1, 4, 2), torch.nan)}, Needs(), "The probabilities hold NaN"),
        (
            {"probabilities": torch.full((1, 4, 2), 0.5), "entropy": torch.full((1, 4), torch.nan)},
            Needs(entropy=True),
            "The entropies hold NaN",
        ),
        (
            {"probabilities": torch.full((1, 4, 1), 1.5)},
            Needs(),
            r"The probabilities are not all in \[0, 1\]: give those",
        ),
        (
            {"probabilities": torch.full((1, 4, 1), -0.5)},
            Needs(),
            r"The probabilities are not all in \[0, 1\]: give those",
        ),
        (
            {"probabilities": torch.tensor([0.2, 0.7]).expand(1, 4, 2)},
            Needs(top_k=2),
            "The probabilities are not sorted: give those of the plain softmax, largest first.",
        ),
        ({"probabilities": torch.rand(1, 4, 2)}, Needs(top_k=3), "needs the 3 largest probabilities per position"),
        (
            {"probabilities": torch.rand(1, 4, 2)},
            Needs(entropy=True),
            "The policy needs entropies, which nobody gave",
        ),
        (
            {"logits": torch.rand(1, 4, 9)},
            Needs(hidden_states=True),
            "The policy needs hidden states, which nobody gave",
        ),
        ({"logits": torch.rand(1, 4, 9)}, KLASS().needs, "The policy needs the KL history, which nobody gave"),
    ],
)
def test_what_cannot_be_seen_is_refused(given, needs, message):
    with pytest.raises(UnmaskError, match=message):
        see(**given, needs=needs, masked=torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.unchecked
def test_shapes_that_do_not_fit_are_refused():
    masked, said = torch.ones(2, 4, dtype=torch.bool), []
    for given in (
        {"logits": torch.rand(1, 4, 9)},
        {"logits": torch.rand(2, 9)},
        {"masked": masked.long()},
        {"step": torch.zeros(3, dtype=torch.long)},
        {"selectable": masked[:1]},
    ):
        with pytest.raises(UnmaskError) as refused:
            see(**{"logits": torch.rand(2, 4, 9), "needs": Needs(), "masked": masked, **given})
        said.append(str(refused.value))
    assert said == [
        *(
            f"The logits or probabilities have shape {shape}, and masked (2, 4): give (2, 4, n), the numbers of each "
            "position."
            for shape in ((1, 4, 9), (2, 9))
        ),
        "masked is a torch.int64 of shape (2, 4): give one boolean per row and position, (b, l).",
        "step has shape (3,): give (2,).",
        "selectable has shape (1, 4): give (2, 4).",
    ]
