"""What the machine is: card, versions, compiler, and the bandwidth of a copy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.card.record import Options, Rows
from benchmarks.harness.bandwidth import copy_bandwidth

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "huggingface-hub",
    "numpy",
    "llguidance",
    "pytest",
    "psutil",
)
FLAGS = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")


def facts(options: Options) -> Rows:
    """Yield the facts as (name, value)."""
    found: dict[str, object] = {"python": platform.python_version(), "system": platform.platform()}
    found |= {name: _version(name) for name in PACKAGES}
    found["gcc"] = _first_line("gcc", "--version")
    found["Python.h"] = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    found |= {name: getattr(torch.backends.cuda, name)() for name in FLAGS}
    matmul = torch.backends.cuda.matmul
    found["fp16 reduced precision"] = matmul.allow_fp16_reduced_precision_reduction
    found["allocator"] = os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF", "default")
    found["torch.accelerator"] = hasattr(torch, "accelerator")
    found["torch.nn.attention.varlen"] = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    if options.device == "cuda":
        found |= _card()
    for name, value in found.items():
        yield "facts", {"name": name, "value": str(value)}
    yield "bandwidth", {"copied": "read plus written", "GB/s": copy_bandwidth(options.device) / 1e9}
    if options.device == "cuda":
        yield "bandwidth", {"copied": "host to device, pinned, 64 MiB", "GB/s": _from_host(pinned=True)}
        yield "bandwidth", {"copied": "host to device, pageable, 64 MiB", "GB/s": _from_host(pinned=False)}


def _card() -> dict[str, object]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "card": properties.name,
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks": _first_line("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "L2 bytes": properties.L2_cache_size,
        "memory bytes": total,
        "free bytes": free,
        "blas": torch.backends.cuda.preferred_blas_library(),
    }


def _from_host(pinned: bool) -> float:
    source = torch.empty(2**26, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty(2**26, dtype=torch.uint8, device="cuda")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source)
    first.record()
    for _ in range(10):
        target.copy_(source, non_blocking=True)
    last.record()
    last.synchronize()
    milliseconds: float = first.elapsed_time(last)
    return 10 * 2**26 / (milliseconds * 1e6)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "missing"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]
