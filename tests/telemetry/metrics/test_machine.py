"""The machine's figures: real ones of the host, and a GPU that is absent, present or broken."""

import threading
from collections import namedtuple
from types import SimpleNamespace

import pytest

from telemetry.metrics.machine import GpuFigures, Processors, ThisMachine, shown_gpu


class Cuda:
    """The part of `torch.cuda` that is used."""

    def __init__(self, available=True, initialized=True, broken=False, reserved=(200,)):
        self.available, self.initialized, self.broken = available, initialized, broken
        self.reserved = reserved

    def is_available(self):
        return self.available

    def is_initialized(self):
        return self.initialized

    def device_count(self):
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return len(self.reserved)

    def get_device_properties(self, device):
        return SimpleNamespace(name="NVIDIA H200", total_memory=1000, uuid="abc")

    def memory_allocated(self, device):
        return self.reserved[device] // 2

    def memory_reserved(self, device):
        return self.reserved[device]


class Nvml:
    """The part of NVML that is used: the utilization of a GPU by UUID."""

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-abc"
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=37)


class BrokenNvml:
    """A driver that fails."""

    def nvmlDeviceGetHandleByUUID(self, uuid):
        raise RuntimeError("NVML: Driver Not Loaded")


def machine(cuda, nvml=None):
    return ThisMachine(lambda: SimpleNamespace(cuda=cuda), nvml or Nvml())


def test_the_host_is_measured():
    """Real figures, in their ranges."""
    figures = ThisMachine().system()
    assert 0 <= figures.cpu_percent <= 100
    assert 0 < figures.memory_percent < 100
    assert figures.memory_available > 0
    assert 0 <= figures.disk_percent <= 100


def test_the_processors_are_measured_since_the_last_query_of_any_thread():
    """Half of the time idle is 50%; I/O wait counts as idle; a measurement too soon repeats the last value."""
    times = namedtuple("times", "user idle iowait guest")
    looks = iter([times(10, 10, 0, 1), times(15, 13, 2, 3), times(15.01, 13, 2, 3), times(25, 13, 2, 3)])
    processors, seen = Processors(lambda: next(looks)), []
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.append(processors.percent()))
        thread.start()
        thread.join(60)
    assert seen[0] == seen[1]
    assert seen == pytest.approx([50, 50, 100])


def test_a_gpu_is_measured_by_torch_and_nvml():
    """Memory comes from torch, utilization from the driver."""
    assert machine(Cuda()).gpus() == (GpuFigures("NVIDIA H200", 100, 200, 1000, 0.37),)


def test_gpus_in_use_are_those_that_hold_memory():
    """By their number among the visible ones; before anything is loaded it is the first one."""
    used = machine(Cuda(reserved=(0, 40, 60)))
    assert [(figures.device, figures.reserved) for figures in used.gpus()] == [("cuda:1", 40), ("cuda:2", 60)]
    assert used.gpu_memory() == 2000
    assert [figures.device for figures in machine(Cuda(reserved=(0, 0))).gpus()] == ["cuda:0"]


def test_a_probe_gets_the_memory_without_querying_the_driver():
    """Readiness does not call NVML, since it must respond at once."""
    assert machine(Cuda(), BrokenNvml()).gpu_memory() == 1000


@pytest.mark.parametrize("cuda", [Cuda(available=False), Cuda(initialized=False), Cuda(broken=True)])
def test_a_gpu_that_is_absent_unused_or_broken_is_no_error(cuda):
    """Such a GPU counts as absent."""
    assert (machine(cuda).gpus(), machine(cuda).gpu_memory()) == ((), None)


def test_torch_is_not_imported_for_a_query():
    """Until the loading thread has imported torch, the GPU counts as absent."""
    assert ThisMachine(lambda: None).gpus() == ()


def test_without_nvml_the_busy_share_is_unknown():
    """Without library, driver or permission, all else is reported."""
    (figures,) = machine(Cuda(), BrokenNvml()).gpus()
    assert (figures.total, figures.busy) == (1000, None)
    assert "gpu_busy" not in shown_gpu(figures)
