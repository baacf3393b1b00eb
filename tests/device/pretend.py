"""A device that is only pretended: CPU tensors that refuse, copy and wait where those on a CUDA device would.

    with PretendDevice() as device:
        model.network.to(device.place)
        ...
    device.waits  # where the host waited for the device, with the line that made it

Inside, a tensor on `place` is a `Pretend`: it holds a CPU tensor, says that it lies elsewhere, and every operator on it
runs on what it holds. Three rules are those of CUDA:

- An operator takes tensors of one device. Numbers (0-dimensional tensors) of the host join in where CUDA lets them;
  anything else raises, so that a tensor made without ``device=`` is found where it is first used.
- What the host must know before it goes on is a wait: a value (``.item()``, ``bool``, ``.tolist()``, ``.cpu()``), or a
  size (``nonzero``, a boolean mask as an index, ``unique``, ...).
- What the host sends is a wait, too: a copy from ordinary memory does not return before it is done. So are indices from
  the host, and a number written by advanced indexing (``x[:, index] = 0.0``), which CUDA copies over first.

The place is a device type that torch knows by name alone, so that nothing is registered or left behind. In C++ the
tensors are on ``meta``, as torch's own FakeTensor is; one that is really to be on ``meta`` has to be made inside of
``with torch.device("meta")``, as transformers does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

PLACE = torch.device("maia:0")
HERE = Path(__file__)
aten = torch.ops.aten

# The host asks for a value, or for the size of what is to be made.
ALWAYS = {
    aten._local_scalar_dense: "item",
    aten.equal: "equal",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique: "unique",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.unique_dim_consecutive: "unique",
    aten.bincount: "bincount",
    aten.histc: "histc",
}
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)
# Besides pointwise operators, what takes a number that lies on the host.
TAKES_NUMBERS = (aten.where, aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_, aten.lerp)


@dataclass(frozen=True)
class Wait:
    """One time that the host waited for the device.

    Attributes:
        kind: ``download`` and ``upload`` (a copy), ``item``, ``mask`` (a boolean index), or the operator's name.
        where: the line outside torch that made it.
    """

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}"


class Pretend(Tensor):
    """A CPU tensor that says it lies on `PLACE`."""

    held: Tensor
    a_number: bool

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, a_number: bool = False) -> Pretend:
        """
        Args:
            a_number: made of a plain number for an operator to take, which CUDA would leave on the host.
        """
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )
        made.held, made.a_number = held.detach(), a_number
        return made

    @property
    def device(self) -> torch.device:
        return PLACE

    @property
    def is_meta(self) -> bool:
        return False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """In C++ it lies on another device than `PLACE`, so that it would be copied where nothing has to be."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
        here = device is not None and _is_elsewhere(device)
        if here and dtype in (None, self.dtype) and not kwargs.get("copy"):
            return self
        return super().to(*args, **kwargs)

    def tolist(self) -> Any:  # torch has none for subclasses
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("A tensor on the pretended device has no numpy array: copy it to the host first.")
        return self.detach().cpu().numpy()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretend({tuple(self.shape)}, {self.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretend:
        made = Pretend(self.held.clone()).requires_grad_(self.requires_grad)
        made.__dict__.update({name: value for name, value in vars(self).items() if name != "held"})
        memo[id(self)] = made
        return made

    # `Module.to` then swaps what a parameter holds instead of replacing it, so that ties and optimisers keep theirs.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], _: Any, size: Any, stride: Any) -> Pretend:
        return Pretend(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended device outside of its `with`")


class PretendDevice(TorchDispatchMode):
    """See above.

    Attributes:
        waits: so far, in order.
    """

    place = PLACE

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []

    def __enter__(self) -> PretendDevice:
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes it on the host and asks us to copy
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._before)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket
        tensors = list(_tensors((args, kwargs)))
        ours = [tensor for tensor in tensors if isinstance(tensor, Pretend)]
        wanted = kwargs.get("device")
        elsewhere = bool(ours) if wanted is None else _is_elsewhere(wanted)
        if not ours and not elsewhere:
            return func(*args, **kwargs)
        if name is aten._to_copy or name is aten.copy_:
            self._copies(name, args, kwargs, elsewhere)
        else:
            if ours and len(ours) < len(tensors):
                self._refuse_mixtures(func, name, args, tensors)
            self._waits_of(name, args, kwargs)
        return self._run(func, args, kwargs, elsewhere, a_number=name is aten.scalar_tensor)

    def _run(self, func: Any, args: Any, kwargs: Any, elsewhere: bool, a_number: bool) -> Any:
        """On what the tensors hold; a tensor that was written into is given back as itself."""
        wrapped: dict[int, Pretend] = {}

        def unwrap(tensor: Pretend) -> Tensor:
            wrapped[id(tensor.held)] = tensor
            return tensor.held

        def wrap(tensor: Tensor) -> Tensor:
            known = wrapped.get(id(tensor))
            if known is None:
                return Pretend(tensor, a_number) if elsewhere else tensor
            if known.shape != tensor.shape:
                raise NotImplementedError(f"{func} changes a shape in place, which the pretended device cannot do")
            return known

        args, kwargs = tree_map_only(Pretend, unwrap, (args, kwargs))
        if kwargs.get("device") is not None and _is_elsewhere(kwargs["device"]):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return tree_map_only(Tensor, wrap, func(*args, **kwargs))

    def _copies(self, name: Any, args: Any, kwargs: Any, elsewhere: bool) -> None:
        source = args[1] if name is aten.copy_ else args[0]
        target = isinstance(args[0], Pretend) if name is aten.copy_ else elsewhere
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if isinstance(source, Pretend) and not target:
            self._note("download")
        elif target and not isinstance(source, Pretend) and blocking:
            self._note("upload")

    def _refuse_mixtures(self, func: Any, name: Any, args: Any, tensors: list[Tensor]) -> None:
        if name in INDEXING and isinstance(args[0], Pretend):
            tensors = [tensor for tensor in tensors if all(tensor is not index for index in args[1])]
        numbers = torch.Tag.pointwise in func.tags or name in TAKES_NUMBERS or name in INDEXING
        written = {id(tensor) for tensor in _written(func, args)}
        for tensor in tensors:
            if isinstance(tensor, Pretend) or (numbers and tensor.ndim == 0 and id(tensor) not in written):
                continue
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} got one of shape {tuple(tensor.shape)} "
                f"on the host beside others on the device, at {_line()}."
            )

    def _waits_of(self, name: Any, args: Any, kwargs: Any) -> None:
        if name in ALWAYS:
            self._note(ALWAYS[name])
        elif name in INDEXING:
            self._indexing(name, args)
        elif name is aten.repeat_interleave and kwargs.get("output_size") is None:
            self._note("repeat_interleave")
        elif name in (aten.masked_fill, aten.masked_fill_) and isinstance(args[2], Pretend) and not args[2].a_number:
            self._note("item")  # a value on the device is read
        elif name is aten.isin and _sorts(*args, **kwargs):
            self._note("unique")

    def _indexing(self, name: Any, args: Any) -> None:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        values = args[2] if len(args) > 2 else None
        if values is not None and _a_number(values):
            if len(masks) == len(indices) == 1:
                return  # x[mask] = 0.0 fills
            self._note("upload")
        for index in indices:
            if not isinstance(index, Pretend):
                self._note("upload")
        for _ in masks:
            self._note("mask")

    def _note(self, kind: str) -> None:
        self.waits.append(Wait(kind, _line()))


def peek(tensor: Tensor) -> Tensor:
    """What a tensor holds, without a wait: for assertions."""
    return tensor.held if isinstance(tensor, Pretend) else tensor


def _sorts(elements: Any, among: Any, *, assume_unique: bool = False, invert: bool = False) -> bool:
    """`isin` compares each with each where there are few, as torch decides it; else it sorts the unique ones."""
    both = isinstance(elements, Tensor) and isinstance(among, Tensor)
    return both and not assume_unique and among.numel() >= 10 * elements.numel() ** 0.145


def _is_elsewhere(device: torch.device) -> bool:
    within = _device.CURRENT_DEVICE
    return device.type == PLACE.type or (device.type == "meta" and (within is None or within.type != "meta"))


def _a_number(value: Tensor) -> bool:
    return value.ndim == 0 and (value.a_number if isinstance(value, Pretend) else True)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _written(func: Any, args: Any) -> Iterator[Tensor]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(value)


def _line() -> str:
    """The innermost line outside torch and this file."""
    frame = sys._getframe(1)
    torch_folder = str(Path(torch.__file__).parent)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith((torch_folder, "<")) or frame.f_code.co_filename == str(HERE)
    ):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-3:])}:{frame.f_lineno}"
