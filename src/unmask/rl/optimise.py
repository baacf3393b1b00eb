"""Scores recorded steps and takes optimiser steps; the gradient does not depend on how the steps are chunked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unmask.observation import Observation
from unmask.policies.actions import Actions
from unmask.policies.base import LearnedPolicy, StochasticPolicy
from unmask.rl.algorithms.base import Algorithm, AlgorithmSettings, Batch, Credit, Scored
from unmask.rl.processes import Processes
from unmask.rl.rollout import Steps


class Optimiser:
    """Learns from batches.

    Args:
        actions: the distribution that acted in the roll-outs.

    Attributes:
        reference: for the KL penalty; None if it has no weight.
        module: all that learns: the policy, or it and what else the algorithm teaches.
        optimizer: of its parameters.
    """

    def __init__(
        self,
        policy: LearnedPolicy,
        algorithm: Algorithm,
        actions: Actions,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.policy, self.algorithm, self.settings = policy, algorithm, algorithm.settings
        self.actions, self.team = actions, processes
        self.reference: StochasticPolicy | None = None
        more = {name: module.to(device) for name, module in algorithm.modules().items()}
        self.module: nn.Module = nn.ModuleDict({"policy": policy, **more}) if more else policy
        rates = algorithm.learning_rates()
        groups: list[dict[str, Any]] = parameter_groups(policy, 1.0, self.settings)
        for name, module in more.items():
            share = rates.get(name, self.settings.lr) / self.settings.lr
            groups += parameter_groups(module, share, self.settings)
        self.optimizer = adamw(groups, self.settings)

    def learn(self, batch: Batch, credit: Credit, rates: Sequence[float]) -> dict[str, float]:
        """`inner_iterations` optimiser steps.

        Steps that teach nothing are left out. The first pass scores the old policy as well: its likelihoods are those
        of the policy that acted.

        Args:
            rates: learning rate of each.

        Returns:
            What is logged: reveal probabilities, entropy, ratio, gradient norm, KL, and what the algorithm adds.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        settings, steps = self.settings, batch.steps
        own = ~batch.expert[steps.rollout]
        kept = credit.kept.clone()
        if settings.kl_weight or settings.entropy_weight:
            kept |= own
        chunks = [self._chunk(steps, credit, own, index) for index in self._split(kept)]
        old: list[Tensor] = []
        logged: dict[str, float] = {}
        for inner, lr in enumerate(rates):
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["share"]
            self.optimizer.zero_grad()
            means = Means()
            for i, chunk in enumerate(chunks):
                loss, score = self._loss(chunk, old[i] if inner else None, means)
                loss.backward()
                old.append(score)
            if inner == 0:
                self._look_at(means, steps, own & ~kept)
            norm = self._reduce_and_clip()
            self.optimizer.step()
            logged |= means.over(self.team) | {"grad_norm": norm}
        return logged

    def look(self, batch: Batch) -> dict[str, float | None]:
        """What is logged where no update is taken."""
        means = Means()
        self._look_at(means, batch.steps, ~batch.expert[batch.steps.rollout])
        return {"ratio": None, "ratio_max": None, "clip_share": None, "grad_norm": None, **means.over(self.team)}

    def _look_at(self, means: Means, steps: Steps, wanted: Bool[Tensor, " s"]) -> None:
        with torch.no_grad():
            for index in self._split(wanted):
                part = steps.take(index)
                means.add(**self._seen(States(*part.distinct()).logits(self.policy), part))

    def _split(self, wanted: Bool[Tensor, " s"]) -> Sequence[Tensor]:
        index = wanted.nonzero()[:, 0]
        return index.split(self.settings.update_batch_size) if len(index) else ()

    def _chunk(self, steps: Steps, credit: Credit, own: Bool[Tensor, " s"], index: Tensor) -> Chunk:
        part = steps.take(index)
        return Chunk(part, States(*part.distinct()), credit.take(index), own[index])

    def _loss(self, chunk: Chunk, old: Tensor | None, means: Means) -> tuple[Tensor, Tensor]:
        """The chunk's share of the loss, and the likelihoods of its steps.

        KL and entropy leave experts' steps out: they were not drawn from the policy, so the estimates do not hold.

        Args:
            old: the likelihoods under the policy that acted; None while it is still this one.
        """
        settings, part, own, weight = self.settings, chunk.part, chunk.own, chunk.credit.weight
        logits, selectable = chunk.states.logits(self.policy), part.observation.selectable
        plain = self.actions.log_prob(logits, selectable, part.picks)
        score = self.algorithm.likelihood(plain, ~own)
        before = score.detach() if old is None else old
        loss, logged = self.algorithm.loss(Scored(score, before, chunk.credit, own, part.observation))
        if settings.entropy_weight:
            entropy = self.actions.entropy(logits, selectable, part.picks)
            loss = loss - settings.entropy_weight * (weight * entropy)[own].sum()
        if self.reference is not None:
            with torch.no_grad():
                reference = chunk.states.logits(self.reference)
            kl = self.actions.kl(logits, reference, selectable, part.picks)[own]
            loss = loss + settings.kl_weight * (weight[own] * kl).sum()
            means.add(kl=kl.detach())
        ratio = (score.detach() - before).exp()[own]
        means.add(ratio=ratio, **logged)
        means.peak(ratio=ratio)
        if old is None:
            means.add(**self._seen(logits.detach()[own], part.take(own)))
        return loss, score.detach()

    def _seen(self, logits: Float[Tensor, "s l"], part: Steps) -> dict[str, Tensor]:
        selectable = part.observation.selectable
        probability = torch.sigmoid(logits)[selectable]
        entropy = self.actions.entropy(logits, selectable, part.picks)
        revealed = (part.picks > 0).sum(dim=1)
        return {"reveal_probability": probability, "entropy": entropy, "revealed": revealed, "idle": revealed == 0}

    def _reduce_and_clip(self) -> float:
        """Add up the processes' gradients and clip their norm."""
        self.team.add_gradients(self.module.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
        if not bool(norm.isfinite()):
            raise FloatingPointError("the gradient is not finite")
        return norm.item()


@dataclass(frozen=True)
class States:
    """Steps that look the same share one pass of the network."""

    distinct: Observation
    of: Tensor

    def logits(self, policy: StochasticPolicy) -> Float[Tensor, "s l"]:
        """Of each step."""
        return policy.logits(self.distinct)[self.of]


@dataclass(frozen=True)
class Chunk:
    """Steps that are scored together; `own` are the policy's, not an expert's."""

    part: Steps
    states: States
    credit: Credit
    own: Bool[Tensor, " s"]


class Means:
    """Means and maxima over chunks and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._largest: dict[str, float] = {}

    def add(self, **values: Tensor) -> None:
        """Values whose mean is wanted."""
        for name, value in values.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value.double().sum().item()
            total[1] += value.numel()

    def peak(self, **values: Tensor) -> None:
        """Values whose maximum is wanted."""
        for name, value in values.items():
            if len(value):
                self._largest[name] = max(self._largest.get(name, 0.0), value.max().item())

    def over(self, processes: Processes) -> dict[str, float]:
        """All of them, in all processes."""
        found: dict[str, float] = {}
        everywhere = processes.gather([(self._sums, self._largest)])
        for name in {key: None for sums, _ in everywhere for key in sums}:
            pairs = [sums.get(name, [0.0, 0.0]) for sums, _ in everywhere]
            found[name] = sum(total for total, _ in pairs) / max(sum(count for _, count in pairs), 1)
        for name in {key: None for _, largest in everywhere for key in largest}:
            found[f"{name}_max"] = max(largest.get(name, 0.0) for _, largest in everywhere)
        return found


def parameter_groups(module: nn.Module, share: float, settings: AlgorithmSettings) -> list[dict[str, Any]]:
    """A module's parameters with their weight decay.

    Args:
        share: of the policy's learning rate.
    """
    if settings.decay_biases:
        return [{"params": list(module.parameters()), "share": share}]
    norms = [id(p) for part in module.modules() if isinstance(part, nn.LayerNorm) for p in part.parameters()]
    plain = [name.endswith("bias") or id(p) in norms for name, p in module.named_parameters()]
    parts = [
        [p for p, free in zip(module.parameters(), plain, strict=True) if free == wanted] for wanted in (False, True)
    ]
    return [{"params": parts[0], "share": share}, {"params": parts[1], "share": share, "weight_decay": 0.0}]


def adamw(groups: list[dict[str, Any]], settings: AlgorithmSettings) -> torch.optim.Optimizer:
    """The paper's optimiser (arXiv 2512.09106, appendix).

    Args:
        groups: of parameters, each with its ``share`` of the policy's learning rate.
    """
    return torch.optim.AdamW(groups, settings.lr, (0.9, 0.99), weight_decay=settings.weight_decay)


def learning_rates(settings: AlgorithmSettings, iteration: int, iterations: int) -> list[float]:
    """The learning rate of each optimiser step of an iteration: a cosine to zero, and a linear warm-up.

    The cosine begins with the first iteration and is multiplied by the warm-up; transformers' begins behind the
    warm-up, which begins at 0, and both move on with each optimiser step.
    """
    inner = settings.inner_iterations
    if settings.lr_schedule == "transformers":
        warm, total = settings.warmup * inner, iterations * inner
        steps = range(iteration * inner, (iteration + 1) * inner)
        return [settings.lr * (k / warm if k < warm else _cosine((k - warm) / max(total - warm, 1))) for k in steps]
    warmed = min((iteration + 1) / max(settings.warmup, 1), 1.0)
    return [settings.lr * warmed * _cosine(iteration / max(iterations, 1))] * inner


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
