"""Decoding on a device: nothing is on the wrong one, and a step waits for it as often as the loop says."""

import pytest
import torch

import unmask
from tests.device.pretend import peek
from tests.device.steps import Steps, assert_waits
from tests.policies.test_rules import RULES
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.policies import TransformerConfig, TransformerPolicy, load_policy

# What a step waits for: to index the positions asked about, and to learn who ended.
STEP = {"nonzero": 1, "download": 1}
PADDING = {"item": 1}  # transformers looks whether there is any, where attention is sdpa
PROMPTS = [[5, 6, 7], [8] * 9, [9, 10], [11, 12, 13, 14]]
ONE_BY_ONE = "top_k_confidence:k=1"  # all rows end together, so that all steps are alike


def learned(**settings):
    torch.manual_seed(0)
    return TransformerPolicy(TransformerConfig(**settings))


def decoded(device, folder, policy, prompts=PROMPTS, dtype=None, attention="eager", steps=None, **options):
    model = unmask.load_model(folder, device=device.place, dtype=dtype, attn_implementation=attention)
    watched = Steps(device, model)
    out = unmask.generate(model, policy, prompts, **{"gen_length": 8, "stop_at_eos": False, **options})
    return out, watched


CASES = {
 "rule": (ONE_BY_ONE, {}),
 "eb": ("entropy_bound:gamma=0.01", {}),
 "klass": ("klass", {}),
 "random": ("random_order:k=1", {}),
 "fixed": ("fixed_schedule:counts=[1]", {}),
 "adaptive": (ONE_BY_ONE, dict(block_length=AdaptiveBlocks(default=4))),
 "temp": (ONE_BY_ONE, dict(temperature=1.0)),
 "shared": ("random_order:k=1", dict(prompts=[[5,6,7]]*4+[[8,9]]*2)),
 "shared1": (ONE_BY_ONE, dict(prompts=[[5,6,7]]*4+[[8,9]]*2)),
 "suppress": (ONE_BY_ONE, dict(suppress_eos=True)),
 "sdpa": (ONE_BY_ONE, dict(attention="sdpa")),
 "stop": (ONE_BY_ONE, dict(stop_at_eos=True)),
}
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["masked-lm","llada","dream"])
def test_a_rule(device, folders, case, family):
    policy, options= CASES[case]
    n = len(device.waits)
    out, steps = decoded(device, folders[family], load_policy(policy), **options)
    print(case, family)
    for step in steps.steady(0, may_grow=True): print([str(w) for w in step])
@pytest.mark.parametrize("reads", ["confidence", "hidden_states"])
@pytest.mark.parametrize("actions", ["bernoulli", "dpls"])
@pytest.mark.parametrize("shared", [0,1])
def test_learned(device, folders, reads, actions, shared):
    p = PROMPTS if not shared else [[5,6,7]]*4+[[8,9]]*2
    out, steps = decoded(device, folders["masked-lm"], learned(reads=reads, actions=actions, hidden_size=32 if reads!="confidence" else None), prompts=p)
    print(reads, actions, shared)
    for step in steps.steady(0, may_grow=True): print([str(w) for w in step])
