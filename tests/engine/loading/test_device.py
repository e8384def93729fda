"""Where the models run: every combination of what is asked for, what the machine has and what torch can use."""

import logging

import pytest

from engine.errors import StartError
from engine.loading.device import Survey, Torch, Wish, ask_torch, choose_device, survey_machine

NO_GPU = Survey()
TWO_GPUS = Survey(("0: NVIDIA H200", "1: NVIDIA H200"), driver="570.10")
BROKEN_DRIVER = Survey(trouble="Driver/library version mismatch")
CPU_TORCH = Torch(gpus=0, cuda=None)
BLIND_TORCH = Torch(gpus=0, cuda="13.0")
SEEING_TORCH = Torch(gpus=1, cuda="13.0")


def choose(machine, torch, device="auto", visible=None, production=False):
    return choose_device(Wish(device, visible, production), lambda: machine, lambda: torch)


def refusal(*args, **kwargs):
    with pytest.raises(StartError) as caught:
        choose(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("production", [False, True])
def test_usable_gpu_is_used(device, production):
    """Where torch can use a GPU, that is where the models run, whether NVML was there to see it or not."""
    assert choose(TWO_GPUS, SEEING_TORCH, device, "1", production) == "cuda"
    assert choose(NO_GPU, SEEING_TORCH, device, None, production) == "cuda"


@pytest.mark.parametrize("production", [False, True])
def test_cpu_that_is_asked_for_is_used_unasked(production):
    """DEVICE=cpu needs neither NVML nor torch to be asked."""

    def never():
        raise AssertionError("nobody has to ask")

    assert choose_device(Wish("cpu", "1", production), never, never) == "cpu"


@pytest.mark.parametrize("production", [False, True])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_gpu_that_torch_cannot_use_stops_the_start(device, production):
    """The error names the GPUs present, the setting, the driver, torch's CUDA and the way out."""
    said = refusal(TWO_GPUS, BLIND_TORCH, device, "7", production)
    for fact in ("GPU 0: NVIDIA H200, GPU 1: NVIDIA H200", "CUDA_VISIBLE_DEVICES is 7", "570.10", "13.0", "DEVICE=cpu"):
        assert fact in said


def test_refusal_tells_a_cpu_build_and_an_empty_setting():
    """The two usual reasons are told apart: a torch without CUDA, and a variable that hides every GPU."""
    assert "torch's CUDA is none (a build for the CPU)" in refusal(TWO_GPUS, CPU_TORCH)
    assert "CUDA_VISIBLE_DEVICES is not set" in refusal(TWO_GPUS, CPU_TORCH)
    assert "CUDA_VISIBLE_DEVICES is empty, which hides them all" in refusal(TWO_GPUS, BLIND_TORCH, visible="")


def test_driver_in_trouble_stops_the_start():
    """A driver that is there but does not answer counts as a GPU that cannot be used."""
    assert "an NVIDIA driver (Driver/library version mismatch)" in refusal(BROKEN_DRIVER, BLIND_TORCH)
    assert choose(BROKEN_DRIVER, SEEING_TORCH) == "cuda"


def test_machine_without_gpu_runs_on_the_cpu_in_development(caplog):
    """The CPU is taken by itself, and one line says that the choice of a GPU is ignored."""
    caplog.set_level(logging.INFO)
    assert choose(NO_GPU, CPU_TORCH, visible="1") == "cpu"
    assert caplog.messages == ["CUDA_VISIBLE_DEVICES=1 is ignored: this machine has no NVIDIA GPU."]
    caplog.clear()
    assert choose(NO_GPU, CPU_TORCH) == "cpu"
    assert caplog.messages == []


def test_machine_without_gpu_stops_the_start_in_production():
    """In production the CPU has to be asked for."""
    assert "in production set DEVICE=cpu" in refusal(NO_GPU, CPU_TORCH, production=True)


def test_cuda_that_is_asked_for_must_be_there():
    """DEVICE=cuda on a machine without a GPU is refused in every environment."""
    assert refusal(NO_GPU, CPU_TORCH, "cuda").startswith("DEVICE=cuda, but this machine has no NVIDIA GPU")


class FakeNvml:
    """The few functions of pynvml that are used, on a machine without a driver or with one that fails."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    def __init__(self, failure=None, names=()):
        self.failure = failure
        self.names = names
        self.open = 0

    def nvmlInit(self):
        if self.failure is not None:
            raise self.failure
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        if self.names[handle] is None:
            raise self.NVMLError("GPU is lost")
        return self.names[handle]

    def nvmlSystemGetDriverVersion(self):
        return "570.10"


def test_survey_lists_the_gpus_with_their_numbers():
    """The names stand with the numbers that CUDA_VISIBLE_DEVICES takes, and NVML is closed again."""
    nvml = FakeNvml(names=("NVIDIA H200", "NVIDIA H100"))
    assert survey_machine(nvml) == Survey(("0: NVIDIA H200", "1: NVIDIA H100"), "570.10")
    assert nvml.open == 0


@pytest.mark.parametrize("failure", [FakeNvml.NVMLError_LibraryNotFound(), FakeNvml.NVMLError_DriverNotLoaded()])
def test_survey_without_a_driver_finds_nothing(failure):
    """No driver means no GPU."""
    assert survey_machine(FakeNvml(failure)) == NO_GPU


def test_survey_tells_the_drivers_trouble():
    """Any other failure of NVML is a trouble to be told, at its opening and later."""
    assert survey_machine(FakeNvml(FakeNvml.NVMLError("mismatch"))) == Survey(trouble="mismatch")
    lost = FakeNvml(names=("NVIDIA H200", None))
    assert survey_machine(lost) == Survey(trouble="GPU is lost")
    assert lost.open == 0


def test_this_machine_can_be_asked():
    """The real torch uses no GPU that the real NVML does not know of."""
    machine, torch = survey_machine(), ask_torch()
    assert torch.gpus <= len(machine.gpus)
