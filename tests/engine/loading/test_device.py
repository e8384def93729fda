"""The device of the models: every combination of settings, installed GPUs and GPUs that torch can use."""

import logging

import pytest

from engine.errors import StartError
from engine.loading.device import (
    DeviceRequest,
    InstalledGpus,
    TorchSupport,
    choose_device,
    choose_devices,
    find_gpus,
    find_torch_support,
)

NO_GPU = InstalledGpus()
TWO_GPUS = InstalledGpus(("0: NVIDIA H200", "1: NVIDIA H200"), driver="570.10")
BROKEN_DRIVER = InstalledGpus(error="Driver/library version mismatch")
CPU_TORCH = TorchSupport(gpus=0, cuda=None)
CUDA_TORCH_WITHOUT_GPU = TorchSupport(gpus=0, cuda="13.0")
CUDA_TORCH = TorchSupport(gpus=1, cuda="13.0")


def choose(installed, torch, device="auto", visible=None, production=False):
    return choose_device(DeviceRequest(device, visible, production), lambda: installed, lambda: torch)


def refusal(*args, **kwargs):
    with pytest.raises(StartError) as caught:
        choose(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("production", [False, True])
def test_usable_gpu_is_used(device, production):
    """If torch can use a GPU, the models run on it, whether NVML lists it or not."""
    assert choose(TWO_GPUS, CUDA_TORCH, device, "1", production) == "cuda"
    assert choose(NO_GPU, CUDA_TORCH, device, None, production) == "cuda"


@pytest.mark.parametrize("production", [False, True])
def test_requested_cpu_is_used_without_any_query(production):
    """DEVICE=cpu queries neither NVML nor torch."""

    def never():
        raise AssertionError("queried")

    assert choose_device(DeviceRequest("cpu", "1", production), never, never) == "cpu"


@pytest.mark.parametrize("production", [False, True])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_gpu_that_torch_cannot_use_stops_the_start(device, production):
    """The error names the GPUs present, the setting, the driver, torch's CUDA version and the remedy."""
    message = refusal(TWO_GPUS, CUDA_TORCH_WITHOUT_GPU, device, "7", production)
    for fact in ("GPU 0: NVIDIA H200, GPU 1: NVIDIA H200", "CUDA_VISIBLE_DEVICES is 7", "570.10", "13.0", "DEVICE=cpu"):
        assert fact in message


def test_error_distinguishes_a_cpu_build_from_an_empty_setting():
    """The two usual causes: a torch without CUDA, and a variable that hides every GPU."""
    assert "torch's CUDA is none (a build for the CPU)" in refusal(TWO_GPUS, CPU_TORCH)
    assert "CUDA_VISIBLE_DEVICES is not set" in refusal(TWO_GPUS, CPU_TORCH)
    assert "CUDA_VISIBLE_DEVICES is empty, which hides them all" in refusal(
        TWO_GPUS, CUDA_TORCH_WITHOUT_GPU, visible=""
    )


def test_broken_driver_stops_the_start():
    """A driver that is installed but fails counts as a GPU that cannot be used."""
    assert "an NVIDIA driver (Driver/library version mismatch)" in refusal(BROKEN_DRIVER, CUDA_TORCH_WITHOUT_GPU)
    assert choose(BROKEN_DRIVER, CUDA_TORCH) == "cuda"


def test_machine_without_gpu_runs_on_the_cpu_in_development(caplog):
    """The CPU is used, and one log line says that CUDA_VISIBLE_DEVICES is ignored."""
    caplog.set_level(logging.INFO)
    assert choose(NO_GPU, CPU_TORCH, visible="1") == "cpu"
    assert caplog.messages == ["CUDA_VISIBLE_DEVICES=1 is ignored: this machine has no NVIDIA GPU."]
    caplog.clear()
    assert choose(NO_GPU, CPU_TORCH) == "cpu"
    assert caplog.messages == []


def test_machine_without_gpu_stops_the_start_in_production():
    """In production the CPU must be requested explicitly."""
    assert "in production set DEVICE=cpu" in refusal(NO_GPU, CPU_TORCH, production=True)


def test_requested_cuda_must_be_present():
    """DEVICE=cuda on a machine without a GPU is an error in every environment."""
    assert refusal(NO_GPU, CPU_TORCH, "cuda").startswith("DEVICE=cuda, but this machine has no NVIDIA GPU")


# --- a device for each model ---

TWO_USABLE = TorchSupport(gpus=2, cuda="13.0")


def choose_each(vibe, vision, device="auto", torch=TWO_USABLE, visible=None):
    own = {"VIBE_DEVICE": vibe, "VISION_DEVICE": vision}
    chosen = choose_devices(DeviceRequest(device, visible, True), own, lambda: TWO_GPUS, lambda: torch)
    return chosen["VIBE_DEVICE"], chosen["VISION_DEVICE"]


@pytest.mark.parametrize(
    ("vibe", "vision", "device", "expected"),
    [
        (None, None, "auto", ("cuda:0", "cuda:0")),
        (None, "cuda:1", "auto", ("cuda:0", "cuda:1")),
        ("cuda", "cpu", "auto", ("cuda:0", "cpu")),
        ("cuda:1", None, "cpu", ("cuda:1", "cpu")),
        (None, None, "cpu", ("cpu", "cpu")),
    ],
)
def test_each_model_may_have_its_own_device(vibe, vision, device, expected):
    """Without one of its own it is DEVICE; the first visible GPU is cuda:0."""
    assert choose_each(vibe, vision, device) == expected


def test_a_gpu_that_is_not_visible_stops_the_start():
    """The message names the setting, how many GPUs there are, and CUDA_VISIBLE_DEVICES."""
    with pytest.raises(StartError) as caught:
        choose_each(None, "cuda:1", torch=CUDA_TORCH, visible="1")
    for fact in ("VISION_DEVICE=cuda:1", "CUDA shows 1 GPU to", "CUDA_VISIBLE_DEVICES is 1."):
        assert fact in str(caught.value)


def test_the_setting_of_one_model_is_named_where_there_is_no_gpu():
    """Not DEVICE, which says something else."""
    own = {"VIBE_DEVICE": "cuda:1"}
    with pytest.raises(StartError, match="VIBE_DEVICE=cuda, but this machine has no NVIDIA GPU: set VIBE_DEVICE=cpu"):
        choose_devices(DeviceRequest("cpu", None, False), own, lambda: NO_GPU, lambda: CPU_TORCH)


def test_a_visible_gpu_that_no_model_uses_is_warned_about(caplog):
    """One line for each; none where all are used, or none is."""
    choose_each(None, None)
    (warning,) = caplog.messages
    assert warning.startswith("The GPU cuda:1 is visible and no model uses it: set VIBE_DEVICE or VISION_DEVICE to it")
    caplog.clear()
    choose_each("cuda:1", "cuda:0")
    choose_each("cpu", "cpu")
    assert caplog.messages == []


class FakeNvml:
    """The functions of pynvml that are used. failure: raised by nvmlInit; names: of the GPUs, None for a lost one."""

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


def test_gpus_are_listed_with_their_numbers():
    """The names have the numbers that CUDA_VISIBLE_DEVICES takes, and NVML is shut down again."""
    nvml = FakeNvml(names=("NVIDIA H200", "NVIDIA H100"))
    assert find_gpus(nvml) == InstalledGpus(("0: NVIDIA H200", "1: NVIDIA H100"), "570.10")
    assert nvml.open == 0


@pytest.mark.parametrize("failure", [FakeNvml.NVMLError_LibraryNotFound(), FakeNvml.NVMLError_DriverNotLoaded()])
def test_without_a_driver_there_are_no_gpus(failure):
    """No driver means no GPU."""
    assert find_gpus(FakeNvml(failure)) == NO_GPU


def test_failures_of_nvml_are_reported():
    """Any other failure of NVML is reported, during initialization and later."""
    assert find_gpus(FakeNvml(FakeNvml.NVMLError("mismatch"))) == InstalledGpus(error="mismatch")
    lost = FakeNvml(names=("NVIDIA H200", None))
    assert find_gpus(lost) == InstalledGpus(error="GPU is lost")
    assert lost.open == 0


def test_this_machine_can_be_queried():
    """The real torch uses no GPU that the real NVML does not list."""
    installed, torch = find_gpus(), find_torch_support()
    assert torch.gpus <= len(installed.gpus)


@pytest.mark.parametrize(
    ("torch", "remedy"), [(CPU_TORCH, "--build-arg VARIANT=cuda"), (CUDA_TORCH, "Leave that out to use the GPU.")]
)
def test_a_gpu_that_the_settings_leave_idle_is_said_loudly(torch, remedy, caplog):
    """An image for the CPU that is run with a GPU serves, and one warning names the GPU, the setting and the remedy."""
    request, own = DeviceRequest("cpu", None, production=True), {"VIBE_DEVICE": None, "VISION_DEVICE": None}
    assert set(choose_devices(request, own, lambda: TWO_GPUS, lambda: torch).values()) == {"cpu"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for fact in ("THE GPU IS NOT USED", "GPU 0: NVIDIA H200", "because of DEVICE=cpu.", remedy):
        assert fact in record.getMessage()


def test_without_a_gpu_the_cpu_needs_no_warning_and_no_torch(caplog):
    """torch is queried only where there is a GPU."""

    def never():
        raise AssertionError("queried")

    request = DeviceRequest("cpu", None, production=True)
    assert choose_devices(request, {"VIBE_DEVICE": None}, lambda: NO_GPU, never) == {"VIBE_DEVICE": "cpu"}
    assert caplog.records == []
