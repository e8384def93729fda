"""What an exception from the model means, by torch's classes and the libraries' messages."""

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
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, False),
        (torch.AcceleratorError("an illegal memory access"), False, True),
        (Poisoned("so it is"), False, True),
        (ValueError("shapes do not match"), False, False),
    ],
)
def test_faults_are_distinguished(error, memory, poison):
    """Running out of memory is temporary, a lost device is final, and other errors belong to the request."""
    assert (is_memory(error), is_poison(error)) == (memory, poison)


def test_a_lost_device_is_raised_as_such():
    """Whichever class torch raised; other errors are left to the caller."""
    with pytest.raises(Poisoned, match="lost"):
        raise_if_poisoned(torch.AcceleratorError("lost"))
    raise_if_poisoned(ValueError("shapes do not match"))
