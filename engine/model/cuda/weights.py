"""The weights of the text stack as the flat step reads them, moved out of the loaded transformers model.

The query, key and value projections are one matrix, so are the gate and up projections, and the two elements of each
rotary pair are made adjacent, as in `engine.model.decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.model.decoder import check_supported, text_model
from engine.model.layers import interleave, join, take_weights


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are [out, in]; biases and norms are None where the model has none."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the text stack."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocabulary: int
    eps: float
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class FlatWeights:
    """All weights of the text stack.

    frequencies: float32 [D / 2] of the rotary embedding; axes: int32 [D / 2], which of three positions each frequency
    follows; rotary_scale: what the rotary factors are multiplied with.
    """

    shape: Shape
    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor
    frequencies: Tensor
    axes: Tensor
    rotary_scale: float

    @classmethod
    def take(cls, model: Any) -> FlatWeights:
        """Move the weights of a loaded model here. Raises StartError for an unsupported variant."""
        text = text_model(model)
        config = text.config
        check_supported(config)
        embedding, rotary = text.embed_tokens.weight.detach(), text.rotary_emb
        shape = Shape(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            layers=config.num_hidden_layers,
            vocabulary=model.lm_head.weight.shape[0],
            eps=config.rms_norm_eps,
            dtype=embedding.dtype,
            device=embedding.device,
        )
        frequencies = rotary.inv_freq.detach().to(shape.device, torch.float32)
        sections = getattr(rotary, "mrope_section", None) or [len(frequencies)]
        axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
        return cls(
            shape=shape,
            embedding=embedding,
            layers=[_take_layer(layer, shape.head_dim) for layer in text.layers],
            norm=text.norm.weight.detach(),
            head=model.lm_head.weight.detach(),
            frequencies=frequencies,
            axes=torch.tensor(axes, dtype=torch.int32, device=shape.device),
            rotary_scale=float(rotary.attention_scaling),
        )


def _take_layer(layer: Any, head_dim: int) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [take_weights(projection) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    for position in (0, 1):
        weight, bias = parts[position]
        parts[position] = (interleave(weight, head_dim), None if bias is None else interleave(bias, head_dim))
    qkv, qkv_bias = join(parts)
    gate_up, _ = join([take_weights(half) for half in (mlp.gate_proj, mlp.up_proj)])
    norms = [
        interleave(getattr(attention, name).weight.detach(), head_dim) if hasattr(attention, name) else None
        for name in ("q_norm", "k_norm")
    ]
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=qkv,
        qkv_bias=qkv_bias,
        q_norm=norms[0],
        k_norm=norms[1],
        out=take_weights(attention.o_proj)[0],
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=gate_up,
        down=take_weights(mlp.down_proj)[0],
    )
