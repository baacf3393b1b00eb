"""Conformance checks: put what you wrote through what decoding and training rely on.

    from unmask.testing import check_actions, check_model, check_policy, check_reward, check_task

    check_policy(MyRule(k=2))
    check_model(MyAdapter(...))
    check_task(MyTask())
    check_actions(MyActions())
    check_reward(load_reward("my_module.my_reward", alpha=1.0))

Each raises an `UnmaskError` that names the first property that does not hold, and what to change. `ExactModel` is a
dLLM without an error of its own, to tell those of a rule or a policy apart from the dLLM's.
"""

from unmask.testing.actions import check_actions
from unmask.testing.exact import ExactModel
from unmask.testing.models import check_model
from unmask.testing.policies import check_policy, random_observation
from unmask.testing.rewards import check_reward
from unmask.testing.tasks import check_task

__all__ = [
    "ExactModel",
    "check_actions",
    "check_model",
    "check_policy",
    "check_reward",
    "check_task",
    "random_observation",
]
