"""Training on a device: a warm start, roll-outs, updates, validations and a resumed run all stay on it."""

import pytest

import unmask
from tests.device.conftest import CudaDevice
from tests.device.training import train

VARIANTS = [
    {},
    {
        "algorithm": {"experts": ["confidence_threshold @ 4"], "kl_weight": 0.1, "entropy_weight": 0.01},
        "clone": {"rule": "none"},
    },
    {"policy": {"actions": "dpls"}, "algorithm": {"scale_advantages": "group", "reward": "additive"}},
    {"policy": {"reads": "hidden_states"}, "clone": {"keep": "all"}, "algorithm": {"force_progress": True}},
    {"algorithm": {"name": "ppo"}},
    {"policy": {"use_speed": True, "use_entropy": True}, "clone": {"rule": "best:factor"}, "algorithm": {"speeds": 3}},
    {"algorithm": {"name": "rloo"}, "decode": {"block_length": "adaptive:default=4,delimiters=[red]"}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_resumed_run_on_a_device_equals_an_uninterrupted_one_on_the_host(device, folders, tmp_path, variant):
    model = unmask.load_model(folders["masked-lm"], device=device.place)
    before = train(model, tmp_path / "run", stop_at=1, **variant)
    resumed = train(model, tmp_path / "run", resume=True, **variant)
    assert any(m.get("updated") for m in resumed)
    host = unmask.load_model(folders["masked-lm"], device="cpu")
    if not isinstance(device, CudaDevice):  # one that rounds otherwise may draw otherwise
        for found, wanted in zip([*before, *resumed], train(host, tmp_path / "host", **variant), strict=True):
            assert found == {name: _close(value) for name, value in wanted.items()}


def _close(value):
    """Attention is another kernel's."""
    return pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
