"""Settings in tables: defaults, what stands for what, refusals by name."""

from unmask.rl.config import TrainConfig


def test_a_policy_that_goes_on_is_not_cloned_over():
    assert TrainConfig.model_validate({"policy": {"init": "somewhere"}}).clone.rule == "none"
    asked = {"policy": {"init": "somewhere"}, "clone": {"rule": "confidence_threshold"}}
    assert TrainConfig.model_validate(asked).clones
    assert TrainConfig().clones
