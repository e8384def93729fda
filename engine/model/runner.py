"""Runs one planned step on the model: tokens and positions in, a choice for each row out.

Owns the decoder, the cache of keys and values, and the kept beginnings of prompts. One thread only: the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.model.async_decode import AsyncDecode
from engine.model.attention import KernelAttention, Rows, SlotAttention, Span
from engine.model.cuda_graphs import DecodeGraphs
from engine.model.decoder import Attend, Decoder
from engine.model.kernels.library import Kernels
from engine.model.kv_cache import KVCache
from engine.model.prefix_cache import BLOCK, PrefixCache
from engine.model.sampler import Choice, sample
from engine.model.vision import VisionTower
from engine.schedule.scheduler import Plan
from engine.schedule.sequence import Sequence
from engine.types import Progress


class ModelRunner:
    """The model at work.

    model: a loaded transformers model, whose decoder weights are taken over. slots, max_model_len: the size of the
    cache, in sequences and in tokens each. prefix_tokens: how many tokens of beginnings are kept, 0 for none.
    buckets: whether decode steps take the fixed shapes of `cuda_graphs`, which CUDA graphs need; report: told of them.
    kernels: what computes on a processor in float32, None for torch alone.
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        max_model_len: int,
        prefix_tokens: int,
        buckets: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
        kernels: Kernels | None = None,
    ) -> None:
        self._model = model
        self.decoder = Decoder(model, kernels)
        visual = getattr(model.model, "visual", None)
        self._tower = None if visual is None else VisionTower(visual, kernels)
        d = self.decoder
        self._cache = KVCache(d.num_layers, slots, max_model_len, d.num_kv_heads, d.head_dim, d.dtype, d.device)
        self._prefix = PrefixCache(prefix_tokens // BLOCK)
        blocks = max(1, prefix_tokens // BLOCK)
        self._kept = KVCache(d.num_layers, blocks, BLOCK, d.num_kv_heads, d.head_dim, d.dtype, d.device)
        self._ahead = AsyncDecode(DecodeGraphs(d, self._cache, report)) if buckets else None
        self._image_token_id = int(getattr(model.config, "image_token_id", -1))  # -1: no token

    @torch.inference_mode()
    def begin(self, sequence: Sequence) -> None:
        """Make a sequence with a slot ready: its positions, and what is known of its beginning."""
        if self._ahead is not None:
            self._ahead.hold(sequence)
        if sequence.images is not None and sequence.positions is None:
            self._locate_images(sequence)
        blocks = self._prefix.match(sequence.keys())
        if blocks:
            self._copy_in(sequence.slot, blocks)
            sequence.num_computed = len(blocks) * BLOCK

    @torch.inference_mode()
    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute one step; return the choice of each row that has read all its tokens. Appends nothing itself."""
        if self._ahead is None or not plan.decode or any(s.num_computed < s.num_prompt for s in plan.decode):
            return self._run_flat(plan)
        launched = self._ahead.launch(plan.decode)
        if not plan.prefill:
            self._ahead.launch_next(launched, plan.decode)
        prefilled = self._run_flat(Plan(prefill=plan.prefill))
        decoded = zip(plan.decode, self._ahead.collect(launched, plan.decode), strict=True)
        return [*decoded, *prefilled]

    def _run_flat(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute a plan as one flat list of tokens."""
        if not plan:
            return []
        done, logits = self._forward(plan)
        return (
            list(zip(done, sample(logits, done, kernels=self.decoder.kernels).collect(), strict=True)) if done else []
        )

    @torch.inference_mode()
    def logits(self, sequence: Sequence) -> Tensor:
        """Return the logits [1, vocabulary] after the whole prompt of a sequence that holds a slot."""
        return self._forward(Plan(prefill=[(sequence, sequence.remaining)]))[1]

    @torch.inference_mode()
    def cache_prefix(self, sequence: Sequence) -> None:
        """Keep what is computed of a sequence for others that begin the same."""
        new = self._prefix.insert(sequence.keys()[: sequence.num_computed])
        if not new:
            return
        kernels = self.decoder.kernels
        if kernels is not None:
            here, there = self._runs(sequence.slot, [index for index, _ in new], [block for _, block in new])
            kernels.copy_runs(self._cache.all, self._kept.all, here, there, BLOCK * self.decoder.head_dim)
            return
        # The known blocks are the first ones, so the new ones follow each other.
        tokens = slice(new[0][0] * BLOCK, (new[-1][0] + 1) * BLOCK)
        blocks = self._index([block for _, block in new])
        for cached, kept in zip(self._cache.all, self._kept.all, strict=True):
            kept.index_copy_(0, blocks, cached[sequence.slot, :, :, tokens].unflatten(2, (-1, BLOCK)).movedim(2, 0))

    @torch.inference_mode()
    def zero(self, slot: int) -> None:
        """Clean a slot whose sequence gave logits that are not finite, and forget what it may have left behind."""
        self._cache.zero(slot)

    def clear(self) -> None:
        """Forget every kept beginning, and a step in flight."""
        self._prefix.clear()
        if self._ahead is not None:
            self._ahead.forget()

    def _forward(self, plan: Plan) -> tuple[list[Sequence], Tensor]:
        """Return the sequences whose last token is in the plan, and their logits [n, vocabulary]."""
        rows = [(s, Span(s.slot, s.num_computed, count)) for s, count in plan.rows]
        spans = [span for _, span in rows]
        decode = len(plan.decode)
        layout = Rows.of(spans[:decode], spans[decode:], self.decoder.device)
        hidden = self.decoder.embed(self._token_ids(plan))
        self._place_images(rows, hidden)
        attend = self._attention(layout)
        done, keep = _finished_rows(rows)
        index = None if len(keep) == hidden.shape[0] else self._index(keep)
        final = self.decoder.forward(
            hidden, self.decoder.rotary(self._rope_positions(rows, layout.positions)), attend, index
        )
        return done, self.decoder.logits(final)

    def _attention(self, rows: Rows) -> Attend:
        kernels = self.decoder.kernels
        if kernels is not None and KernelAttention.suits(self._cache):
            return KernelAttention(self._cache, rows, kernels)
        return SlotAttention(self._cache, rows)

    def _token_ids(self, plan: Plan) -> Tensor:
        ids = [sequence.token_ids[-1] for sequence in plan.decode]
        for sequence, count in plan.prefill:
            ids += sequence.token_ids[sequence.num_computed : sequence.num_computed + count]
        return self._index(ids)

    def _rope_positions(self, rows: list[tuple[Sequence, Span]], positions: Tensor) -> Tensor:
        """Return [T], the places [T] in the slots, or [3, T] where a sequence with pictures takes part."""
        if all(sequence.positions is None for sequence, _ in rows):
            return positions
        parts = []
        for sequence, span in rows:
            own = sequence.positions
            end = span.start + span.size
            if own is None or span.start >= sequence.num_prompt:
                part = torch.arange(span.start, end).add_(sequence.rope_delta).expand(3, -1)
            else:
                late = torch.arange(sequence.num_prompt, max(end, sequence.num_prompt)).add_(sequence.rope_delta)
                part = torch.cat([own[:, span.start : end], late.expand(3, -1)], dim=1)
            parts.append(part)
        return torch.cat(parts, dim=1).to(self.decoder.device)

    def _locate_images(self, sequence: Sequence) -> None:
        """Set the three-axis positions of a prompt with pictures, and the offset of everything after it."""
        ids = torch.tensor([sequence.token_ids[: sequence.num_prompt]])
        kinds = ids.eq(self._image_token_id).int()
        positions, delta = self._model.model.get_rope_index(ids, kinds, sequence.images.grid_thw)
        sequence.positions, sequence.rope_delta = positions[:, 0], int(delta)

    def _place_images(self, rows: list[tuple[Sequence, Span]], hidden: Tensor) -> None:
        """Put the embeddings of pictures where a chunk reads their tokens; look at new pictures all at once."""
        fresh = [s for s, span in rows if s.image_embeds is None and self._reads_pictures(s, span)]
        if fresh:
            self._embed_images(fresh)
        row = 0
        for sequence, span in rows:
            if sequence.image_embeds is not None and span.start < sequence.num_prompt:
                self._place(sequence, span, hidden[row : row + span.size])
            row += span.size

    def _reads_pictures(self, sequence: Sequence, span: Span) -> bool:
        """Return whether a picture's tokens are still to be read; a known beginning may hold them all."""
        return (
            sequence.images is not None and self._image_token_id in sequence.token_ids[span.start : sequence.num_prompt]
        )

    def _place(self, sequence: Sequence, span: Span, hidden: Tensor) -> None:
        ids = sequence.token_ids
        before = ids[: span.start].count(self._image_token_id)
        here = [i for i in range(span.size) if ids[span.start + i] == self._image_token_id]
        if here:
            hidden[self._index(here)] = sequence.image_embeds[before : before + len(here)].to(hidden.dtype)

    def _embed_images(self, sequences: list[Sequence]) -> None:
        device = self.decoder.device
        pixels = torch.cat([s.images.pixel_values for s in sequences]).to(device)
        grids = torch.cat([s.images.grid_thw for s in sequences]).to(device)
        assert self._tower is not None  # a prompt with pictures has been refused by a model without one
        embeds = iter(self._tower(pixels, grids))
        for sequence in sequences:
            sequence.image_embeds = torch.cat([next(embeds) for _ in range(len(sequence.images.grid_thw))])

    def _copy_in(self, slot: int, blocks: list[int]) -> None:
        kernels = self.decoder.kernels
        if kernels is not None:
            here, there = self._runs(slot, list(range(len(blocks))), blocks)
            kernels.copy_runs(self._kept.all, self._cache.all, there, here, BLOCK * self.decoder.head_dim)
            return
        index = self._index(blocks)
        for cached, kept in zip(self._cache.all, self._kept.all, strict=True):
            cached[slot, :, :, : len(blocks) * BLOCK] = kept[index].movedim(0, 2).flatten(2, 3)

    def _runs(self, slot: int, indices: list[int], blocks: list[int]) -> tuple[Tensor, Tensor]:
        """Return where these blocks of a slot lie in the cache, and where as kept blocks."""
        here = self._cache.run_offsets([slot] * len(indices), [index * BLOCK for index in indices])
        return here, self._kept.run_offsets(blocks, [0] * len(blocks))

    def _index(self, values: list[int]) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self.decoder.device)  # quicker than torch.tensor


def _finished_rows(rows: list[tuple[Sequence, Span]]) -> tuple[list[Sequence], list[int]]:
    """Return the sequences whose last token is in this step, and the flat rows of those tokens."""
    done, keep, row = [], [], 0
    for sequence, span in rows:
        row += span.size
        if span.start + span.size == len(sequence.token_ids):
            done.append(sequence)
            keep.append(row - 1)
    return done, keep
