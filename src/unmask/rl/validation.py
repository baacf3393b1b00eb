"""Score a policy as it would be used: what chooses the checkpoint that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward, correct_by_task, judge
from unmask.rl.run import Metrics
from unmask.tasks.base import Task

Validate = Callable[[Policy], Metrics]
SEED = 1  # of a validation's draws


def validator(
    model: MaskedDiffusionModel,
    task: Task,
    prompts: Sequence[Prompt],
    config: DecodeConfig,
    reward: Reward,
    processes: Processes | None = None,
) -> Validate:
    """What scores a policy on these prompts: correctness, NFE, and the reward that training raises.

    Args:
        prompts: that fit the dLLM (`unmask.rl.prompts.fitting`); each process scores its share.

    Returns:
        A function from a policy to its metrics.
    """
    team = processes or Processes()
    mine = team.share(list(enumerate(prompts)))
    config = config.of(task, model)

    def validate(policy: Policy) -> Metrics:
        sums, seconds = [0.0] * 3, [0.0] * 3
        verdicts: list[tuple[str, bool]] = []
        if mine:
            out = decode(
                model,
                policy,
                [prompt.tokens for _, prompt in mine],
                config,
                streams=[index for index, _ in mine],
                seed=SEED,
            )
            examples = [prompt.example for _, prompt in mine]
            outcome = judge(task, examples, out.texts, out.nfe, out.complete, config.region())
            verdicts = outcome.by_task()
            sums = [x.sum().item() for x in (reward(outcome), outcome.correct, outcome.nfe)]
            seconds = [out.total_seconds, out.model_seconds, out.policy_seconds]
        earned, correct, nfe = (total / len(prompts) for total in team.total(*sums))
        return {
            "reward": earned,
            "correct": correct,
            "nfe": nfe,
            **correct_by_task(team.gather(verdicts)),
            **dict(zip(("seconds", "seconds_model", "seconds_policy"), seconds, strict=True)),
        }

    return validate
