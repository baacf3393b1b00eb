"""A policy in somebody else's loop: what it reveals of a block whose logits an engine shows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.readout import read
from unmask.decoding.step import decide, see
from unmask.errors import UnmaskError
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy


def policy_for(engine: str, policy: str | Policy) -> Policy:
    """A policy that decides by what an engine shows of each step: the logits of a block, and no more.

    Args:
        engine: its name, for refusals.
        policy: what `unmask.load_policy` reads, or a policy.

    Raises:
        UnmaskError: it needs more, revises revealed tokens, or may reveal nothing in a step.
    """
    found = policy if isinstance(policy, Policy) else load_policy(policy)
    needs = found.needs
    wanted = {
        "reads the KL history": needs.kl_history > 0,
        "reads hidden states": needs.hidden_states,
        "revises revealed tokens": needs.differs,
    }
    for what, it_does in wanted.items():
        if it_does:
            raise UnmaskError(
                f"The policy {found.type_name!r} {what}, and {engine} shows the logits of a block alone: use a policy "
                "that reads confidences, or decode with unmask.generate."
            )
    if found.may_idle:
        raise UnmaskError(
            f"The policy {found.type_name!r} may reveal nothing in a step, and {engine} would wait for it: wrap it, as "
            "in 'POLICY | min_reveal:n=1'."
        )
    return found


def tell_version(package: str, known: Sequence[str]) -> None:
    """Warn of an engine's version that its adapter was not tested with.

    Args:
        known: how tested versions begin, such as ``0.42.``.
    """
    found = version(package)
    if not found.startswith(tuple(known)):
        warnings.warn(
            f"{package} {found} is not among the versions that unmask is known to work with "
            f"({', '.join(each + '*' for each in known)}): install one of those if it fails.",
            stacklevel=3,
        )


def reveal(
    policy: Policy,
    logits: Float[Tensor, "b n v"],
    masked: Bool[Tensor, "b n"],
    *,
    offset: Int[Tensor, " b"],
    gen_length: Sequence[int],
    step: Int[Tensor, " b"],
    block_step: Int[Tensor, " b"],
    key: Int[Tensor, " b"],
    speed: Float[Tensor, " b"],
    mask_id: int,
) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b n"]]:
    """What a policy reveals of a block, with the block at its place in the row's region.

    The policy sees what `unmask.generate` shows it on a block-causal dLLM: a region with numbers in this block alone.

    Args:
        logits: of the block's n positions, aligned: those at i predict the token at i.
        masked: positions not revealed yet; none of the prompt's.
        offset: place of the block's first position in the region; below 0 where the prompt's end shares the block.
        gen_length: length of each row's region; what lies behind it is never revealed.
        step: decoding steps that each row has taken.
        block_step: those in this block.
        key: each row's random stream.
        speed: of each row; counts for a policy with a speed.
        mask_id: never written.

    Returns:
        Positions to reveal, and the likeliest token of each position.

    Raises:
        UnmaskError: the logits hold NaN.
    """
    b, n, v = logits.shape
    found = read(torch.clone, logits.flatten(0, 1), policy.needs, torch.tensor([mask_id], device=logits.device), v)
    confidence = found.confidence.unflatten(0, (b, n))
    entropy = None if found.entropy is None else found.entropy.unflatten(0, (b, n))
    action = torch.zeros_like(masked)
    for length in dict.fromkeys(gen_length):  # rows of one length at a time: none sees a region that is not its own
        rows = torch.tensor([i for i, each in enumerate(gen_length) if each == length], device=masked.device)
        column = torch.arange(length, device=masked.device) - offset[rows, None]
        here = (column >= 0) & (column < n)
        at = column.clamp(0, n - 1)
        hidden = masked[rows].gather(1, at) & here
        seen = see(
            needs=policy.needs,
            masked=hidden | (column >= n),
            selectable=hidden,
            probabilities=confidence[rows[:, None], at].masked_fill(~here[..., None], 0),
            entropy=None if entropy is None else entropy[rows[:, None], at].masked_fill(~here, 0),
            step=step[rows],
            block_step=block_step[rows],
            key=key[rows],
            speed=speed[rows],
        )
        place = torch.arange(n, device=masked.device) + offset[rows, None]
        inside = (place >= 0) & (place < length)
        action[rows] = (decide(policy, seen) > 0).gather(1, place.clamp(0, length - 1)) & inside & masked[rows]
    return action, found.token.unflatten(0, (b, n))


def inside_region(n: int, offset: Int[Tensor, " b"], gen_length: Sequence[int]) -> Bool[Tensor, "b n"]:
    """Which of a block's n positions lie in the row's region, neither in the prompt nor behind the end."""
    place = torch.arange(n, device=offset.device) + offset[:, None]
    return (place >= 0) & (place < torch.tensor(gen_length, device=offset.device)[:, None])
