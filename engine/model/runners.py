"""Which runner computes the steps of a model: that of its device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from engine.errors import StartError
from engine.loading.control_groups import usable_cores
from engine.model.kernels.library import load_kernels
from engine.model.runner import ModelRunner
from engine.types import EngineConfig, ModelSpec, Progress

log = logging.getLogger("avito_ai.loading")


def make_runner(
    model: Any,
    num_blocks: int,
    config: EngineConfig,
    max_model_len: int,
    report: Callable[[Progress], None],
    spec: ModelSpec | None = None,
) -> Any:
    """Return the runner of a loaded model, whose weights are moved there.

    num_blocks: of the KV cache; max_model_len: tokens of one sequence at most; report: receives the progress; spec:
    where and in which format the weights are computed, by default where and as they are. Raises StartError for weights
    that are no finite numbers, and where quantized ones have no kernels.
    """
    device = model.device if spec is None else torch.device(spec.device)
    if device.type != "cuda":
        quant = "none" if spec is None else spec.quant
        slots, kernels, cores = config.max_num_seqs, load_kernels(), config.cpu_threads or usable_cores()
        return ModelRunner(model, num_blocks, slots, max_model_len, kernels, quant, config.draft_tokens, cores)
    return _cuda_runner(model, num_blocks, config, max_model_len, report, spec)  # pragma: no cover - CUDA


def set_up_cuda() -> None:
    """Set torch's operations on CUDA up for the engine, with our kernels or without them."""
    # cuDNN's attention, the first choice on Hopper, makes a plan for each new shape: up to a second in the middle of
    # serving (measured on an H200). The vision tower has a new shape for each size of image.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _cuda_runner(
    model: Any,
    num_blocks: int,
    config: EngineConfig,
    max_model_len: int,
    report: Callable[[Progress], None],
    spec: ModelSpec | None = None,
) -> Any:
    """Return the runner with Triton kernels, or one with torch's operations where Triton cannot compile."""
    set_up_cuda()
    try:
        runner = import_module("engine.model.cuda.runner")
        runner.compile_first(model.device if spec is None else torch.device(spec.device))
    except Exception as error:  # no Triton, no compiler, or headers of Python that are missing
        if spec is not None and spec.quant != "none":
            raise StartError(
                f"{spec.quant_setting}={spec.quant}: expected none on this machine, where the CUDA kernels cannot be "
                f"built: {error}"
            ) from error
        log.warning("The CUDA kernels cannot be built, so the models run slower: %s", error)
        return ModelRunner(model, num_blocks, config.max_num_seqs, max_model_len)
    return runner.CudaRunner(
        model,
        num_blocks,
        rows=config.max_num_seqs,
        longest_context=max_model_len,
        # A step may have a token of a prompt beside as many decode rows as fit.
        longest_step=max(config.max_num_batched_tokens, config.max_num_seqs) + 1,
        graphs=config.cuda_graphs,
        report=report,
        place=None if spec is None else runner.placement(spec),
    )
