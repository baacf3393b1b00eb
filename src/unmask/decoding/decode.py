"""The decode loop on token ids: heuristics, learned policies, roll-outs and evaluation all run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from unmask.decoding.memo import Memo
from unmask.decoding.options import DecodeConfig, check_budget, check_policy_fits, decode_config, speeds_of
from unmask.decoding.results import Ended, Generation, in_order
from unmask.decoding.session import Session, Totals
from unmask.decoding.source import Source, check_prompts
from unmask.decoding.state import StepCallback
from unmask.decoding.step import decide, revise
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.observation import Needs
from unmask.policies.base import Policy, StochasticPolicy
from unmask.settings import check_seed


def decode(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig | None = None,
    *,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    speeds: Sequence[float] | None = None,
    callback: StepCallback | None = None,
    also_observe: Needs | None = None,
    memo: Memo | None = None,
    on_ended: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Generation:
    """`unmask.generate` on token ids.

    Args:
        streams: as in `stream`.
        speeds: as in `stream`.
        also_observe: as in `stream`.
        memo: as in `stream`.
        on_ended: called with the number of prompts that have ended and of all, when some have.

    Raises:
        UnmaskError: as `unmask.generate`.
    """
    start, totals, batches = time.perf_counter(), Totals(), list[Ended]()
    call: dict[str, Any] = {"seed": seed, "streams": streams, "speeds": speeds}
    call |= {"callback": callback, "also_observe": also_observe, "memo": memo}
    for batch in stream(model, policy, prompts, decode_config(config, options), totals=totals, **call):
        batches.append(batch)
        if on_ended is not None:
            on_ended(sum(len(each.row) for each in batches), len(prompts))
    return in_order(batches, total_seconds=time.perf_counter() - start, **vars(totals))


def stream(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig | None = None,
    *,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    speeds: Sequence[float] | None = None,
    callback: StepCallback | None = None,
    also_observe: Needs | None = None,
    totals: Totals | None = None,
    memo: Memo | None = None,
) -> Iterator[Ended]:
    """Check everything now; decode as the iterator is read, yielding prompts as they end.

    Args:
        streams: random stream of each prompt, its index by default; so prompt i of a longer call is replayed alone with
            streams = [i].
        speeds: of each prompt, for a policy (or a callback) that needs a speed; by default that of the config.
        also_observe: widens what is computed, for callbacks that record more than the policy needs.
        totals: counted into.
        memo: what other decodings of these prompts have read, and this one adds to.

    Raises:
        UnmaskError: as `unmask.generate`.
    """
    check_policy_fits(model, policy)
    seed = check_seed(seed)
    options = (config or DecodeConfig()).resolve(model, policy=policy)
    check_prompts(model, prompts, options.gen_length)
    policy.place(model.device)
    needs = policy.needs.union(also_observe) if also_observe else policy.needs
    each = speeds_of(needs, options.speed, speeds, len(prompts))
    if streams is not None and len(streams) != len(prompts):
        raise UnmaskError(f"There are {len(streams)} streams for {len(prompts)} prompts: give one per prompt.")
    check_budget(policy, options)
    source = Source(prompts, seed, range(len(prompts)) if streams is None else streams, each)
    session = Session(model, needs, options, share=source.repeats, callback=callback, totals=totals, memo=memo)
    return _loop(session, policy, source)


@torch.no_grad()
def advance(session: Session, policy: Policy) -> Ended | None:
    """One step of a session's rows under a policy; the rows that ended in it, None if none did.

    Raises:
        UnmaskError: too little memory; the dLLM's logits were NaN.
    """
    observation = session.observe()
    started = time.perf_counter()
    duplicates = session.duplicates() if isinstance(policy, StochasticPolicy) else None
    with session.enough_memory():
        picks, edits = decide(policy, observation, duplicates), revise(policy, observation)
    session.totals.policy_seconds += time.perf_counter() - started
    return session.reveal(picks, edits)


def _loop(session: Session, policy: Policy, source: Source) -> Iterator[Ended]:
    session.add(*source.next(session.options.batch_size))
    while len(session):
        ended = advance(session, policy)
        if ended is not None:
            yield ended
            session.add(*source.next(session.options.batch_size - len(session)))
