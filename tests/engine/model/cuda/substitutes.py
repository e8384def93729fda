"""The Triton kernels of a step as torch operations, so that whole schedules run in seconds instead of hours.

Each kernel has its own tests against such operations in the interpreter; here they are what the plans of the flat step
are tried with. Attention takes its work from `items` alone: what no item covers is not computed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.model.cuda import choosing, forward, fp8, gemm, skinny, step
from engine.model.cuda.formats import Quantized
from engine.model.cuda.sampling_kernels import HEAD
from engine.model.layers import rotate
from engine.schedule.sequence import BELOW_ONE


def rms_norm(x, weight, eps, out, dependent=False):
    out.copy_(F.rms_norm(x, x.shape[-1:], weight, eps))


def silu_and_mul(x, out, dependent=False):
    left, right = x.chunk(2, dim=-1)
    out.copy_(F.silu(left) * right)


def skinny_linear(x, weight, bias, norm_weight, eps, out, scratch=None, meta=None):
    assert meta["SPLIT"] == 1 or (norm_weight is None and scratch is not None)
    if norm_weight is not None:
        x = F.rms_norm(x, x.shape[-1:], norm_weight, eps)
    out.copy_(F.linear(x, weight, bias))


def skinny_add(x, weight, residual, scratch, meta=None):
    if x.shape[1] == 2 * weight.shape[1]:
        left, right = x.chunk(2, dim=-1)
        x = F.silu(left) * right
    residual += F.linear(x, weight)


def tiles_for_any(tokens, weight):
    """Stand for `gemm.tiles_for`: multiply every few tokens with the kernels of this package."""
    return skinny.default_meta(tokens, 2**20, weight.shape[1]) if tokens <= skinny.MOST_TOKENS else None


def packed_linear(
    x, weight, out, bias=None, scratch=None, dependent=False, meta=None, add=False, multiprocessors=1
):  # fmt: skip
    product = F.linear(x, weight.dequantized().to(x.dtype), bias)
    out.copy_(out + product if add else product)


def fp8_linear(x, weight, out, bias=None, add=False, dependent=False):
    scale = x.float().abs().amax(1, keepdim=True) / fp8.LARGEST
    x = ((x.float() / scale).to(fp8.FORMAT).float() * scale).to(x.dtype)
    packed_linear(x, weight, out, bias, add=add)


def embed_tokens(ids, last_tokens, embedding, updates, tables, out):
    known = torch.where(ids < 0, last_tokens[(-1 - ids).clamp(min=0)], ids)
    if isinstance(embedding, Quantized):
        embedding = embedding.dequantized().to(out.dtype)
    out.copy_(F.embedding(known, embedding))
    tables.view(-1)[updates[0].long()] = updates[1]


def take_rows(first, second, index):
    return first.index_select(0, index), second.index_select(0, index)


def rotary_tables(positions, frequencies, axes, scale):
    angles = positions.float()[axes.long()].T * frequencies
    return angles.cos() * scale, angles.sin() * scale


def qk_norm_rope_store(qkv, q_weight, k_weight, eps, cos, sin, layer, slot_mapping, dependent=False):
    kv_heads, block, size = layer.shape[2:]
    rows = qkv.view(qkv.shape[0], -1, size)
    heads = rows.shape[1] - 2 * kv_heads
    rotary = torch.complex(cos, sin)[:, None]
    parts = ((slice(0, heads), q_weight), (slice(heads, heads + kv_heads), k_weight))
    for part, weight in parts:
        if weight is not None:
            rows[:, part] = F.rms_norm(rows[:, part], (size,), weight, eps)
        rotated = rows[:, part].contiguous()
        rotate(rotated, rotary)
        rows[:, part] = rotated
    slots = slot_mapping.long()
    layer[slots // block, :, :, slots % block] = rows[:, heads:].unflatten(1, (2, kv_heads))


def paged_attention(q, layer, block_tables, items, merges, workspace, out, meta=None, dependent=False):
    kv_heads, block, size = layer.shape[2:]
    group = q.shape[1] // kv_heads
    parts: dict[tuple[int, int], list] = {}
    for first, tokens, row, position, start, end, _, _ in items[items[:, 1] > 0].tolist():
        used = block_tables[row, : -(-end // block)].long()
        keys, values = layer[used].transpose(0, 2).flatten(2, 3).transpose(0, 1)[:, :, start:end]
        queries = q[first : first + tokens].unflatten(1, (kv_heads, group)).permute(1, 2, 0, 3)
        scores = torch.einsum("hgtd,hkd->hgtk", queries, keys) * size**-0.5
        future = torch.arange(start, end)[None] > torch.arange(position, position + tokens)[:, None]
        scores = scores.masked_fill(future, -torch.inf)
        parts.setdefault((first, tokens), []).append((scores, values))
    for (first, tokens), pieces in parts.items():
        weights = torch.cat([scores for scores, _ in pieces], dim=-1).softmax(-1)
        values = torch.cat([value for _, value in pieces], dim=1)
        attended = torch.einsum("hgtk,hkd->thgd", weights, values)
        out[first : first + tokens] = attended.reshape(tokens, -1)


class Sampler:
    """Greedy rows, plain ones and those of top_k, without top_p and min_p."""

    def __init__(self, *sizes):
        pass

    def __call__(self, logits, parameters, numbers, slots, tokens, finite, last_tokens, ranked=True):
        for row, slot in enumerate(slots[: len(logits)].tolist()):
            temperature, top_k = float(parameters[row, 0]), int(parameters[row, 1])
            assert ranked or not top_k
            token = int(logits[row].argmax())
            if temperature:
                kept = logits[row]
                if top_k:
                    least = kept.topk(min(top_k, len(kept))).values[-1]
                    kept = kept.masked_fill(kept < least, -torch.inf)
                sums = torch.softmax(kept / temperature, -1).cumsum(-1)
                number = min(float(numbers[row]), BELOW_ONE)
                token = int(torch.searchsorted(sums, number * sums[-1], right=True))
            tokens[row] = token
            counted = logits[row][logits[row] != -torch.inf] if parameters[row, 4] else logits[row]
            finite[row] = int(len(counted) > 0 and bool(counted.isfinite().all()))
            if slot >= 0:
                last_tokens[slot] = token


def adjust_rows(logits, words, last_tokens, rows):
    heads, rest = words[: HEAD.value * rows].view(rows, -1), words[HEAD.value * rows :]
    ids, values = rest.chunk(2) if len(rest) else (rest, rest)
    values = values.view(torch.float32)
    for (row, begin, middle, end, slot), penalties in zip(
        heads[:, [0, 1, 2, 3, 7]].tolist(), heads[:, 4:7], strict=True
    ):
        repetition, frequency, presence = penalties.view(torch.float32)
        logits[row, ids[begin:middle].long()] += values[begin:middle]
        own, counts = ids[middle:end].long(), values[middle:end]
        if slot >= 0:
            pending = last_tokens[slot].long()
            if pending not in own:
                own, counts = torch.cat([own, pending[None]]), torch.cat([counts, torch.zeros(1)])
            counts = counts + (own == pending)
        seen = logits[row, own]
        seen = torch.where(seen < 0, seen * repetition, seen / repetition)
        logits[row, own] = seen - torch.where(counts > 0, frequency * counts + presence, 0.0)


def allow_tokens(logits, rows, words):
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
    allowed = torch.zeros(len(rows), logits.shape[1], dtype=torch.bool)
    known = bits.flatten(1)[:, : logits.shape[1]].bool()
    allowed[:, : known.shape[1]] = known
    logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)


def put_in_place(monkeypatch):
    """Replace the kernels of the flat step for one test."""
    for kernel in (rotary_tables, qk_norm_rope_store, paged_attention, take_rows):
        monkeypatch.setattr(forward, kernel.__name__, kernel)
    for kernel in (rms_norm, silu_and_mul, skinny_linear, skinny_add, packed_linear, fp8_linear):
        monkeypatch.setattr(gemm, kernel.__name__, kernel)
    monkeypatch.setattr(gemm, "tiles_for", tiles_for_any)
    monkeypatch.setattr(step, "embed_tokens", embed_tokens)
    monkeypatch.setattr(choosing, "Sampler", Sampler)
    monkeypatch.setattr(choosing, "adjust_rows", adjust_rows)
    monkeypatch.setattr(choosing, "allow_tokens", allow_tokens)
