"""Training on a device: a warm start, roll-outs, updates, validations and a resumed run all stay on it."""

import pytest

import unmask
from tests.device.conftest import CudaDevice
from tests.device.training import train
from unmask.policies import TransformerConfig

VARIANTS = [
    {},
    {"experts": ("confidence_threshold @ 4",), "clone_from": "none", "kl_weight": 0.1, "entropy_weight": 0.01},
    {"policy": TransformerConfig(actions="dpls"), "scale_advantages": "group", "reward": "additive"},
    {"policy": TransformerConfig(reads="hidden_states"), "clone_keep": "all", "force_progress": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "default")
def test_a_resumed_run_on_a_device_equals_an_uninterrupted_one_on_the_host(device, folders, tmp_path, variant):
    model = unmask.load_model(folders["masked-lm"], device=device.place)
    before = train(model, tmp_path / "run", stop_at=1, **variant)
    resumed = train(model, tmp_path / "run", resume=True, **variant)
    assert any(m["updated"] for m in resumed if m["stage"] == "grpo")
    host = unmask.load_model(folders["masked-lm"], device="cpu")
    if not isinstance(device, CudaDevice):  # one that rounds otherwise may draw otherwise
        for found, wanted in zip([*before, *resumed], train(host, tmp_path / "host", **variant), strict=True):
            assert found == {name: _close(value) for name, value in wanted.items()}


def _close(value):
    """Attention is another kernel's."""
    return pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
