"""What made a result, in one set of names."""

import platform

import torch

import unmask
from unmask.provenance import hardware, versions


def test_versions_are_those_that_run():
    found = versions()
    assert list(found) == ["python", "unmask", "torch", "transformers", "accelerate", "safetensors"]
    assert found["python"] == platform.python_version()
    assert found["unmask"] == unmask.__version__
    assert torch.__version__.startswith(found["torch"].partition("+")[0])


def test_hardware_names_machine_and_threads():
    assert hardware(torch.device("cpu")) == f"{platform.machine()}, {torch.get_num_threads()} threads"
