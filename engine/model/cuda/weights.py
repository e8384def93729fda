"""The weights of the text stack as the flat step reads them, moved out of the loaded transformers model.

The query, key and value projections are one matrix, so are the gate and up projections, and the two elements of each
rotary pair are made adjacent, as in `engine.model.decoder`. Matrices may be quantized on their way to the card: they
are moved there part by part, so that neither the host nor the card holds a second copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import StartError
from engine.model.cuda.formats import Weight, quantize
from engine.model.cuda.fp8 import Fp8, quantize_fp8
from engine.model.decoder import check_supported, text_model
from engine.model.layers import interleave, take_weights


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are [out, in]; biases and norms are None where the model has none."""

    input_norm: Tensor
    qkv: Weight | Fp8
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Weight | Fp8
    post_norm: Tensor
    gate_up: Weight | Fp8
    down: Weight | Fp8


@dataclass(frozen=True, slots=True)
class DecoderShape:
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

    shape: DecoderShape
    embedding: Weight
    layers: list[LayerWeights]
    norm: Tensor
    head: Weight
    frequencies: Tensor
    axes: Tensor
    rotary_scale: float

    @classmethod
    def take(cls, model: Any, place: Placement | None = None) -> FlatWeights:
        """Move the weights of a loaded model here. Raises StartError for an unsupported variant.

        place: where they are computed, by default where and as the model is. Raises DamagedWeights, while weights are
        quantized, for values that are no finite numbers.
        """
        text = text_model(model)
        config = text.config
        check_supported(config)
        rotary = text.rotary_emb
        place = place or Placement(model.device, text.embed_tokens.weight.dtype)
        shape = DecoderShape(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            layers=config.num_hidden_layers,
            vocabulary=model.lm_head.weight.shape[0],
            eps=config.rms_norm_eps,
            dtype=place.dtype,
            device=place.device,
        )
        frequencies = rotary.inv_freq.detach().to(shape.device, torch.float32)
        sections = getattr(rotary, "mrope_section", None) or [len(frequencies)]
        axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
        embedding, head = _take_vocabulary(text.embed_tokens, model.lm_head, place)
        return cls(
            shape=shape,
            embedding=embedding,
            layers=[_take_layer(layer, shape.head_dim, place) for layer in text.layers],
            norm=place.vector(text.norm.weight.detach()),
            head=head,
            frequencies=frequencies,
            axes=torch.tensor(axes, dtype=torch.int32, device=shape.device),
            rotary_scale=float(rotary.attention_scaling),
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where weights are computed, and how. quant: the format of matrices, `none` for `dtype`."""

    device: torch.device
    dtype: torch.dtype
    quant: str = "none"

    def vector(self, values: Tensor) -> Tensor:
        """Return a norm or a bias there."""
        return values.to(self.device, self.dtype)

    def vocabulary(self, matrix: Tensor) -> Weight:
        """Return the embeddings or the head there, whose logits FP8 would round too much."""
        return quantize([matrix], "int8", self.device) if self.quant == "fp8" else self.plain(matrix)

    def matrix(self, *parts: Tensor) -> Weight | Fp8:
        """Return matrices of linear layers there, one below the other."""
        return quantize_fp8(parts, self.device) if self.quant == "fp8" else self.plain(*parts)

    def plain(self, *parts: Tensor) -> Weight:
        """Return matrices there in a format that both of these may have."""
        if self.quant != "none":
            return quantize(parts, self.quant, self.device)
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(self.device, self.dtype)


def _take_vocabulary(embedding: Any, head: Any, place: Placement) -> tuple[Weight, Weight]:
    """Move the embeddings and the head, which may be one weight, and then stay one."""
    if place.quant == "none":
        return place.plain(embedding.weight.detach()), place.plain(head.weight.detach())
    shared = embedding.weight.data_ptr() == head.weight.data_ptr()
    rows, outputs = take_weights(embedding)[0], take_weights(head)[0]
    moved = place.vocabulary(rows)
    return moved, moved if shared else place.vocabulary(outputs)


def _take_layer(layer: Any, head_dim: int, place: Placement) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [take_weights(projection) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    for position in (0, 1):
        weight, bias = parts[position]
        parts[position] = (interleave(weight, head_dim), None if bias is None else interleave(bias, head_dim))
    biases = [place.vector(bias) for _, bias in parts if bias is not None]
    norms = [
        place.vector(interleave(getattr(attention, name).weight.detach(), head_dim))
        if hasattr(attention, name)
        else None
        for name in ("q_norm", "k_norm")
    ]
    return LayerWeights(
        input_norm=place.vector(layer.input_layernorm.weight.detach()),
        qkv=place.matrix(*(weight for weight, _ in parts)),
        qkv_bias=torch.cat(biases) if biases else None,
        q_norm=norms[0],
        k_norm=norms[1],
        out=place.matrix(_without_bias(attention.o_proj)),
        post_norm=place.vector(layer.post_attention_layernorm.weight.detach()),
        gate_up=place.matrix(*(_without_bias(half) for half in (mlp.gate_proj, mlp.up_proj))),
        down=place.matrix(_without_bias(mlp.down_proj)),
    )


def _without_bias(linear: Any) -> Tensor:
    """Take the weights of a GEMM to which no bias is added. Raises StartError where the model has one."""
    weight, bias = take_weights(linear)
    if bias is not None:
        raise StartError("The model has a bias in its attention's output or its gate, which is not computed on CUDA.")
    return weight
