"""The forward pass of the text stack on CUDA: ten launches a layer, for decode rows and chunks of prompts in one pass.

The weights are the decoder's. The two GEMMs that end a layer's halves add to the residual stream themselves, the
keys and values go into the cache as they are rotated, and attention walks the block tables: nothing is copied between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.cuda.attention import META, AttentionWorkspace, paged_attention
from engine.model.cuda.ends import take_rows
from engine.model.cuda.formats import Quantized
from engine.model.cuda.gemm import Gemms
from engine.model.cuda.rows import qk_norm_rope_store, rotary_tables
from engine.model.cuda.tuning import Tuning
from engine.model.cuda.weights import FlatWeights
from engine.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class FlatInputs:
    """Device tensors of one step of T tokens, of which n rows are sampled; see `batch.InputLayout`.

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

    workspace: memory for attention that is split over long contexts.
    """

    def __init__(
        self, weights: FlatWeights, cache: KVCache, workspace: AttentionWorkspace, longest: int, tuning: Tuning
    ) -> None:
        self._weights, self._cache, self._workspace, self._tuning = weights, cache, workspace, tuning
        shape = weights.shape
        self._gemms = Gemms(shape, tuning, isinstance(weights.head, Quantized))
        self._attention_meta = {**META, "LAST_MERGES": tuning.last_merges}
        # Zeros, since attention leaves the rows of padding tokens as they are, and fresh memory may hold NaN.
        self._attended = torch.zeros(longest, shape.heads * shape.head_dim, dtype=shape.dtype, device=shape.device)

    def __call__(self, inputs: FlatInputs, logits: Tensor) -> Tensor:
        """Write float32 `logits` [n, vocabulary], and the keys and values of all tokens.

        Returns the hidden states of the rows to keep beyond the first n, whose logits `logits` computes.
        """
        weights, gemms = self._weights, self._gemms
        rotary = rotary_tables(inputs.rope, weights.frequencies, weights.axes, weights.rotary_scale)
        hidden = inputs.hidden
        for index, layer in enumerate(weights.layers):
            qkv = gemms.norm_linear(hidden, layer.input_norm, layer.qkv, layer.qkv_bias)
            attended = self._attention(index, qkv, rotary, inputs)
            if index == len(weights.layers) - 1:
                hidden, attended = take_rows(hidden, attended, inputs.keep)
            gemms.add(attended, layer.out, hidden)
            both = gemms.norm_linear(hidden, layer.post_norm, layer.gate_up)
            gemms.silu_add(both, layer.down, hidden)
        count = logits.shape[0]
        self.logits(hidden[:count], logits)
        return hidden[count:]

    def logits(self, hidden: Tensor, logits: Tensor) -> None:
        """Write float32 `logits` [n, vocabulary] of hidden states [n, hidden] behind the last layer."""
        self._gemms.logits(hidden, self._weights.norm, self._weights.head, logits)

    def _attention(self, index: int, qkv: Tensor, rotary: tuple[Tensor, Tensor], inputs: FlatInputs) -> Tensor:
        """Store keys and values, and return the attention [T, heads * D]. qkv: [T, (heads + 2 kv_heads) * D]."""
        layer, shape, cached = self._weights.layers[index], self._weights.shape, self._cache.layers[index]
        dependent = self._tuning.dependent
        qk_norm_rope_store(qkv, layer.q_norm, layer.k_norm, shape.eps, *rotary, cached, inputs.slot_mapping, dependent)
        q = qkv.view(qkv.shape[0], -1, shape.head_dim)[:, : shape.heads]
        out = self._attended[: q.shape[0]]
        paged_attention(
            q, cached, inputs.block_tables, inputs.items, inputs.merges, self._workspace, out,
            meta=self._attention_meta, dependent=dependent,
        )  # fmt: skip
        return out
