"""Whether there is a GPU, asked of NVML before torch is imported."""

import pytest

from settings.gpus import has_gpu


class FakeNvml:
    """The functions of pynvml that are used. failing: the name of the one that fails."""

    class NVMLError(Exception):
        pass

    def __init__(self, count=0, failing=""):
        self.count, self.failing, self.open = count, failing, 0

    def nvmlInit(self):
        self._fail("nvmlInit")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        self._fail("nvmlDeviceGetCount")
        return self.count

    def _fail(self, name):
        if name == self.failing:
            raise self.NVMLError(name)


@pytest.mark.parametrize(
    ("nvml", "expected"),
    [
        (FakeNvml(2), True),
        (FakeNvml(0), False),
        (FakeNvml(2, failing="nvmlInit"), False),
        (FakeNvml(2, failing="nvmlDeviceGetCount"), False),
    ],
)
def test_a_gpu_is_one_that_nvml_lists(nvml, expected):
    """No driver, or one that fails, counts as none; NVML is shut down again."""
    assert has_gpu(nvml) is expected
    assert nvml.open == 0


def test_this_machine_can_be_asked():
    """With the real library."""
    assert has_gpu() in (True, False)
