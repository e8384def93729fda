"""Runs planned steps on CUDA with the kernels of this package; the counterpart of `engine.model.runner`.

Owns the weights, the vision tower, the KV cache and the flat step. Used by the engine's thread only.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.errors import StartError
from engine.model.choice import Choice
from engine.model.cuda.graphs import release_cached
from engine.model.cuda.rows import silu_and_mul
from engine.model.cuda.step import FlatStep, Launched
from engine.model.cuda.weights import FlatWeights, Placement
from engine.model.image_tokens import ImageTokens, tower_dtype_of
from engine.model.kv_cache import KVCache
from engine.schedule.plan import Plan
from engine.schedule.sequence import Sequence
from engine.text.prompt import PreparedPrompt
from engine.types import ModelSpec, Progress

log = logging.getLogger("avito_ai.loading")

# Of a card's compute capability: on an older one our kernels spill most of what they hold into memory.
LEAST_CAPABILITY = 8, 0
GRAPH_TOLERANCE = 1e-2  # of the norm of the logits; half precision in another order of sums differs by less


class CudaRunner:
    """Computes the steps of one model.

    model: a loaded transformers model, whose weights are moved out. num_blocks: of the KV cache; rows: running
    sequences at most; longest_context, longest_step: in tokens. graphs: whether to capture CUDA graphs; report:
    receives the progress of that. place: where the weights are computed, by default where and as the model is.
    """

    ahead, drafts = 1, 0

    def __init__(
        self,
        model: Any,
        num_blocks: int,
        rows: int,
        longest_context: int,
        longest_step: int,
        graphs: bool = True,
        report: Callable[[Progress], None] = lambda progress: None,
        place: Placement | None = None,
    ) -> None:
        place = place or Placement(model.device, model.dtype)
        self._images = ImageTokens(model, tower_dtype=tower_dtype_of(place.dtype, "cuda"), device=place.device)
        weights = FlatWeights.take(model, place)
        shape = weights.shape
        self._longest_context, self._longest_step = longest_context, longest_step
        self._vocabulary = shape.vocabulary
        self.num_blocks = num_blocks
        self._cache = KVCache(shape.layers, num_blocks, shape.kv_heads, shape.head_dim, shape.dtype, shape.device)
        release_cached(place.device)  # what loading took in between, on another stream than that of the steps
        self._step = FlatStep(weights, self._cache, rows, longest_step, longest_context, report, graphs)

    def zero(self, blocks: Collection[int]) -> None:
        """Do nothing: attention reads no more of a block than a sequence has written, whatever lies beyond."""

    def not_finite(self, blocks: Collection[int]) -> list[int]:
        """Return those of these blocks that hold keys or values that are not finite. Waits for the device."""
        return self._cache.not_finite(blocks)

    def discard(self) -> None:
        """Drop the step in flight; what the device knows of the block tables is not relied on."""
        self._step.discard()

    def check(self, probe: Callable[[PreparedPrompt], Sequence]) -> None:
        """Launch what has no graph, try the sampler, and compare every graph with its kernels.

        Raises StartError if they differ, or the sampler chooses a wrong token.

        probe: returns a sequence with a row and blocks for a prompt.
        """
        began, captured = time.perf_counter(), self._step.captured
        self._step.warm_up()
        self._step.check_sampler()
        log.info(
            "Attention by our own Triton kernels; steps without a CUDA graph and the sampler were tried in %.1f s.",
            time.perf_counter() - began,
        )
        if captured.tokens:
            worst = self._compare(captured.tokens, probe)
            log.info(
                "%d CUDA graphs for steps of 1 to %d tokens, captured in %.1f s in %d MiB, give the results of their "
                "kernels (within %.1e).",
                len(captured.tokens), captured.tokens[-1], captured.seconds, captured.nbytes >> 20, worst,
            )  # fmt: skip

    def _compare(self, sizes: Iterable[int], probe: Callable[[PreparedPrompt], Sequence]) -> float:
        """Return by how much the logits of the graphs for steps of these sizes differ from those of their kernels."""
        differences = [0.0]
        rng = random.Random(0)  # nosec B311 # any tokens do
        for tokens in sizes:
            if tokens >= self._longest_context:
                continue
            prompt = PreparedPrompt([rng.randrange(self._vocabulary) for _ in range(tokens)])
            replayed, launched = (self._probed(probe(prompt), graphs) for graphs in (True, False))
            if not launched.isfinite().all():  # as the kernels have it by themselves, which says nothing of a graph
                log.warning(
                    "Logits of %d random tokens are not finite: a setting of the model's dtype may help.", tokens
                )
                continue
            size = float(launched.norm())
            difference = float((replayed - launched).norm()) / (size or 1.0)
            if not difference <= GRAPH_TOLERANCE:  # NaN as well
                raise StartError(
                    f"A CUDA graph of {tokens} tokens gives other results than its kernels (by {difference:.2e}): set "
                    "CUDA_GRAPHS=false."
                )
            differences.append(difference)
        return max(differences)

    def _probed(self, sequence: Sequence, graphs: bool) -> Tensor:
        plan = Plan([sequence]) if sequence.remaining == 1 else Plan(prefill=[(sequence, sequence.remaining)])
        self._step.launch(plan, None if graphs else _insert_nothing).collect()
        return self._step.logits[:1].clone()

    def begin(self, sequence: Sequence) -> None:
        """Prepare a sequence that has just got its row and blocks."""
        self._images.set_positions(sequence)

    def launch(self, plan: Plan) -> Launched:
        """Launch a step and return without waiting for it. The plan's sequences are as they were before the step."""
        insert = partial(self._images.insert, plan) if self._images.in_step(plan) else None
        return self._step.launch(plan, insert)

    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute one step; return the choice of each row whose tokens are all computed. Appends no tokens."""
        launched = self.launch(plan)
        launched.choose()
        return [(sequence, choice) for sequence, _, choice in launched.collect()]

    def logits(self, sequence: Sequence) -> Tensor:
        """Return the logits [1, vocabulary] after the whole prompt of a sequence that holds a row and blocks.

        A prompt longer than a step is computed in several.
        """
        computed = sequence.num_computed
        while sequence.remaining:
            count = min(sequence.remaining, self._longest_step)
            self.launch(Plan(prefill=[(sequence, count)])).collect()
            sequence.num_computed += count
        sequence.num_computed = computed
        return self._step.logits[:1].clone()


def placement(spec: ModelSpec) -> Placement:
    """Return where and in which format the weights of a model are computed."""
    return Placement(torch.device(spec.device), getattr(torch, spec.dtype), spec.quant)


def compile_first(device: torch.device) -> None:
    """Compile a kernel and launch it. Raises RuntimeError for an old card, and what Triton raises where it cannot."""
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        least, own = (".".join(map(str, capability)) for capability in (LEAST_CAPABILITY, found))
        raise RuntimeError(f"they need a card of compute capability {least} or above, and this one has {own}")
    row = torch.zeros(1, 2, dtype=torch.float32, device=device)
    silu_and_mul(row, torch.empty_like(row[:, :1]))


def _insert_nothing(hidden: Tensor) -> None:
    """Insert no images, in a step that is launched kernel by kernel."""
