"""Policies in other engines on a device: nothing lies on the wrong one, and the tokens are the host's."""

import sys
from importlib import import_module

import pytest
import torch

import unmask
from tests.device.pretend import peek
from tests.integrations import sglang_stand_in
from unmask.decoding.decode import decode
from unmask.integrations.transformers import generate

POLICY, PROMPTS = "house-block-causal", [[16, 10, 12, 13, 11], [16, 10, 13, 12, 11]]


def wanted(**options):
    host = unmask.load_model("house-block-causal", device="cpu")
    policy = unmask.load_policy(POLICY)
    return unmask.generate(host, policy, PROMPTS, gen_length=20, speed=0.3, stop_at_eos=False, **options).tokens


def test_custom_generate(device):
    dllm = unmask.load_model("house-block-causal", device=device.place)
    prompts = torch.tensor(PROMPTS).to(device.place)
    out = generate(dllm.network, POLICY, prompts, max_new_tokens=20, speed=0.3, stop_at_eos=False)
    assert out.device == device.place
    assert torch.equal(peek(out)[:, 5:], wanted())


def test_a_scheduler(device):
    pytest.importorskip("diffusers")
    from diffusers import LLaDA2Pipeline

    from unmask.integrations.diffusers import PipelineModel, UnmaskScheduler

    dllm = unmask.load_model("house-block-causal", device=device.place)
    pipe = LLaDA2Pipeline(PipelineModel(dllm), UnmaskScheduler(POLICY, speed=0.3, gen_length=20), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    usual = {"block_length": 16, "mask_token_id": dllm.mask_id, "eos_early_stop": False, "output_type": "seq"}
    out = pipe(input_ids=torch.tensor(PROMPTS).to(device.place), gen_length=20, **usual).sequences
    assert torch.equal(peek(out), wanted())


def test_an_algorithm_of_sglang(device, monkeypatch):
    sglang_stand_in.install(monkeypatch)
    module = import_module("unmask.integrations.sglang")
    dllm = unmask.load_model("house-block-causal", device=device.place)
    settings = {"policy": POLICY, "speed": 0.3}
    algorithm = module.Unmask(sglang_stand_in.DllmConfig(dllm.block_length, dllm.mask_id, settings))
    requests = [sglang_stand_in.Req(f"id-{i}", prompt, 20, joins=i) for i, prompt in enumerate(PROMPTS)]
    found = sglang_stand_in.serve(algorithm, dllm, requests)
    del sys.modules["unmask.integrations.sglang"]
    host = unmask.load_model("house-block-causal", device="cpu")
    streams = [module.stream_of(req.rid) for req in requests]
    how = {"gen_length": 20, "speed": 0.3, "stop_at_eos": False, "streams": streams}
    assert found == decode(host, unmask.load_policy(POLICY), PROMPTS, **how).tokens.tolist()
