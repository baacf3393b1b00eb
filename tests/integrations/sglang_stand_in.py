"""What the adapter asks of SGLang, by its published interface, and an engine that steps requests as SGLang does.

SGLang itself pulls in more than a hundred packages; `benchmarks/engines.py sglang` runs the adapter in it.
"""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import torch


class DllmAlgorithm:
    """The base class of algorithms: its constructor, and what counts as a prompt's."""

    def __init__(self, config):
        self.block_size = config.block_size
        self.mask_id = config.mask_id
        self.fdfo = config.first_done_first_out_mode

    def _prompt_mask(self, forward_batch):
        if forward_batch.dllm_prompt_mask is not None:
            return forward_batch.dllm_prompt_mask
        return forward_batch.input_ids.view(forward_batch.batch_size, self.block_size) != self.mask_id


@dataclass
class DllmConfig:
    block_size: int
    mask_id: int
    algorithm_config: dict
    algorithm: str = "Unmask"
    first_done_first_out_mode: bool = True

    @staticmethod
    def from_server_args(server_args):
        return server_args


def install(monkeypatch):
    """Let `import sglang` find these; gone again after the test."""
    names = ("sglang", "sglang.srt", "sglang.srt.dllm", "sglang.srt.dllm.algorithm")
    modules = {name: ModuleType(name) for name in (*names, "sglang.srt.dllm.algorithm.base", "sglang.srt.dllm.config")}
    modules["sglang.srt.dllm.algorithm"].algo_name_to_cls = {}
    modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm = DllmAlgorithm
    modules["sglang.srt.dllm.config"].DllmConfig = DllmConfig
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            monkeypatch.setattr(modules[parent], child, module, raising=False)


@dataclass(eq=False)
class Req:
    """A request; `block` and `state` are what is carried of an unfinished block."""

    rid: str
    prompt: list
    max_new_tokens: int
    joins: int = 0
    custom_params: dict | None = None
    output: list = field(default_factory=list)
    block: list | None = None
    state: object = None
    passes: int = 0

    @property
    def sampling_params(self):
        return self

    @property
    def finished(self):
        return len(self.output) >= self.max_new_tokens


def serve(algorithm, dllm, requests, prompt_masks=False):
    """Step requests, first done first out; each joins at its round. Outputs are cut at their lengths."""
    n, rounds = algorithm.block_size, 0
    for req in requests:
        assert algorithm.validate_request(req) is None
    while any(not req.finished for req in requests):
        batch = [req for req in requests if not req.finished and req.joins <= rounds]
        rounds += 1
        if not batch:
            continue
        before = {req.rid: (len(req.prompt) + len(req.output)) // n * n for req in batch}
        for req in batch:
            if req.block is None:
                tokens = (req.prompt + req.output)[before[req.rid] :]
                req.block, req.state = tokens + [algorithm.mask_id] * (n - len(tokens)), None
        places = torch.tensor([[before[req.rid] + i for i in range(n)] for req in batch])
        forward = SimpleNamespace(
            batch_size=len(batch),
            input_ids=torch.tensor([req.block for req in batch]).flatten().to(dllm.device),
            positions=places.flatten().to(dllm.device),
            rids=[req.rid for req in batch],
            dllm_prompt_mask=None,
        )
        if prompt_masks:
            ends = torch.tensor([len(req.prompt) + len(req.output) for req in batch]).to(dllm.device)
            forward.dllm_prompt_mask = forward.positions.view(-1, n) < ends[:, None]
        fresh = algorithm.init_step_state(forward) if any(req.state is None for req in batch) else None
        states = [fresh[i] if req.state is None else req.state for i, req in enumerate(batch)]
        done = algorithm.step(forward, torch.cat([_logits(dllm, req, before[req.rid]) for req in batch]), states)
        for req, state, over, block in zip(batch, states, done, forward.input_ids.view(-1, n).tolist(), strict=True):
            req.passes += 1
            req.block, req.state = (None, None) if over else (block, state)
            if over:
                req.output += block[len(req.prompt) + len(req.output) - before[req.rid] :]
    return [req.output[: req.max_new_tokens] for req in requests]


def _logits(dllm, req, before):
    """Of the block, with all before it."""
    tokens = torch.tensor([(req.prompt + req.output)[:before] + req.block]).to(dllm.device)
    positions = torch.arange(before, tokens.shape[1], device=dllm.device)
    return dllm.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), positions)
