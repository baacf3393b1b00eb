"""`check_actions`: is a distribution over sets of positions what its likelihoods say?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.noise import row_keys, uniform
from unmask.policies.actions import Actions
from unmask.testing.demand import demand

# Few positions, so that every set can be written down: logits, and which positions are selectable.
SMALL = (
    ([0.4, -0.9, 9.0, 1.1], [True, True, False, True]),
    ([3.0, 2.0, 4.0], [True, True, True]),
    ([-3.0, -2.0, 0.5], [True, True, False]),
    ([1.5], [True]),
)
TOLERANCE = 1e-3  # of probabilities and nats, which are float32


def check_actions(actions: Actions, *, draws: int = 20_000, seed: int = 0) -> None:
    """Check a distribution over sets on few positions, where every set can be enumerated, and on random batches.

    Samples must be selectable, numbered in their order or all 1, and have a finite likelihood; the likelihoods of all
    picks must sum to 1 and be the sampler's frequencies; the mode must be the likeliest; `entropy` must be right in the
    mean, `kl` not below 0 in the mean and 0 from itself; gradients must be finite; a row must get alone what it gets in
    a batch, and one with nothing selectable no pick, likelihood 1 and entropy 0.

    Args:
        draws: samples of each small case whose frequencies are counted.

    Raises:
        UnmaskError: naming the first property that does not hold.
    """
    name = f"The distribution {type(actions).__name__}"
    _check_rows(actions, name, seed)
    cases = [_draw(actions, name, logits, selectable, draws, seed) for logits, selectable in SMALL]
    ordered = any(bool((case.drawn > 1).any()) for case in cases)
    for case in cases:
        _check_likelihoods(actions, name, case, _every(case.selectable, ordered))
    _check_gradients(actions, name, seed)


@dataclass(frozen=True)
class _Case:
    """A row's logits and selectable positions, both (l,), and (draws, l) picks drawn from it."""

    logits: Tensor
    selectable: Tensor
    drawn: Tensor


def _draw(
    actions: Actions, name: str, logits: Sequence[float], selectable: Sequence[bool], draws: int, seed: int
) -> _Case:
    row, may = torch.tensor(logits), torch.tensor(selectable)
    noise = uniform(row_keys(seed, torch.arange(draws)), torch.zeros(draws, dtype=torch.long), len(row))
    many, where = row.expand(draws, -1), may.expand(draws, -1)
    drawn = actions.sample(many, where, noise)
    _check_picks(name, drawn, where)
    finite = actions.log_prob(many, where, drawn).isfinite().all()
    demand(bool(finite), name, "gives picks that it drew no finite likelihood: let log_prob be of what sample draws")
    return _Case(row, may, drawn)


def _check_picks(name: str, picks: Tensor, selectable: Tensor) -> None:
    whole = isinstance(picks, Tensor) and picks.shape == selectable.shape and picks.dtype == torch.long
    demand(whole, name, "must give picks as an integer tensor of the shape of selectable")
    demand(not bool((picks > 0)[~selectable].any()), name, "picked a position that is not selectable: mask its logit")
    count = (picks > 0).sum(dim=1, keepdim=True)
    number = torch.arange(picks.shape[1]) + 1
    wanted = torch.where(number > picks.shape[1] - count, number - picks.shape[1] + count, 0)
    numbered = (picks.sort(dim=1).values == wanted).all(dim=1) | (picks.amax(dim=1) == 1) | (count[:, 0] == 0)
    sound = bool(numbered.all()) and bool((picks >= 0).all())
    demand(sound, name, "must number its picks 1, 2, 3 in their order, or all 1 if they have none")


def _every(selectable: Tensor, ordered: bool) -> Tensor:
    """(n, l) all picks that a row could have."""
    free = selectable.nonzero()[:, 0].tolist()
    choose = itertools.permutations if ordered else itertools.combinations
    orders = [order for k in range(len(free) + 1) for order in choose(free, k)]
    picks = torch.zeros(len(orders), len(selectable), dtype=torch.long)
    for row, order in enumerate(orders):
        for place, position in enumerate(order):
            picks[row, position] = place + 1 if ordered else 1
    return picks


def _check_likelihoods(actions: Actions, name: str, case: _Case, picks: Tensor) -> None:
    n = len(picks)
    logits, selectable = case.logits.expand(n, -1), case.selectable.expand(n, -1)
    log_prob = actions.log_prob(logits, selectable, picks)
    p = log_prob.double().exp()
    total = p.sum().item()
    demand(abs(total - 1) < TOLERANCE, name, f"has likelihoods that sum to {total:.3f} over all picks: normalise them")
    base = len(case.logits) + 1
    code = base ** torch.arange(len(case.logits))
    share = (case.drawn @ code == (picks @ code)[:, None]).double().mean(dim=1)
    away = (share - p).abs() - 5 * (p * (1 - p) / len(case.drawn)).sqrt()
    worst = int(away.argmax())
    demand(
        bool(away.max() < TOLERANCE),
        name,
        f"draws {picks[worst].tolist()} with frequency {share[worst]:.3f} where its likelihood is {p[worst]:.3f}: "
        "let log_prob be of what sample draws",
    )
    mode = actions.mode(logits[:1], selectable[:1])
    _check_picks(name, mode, selectable[:1])
    likely = actions.log_prob(logits[:1], selectable[:1], mode)[0] >= log_prob.max() - TOLERANCE
    demand(bool(likely), name, "has a mode that is less likely than other picks: return the likeliest")
    happens = p > 0
    p, logits, selectable, picks = p[happens], logits[happens], selectable[happens], picks[happens]
    exact = -(p * p.log()).sum().item()
    along = (p * actions.entropy(logits, selectable, picks)).sum().item()
    demand(
        abs(along - exact) < TOLERANCE,
        name,
        f"has a mean entropy of {along:.3f} nats where enumeration gives {exact:.3f}: correct entropy",
    )
    for reference, what in ((logits.flip(1) - 0.3, "below 0 in the mean"), (logits, "other than 0 from itself")):
        mean = (p * actions.kl(logits, reference, selectable, picks)).sum().item()
        sound = mean > -TOLERANCE and (reference is not logits or mean < TOLERANCE)
        demand(sound, name, f"has a KL of {mean:.3f} nats, {what}: correct kl")


def _check_rows(actions: Actions, name: str, seed: int) -> None:
    """A row alone gets what it gets in a batch; one with nothing selectable nothing."""
    generator = torch.Generator().manual_seed(seed)
    logits, noise = (2 * torch.randn(8, 7, generator=generator), torch.rand(8, 7, generator=generator))
    selectable = torch.rand(8, 7, generator=generator) < 0.6
    selectable[2] = False
    noise = noise.clamp(min=1e-6, max=1 - 1e-6)
    picks = actions.sample(logits, selectable, noise)
    _check_picks(name, picks, selectable)

    def all_of(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, where, drawn = logits[rows], selectable[rows], picks[rows]
        both = actions.log_prob(x, where, drawn), actions.entropy(x, where, drawn)
        return actions.sample(x, where, noise[rows]), actions.mode(x, where), *both

    together = all_of(torch.arange(8))
    for found, what in zip(together[2:], ("log_prob", "entropy"), strict=True):
        demand(found.shape == (8,), name, f"must give one number per row from {what}, not {tuple(found.shape)}")
    alone = [torch.cat(parts) for parts in zip(*(all_of(torch.tensor([row])) for row in range(8)), strict=True)]
    for what, a, b in zip(("sample", "mode", "log_prob", "entropy"), together, alone, strict=True):
        demand(
            torch.allclose(a.float(), b.float(), atol=1e-4),
            name,
            f"gives a row another {what} alone than in a batch: let no row look at another",
        )
    nothing = float(together[2][2]) == 0 and float(together[3][2]) == 0
    demand(nothing, name, "must give log_prob 0 and entropy 0 to a row with nothing selectable")


def _check_gradients(actions: Actions, name: str, seed: int) -> None:
    rows = torch.tensor([[80.0, -80.0, 3.0, 0.0], [0.5, -1.0, 0.2, 1.0], [0.0, 1.0, 2.0, 3.0]])
    selectable = torch.tensor([[True, True, False, True], [True, True, True, True], [False, False, False, False]])
    noise = uniform(row_keys(seed, torch.arange(3)), torch.zeros(3, dtype=torch.long), 4)
    picks = actions.sample(rows, selectable, noise)
    for what in (actions.log_prob, actions.entropy):
        logits = rows.clone().requires_grad_()
        value = what(logits, selectable, picks).sum()
        if value.requires_grad:  # a distribution may have nothing to learn
            value.backward()
            finite = logits.grad is not None and bool(logits.grad.isfinite().all())
            demand(finite, name, f"has a gradient of {what.__name__} that is not finite: mask with a finite number")
