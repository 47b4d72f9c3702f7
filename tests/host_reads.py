"""Fail where code needs a tensor's numbers on the host, which makes a GPU's host wait. It works on the CPU too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Fail if a scalar, a mask's length, a comparison or a copy on the host is asked for inside the block.

    Code may use `Tensor.numpy`, which only tensors on the CPU have.
    """
    with _NoCopies(), _NoReads():
        yield


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Fail if the host waits for a GPU inside the block. Without a GPU, do nothing."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        assert func not in (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default), func
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            assert all(index is None or index.dtype is not torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))


class _NoCopies(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.Tensor.cpu, torch.Tensor.tolist), func
        return func(*args, **(kwargs or {}))
