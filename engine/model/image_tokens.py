"""The images of sequences inside a step: positions of their tokens, and embeddings in place of those of the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.library import Kernels
from engine.model.sampler import to_device
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
        return self._tower is not None and any(self._spans(plan))

    def insert(self, plan: Plan, hidden: Tensor) -> None:
        """Write image embeddings over the hidden states [T, hidden] of their tokens.

        New images of the step go through the vision tower together.
        """
        spans = self._spans(plan)
        new = [sequence for sequence, _, _ in spans if sequence.image_embeds is None]
        if new:
            self._embed(new)
        for sequence, first, rows in spans:
            before = sequence.token_ids[: sequence.num_computed].count(self._token_id)
            index = to_device(torch.from_numpy(np.array(rows, dtype=np.int64) + first), hidden.device)
            hidden[index] = sequence.image_embeds[before : before + len(rows)].to(hidden.dtype)

    def _spans(self, plan: Plan) -> list[tuple[Sequence, int, list[int]]]:
        """Return the sequences with tokens of images in a step: first row, and rows of those tokens after it."""
        found, first = [], len(plan.decode)
        for sequence, count in plan.prefill:
            if sequence.images is not None:
                start = sequence.num_computed
                ids = sequence.token_ids[start : min(start + count, sequence.num_prompt)]
                if rows := [row for row, token in enumerate(ids) if token == self._token_id]:
                    found.append((sequence, first, rows))
            first += count
        return found

    def _embed(self, sequences: list[Sequence]) -> None:
        pixels = torch.cat([sequence.images.pixel_values(self._device) for sequence in sequences])
        grids = torch.cat([sequence.images.grid_thw for sequence in sequences])
        assert self._tower is not None  # admission rejects images for a model without a vision tower
        embeds = iter(self._tower(pixels, grids))
        for sequence in sequences:
            sequence.image_embeds = torch.cat([next(embeds) for _ in range(len(sequence.images.grid_thw))])


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
