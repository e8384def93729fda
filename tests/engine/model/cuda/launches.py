"""Counts what a flat step launches, on tensors without data: `meta` ones, or fake ones of a CUDA device.

Everything counts that the device does: operators of torch that compute or copy, and kernels of Triton, none of which
runs. On a card a GEMM may be split into two kernels by its library, which is not seen here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::detach"}
GEMMS = {"aten::mm", "aten::addmm", "aten::addmm_"}
# These make the host wait for the device.
BLOCKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}
CPU = torch.device("cpu")


class Launches(TorchDispatchMode):
    """What was launched since the last `clear`: `counts` by name, `copies` with the host, names of those that block.

    pinned: whether memory of the host is pinned; from any other, a copy makes the host wait.
    """

    def __init__(self, device, pinned):
        super().__init__()
        self._device, self._pinned = device, pinned
        self.clear()

    def clear(self):
        self.counts, self.blocking, self.copies = Counter(), [], 0

    @property
    def total(self):
        """The number of operations on the device."""
        return sum(self.counts.values())

    @property
    def gemms(self):
        """The number of GEMMs."""
        return sum(self.counts[name] for name in GEMMS) + self.counts["aten::mm.dtype_out"]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # what torch itself makes of it
                return func.decompose(*args, **kwargs)
        tensors = [part for part in args if isinstance(part, torch.Tensor)]
        if any(self._is_ours(tensor) for tensor in tensors) or self._sends(func, kwargs):
            self._count(func, tensors, args, kwargs)
        if func.name() == "aten::_to_copy" and tensors[0].is_meta and kwargs.get("device") == CPU:
            return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)
        return func(*args, **kwargs)

    def _count(self, func, tensors, args, kwargs):
        name = func.name().partition(".")[0]
        if any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns):
            return  # a view
        if name in ALLOCATIONS:
            return
        self.counts[name if "dtype" not in func.name() else func.name()] += 1
        sent = tensors[0] if self._sends(func, kwargs) else tensors[1] if name == "aten::copy_" else None
        from_host = sent is not None and not self._is_ours(sent)
        to_host = name == "aten::_to_copy" and kwargs.get("device") == CPU
        self.copies += from_host or to_host
        waits = kwargs.get("non_blocking", len(args) > 2 and args[2]) is not True
        if name in BLOCKING or ((from_host or to_host) and waits) or (from_host and not self._pinned(sent)):
            self.blocking.append(name)

    def _sends(self, func, kwargs):
        device = kwargs.get("device")
        return func.name() == "aten::_to_copy" and device is not None and torch.device(device).type == self._device

    def _is_ours(self, tensor):
        return tensor.device.type == self._device

    @contextmanager
    def with_kernels(self):
        """Count within the block, kernels of Triton too."""
        from triton.runtime.interpreter import GridExecutor
        from triton.runtime.jit import JITFunction

        def count(kernel, *args, **options):
            self.counts.update([kernel.fn.__name__])

        interpret, run = GridExecutor.__call__, JITFunction.run
        GridExecutor.__call__ = JITFunction.run = count
        try:
            with self:
                yield self
        finally:
            GridExecutor.__call__, JITFunction.run = interpret, run


def launches_of(steps, tokens, new=False, pinned=lambda tensor: True):
    """Return what one step of so many tokens launches. new: of rows that the device does not know yet."""
    step = steps.step(steps.rows, steps.longest_step, graphs=False)
    launches = Launches(steps.weights.shape.device.type, pinned)
    with launches.with_kernels():
        if not new:
            step.launch(steps.plan(tokens)).choose()
            launches.clear()
        step.launch(steps.plan(tokens)).choose()
    return launches
