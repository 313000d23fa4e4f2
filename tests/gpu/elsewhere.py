"""Tensors that say they are on a GPU, on a machine without one: what mixes devices is noticed.

Their numbers lie on the CPU and are computed there. As on a GPU, an operation on tensors of two
devices is an error, and so is numpy's view of one. Speed, memory, rounding and the kernels
themselves are a real GPU's alone: `make gpu-check`.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# May have arguments of several devices: copies, and what takes indices, which may be on the CPU.
_COPIES = {"aten::copy_", "aten::_to_copy"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}

#: Kinds of probes and whether features are scaled, to be fitted on a device.
METHODS = [
    ("logistic", False),
    ("logistic", True),
    ("ridge", False),
    ("discriminant", False),
    ("mean_difference", False),
]


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are in `inner`, and which says that they are on `device`."""

    @staticmethod
    def __new__(cls, inner, device):
        # To torch's own code it is on "meta", which any build knows not to be the CPU.
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )

    def __init__(self, inner, device):
        self.inner, self._device = inner, torch.device(device)

    @property
    def device(self):
        return self._device

    def __repr__(self):
        return f"Elsewhere({self.inner}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


def _compute(func, args, kwargs):
    """Do one operation on the CPU, if all that it takes is where a GPU's would have to be."""
    name = func._schema.name
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    if there and name not in _COPIES:
        checked = [args[0], *args[2:]] if name in _INDEXED else tensors
        # Single numbers may be anywhere.
        found = {t.device for t in checked if isinstance(t, torch.Tensor) and t.dim()}
        if len(found - {torch.device("meta")}) > 1:
            raise RuntimeError(f"{name} takes tensors of {sorted(map(str, found))}")
    device = kwargs.get("device") or (there[0].device if there else torch.device("cpu"))
    mutated = {id(t.inner): t for t in there} if func._schema.is_mutable else {}

    def here(value):
        if isinstance(value, Elsewhere):
            return value.inner
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def back(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Elsewhere):
            return value
        if id(value) in mutated:
            return mutated[id(value)]
        return value if torch.device(device).type == "cpu" else Elsewhere(value, device)

    return tree_map(back, func(*tree_map(here, args), **tree_map(here, kwargs)))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What torch's own code does without asking: making, indexing by lists, leaving torch."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        there = bool(args) and isinstance(args[0], Elsewhere)
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and there:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and there:
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(_index(k, args[0].device) for k in key), *args[2:])
        if func is torch.Tensor.tolist and there:
            return args[0].inner.tolist()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and there:
            raise TypeError(f"a tensor on {args[0].device} is no array of numpy's")
        return func(*args, **kwargs)


def _index(key, device):
    if isinstance(key, list | np.ndarray):
        key = torch.from_numpy(np.asarray(key))
    is_plain = isinstance(key, torch.Tensor) and not isinstance(key, Elsewhere)
    return Elsewhere(key, device) if is_plain else key


def move(model, place):
    """Put a model's weights where `place` says, a function of the name of a module."""
    for name, module in model.named_modules():
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None:
                    kind[key] = Elsewhere(value.detach(), place(name))
    return model


@contextmanager
def elsewhere():
    """Inside, "cuda:0" and others are places where tensors can be."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.enter_context(_Calls())
        stack.enter_context(_Operations())
        yield
