"""The pretended device itself: it refuses and counts what a CUDA device would, and computes what a CPU does."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.device.pretend import PLACE, Pretend, PretendDevice, peek
from tests.device.steps import assert_waits


@pytest.fixture
def device():
    with PretendDevice() as device:
        yield device


def on(values):
    """A tensor on the device, without a wait."""
    return Pretend(torch.tensor(values))


def kinds(device):
    return [wait.kind for wait in device.waits]


def test_a_tensor_lies_where_it_was_asked_for(device):
    made = [torch.zeros(2, device=PLACE), torch.tensor([1, 2], device=PLACE), torch.ones(2).to(PLACE)]
    made += [torch.zeros_like(made[0]), made[0].new_ones(3), made[0] + 1, torch.arange(3, device=made[0].device)]
    for tensor in made:
        assert isinstance(tensor, torch.Tensor)
        assert (type(tensor), tensor.device, tensor.is_meta, tensor.is_cpu) == (Pretend, PLACE, False, False)
    assert type(torch.zeros(2)) is torch.Tensor
    assert type(torch.zeros_like(made[0], device="cpu")) is torch.Tensor


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: here.add_(there),
        lambda here, there: there.add_(here),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: here @ there,
        lambda here, there: there[here.long()],
        lambda here, there: here.gather(0, there.long()),
        lambda here, there: here.index_copy(0, there.long(), here),
        lambda here, there: here.masked_fill(there > 0, 0.0),
        lambda here, there: torch.isin(here, there),
        lambda here, there: nn.functional.embedding(here.long(), torch.ones(3, 2)),
        lambda here, there: nn.Linear(2, 2)(here),
        lambda here, there: torch.zeros(()).add_(here.sum()),
    ],
)
def test_mixing_devices_raises_and_names_the_line(device, mix):
    with pytest.raises(RuntimeError, match=r"same device, but aten.* on the host .* at tests/device/test_pretend.py:"):
        mix(on([1.0, 0.0]), torch.ones(2))


def test_a_factory_without_a_device_makes_a_tensor_that_cannot_be_mixed_in(device):
    values = on([[1.0, 2.0, 3.0]])
    with pytest.raises(RuntimeError, match=r"of shape \(3,\) on the host"):
        values * torch.arange(3)
    assert (values * torch.arange(3, device=values.device)).tolist() == [[0.0, 2.0, 6.0]]


def test_a_number_of_the_host_joins_in_without_a_wait(device):
    values = on([1.0, 2.0])
    found = [values + torch.tensor(1.0), torch.where(values > 1, values, torch.tensor(0.0)), values.clamp(max=1)]
    found += [torch.where(values > 1, 1, 0), values.masked_fill(values > 1, 5.0), values.index_fill(0, on([0]), 3.0)]
    assert kinds(device) == []
    assert [tensor.tolist() for tensor in found] == [[2, 3], [0, 2], [1, 1], [0, 1], [1, 5], [3, 2]]


COUNTED = {
    "item": (lambda x: x.sum().item(), ["item"]),
    "bool": (lambda x: bool(x.any()), ["item"]),
    "int": (lambda x: int(x[0]), ["item"]),
    "slice by a tensor": (lambda x: x[: x.argmax()], ["item"]),
    "if": (lambda x: 1 if x.all() else 0, ["item"]),
    "cpu": (lambda x: x.cpu(), ["download"]),
    "to cpu": (lambda x: x.to("cpu"), ["download"]),
    "tolist": (lambda x: x.tolist(), ["download"]),
    "copy to the host": (lambda x: torch.zeros(3).copy_(x), ["download"]),
    "to the device": (lambda x: torch.ones(3).to(x.device), ["upload"]),
    "tensor of numbers": (lambda x: torch.tensor([1, 2], device=x.device), ["upload"]),
    "copy to the device": (lambda x: x.copy_(torch.ones(3)), ["upload"]),
    "a copy that need not end": (lambda x: torch.ones(3).to(x.device, non_blocking=True), []),
    "nonzero": (lambda x: x.nonzero(), ["nonzero"]),
    "where": (lambda x: torch.where(x > 0), ["nonzero"]),
    "mask": (lambda x: x[x > 1], ["mask"]),
    "masked_select": (lambda x: x.masked_select(x > 1), ["masked_select"]),
    "write by a mask": (lambda x: x.index_put_((x > 1,), on([5.0, 6.0])), ["mask"]),
    "fill by a mask": (lambda x: x.__setitem__(x > 1, 0.0), []),
    "write a number by index": (lambda x: x.__setitem__(on([0, 1]), 0.0), ["upload"]),
    "write by index": (lambda x: x.__setitem__(on([0, 1]), x[:2] + 1), []),
    "index of the host": (lambda x: x[torch.tensor([0, 2])], ["upload"]),
    "index of the device": (lambda x: x[on([0, 2])], []),
    "fill with a value of the device": (lambda x: x.masked_fill(x > 1, x.sum()), ["item"]),
    "unique": (lambda x: x.unique(), ["unique"]),
    "unique rows": (lambda x: x[:, None].unique(dim=0, return_inverse=True), ["unique"]),
    "isin few": (lambda x: torch.isin(x, on([1.0, 2.0])), []),
    "isin many": (lambda x: torch.isin(x, on([float(i) for i in range(50)])), ["unique"]),
    "equal": (lambda x: torch.equal(x, x + 1), ["equal"]),
    "repeat_interleave": (lambda x: x.repeat_interleave(x.long()), ["repeat_interleave"]),
    "repeat_interleave of a size": (lambda x: x.repeat_interleave(on([1, 1, 2]), output_size=4), []),
    "bincount": (lambda x: torch.bincount(x.long()), ["bincount"]),
    "where it is": (lambda x: x.to(x.device), []),
    "sort": (lambda x: x.argsort(stable=True).gather(0, x.argmax(keepdim=True)), []),
}


@pytest.mark.parametrize("name", COUNTED)
def test_waits_are_counted(device, name):
    act, expected = COUNTED[name]
    x = on([1.0, 2.0, 3.0])
    act(x)
    assert kinds(device) == expected
    assert all(wait.where.startswith("tests/device/test_pretend.py:") for wait in device.waits)


def test_printing_is_a_wait_for_those_who_ask_for_values(device):
    values = on([1.0])
    assert repr(values) == "Pretend((1,), torch.float32)"
    assert f"{values.sum():.1f}" == "1.0"
    assert kinds(device) == ["item"]
    with pytest.raises(TypeError, match="copy it to the host first"):
        np.asarray(values)


def test_a_budget_that_is_not_kept_fails(device):
    on([1.0]).cpu()
    assert_waits(device, [device.waits], download=1)
    with pytest.raises(AssertionError, match=r"download at tests/device/test_pretend.py:\d+"):
        assert_waits(device, [device.waits])
    with pytest.raises(AssertionError):
        assert_waits(device, [device.waits], download=2)


def test_writing_into_a_view_writes_into_its_base(device):
    base = torch.zeros(2, 3, device=PLACE)
    base[0].add_(1)
    base[:, 1] = 5
    scratch = torch.empty(2, 3, device=PLACE)
    assert torch.softmax(base, dim=-1, out=scratch) is scratch
    assert peek(base).tolist() == [[1, 5, 1], [0, 5, 0]]
    assert torch.equal(peek(scratch), peek(base).softmax(-1))


def test_training_on_it_is_training_on_the_host(device):
    def trained(place):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(network.parameters(), 0.1)
        network.to(place)
        for i in range(3):
            optimizer.zero_grad()
            network(torch.full((2, 3), i / 2, device=place)).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return network

    host, there = trained("cpu"), trained(PLACE)
    twin = copy.deepcopy(there)
    for a, b, c in zip(host.parameters(), there.parameters(), twin.parameters(), strict=True):
        assert isinstance(b, nn.Parameter)
        assert b.device == c.device == PLACE
        assert torch.equal(a, peek(b))
        assert torch.equal(a, peek(c))
        assert peek(b).data_ptr() != peek(c).data_ptr()


def test_parameters_stay_themselves_when_they_move(device):
    network = nn.Linear(3, 3)
    before = network.weight
    assert network.to(PLACE).weight is before
    assert network.to(PLACE).weight is before
    assert before.device == PLACE


def test_nothing_is_left_behind():
    with PretendDevice():
        kept = torch.ones(2, device=PLACE)
    with pytest.raises(RuntimeError, match="outside of its `with`"):
        kept + 1
    assert type(torch.tensor([1])) is torch.Tensor
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(2, device=PLACE)
