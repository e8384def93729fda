"""The forward pass of the text stack on CUDA: ten launches a layer, for decode rows and chunks of prompts in one pass.

The weights are the decoder's. The two products that end a layer's halves add to the residual stream themselves, the
keys and values go into the cache as they are rotated, and attention walks the block tables: nothing is copied between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.cuda.attention import Scratch, paged_attention
from engine.model.cuda.ends import take_rows
from engine.model.cuda.rows import qk_norm_rope_store, rms_norm, rotary_tables, silu_and_mul
from engine.model.cuda.weights import FlatWeights
from engine.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class FlatInputs:
    """Device tensors of one step of T tokens, of which n rows are sampled; see `batch.Layout`.

    hidden: embeddings [T, hidden], overwritten; block_tables: int32 [rows + 1, blocks].
    """

    hidden: Tensor
    slot_mapping: Tensor
    rope: Tensor
    keep: Tensor
    items: Tensor
    merges: Tensor
    block_tables: Tensor


class FlatForward:
    """Computes the logits of steps of at most `longest` tokens on CUDA.

    scratch: memory for attention that is split over long contexts.
    """

    def __init__(self, weights: FlatWeights, cache: KVCache, scratch: Scratch, longest: int) -> None:
        self._weights, self._cache, self._scratch = weights, cache, scratch
        shape = weights.shape
        # Zeros, since attention leaves the rows of padding tokens as they are, and fresh memory may hold NaN.
        self._attended = torch.zeros(longest, shape.heads * shape.head_dim, dtype=shape.dtype, device=shape.device)

    def __call__(self, inputs: FlatInputs, logits: Tensor) -> None:
        """Write float32 `logits` [n, vocabulary], and the keys and values of all tokens."""
        weights, eps = self._weights, self._weights.shape.eps
        rotary = rotary_tables(inputs.rope, weights.frequencies, weights.axes, weights.rotary_scale)
        hidden = inputs.hidden
        for index, layer in enumerate(weights.layers):
            qkv = F.linear(_normed(hidden, layer.input_norm, eps), layer.qkv, layer.qkv_bias)
            attended = self._attention(index, qkv, rotary, inputs)
            if index == len(weights.layers) - 1:
                hidden, attended = take_rows(hidden, attended, inputs.keep)
            hidden.addmm_(attended, layer.out.t())
            both = F.linear(_normed(hidden, layer.post_norm, eps), layer.gate_up)
            active = both.new_empty(both.shape[0], both.shape[1] // 2)
            silu_and_mul(both, active)
            hidden.addmm_(active, layer.down.t())
        _to_float(_normed(hidden, weights.norm, eps), weights.head, logits)

    def _attention(self, index: int, qkv: Tensor, rotary: tuple[Tensor, Tensor], inputs: FlatInputs) -> Tensor:
        """Store keys and values, and return the attention [T, heads * D]. qkv: [T, (heads + 2 kv_heads) * D]."""
        layer, shape, cached = self._weights.layers[index], self._weights.shape, self._cache.layers[index]
        qk_norm_rope_store(qkv, layer.q_norm, layer.k_norm, shape.eps, *rotary, cached, inputs.slot_mapping)
        q = qkv.view(qkv.shape[0], -1, shape.head_dim)[:, : shape.heads]
        out = self._attended[: q.shape[0]]
        paged_attention(q, cached, inputs.block_tables, inputs.items, inputs.merges, self._scratch, out)
        return out


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    rms_norm(x, weight, eps, out)
    return out


def _to_float(hidden: Tensor, head: Tensor, logits: Tensor) -> None:
    """Write the product with the head as float32, which on CUDA is how the product is accumulated."""
    if hidden.is_cuda and hidden.dtype != torch.float32:  # pragma: no cover - CUDA
        torch.mm(hidden, head.t(), out_dtype=torch.float32, out=logits)
    else:
        logits.copy_(F.linear(hidden, head))
