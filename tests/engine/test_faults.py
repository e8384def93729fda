"""What an exception out of the model means, by torch's own classes and by what the libraries say."""

import pytest
import torch

from engine.faults import Poisoned, is_memory, is_poison, raise_if_poisoned


@pytest.mark.parametrize(
    ("error", "memory", "poison"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (torch.OutOfMemoryError("by its class alone"), True, False),
        (RuntimeError("CUDA out of memory."), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (torch.AcceleratorError("an illegal memory access"), False, True),
        (Poisoned("so it is"), False, True),
        (ValueError("shapes do not match"), False, False),
    ],
)
def test_faults_are_told_apart(error, memory, poison):
    """Too little memory passes, a lost device does not, and the rest is the request's own."""
    assert (is_memory(error), is_poison(error)) == (memory, poison)


def test_a_lost_device_is_raised_as_such():
    """Whatever torch called it; another error is left to the caller."""
    with pytest.raises(Poisoned, match="lost"):
        raise_if_poisoned(torch.AcceleratorError("lost"))
    raise_if_poisoned(ValueError("shapes do not match"))
