"""The images of sequences inside a step: positions of their tokens, and embeddings in place of those of the tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.model.kernels.library import Kernels
from engine.model.vision import VisionTower
from engine.schedule.plan import Plan
from engine.schedule.sequence import Sequence


class ImageTokens:
    """What a model's vision tower adds to steps; does nothing for a model without one.

    model: a loaded transformers model, whose tower's weights are moved out. tower_dtype: what the tower computes in,
    by default what is right for its weights; device: where it computes, by default where the model is.
    """

    def __init__(
        self,
        model: Any,
        kernels: Kernels | None = None,
        tower_dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        visual = getattr(model.model, "visual", None)
        self._model = model
        self._device: torch.device = device or model.device
        if visual is not None:
            own = visual.dtype
            visual = moved(visual, self._device, tower_dtype or tower_dtype_of(own, self._device.type))
        self._tower = None if visual is None else VisionTower(visual, kernels)
        self._token_id = int(getattr(model.config, "image_token_id", -1))  # -1 matches no token

    def set_positions(self, sequence: Sequence) -> None:
        """Set the three-axis positions [3, T] of a prompt with images, and the offset of the positions after it."""
        if sequence.images is None or sequence.positions is not None:
            return
        ids = torch.tensor([sequence.token_ids[: sequence.num_prompt]])
        kinds = ids.eq(self._token_id).int()
        positions, delta = self._model.model.get_rope_index(ids, kinds, sequence.images.grid_thw)
        sequence.positions, sequence.rope_delta = positions[:, 0], int(delta)

    def in_step(self, plan: Plan) -> bool:
        """Return whether a step has tokens of images; the prefix that is computed may contain all of them."""
        return self._tower is not None and any(sequence.images_in(count) for sequence, count in plan.prefill)

    def insert(self, plan: Plan, hidden: Tensor) -> None:
        """Write image embeddings over the hidden states [T, hidden] of their tokens.

        New images of the step go through the vision tower together; how many, the scheduler bounds. Embeddings are kept
        until all tokens of their image are computed.
        """
        found = [(s, number) for s, count in plan.prefill for number, _ in s.images_in(count)]
        if new := [(s, number) for s, number in found if number not in s.image_embeds]:
            self._embed(new)
        row = len(plan.decode)
        for sequence, count in plan.prefill:
            first, end = sequence.num_computed, sequence.num_computed + count
            for number, span in sequence.images_in(count):
                start, stop = max(first, span.start), min(end, span.stop)
                embeds = sequence.image_embeds[number][start - span.start : stop - span.start]
                hidden[row + start - first : row + stop - first] = embeds.to(hidden.dtype)
                if stop == span.stop:
                    del sequence.image_embeds[number]
            row += count

    def _embed(self, images: list[tuple[Sequence, int]]) -> None:
        pixels = torch.cat([sequence.images.pixel_values(self._device, number) for sequence, number in images])
        grids = torch.stack([sequence.images.grid_thw[number] for sequence, number in images])
        assert self._tower is not None  # admission rejects images for a model without a vision tower
        for (sequence, number), embeds in zip(images, self._tower(pixels, grids), strict=True):
            sequence.image_embeds[number] = embeds


def moved(visual: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a tower to a device and its weights to a dtype, but not its rotary frequencies.

    transformers keeps them in float32; rounded to bfloat16, they would turn the patches of a large image too far.
    """
    frequencies = visual.rotary_pos_emb.inv_freq.to(device)
    visual = visual.to(device, dtype)
    visual.rotary_pos_emb.inv_freq = frequencies
    return visual


def tower_dtype_of(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """Return what the tower computes in: that of Qwen2.5-VL overflows in float16 for some sizes of images."""
    return torch.bfloat16 if device_type == "cuda" and dtype == torch.float16 else dtype
