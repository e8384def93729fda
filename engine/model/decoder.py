"""The forward pass of the text stack of Qwen3 and Qwen2.5-VL over a flat list of tokens.

The tokens of all sequences in a step form one [T, hidden] tensor, so each linear layer is one GEMM; only attention, the
`attend` callable of the caller, knows about sequences. The weights are moved out of the loaded transformers model. The
query, key and value projections are merged into one, and the two elements of each rotary pair are made adjacent, so
that rotary embedding is one complex multiplication; dot products are invariant under this permutation of the head
dimension.

Sources: Qwen3 and Qwen2.5-VL as in transformers; multimodal rotary sections, arXiv:2409.12191.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import StartError
from engine.model.attention import KernelAttention
from engine.model.kernels.library import GemmArguments, Kernels
from engine.model.kernels.packed import Packed
from engine.model.kernels.whole_step import WholeStep
from engine.model.layers import QkNormRope, RmsNorm, interleave, join, silu_and_mul, take_weights
from engine.model.linear import Linear, choose_layout, packed, packing_of

# attend(layer, q [T, heads, D], kv [T, 2 * kv_heads, D] with the key heads first) -> [T, heads * D]
Attend = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: RmsNorm
    qkv: Linear
    qk_norm_rope: QkNormRope
    out: Linear
    post_norm: RmsNorm
    gate_up: Linear
    down: Linear


class Decoder:
    """Computes hidden states and logits for T tokens of any number of sequences.

    model: a loaded `Qwen3ForCausalLM` or `Qwen2_5_VLForConditionalGeneration`; its decoder weights are moved here.
    kernels: used on the CPU; None for torch alone. With them, weights of fewer bits than float32 are packed, and hidden
    states are float32. quant: `none`, or the format of the linear layers' and the embeddings' weights. Raises
    StartError for an unsupported format or variant (sliding windows, another activation, dynamic rope).
    """

    def __init__(self, model: Any, kernels: Kernels | None = None, quant: str = "none") -> None:
        text = text_model(model)
        config = text.config
        check_supported(config)
        self.hidden_size: int = config.hidden_size
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.num_layers: int = config.num_hidden_layers
        self._eps: float = config.rms_norm_eps
        embedding: Tensor = text.embed_tokens.weight.detach()
        self.device: torch.device = embedding.device
        self._packing = packing_of(embedding.dtype, quant, self.device, kernels)
        self.dtype: torch.dtype = torch.float32 if self._packing else embedding.dtype
        self.rounds_prompts = self._packing is not None and embedding.dtype == torch.bfloat16 and quant == "none"
        self.vocab_size: int = model.lm_head.weight.shape[0]
        self.kernels = kernels if (self.device.type, self.dtype) == ("cpu", torch.float32) else None
        self._norm = self._rms_norm(text.norm)
        self._rotary = _Rotary(text.rotary_emb, self.device)
        weights = [w.weight.detach() for layer in text.layers for w in (layer.mlp.down_proj, layer.mlp.gate_proj)]
        total = sum(p.nbytes for p in text.layers.parameters())
        self.layout = packed(self._packing) if self._packing else choose_layout(weights, total, self.kernels)
        self._layers = [self._take_layer(layer) for layer in text.layers]
        self._rows, self._embeddings, self._head = self._take_vocabulary(text.embed_tokens, model.lm_head)
        self._in_one_call = {few: self._whole(1 if few else self.layout.few_rows + 1) for few in (True, False)}

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the embeddings [T, hidden] of token ids [T]."""
        return self._rows(token_ids)

    def rotary(self, positions: Tensor) -> Tensor:
        """Return the rotation factors, complex [T, 1, D/2], of positions [T], or [3, T] if the step has images."""
        return self._rotary(positions)

    def forward(self, hidden: Tensor, rotary: Tensor, attend: Attend, keep: Tensor | None = None) -> Tensor:
        """Return the normalized final hidden states: [T, hidden], or [len(keep), hidden] for the rows in `keep`.

        hidden: embeddings [T, hidden], overwritten; rotary: from `rotary()`. Rows outside `keep` write their keys and
        values and skip the rest of the last layer. One call of the kernels, where they compute every part of it.
        """
        whole = self._in_one_call[len(hidden) <= self.layout.few_rows]
        if whole is not None and isinstance(attend, KernelAttention):
            return whole(hidden, rotary, attend, keep)
        for index, layer in enumerate(self._layers):
            attended = self._attention(index, layer, hidden, rotary, attend)
            if keep is not None and index == self.num_layers - 1:
                hidden, attended = hidden[keep], attended[keep]
            hidden = layer.out(attended, hidden)
            hidden = layer.down(silu_and_mul(layer.gate_up(layer.post_norm(hidden)), self.kernels), hidden)
        return self._norm(hidden)

    def step(
        self, ids: array[int], positions: array[int], attend: Attend, keep: array[int] | None = None
    ) -> Tensor | None:
        """Return float32 logits [rows in `keep`, or all, vocab] of tokens, as all the other methods do together.

        ids, positions: of each token. One call of the kernels; None where they cannot compute every part of the step.
        Raises IndexError for an id that is no token.
        """
        whole = self._in_one_call[len(ids) <= self.layout.few_rows]
        head = self._head_arguments(len(ids if keep is None else keep))
        if whole is None or head is None or not isinstance(attend, KernelAttention):
            return None
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise IndexError(f"an id is not below {self.vocab_size}")
        rotations = self._rotary.table(1 + max(positions))
        return whole.logits((ids, positions), attend, keep, head, self._embeddings, rotations)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [n, vocab] of final hidden states [n, hidden]."""
        return self._head(hidden).float()

    def _attention(self, index: int, layer: _Layer, hidden: Tensor, rotary: Tensor, attend: Attend) -> Tensor:
        qkv = layer.qkv(layer.input_norm(hidden)).view(hidden.shape[0], -1, self.head_dim)
        layer.qk_norm_rope(qkv[:, : self.num_heads + self.num_kv_heads], rotary)
        q, kv = qkv.split((self.num_heads, 2 * self.num_kv_heads), dim=1)
        return attend(index, q, kv)

    def _whole(self, rows: int) -> WholeStep | None:
        """Return what computes the layers of steps with so many rows in one call, None if the kernels cannot."""
        linears = [(one.qkv, one.out, one.gate_up, one.down) for one in self._layers]
        gemms = [[p for w in own if (p := w.gemm_arguments(rows)) is not None] for own in linears]
        if self.kernels is None or any(len(own) < len(linear) for own, linear in zip(gemms, linears, strict=True)):
            return None
        norms = [[n.kernel_parts for n in (one.input_norm, one.qk_norm_rope, one.post_norm)] for one in self._layers]
        shape = (self.hidden_size, self.num_heads, self.num_kv_heads, self.head_dim)
        return WholeStep(self.kernels, norms, gemms, self._norm.kernel_parts, shape)

    def _head_arguments(self, rows: int) -> GemmArguments | None:
        """Return what the kernels read of the head for so many rows, None if another library multiplies it."""
        return self._head.gemm_arguments(rows) if isinstance(self._head, Linear) else self._head.gemm_arguments

    def _take_layer(self, layer: Any) -> _Layer:
        """Move the weights of one layer here; the module keeps empty tensors, so no weight is held twice."""
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        input_norm = self._rms_norm(layer.input_layernorm, *projections)
        halves = (mlp.gate_proj, mlp.up_proj)
        post_norm = self._rms_norm(layer.post_attention_layernorm, *halves)
        parts = [take_weights(projection) for projection in projections]
        for position in (0, 1):
            weight, bias = parts[position]
            parts[position] = (self._interleave(weight), None if bias is None else self._interleave(bias))
        return _Layer(
            input_norm=input_norm,
            qkv=Linear(*join(parts), self.layout),
            qk_norm_rope=self._qk_norm_rope(attention),
            out=Linear(*take_weights(attention.o_proj), self.layout),
            post_norm=post_norm,
            gate_up=Linear(*join([take_weights(half) for half in halves]), self.layout),
            down=Linear(*take_weights(mlp.down_proj), self.layout),
        )

    def _take_vocabulary(
        self, embedding: Any, head: Any
    ) -> tuple[Callable[[Tensor], Tensor], tuple[int, int], Linear | Packed]:
        """Move the embeddings and the head here, which may share a weight.

        Returns how rows are read, where the kernels read them, with their kind, and the head.
        """
        weight, rows = head.weight.detach(), embedding.weight.detach()
        shared = weight.data_ptr() == rows.data_ptr()
        if self._packing is None:
            if not shared:
                take_weights(head)
            rows = rows.contiguous()
            return partial(F.embedding, weight=rows), (rows.data_ptr(), 0), Linear(weight, None, self.layout)
        packed_head = self._packing(weight)
        packed_rows = packed_head if shared else self._packing(rows)
        for module in (embedding, head):
            take_weights(module)
        address, *_, kind = packed_rows.gemm_arguments
        return packed_rows.rows, (address, kind), packed_head

    def _rms_norm(self, norm: Any, *projections: Any) -> RmsNorm:
        """Return a norm; where weights are packed, none is folded into them."""
        if self._packing is None:
            return RmsNorm(norm.weight, self._eps, *projections, kernels=self.kernels)
        return RmsNorm(norm.weight.detach().float(), self._eps, kernels=self.kernels)

    def _qk_norm_rope(self, attention: Any) -> QkNormRope:
        if not hasattr(attention, "q_norm"):
            return QkNormRope(kernels=self.kernels)
        q, k = (self._interleave(norm.weight.detach().to(self.dtype)) for norm in (attention.q_norm, attention.k_norm))
        weight = torch.cat([q.expand(self.num_heads, -1), k.expand(self.num_kv_heads, -1)])
        return QkNormRope(weight, self._eps, self.kernels)

    def _interleave(self, rows: Tensor) -> Tensor:
        return interleave(rows, self.head_dim)


class _Rotary:
    """Rotation factors from the frequencies of the model; with images, each frequency follows one of three axes."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self._frequencies = module.inv_freq.detach().to(device, torch.float32)
        self._scale = float(module.attention_scaling)
        sections = getattr(module, "mrope_section", None)
        self._axes = None
        self._table = torch.empty(0, dtype=torch.complex64)
        if sections is not None:
            axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
            self._axes = torch.tensor(axes, device=device)

    def table(self, count: int) -> Tensor:
        """Return the factors of the first positions, at least `count` of them, complex [positions, 1, D / 2]."""
        if len(self._table) < count:
            self._table = self(torch.arange(1 << max(8, (count - 1).bit_length()), device=self._frequencies.device))
        return self._table

    def __call__(self, positions: Tensor) -> Tensor:
        if positions.dim() == 2 and self._axes is not None:
            angles = positions.float()[self._axes].T * self._frequencies
        else:
            angles = positions.float()[:, None] * self._frequencies
        return torch.polar(torch.full_like(angles, self._scale), angles)[:, None]


def text_model(model: Any) -> Any:
    """Return the text stack of a loaded model."""
    inner = model.model
    return getattr(inner, "language_model", inner)


def check_supported(config: Any) -> None:
    """Raise StartError if the text stack is of a variant that the engine does not compute."""
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise StartError("The checkpoint uses sliding-window attention, which the engine does not support.")
    if config.hidden_act != "silu":
        raise StartError(f"The checkpoint's activation is {config.hidden_act!r}; the engine supports silu only.")
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type in ("dynamic", "longrope"):
        raise StartError(
            f"The checkpoint's rope type {rope_type!r} depends on the length; the engine needs a fixed one."
        )
