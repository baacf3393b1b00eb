"""Score a policy as it would be used: what chooses the checkpoint that is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.models.base import MaskedDiffusionModel
from unmask.pareto import Point, curve_volume
from unmask.policies.base import Policy
from unmask.rl.algorithms.base import AlgorithmSettings
from unmask.rl.collect import by_speed
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import correct_by_task, judge
from unmask.rl.run import Metrics
from unmask.tasks.base import Task

Validate = Callable[[Policy], Metrics]
SEED = 1  # of a validation's draws


def validator(
    model: MaskedDiffusionModel,
    task: Task,
    prompts: Sequence[Prompt],
    config: DecodeConfig,
    settings: AlgorithmSettings,
    processes: Processes | None = None,
) -> Validate:
    """What scores a policy on these prompts: correctness, NFE, and the reward that training raises.

    A policy with a speed decodes each prompt at each of evenly spaced speeds; its ``reward`` is the area under that
    curve (`unmask.pareto.curve_volume`), as no single reward stands for all speeds. Tasks of a mixture have a curve
    each, since they differ in the passes they need; the reward is the mean of the areas, by the prompts of each.

    Args:
        settings: of the algorithm: its reward, and how many speeds.
        prompts: that fit the dLLM (`unmask.rl.prompts.fitting`); each process scores its share.

    Returns:
        A function from a policy to its metrics.
    """
    team, reward, speeds = processes or Processes(), settings.load_reward(), settings.speeds
    mine = team.share(list(enumerate(prompts)))
    config = config.of(task, model)
    counts = Counter(prompt.example.task for prompt in prompts)
    shares = {name: count / len(prompts) for name, count in counts.items()}
    evenly = [part / (speeds - 1) for part in range(speeds)]

    def volume(curve: Metrics) -> float:
        # Positions may amount to less than a whole pass: counted in parts of one.
        spent, parts = ("nfe", 1) if settings.cost == "passes" else ("equivalents", config.region())
        points = [Point(parts * curve[f"{spent}@{speed:.2f}"], curve[f"correct@{speed:.2f}"]) for speed in evenly]
        return curve_volume(points, parts * max(config.region(), 2))

    def validate(policy: Policy) -> Metrics:
        sums, seconds, outcome, earned_each = [0.0] * 3, [0.0] * 3, None, None
        at = evenly if policy.needs.speed else [None]
        if mine:
            rows = [(prompt, index, speed) for speed in at for index, prompt in mine]
            asked = [speed for *_, speed in rows if speed is not None] or None
            out = decode(
                model,
                policy,
                [prompt.tokens for prompt, *_ in rows],
                config,
                streams=[index for _, index, _ in rows],
                speeds=asked,
                seed=SEED,
            )
            examples = [prompt.example for prompt, *_ in rows]
            ends = (config.region(), asked, config.judge_unfinished, out.equivalents)
            outcome = judge(task, examples, out.texts, out.nfe, out.complete, *ends)
            earned_each = reward(outcome)
            sums = [x.sum().item() for x in (earned_each, outcome.correct, outcome.nfe)]
            seconds = [out.total_seconds, out.model_seconds, out.policy_seconds]
        earned, correct, nfe = (total / (len(prompts) * len(at)) for total in team.total(*sums))
        curve: Metrics = {}
        if policy.needs.speed:
            curves = {name: by_speed(outcome, earned_each, speeds, team, settings.cost, name) for name in shares}
            areas = {name: volume(each) for name, each in curves.items()}
            earned = sum(share * areas[name] for name, share in shares.items())
            curve = {
                key: sum(share * curves[name][key] for name, share in shares.items())
                for key in next(iter(curves.values()))
            }
            curve |= {f"reward_{name}": area for name, area in areas.items() if name}
        return {
            "reward": earned,
            "correct": correct,
            "nfe": nfe,
            **correct_by_task(team.gather(outcome.by_task() if outcome else [])),
            **curve,
            **dict(zip(("seconds", "seconds_model", "seconds_policy"), seconds, strict=True)),
        }

    return validate
