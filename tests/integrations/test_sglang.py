"""The SGLang algorithm, stepped as SGLang steps it: the tokens are those of `unmask.generate`."""

import gc
import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

import unmask
from tests.integrations import sglang_stand_in
from tests.integrations.sglang_stand_in import DllmConfig, Req, serve
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.integrations import engine

TEXTS = ["hall: red blue gold green?", "hall: red?", "hall: blue", "how many clips"]


@pytest.fixture(scope="module")
def dllm():
    return unmask.load_model("house-block-causal")


@pytest.fixture
def sglang(monkeypatch):
    sglang_stand_in.install(monkeypatch)
    yield import_module("unmask.integrations.sglang")
    del sys.modules["unmask.integrations.sglang"]


@pytest.fixture
def make(sglang, dllm):
    def made(**settings):
        return sglang.Unmask(DllmConfig(dllm.block_length, dllm.mask_id, settings))

    return made


def requests(dllm):
    """Prompts of several lengths, one of whole blocks and one longer than a block; each joins at another step."""
    base = dllm.encode("hall: red blue gold green?")
    prompts = [base, base[:3], (base * 3)[:16], (base * 4)[:21]]
    lengths = [30, 16, 41, 30]
    return [Req(f"id-{i}", prompt, lengths[i], joins=3 * i) for i, prompt in enumerate(prompts)]


def wanted(sglang, dllm, policy, reqs, speeds=None, seed=0):
    found = []
    for i, req in enumerate(reqs):
        how = {"gen_length": req.max_new_tokens, "stop_at_eos": False, "streams": [sglang.stream_of(req.rid)]}
        how |= {} if speeds is None else {"speeds": [speeds[i]]}
        found.append(decode(dllm, unmask.load_policy(policy), [req.prompt], seed=seed, **how))
    return [out.tokens[0].tolist() for out in found], [int(out.nfe[0]) for out in found]


@pytest.mark.parametrize(
    "policy",
    ["confidence_threshold:threshold=0.7", "entropy_bound:gamma=0.5", "random_order:k=3", "step_count:steps=3"],
)
def test_the_tokens_are_generates(sglang, make, dllm, policy):
    reqs = requests(dllm)
    tokens, nfe = wanted(sglang, dllm, policy, reqs)
    assert serve(make(policy=policy), dllm, reqs) == tokens
    blocks = [-(-(len(req.prompt) + req.max_new_tokens) // 16) - len(req.prompt) // 16 for req in reqs]
    assert [req.passes - n for req, n in zip(reqs, blocks, strict=True)] == nfe, "one more per block, for its keys"


def test_a_learned_policy_decodes_each_request_at_its_speed(sglang, make, dllm):
    reqs, speeds = requests(dllm), [0.0, 0.7, 1.0, 0.4]
    for req, speed in zip(reqs[:3], speeds, strict=False):
        req.custom_params = {"speed": speed}
    reqs[2].custom_params["other"] = [1]
    tokens, _ = wanted(sglang, dllm, "house-block-causal", reqs, speeds, seed=5)
    algorithm = make(policy="house-block-causal", speed=0.4, seed=5)
    assert serve(algorithm, dllm, reqs) == tokens
    again = requests(dllm)
    for req, speed in zip(again, speeds, strict=True):
        req.custom_params, req.joins = {"speed": speed}, 0
    assert serve(algorithm, dllm, again, prompt_masks=True) == tokens, "whoever shares the batch"


def test_a_prompt_may_hold_the_mask_token(sglang, make, dllm):
    req = Req("id", [*dllm.encode("hall: red")[:2], dllm.mask_id, 5, 6], 20)
    (tokens,), _ = wanted(sglang, dllm, "top_k_confidence:k=2", [req])
    assert serve(make(policy="top_k_confidence:k=2"), dllm, [req], prompt_masks=True) == [tokens]


def test_nothing_is_kept_of_a_request_that_is_gone(sglang, make, dllm):
    algorithm, reqs = make(policy="top_k_confidence:k=4"), requests(dllm)
    serve(algorithm, dllm, reqs)
    assert len(sglang.Unmask._requests) == 4
    del reqs
    gc.collect()
    assert len(sglang.Unmask._requests) == 0


@pytest.mark.unchecked
def test_a_bad_speed_refuses_the_request_alone(make):
    make(policy="house-block-causal")
    algorithm = make(policy="house-block-causal")
    told = [algorithm.validate_request(Req("id", [5], 8, custom_params={"speed": speed})) for speed in (2, "fast", 1)]
    assert told[0] == "The speed of prompt 0 is 2.0: give a number from 0 (slow, careful) to 1 (fast)."
    assert "give one number" in told[1]
    assert told[2] is None
    algorithm = make(policy="factor:factor=1")
    assert "has no speed to choose" in algorithm.validate_request(Req("id", [5], 8, custom_params={"speed": 1}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "names no policy: write policy: NAME"),
        ({"policy": "factor:factor=1", "sped": 1}, "Unknown setting 'sped'.*did you mean 'speed'"),
        ({"policy": "factor:factor=1", "speed": 0.5}, "This policy has no speed to choose"),
        ({"policy": "house-block-causal", "speed": 3}, "give a number from 0"),
        ({"policy": "house-block-causal", "seed": "x"}, "The seed is 'x'"),
        ({"policy": "klass"}, "reads the KL history, and SGLang shows the logits of a block alone"),
    ],
)
def test_bad_settings_are_refused(make, settings, told):
    with pytest.raises(UnmaskError, match=told):
        make(**settings)


def test_sglang_finds_it(sglang, monkeypatch, dllm):
    for found in entry_points(group="sglang.srt.plugins", name="unmask"):  # where this version is installed
        assert found.value == "unmask.integrations.sglang:register"
    monkeypatch.setattr(engine, "version", lambda package: "0.5.23")
    sglang.register()
    assert sglang.algorithm.algo_name_to_cls == {"Unmask": sglang.Unmask}
    config = DllmConfig(16, 151669, {"policy": "factor:factor=1", "mask_id": 2})
    assert sglang.DllmConfig.from_server_args(config).mask_id == 2
    assert sglang.DllmConfig.from_server_args(None) is None
    monkeypatch.setattr(engine, "version", lambda package: "0.6.0")
    with pytest.warns(UserWarning, match="sglang 0.6.0 is not among"):
        sglang.register()


def test_without_sglang_the_extra_is_named():
    if find_spec("sglang") is not None:
        pytest.skip("it is installed")
    with pytest.raises(UnmaskError, match=r"pip install 'unmask\[sglang\]'"):
        import_module("unmask.integrations.sglang")
