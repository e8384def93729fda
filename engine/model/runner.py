"""Runs one planned step on the model and returns a sampled token for each row.

Owns the decoder, the vision tower, the KV cache and the prefix cache. Used by the engine's thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.model.async_decode import AsyncDecode
from engine.model.attention import AttentionMetadata, KernelAttention, SlotAttention, Span
from engine.model.choice import Choice
from engine.model.cuda_graphs import DecodeGraphs
from engine.model.decoder import Attend, Decoder
from engine.model.kernels.library import Kernels
from engine.model.kv_cache import SlotCache
from engine.model.prefix_cache import PrefixCache
from engine.model.sampler import sample
from engine.model.vision import VisionTower
from engine.schedule.block_pool import BLOCK
from engine.schedule.scheduler import Plan
from engine.schedule.sequence import Sequence
from engine.types import Progress


class ModelRunner:
    """Computes the steps of one model.

    model: a loaded transformers model, whose weights are moved out. slots, max_model_len: size of the KV cache, in
    sequences and in tokens per sequence. prefix_tokens: size of the prefix cache, 0 for none. decode_graphs: whether
    decode steps run through `DecodeGraphs` and `AsyncDecode`; report: receives the progress of capturing the graphs.
    kernels: used on the CPU in float32; None for torch alone.
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        max_model_len: int,
        prefix_tokens: int,
        decode_graphs: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
        kernels: Kernels | None = None,
    ) -> None:
        self._model = model
        self.decoder = Decoder(model, kernels)
        visual = getattr(model.model, "visual", None)
        self._tower = None if visual is None else VisionTower(visual, kernels)
        d = self.decoder
        self._cache = SlotCache(d.num_layers, slots, max_model_len, d.num_kv_heads, d.head_dim, d.dtype, d.device)
        self._prefixes = PrefixCache(prefix_tokens // BLOCK)
        blocks = max(1, prefix_tokens // BLOCK)
        self._blocks = SlotCache(d.num_layers, blocks, BLOCK, d.num_kv_heads, d.head_dim, d.dtype, d.device)
        self._async_decode = AsyncDecode(DecodeGraphs(d, self._cache, report)) if decode_graphs else None
        self._image_token_id = int(getattr(model.config, "image_token_id", -1))  # -1 matches no token

    @torch.inference_mode()
    def begin(self, sequence: Sequence) -> None:
        """Prepare a sequence that has just got a slot: set its positions, copy its cached prefix into the slot."""
        if self._async_decode is not None:
            self._async_decode.hold(sequence)
        if sequence.images is not None and sequence.positions is None:
            self._set_image_positions(sequence)
        blocks = self._prefixes.match(sequence.keys(), sequence.scope)
        if blocks:
            self._load_prefix(sequence.slot, blocks)
            sequence.num_computed = len(blocks) * BLOCK

    @torch.inference_mode()
    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute one step; return the choice of each row whose tokens are all computed. Appends no tokens."""
        if self._async_decode is None or not plan.decode or any(s.num_computed < s.num_prompt for s in plan.decode):
            return self._run_flat(plan)
        launched = self._async_decode.launch(plan.decode)
        if not plan.prefill:
            self._async_decode.launch_next(launched, plan.decode)
        prefilled = self._run_flat(Plan(prefill=plan.prefill))
        decoded = zip(plan.decode, self._async_decode.collect(launched, plan.decode), strict=True)
        return [*decoded, *prefilled]

    def _run_flat(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute a plan as one flat list of tokens."""
        if not plan:
            return []
        done, logits = self._forward(plan)
        if not done:
            return []
        return list(zip(done, sample(logits, done, kernels=self.decoder.kernels).collect(), strict=True))

    @torch.inference_mode()
    def logits(self, sequence: Sequence) -> Tensor:
        """Return the logits [1, vocabulary] after the whole prompt of a sequence that holds a slot."""
        return self._forward(Plan(prefill=[(sequence, sequence.remaining)]))[1]

    @torch.inference_mode()
    def cache_prefix(self, sequence: Sequence) -> None:
        """Copy the computed whole blocks of a sequence into the prefix cache."""
        new = self._prefixes.insert(sequence.keys()[: sequence.num_computed], sequence.scope)
        if not new:
            return
        kernels = self.decoder.kernels
        if kernels is not None:
            source, target = self._block_offsets(sequence.slot, [i for i, _ in new], [block for _, block in new])
            kernels.copy_blocks(self._cache.all, self._blocks.all, source, target, BLOCK * self.decoder.head_dim)
            return
        # The blocks cached already are the first ones, so the new ones are consecutive.
        tokens = slice(new[0][0] * BLOCK, (new[-1][0] + 1) * BLOCK)
        index = self._to_index([block for _, block in new])
        for slots, blocks in zip(self._cache.all, self._blocks.all, strict=True):
            blocks.index_copy_(0, index, slots[sequence.slot, :, :, tokens].unflatten(2, (-1, BLOCK)).movedim(2, 0))

    @torch.inference_mode()
    def zero(self, slot: int) -> None:
        """Zero a slot whose keys and values may not be finite."""
        self._cache.zero(slot)

    def clear(self) -> None:
        """Clear the prefix cache and discard the step in flight."""
        self._prefixes.clear()
        if self._async_decode is not None:
            self._async_decode.discard()

    def _forward(self, plan: Plan) -> tuple[list[Sequence], Tensor]:
        """Return the n sequences whose last token is in the plan, and their logits [n, vocabulary]."""
        rows = [(s, Span(s.slot, s.num_computed, count)) for s, count in plan.rows]
        spans = [span for _, span in rows]
        decode = len(plan.decode)
        metadata = AttentionMetadata.of(spans[:decode], spans[decode:], self.decoder.device)
        hidden = self.decoder.embed(self._token_ids(plan))
        self._insert_image_embeds(rows, hidden)
        attend = self._attention(metadata)
        done, keep = _finished_rows(rows)
        index = None if len(keep) == hidden.shape[0] else self._to_index(keep)
        rotary = self.decoder.rotary(self._rope_positions(rows, metadata.positions))
        return done, self.decoder.logits(self.decoder.forward(hidden, rotary, attend, index))

    def _attention(self, metadata: AttentionMetadata) -> Attend:
        kernels = self.decoder.kernels
        if kernels is not None and KernelAttention.supports(self._cache):
            return KernelAttention(self._cache, metadata, kernels)
        return SlotAttention(self._cache, metadata)

    def _token_ids(self, plan: Plan) -> Tensor:
        ids = [sequence.token_ids[-1] for sequence in plan.decode]
        for sequence, count in plan.prefill:
            ids += sequence.token_ids[sequence.num_computed : sequence.num_computed + count]
        return self._to_index(ids)

    def _rope_positions(self, rows: list[tuple[Sequence, Span]], positions: Tensor) -> Tensor:
        """Return the slot positions [T] as they are, or [3, T] if a sequence of the step has images."""
        if all(sequence.positions is None for sequence, _ in rows):
            return positions
        parts = []
        for sequence, span in rows:
            prompt = sequence.positions
            end = span.start + span.size
            if prompt is None or span.start >= sequence.num_prompt:
                part = torch.arange(span.start, end).add_(sequence.rope_delta).expand(3, -1)
            else:
                output = torch.arange(sequence.num_prompt, max(end, sequence.num_prompt)).add_(sequence.rope_delta)
                part = torch.cat([prompt[:, span.start : end], output.expand(3, -1)], dim=1)
            parts.append(part)
        return torch.cat(parts, dim=1).to(self.decoder.device)

    def _set_image_positions(self, sequence: Sequence) -> None:
        """Set the three-axis positions [3, T] of a prompt with images, and the offset of the positions after it."""
        ids = torch.tensor([sequence.token_ids[: sequence.num_prompt]])
        kinds = ids.eq(self._image_token_id).int()
        positions, delta = self._model.model.get_rope_index(ids, kinds, sequence.images.grid_thw)
        sequence.positions, sequence.rope_delta = positions[:, 0], int(delta)

    def _insert_image_embeds(self, rows: list[tuple[Sequence, Span]], hidden: Tensor) -> None:
        """Write image embeddings to the rows of image tokens; new images go through the vision tower together."""
        new = [s for s, span in rows if s.image_embeds is None and self._has_image_tokens(s, span)]
        if new:
            self._embed_images(new)
        row = 0
        for sequence, span in rows:
            if sequence.image_embeds is not None and span.start < sequence.num_prompt:
                self._insert_embeds(sequence, span, hidden[row : row + span.size])
            row += span.size

    def _has_image_tokens(self, sequence: Sequence, span: Span) -> bool:
        """Return whether image tokens are left to compute; the cached prefix may contain all of them."""
        return (
            sequence.images is not None and self._image_token_id in sequence.token_ids[span.start : sequence.num_prompt]
        )

    def _insert_embeds(self, sequence: Sequence, span: Span, hidden: Tensor) -> None:
        ids = sequence.token_ids
        before = ids[: span.start].count(self._image_token_id)
        rows = [i for i in range(span.size) if ids[span.start + i] == self._image_token_id]
        if rows:
            hidden[self._to_index(rows)] = sequence.image_embeds[before : before + len(rows)].to(hidden.dtype)

    def _embed_images(self, sequences: list[Sequence]) -> None:
        device = self.decoder.device
        pixels = torch.cat([s.images.pixel_values(device) for s in sequences])
        grids = torch.cat([s.images.grid_thw for s in sequences]).to(device)
        assert self._tower is not None  # admission rejects images for a model without a vision tower
        embeds = iter(self._tower(pixels, grids))
        for sequence in sequences:
            sequence.image_embeds = torch.cat([next(embeds) for _ in range(len(sequence.images.grid_thw))])

    def _load_prefix(self, slot: int, cached: list[int]) -> None:
        """Copy cached blocks into a slot, from position 0 on."""
        kernels = self.decoder.kernels
        if kernels is not None:
            target, source = self._block_offsets(slot, list(range(len(cached))), cached)
            kernels.copy_blocks(self._blocks.all, self._cache.all, source, target, BLOCK * self.decoder.head_dim)
            return
        index = self._to_index(cached)
        for slots, blocks in zip(self._cache.all, self._blocks.all, strict=True):
            slots[slot, :, :, : len(cached) * BLOCK] = blocks[index].movedim(0, 2).flatten(2, 3)

    def _block_offsets(self, slot: int, indices: list[int], cached: list[int]) -> tuple[Tensor, Tensor]:
        """Return the offsets of blocks `indices` of a slot in the KV cache, and of `cached` in the prefix cache."""
        in_slot = self._cache.block_offsets([slot] * len(indices), [index * BLOCK for index in indices])
        return in_slot, self._blocks.block_offsets(cached, [0] * len(cached))

    def _to_index(self, values: list[int]) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self.decoder.device)  # faster than torch.tensor


def _finished_rows(rows: list[tuple[Sequence, Span]]) -> tuple[list[Sequence], list[int]]:
    """Return the sequences whose last token is in this step, and the flat rows of those tokens."""
    done, keep, row = [], [], 0
    for sequence, span in rows:
        row += span.size
        if span.start + span.size == len(sequence.token_ids):
            done.append(sequence)
            keep.append(row - 1)
    return done, keep
