"""Decoding on a device: nothing lies on the wrong one, and a step waits for it no more often than the loop says."""

import pytest
import torch

import unmask
from tests.device.pretend import peek
from tests.device.steps import Steps, assert_waits, same_as_on_the_host
from tests.policies.test_rules import RULES
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.policies import TransformerConfig, TransformerPolicy, load_policy

FAMILIES = ["masked-lm", "llada", "dream"]
PROMPTS = [[5, 6, 7], [8] * 9, [9, 10], [11, 12, 13, 14]]
REPEATED = [[5, 6, 7]] * 4 + [[8, 9]] * 2
# To index the positions asked about; to learn who ended; in transformers, to see whether there is padding.
STEP = {"nonzero": 1, "download": 1, "item": 1}
DRAWN = {**STEP, "nonzero": 2}  # and to index the positions revealed
SHARED = {**STEP, "nonzero": 2, "unique": 1}  # and for equal rows, and those of them not read yet
ONE_BY_ONE = "top_k_confidence:k=1"  # all rows end together, so that all steps but the first are alike


def learned(**settings):
    torch.manual_seed(0)
    return TransformerPolicy(TransformerConfig(**settings))


def decoded(device, folder, policy, prompts=PROMPTS, dtype=None, attention=None, **options):
    """What is decoded on the device, the same as on the host, and its steps."""
    model = unmask.load_model(folder, device=device.place, dtype=dtype, attn_implementation=attention)
    steps = Steps(device, model)
    options = {"gen_length": 8, "stop_at_eos": False, **options}
    out = unmask.generate(model, policy, prompts, **options)
    assert {out.tokens.device, out.nfe.device, out.revealed_at.device} == {device.place}
    host = unmask.load_model(folder, device="cpu", dtype=dtype, attn_implementation=attention)
    same_as_on_the_host(device, out, unmask.generate(host, policy, prompts, **options))
    return out, steps


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_step_waits_thrice(device, folders, family, attention):
    _, steps = decoded(device, folders[family], load_policy(ONE_BY_ONE), attention=attention)
    assert_waits(device, steps.steady(), **STEP)


@pytest.mark.parametrize("options", [{"stop_at_eos": True}, {"suppress_eos": True}, {"block_length": 4}], ids=str)
def test_a_step_with_other_options_waits_thrice(device, folders, options):
    _, steps = decoded(device, folders["masked-lm"], load_policy(ONE_BY_ONE), **options)
    assert_waits(device, steps.steady(least=2), **STEP)


HERE = [rule for rule in RULES if not rule.needs.differs]  # what revises needs another dLLM


@pytest.mark.parametrize("rule", HERE, ids=lambda rule: f"{rule.type_name}-{rule.config()}"[:60])
def test_a_step_of_a_rule_waits_thrice_and_a_fixed_schedule_sends_its_counts(device, folders, rule):
    _, steps = decoded(device, folders["masked-lm"], rule, stop_at_eos=False)
    sent = {"upload": 1} if rule.type_name == "fixed_schedule" else {}
    assert_waits(device, steps.steady(least=0), **STEP, **sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_klass_waits_thrice(device, folders, family):
    _, steps = decoded(device, folders[family], load_policy("klass:threshold=1.0"))
    assert_waits(device, steps.steady(), **STEP)


@pytest.mark.parametrize("reads", ["confidence", "hidden_states"])
@pytest.mark.parametrize("actions", ["bernoulli", "dpls"])
def test_a_step_of_a_learned_policy_waits_thrice(device, folders, reads, actions):
    policy = learned(reads=reads, actions=actions, hidden_size=32 if reads == "hidden_states" else None)
    _, steps = decoded(device, folders["masked-lm"], policy, gen_length=16)
    assert_waits(device, steps.steady(least=1), **STEP)


def test_a_policy_with_a_speed_sends_nothing_at_each_step(device, folders):
    policy = learned(use_speed=True, use_entropy=True, speed_axis=((0.0, 0.1), (0.4, 0.5), (1.0, 0.9)))
    _, steps = decoded(device, folders["masked-lm"], policy, speed=[0.0, 0.3, 0.7, 1.0])
    assert_waits(device, steps.steady(least=0), **STEP)


@pytest.mark.parametrize("family", ["masked-lm", "llada"])
def test_a_step_of_adaptive_blocks_waits_thrice(device, folders, family):
    delimiter = "," if family == "masked-lm" else "\n"
    blocks = AdaptiveBlocks(default=4, delimiters=(delimiter,), threshold=0.01, window=0.5)
    _, steps = decoded(device, folders[family], load_policy(ONE_BY_ONE), block_length=blocks)
    assert_waits(device, steps.steady(), **STEP)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_that_draws_tokens_waits_four_times(device, folders, family):
    _, steps = decoded(device, folders[family], load_policy(ONE_BY_ONE), temperature=1.0)
    assert_waits(device, steps.steady(), **DRAWN)


def test_a_step_of_shared_passes_waits_five_times(device, folders):
    _, steps = decoded(device, folders["masked-lm"], load_policy("random_order:k=1"), REPEATED)
    assert_waits(device, steps.steady(least=1, may_grow=True), **SHARED)


def test_a_step_of_shared_passes_waits_once_more_for_rows_that_a_network_cannot_tell_apart(device, folders):
    _, steps = decoded(device, folders["masked-lm"], learned(), REPEATED)
    steady = steps.steady(least=1, may_grow=True)[:1]  # later rows may end where as many part
    assert_waits(device, steady, **{**SHARED, "unique": 2})


def test_a_step_in_bfloat16_waits_thrice_and_its_confidences_are_float32(device, folders):
    seen = []

    def keep(step):
        seen.append(step.observation)

    for family in FAMILIES:
        rule = load_policy("klass:threshold=1.0")
        _, steps = decoded(device, folders[family], rule, dtype="bfloat16", attention="eager", callback=keep)
        assert_waits(device, steps.steady(), **STEP)
    assert {x.dtype for each in seen for x in (each.confidence, each.kl, each.noise)} == {torch.float32}


def test_a_step_in_which_rows_end_waits_four_times_more(device, folders):
    """Who ended and who stays go over (2), the host reads their numbers (1) and how much padding they leave (1)."""
    _, steps = decoded(device, folders["masked-lm"], learned(), gen_length=16)
    ends = steps.ends()
    assert ends
    assert_waits(device, ends, **{**STEP, "upload": 2, "download": 2, "item": 2})


def test_residual_context_stays_on_the_device(device, folders):
    model = unmask.load_model(folders["llada"], device=device.place, residual_context=True)
    out = unmask.generate(model, load_policy("klass"), PROMPTS, gen_length=8, batch_size=2)
    assert peek(out.complete).all()


def test_rows_are_replaced_as_they_end(device, folders):
    out, _ = decoded(device, folders["masked-lm"], learned(), [*PROMPTS, *PROMPTS], batch_size=3, stop_at_eos=True)
    assert [one.index for one in out] == list(range(8))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dllms_keep_their_contract_on_the_device(device, folders, family):
    unmask.testing.check_model(unmask.load_model(folders[family], device=device.place), batches=1)
