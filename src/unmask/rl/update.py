"""Scores recorded steps and takes optimiser steps; the gradient does not depend on how the steps are chunked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.policies.actions import Actions
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.config import TrainConfig
from unmask.rl.grpo import clipped_loss, is_clipped, step_weights, with_experts
from unmask.rl.processes import Processes
from unmask.rl.rollout import Trajectories


@dataclass(frozen=True)
class Batch:
    """What one iteration learns from, in this process (s steps, r roll-outs).

    Attributes:
        advantage: of each roll-out.
        expert: roll-outs that an expert made.
    """

    steps: Trajectories
    advantage: Float[Tensor, " r"]
    expert: Bool[Tensor, " r"]


class Updater:
    """GRPO's update of a policy.

    Args:
        actions: the distribution that acted in the roll-outs.
        reference: for the KL term; None if it has no weight.
    """

    def __init__(
        self,
        policy: TransformerPolicy,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        actions: Actions,
        reference: TransformerPolicy | None,
        team: Processes,
    ) -> None:
        self.policy, self.optimizer, self.config = policy, optimizer, config
        self.actions, self.reference, self.team = actions, reference, team

    def update(self, batch: Batch, rollouts: int) -> dict[str, float]:
        """`inner_iterations` optimiser steps.

        Roll-outs without advantage add nothing to the policy gradient and are left out. The first pass scores the old
        policy as well: its likelihoods are those of the policy that acted.

        Args:
            rollouts: of all processes.

        Returns:
            What is logged: reveal probabilities, entropy, ratio, clip share, gradient norm, KL.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        config, steps = self.config, batch.steps
        of_all = int(self.team.total(len(steps))[0])
        weight = step_weights(steps.rollout, rollouts, config.normalisation, of_all)
        own = ~batch.expert[steps.rollout]
        kept = batch.advantage[steps.rollout] != 0
        if config.kl_weight or config.entropy_weight:
            kept |= own
        chunks = [self._chunk(batch, weight, own, index) for index in self._split(kept)]
        old: list[Tensor] = []
        logged: dict[str, float] = {}
        for inner in range(config.inner_iterations):
            self.optimizer.zero_grad()
            sums = _Sums()
            for i, chunk in enumerate(chunks):
                loss, score = self._loss(chunk, old[i] if inner else None, sums)
                loss.backward()
                old.append(score)
            if inner == 0:
                self._look_at_rest(sums, steps, own & ~kept)
            norm = self._reduce_and_clip()
            self.optimizer.step()
            logged |= sums.means(self.team) | {"grad_norm": norm}
        return logged

    def look(self, steps: Trajectories) -> dict[str, float | None]:
        """What is logged where no update is taken."""
        sums = _Sums()
        self._look_at_rest(sums, steps, torch.ones_like(steps.rollout, dtype=torch.bool))
        return {"ratio": None, "ratio_max": None, "clip_share": None, "grad_norm": None, **sums.means(self.team)}

    def _look_at_rest(self, sums: _Sums, steps: Trajectories, wanted: Tensor) -> None:
        with torch.no_grad():
            for index in self._split(wanted):
                part = steps.take(index)
                sums.add(**self._look(self._states(part).logits(self.policy), part))

    def _split(self, wanted: Tensor) -> Sequence[Tensor]:
        index = wanted.nonzero()[:, 0]
        return index.split(self.config.update_batch_size) if len(index) else ()

    def _chunk(self, batch: Batch, weight: Tensor, own: Tensor, index: Tensor) -> _Chunk:
        part = batch.steps.take(index)
        return _Chunk(part, self._states(part), weight[index], batch.advantage[part.rollout], own[index])

    def _states(self, part: Trajectories) -> _States:
        """Sorting hidden states would cost more than it saves."""
        if self.policy.settings.reads == "hidden_states":
            return _States(part, torch.arange(len(part), device=part.rollout.device))
        return _States(*part.distinct())

    def _loss(self, chunk: _Chunk, old: Tensor | None, sums: _Sums) -> tuple[Tensor, Tensor]:
        """The chunk's share of the loss, and the likelihoods of its steps.

        KL and entropy leave experts' steps out: they were not drawn from the policy, so the estimates do not hold.

        Args:
            old: the likelihoods under the policy that acted; None while it is still this one.
        """
        config, part, own = self.config, chunk.part, chunk.own
        logits = chunk.states.logits(self.policy)
        plain = self.actions.log_prob(logits, part.selectable, part.picks)
        score = with_experts(plain, ~own, config.group_size, len(config.experts))
        before = score.detach() if old is None else old
        loss = clipped_loss(score, before, chunk.advantage, chunk.weight, config.clip)
        if config.entropy_weight:
            entropy = self.actions.entropy(logits, part.selectable, part.picks)
            loss = loss - config.entropy_weight * (chunk.weight * entropy)[own].sum()
        if self.reference is not None:
            with torch.no_grad():
                reference = chunk.states.logits(self.reference)
            kl = self.actions.kl(logits, reference, part.selectable, part.picks)[own]
            loss = loss + config.kl_weight * (chunk.weight[own] * kl).sum()
            sums.add(kl=kl.detach())
        ratio = (score.detach() - before).exp()[own]
        sums.add(ratio=ratio, clip_share=is_clipped(ratio, chunk.advantage[own], config.clip))
        sums.peak(ratio=ratio)
        if old is None:
            sums.add(**self._look(logits.detach()[own], part.take(own)))
        return loss, score.detach()

    def _look(self, logits: Tensor, part: Trajectories) -> dict[str, Tensor]:
        probability = torch.sigmoid(logits)[part.selectable]
        entropy = self.actions.entropy(logits, part.selectable, part.picks)
        return {"reveal_probability": probability, "entropy": entropy, "revealed": (part.picks > 0).sum(dim=1)}

    def _reduce_and_clip(self) -> float:
        """Add up the processes' gradients and clip their norm."""
        self.team.add_gradients(self.policy.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        if not bool(norm.isfinite()):
            raise FloatingPointError("the gradient is not finite")
        return norm.item()


@dataclass(frozen=True)
class _Chunk:
    """Steps that are scored together; `own` are the policy's, not an expert's."""

    part: Trajectories
    states: _States
    weight: Tensor
    advantage: Tensor
    own: Tensor


@dataclass(frozen=True)
class _States:
    """Steps that look the same share one pass of the network."""

    distinct: Trajectories
    of: Tensor

    def logits(self, policy: TransformerPolicy) -> Float[Tensor, "s l"]:
        seen = self.distinct
        return policy(seen.features, seen.masked, seen.step_fraction)[self.of]


class _Sums:
    """Means and maxima over chunks and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._largest: dict[str, float] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value.double().sum().item()
            total[1] += value.numel()

    def peak(self, **values: Tensor) -> None:
        for name, value in values.items():
            if len(value):
                self._largest[name] = max(self._largest.get(name, 0.0), value.max().item())

    def means(self, team: Processes) -> dict[str, float]:
        found: dict[str, float] = {}
        everywhere = team.gather([(self._sums, self._largest)])
        for name in {key: None for sums, _ in everywhere for key in sums}:
            pairs = [sums.get(name, [0.0, 0.0]) for sums, _ in everywhere]
            found[name] = sum(total for total, _ in pairs) / max(sum(count for _, count in pairs), 1)
        for name in {key: None for _, largest in everywhere for key in largest}:
            found[f"{name}_max"] = max(largest.get(name, 0.0) for _, largest in everywhere)
        return found


def adamw(policy: TransformerPolicy, config: TrainConfig) -> torch.optim.Optimizer:
    """The paper's optimiser (arXiv 2512.09106, appendix)."""
    return torch.optim.AdamW(policy.parameters(), config.lr, (0.9, 0.99), weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """A cosine from the first iteration to zero, times a linear warm-up."""
    warm = min((iteration + 1) / max(config.warmup, 1), 1.0)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * iteration / max(config.iterations, 1)))
