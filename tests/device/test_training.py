"""Training on a device: a warm start, roll-outs, updates, validations and a resumed run are all on the right one."""

import pytest

import unmask
from tests.device.training import train
from unmask.policies import TransformerConfig

VARIANTS = [
    {},
    {"experts": ("confidence_threshold @ 4",), "clone_from": "none", "kl_weight": 0.1, "entropy_weight": 0.01},
    {"policy": TransformerConfig(actions="dpls"), "scale_advantages": "group", "reward": "additive"},
    {"policy": TransformerConfig(reads="hidden_states"), "clone_keep": "all", "force_progress": True},
    {"clone_from": "best:confidence_threshold"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "default")
def test_a_run_and_its_resumption_stay_on_the_device(device, folders, tmp_path, variant):
    model = unmask.load_model(folders["masked-lm"], device=device.place)
    train(model, tmp_path / "run", stop_at=1, **variant)
    metrics = train(model, tmp_path / "run", resume=True, **variant)
    assert any(m["stage"] == "grpo" and m["updated"] for m in metrics)
    print(len(device.waits))
