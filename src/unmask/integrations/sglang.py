"""A policy as a dLLM algorithm of SGLang: `--dllm-algorithm Unmask --dllm-algorithm-config unmask.yaml`.

SGLang finds it by the entry point ``unmask`` of ``sglang.srt.plugins``. The YAML file holds ``policy`` (what
`unmask.load_policy` reads), ``speed`` (of a policy with a speed; a request's ``custom_params`` may hold another),
``seed`` (of a policy that draws; a request's stream is a hash of its id), and ``block_size`` and ``mask_id`` where the
dLLM's are not those of its family.

`unmask export --engine sglang` writes it. The policy sees the region of the request, its `max_new_tokens`, and decides
in it as in `unmask.generate`. Tokens are the likeliest ones, as with SGLang's own algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.options import speeds_of
from unmask.errors import UnmaskError, nearest
from unmask.integrations.engine import inside_region, policy_for, reveal, tell_version
from unmask.noise import row_keys
from unmask.settings import check_seed

try:
    from sglang.srt.dllm import algorithm
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
    from sglang.srt.dllm.config import DllmConfig
except ImportError as e:
    raise UnmaskError(f"There is no SGLang with dLLM algorithms ({e}): pip install 'unmask[sglang]'.") from None

KNOWN = ("0.5.23",)
SETTINGS = ("policy", "speed", "seed", "block_size", "mask_id")


def stream_of(request_id: str) -> int:
    """The random stream of a request: the same in every process, for `streams` of `unmask.decoding.decode.decode`."""
    return int.from_bytes(sha256(request_id.encode()).digest()[:7], "big")


@dataclass
class _Request:
    """What is known of a request across its blocks.

    Attributes:
        stream: its random stream.
        speed: that it asks for; None for the algorithm's.
        params: SGLang's sampling parameters, whose `max_new_tokens` is settled after the request was checked.
        start: position of its region's first token; None before its first block with masks.
        step: steps it has taken.
    """

    stream: int
    speed: float | None = None
    params: Any = None
    start: int | None = None
    step: int = 0


@dataclass
class _Block:
    """A request's block; SGLang carries it from step to step until the block is done.

    Attributes:
        request: that the block is of.
        fixed: positions that were tokens when the block began.
        first: position of the block's first token.
        step: steps taken in this block.
    """

    request: _Request
    fixed: Bool[Tensor, " n"]
    first: int
    step: int = 0

    @property
    def offset(self) -> int:
        """Place of the block's first position in the region; wholly before it where nothing has been revealed yet."""
        return self.first - (self.first + len(self.fixed) if self.request.start is None else self.request.start)

    @property
    def gen_length(self) -> int:
        """Of the region; by default the rest of this block."""
        most = getattr(self.request.params, "max_new_tokens", None)
        return max(len(self.fixed) if most is None else int(most), 1)


class Unmask(DllmAlgorithm):  # type: ignore[misc]
    """Steps as SGLang's own algorithms do: tokens are written in place, and a block is done one step after its last.

    Args:
        config: with the YAML file's settings.

    Raises:
        UnmaskError: a setting that there is not, or a bad value; a policy that needs what SGLang does not show.
    """

    _running: ClassVar[Unmask | None] = None  # of this process, for `validate_request`
    # Each is an attribute of SGLang's request, too, and goes with it.
    _requests: ClassVar[WeakValueDictionary[str, _Request]] = WeakValueDictionary()

    def __init__(self, config: DllmConfig) -> None:
        super().__init__(config)
        given = config.algorithm_config
        for name in given:
            if name not in SETTINGS:
                raise UnmaskError(f"Unknown setting {name!r} in the dLLM algorithm's YAML: {nearest(name, SETTINGS)}")
        if not isinstance(given.get("policy"), str):
            raise UnmaskError("The dLLM algorithm's YAML names no policy: write policy: NAME (a folder, or a rule).")
        self.policy = policy_for("SGLang", given["policy"])
        self.speed = (speeds_of(self.policy.needs, given.get("speed"), None, 1) or [0.0])[0]
        self.seed = check_seed(given.get("seed", 0))
        type(self)._running = self

    @classmethod
    def validate_request(cls, req: Any) -> str | None:
        """Remember a request; what is wrong with its speed, if anything."""
        custom = req.sampling_params.custom_params
        asked = custom.get("speed") if isinstance(custom, dict) else None
        if asked is not None and cls._running is not None:
            try:
                speeds_of(cls._running.policy.needs, None, [asked], 1)
            except UnmaskError as e:
                return str(e)
        req.unmask = cls._requests[req.rid] = _Request(stream_of(req.rid), asked, req.sampling_params)
        return None

    def init_step_state(self, forward_batch: Any) -> list[_Block]:
        """The blocks that begin; SGLang takes those of the requests that it carries none for."""
        fixed = self._prompt_mask(forward_batch)
        self.policy.place(fixed.device)
        first = forward_batch.positions.view(len(fixed), -1)[:, 0].tolist()
        requests = [self._requests.get(rid) or _Request(stream_of(rid)) for rid in forward_batch.rids]
        for request, at, n in zip(requests, first, fixed.sum(dim=1).tolist(), strict=True):
            if request.start is None and n < self.block_size:
                request.start = at + n
        return [_Block(*each) for each in zip(requests, fixed, first, strict=True)]

    @torch.no_grad()
    def step(self, forward_batch: Any, full_logits: Float[Tensor, "m v"], states: Sequence[_Block]) -> list[bool]:
        """Write what the policy reveals into ``forward_batch.input_ids`` (b * block).

        Args:
            full_logits: of all positions, b * block.

        Returns:
            Which blocks were complete before this step: the keys of their last tokens are in the cache.
        """
        ids: Int[Tensor, "b n"] = forward_batch.input_ids.view(len(states), self.block_size)
        device, lengths = ids.device, [state.gen_length for state in states]
        offset = torch.tensor([state.offset for state in states], device=device)
        fixed = torch.stack([state.fixed for state in states])
        masked = (ids == self.mask_id) & ~fixed & inside_region(self.block_size, offset, lengths)
        live = masked.any(dim=1).tolist()
        rows = [i for i, each in enumerate(live) if each]
        if rows:
            ids = ids.clone()
            at, of = torch.tensor(rows, device=device), [states[i] for i in rows]
            streams = torch.tensor([state.request.stream for state in of], device=device)
            asked = [self.speed if state.request.speed is None else state.request.speed for state in of]
            action, token = reveal(
                self.policy,
                full_logits.unflatten(0, (len(states), self.block_size))[at],
                masked[at],
                offset=offset[at],
                gen_length=[lengths[i] for i in rows],
                step=torch.tensor([state.request.step for state in of], device=device),
                block_step=torch.tensor([state.step for state in of], device=device),
                key=row_keys(self.seed, streams),
                speed=torch.tensor(asked, device=device, dtype=torch.float32),
                mask_id=self.mask_id,
            )
            ids[at] = torch.where(action, token.to(ids.dtype), ids[at])
            forward_batch.input_ids.copy_(ids.view(-1))
            for state in of:
                state.step += 1
                state.request.step += 1
        return [not each for each in live]


def register() -> None:
    """Make the algorithm known to SGLang, and let the YAML file name a mask id."""
    tell_version("sglang", KNOWN)
    algorithm.algo_name_to_cls[Unmask.__name__] = Unmask
    found = DllmConfig.from_server_args

    def with_mask_id(server_args: Any) -> Any:
        config = found(server_args)
        if config is not None and config.algorithm == Unmask.__name__:
            config.mask_id = config.algorithm_config.get("mask_id", config.mask_id)
        return config

    DllmConfig.from_server_args = staticmethod(with_mask_id)
