"""Runs one planned step on the model and returns a sampled token for each row.

Owns the decoder, the vision tower and the KV cache; which block of it belongs to whom is the scheduler's. Used by the
engine's thread only.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from engine.cores import CORES
from engine.model.attention import AttentionMetadata, KernelAttention, Span, TorchAttention, index_of
from engine.model.choice import Choice
from engine.model.decoder import Attend, Decoder
from engine.model.image_tokens import ImageTokens
from engine.model.kernel_sampler import sample_with_kernels
from engine.model.kernels.library import Kernels
from engine.model.kv_cache import BlockTables, KVCache
from engine.model.sampler import sample
from engine.model.scoring import choices_of, log_probabilities, part_rows, parts
from engine.schedule.block_pool import blocks_for
from engine.schedule.plan import Plan
from engine.schedule.prompt_scores import ScoredSpan, scored_spans
from engine.schedule.sequence import Sequence
from engine.text.prompt import PreparedPrompt


class ModelRunner:
    """Computes the steps of one model.

    model: a loaded transformers model, whose weights are moved out. num_blocks: size of the KV cache. slots,
    max_model_len: how many sequences run at once, and the most tokens of one. kernels: used on the CPU; None for torch
    alone. quant: the format of the decoder's weights, `none` for that of the model. drafts: how many drafted tokens of
    a sequence one step may compute, 0 without kernels; ahead: for how many tokens beyond its last one it needs blocks.
    cores: how many of the processor's a step takes where nothing else computes; 0: the threads of torch as they are.
    """

    def __init__(
        self,
        model: Any,
        num_blocks: int,
        slots: int,
        max_model_len: int,
        kernels: Kernels | None = None,
        quant: str = "none",
        drafts: int = 0,
        cores: int = 0,
    ) -> None:
        self.num_blocks, self._cores = num_blocks, cores
        self.decoder = Decoder(model, kernels, quant)
        self._images = ImageTokens(model, kernels)
        d = self.decoder
        self._sampling = kernels if d.device.type == "cpu" else None
        self.drafts = self.ahead = drafts if self._sampling else 0
        self._cache = KVCache(d.num_layers, num_blocks, d.num_kv_heads, d.head_dim, d.dtype, d.device)
        self._tables = BlockTables(slots, blocks_for(max_model_len))
        self._slots = slots

    @torch.inference_mode()
    def begin(self, sequence: Sequence) -> None:
        """Prepare a sequence that has just got its slot and blocks: set its positions."""
        self._images.set_positions(sequence)

    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        """Compute one step; return the choice of each row whose tokens are all computed. Appends no tokens."""
        if not torch.is_inference_mode_enabled():  # the engine's thread enters it once for all steps
            with torch.inference_mode():
                return self.run(plan)
        if not self._cores:
            return self._run(plan)
        with CORES.step(self._cores, id(self)) as threads:
            if threads != torch.get_num_threads():  # each thread of the process has its own figure
                torch.set_num_threads(threads)
            return self._run(plan)

    def _run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        done, logits = self._forward(plan)
        if not done:
            return []
        if self._sampling is not None and any(sequence.drafts for sequence in plan.decode):
            return self._verify(done, logits, self._sampling)
        return list(zip(done, sample(logits, done, kernels=self._sampling), strict=True))

    @torch.inference_mode()
    def logits(self, sequence: Sequence) -> Tensor:
        """Return the logits [1, vocabulary] after the whole prompt of a sequence that has a slot and blocks."""
        return self._forward(Plan(prefill=[(sequence, sequence.remaining)]))[1]

    def check(self, probe: Callable[[PreparedPrompt], Sequence]) -> None:
        """Do nothing: every step is computed as the first logits were."""

    @torch.inference_mode()
    def zero(self, blocks: Collection[int]) -> None:
        """Zero blocks whose keys and values may not be finite."""
        if blocks:
            self._cache.zero(blocks)

    @torch.inference_mode()
    def not_finite(self, blocks: Collection[int]) -> list[int]:
        """Return those of these blocks that hold keys or values that are not finite."""
        return self._cache.not_finite(blocks)

    def discard(self) -> None:
        """Discard the step in flight; here there is none between two calls of `run`."""

    def _verify(self, done: list[Sequence], logits: Tensor, kernels: Kernels) -> list[tuple[Sequence, Choice]]:
        """Return the choices of each sequence up to the first that is not its draft.

        done: the sequence of each row of the logits; one with drafts has a row for each of them behind its first.
        """
        ahead = [place for _, rows in groupby(done) for place, _ in enumerate(rows)]
        choices = zip(done, sample_with_kernels(logits, done, kernels, ahead), ahead, strict=True)
        kept, wrong = list[tuple[Sequence, Choice]](), None
        for sequence, choice, place in choices:
            if sequence is wrong:
                continue
            kept.append((sequence, choice))
            if sequence.drafts[place : place + 1] != [choice.token_id]:
                wrong = sequence
        return kept

    def _forward(self, plan: Plan) -> tuple[list[Sequence], Tensor]:
        """Return the sequence of each token that samples one, and their logits [n, vocabulary]."""
        sequences, decode = _decode_rows(plan)
        chunks = [Span(sequence.slot, sequence.num_computed, count) for sequence, count in plan.prefill]
        done, keep = _finished(sequences, plan)
        sequences += [sequence for sequence, _ in plan.prefill]
        self._tables.update(sequences)
        metadata = AttentionMetadata.of(decode, chunks, self._tables)
        ids, attend = self._token_ids(plan), self._attention(metadata)
        scored, images = scored_spans(plan), any(sequence.positions is not None for sequence in sequences)
        if not scored and not images:
            rows = None if len(keep) == len(ids) else array("q", keep)
            if (logits := self.decoder.step(ids, metadata.positions, attend, rows)) is not None:
                return done, logits
        device = self.decoder.device
        hidden = self.decoder.embed(index_of(ids, device))
        if self._images.in_step(plan):
            self._images.insert(plan, hidden)
        wanted = keep + [row for span in scored for row in span.rows]
        index = None if not scored and len(keep) == hidden.shape[0] else index_of(array("q", wanted), device)
        positions = index_of(metadata.positions, device)
        if images:
            positions = self._rope_positions(zip(sequences, decode + chunks, strict=True))
        rotary = self.decoder.rotary(positions)
        states = self.decoder.forward(hidden, rotary, attend, index)
        if scored:
            self._score(scored, states[len(keep) :])
        return done, self.decoder.logits(states[: len(keep)])

    def _score(self, spans: list[ScoredSpan], states: Tensor) -> None:
        """Give sequences the log probabilities of their prompts' tokens. states: [rows of all spans, hidden]."""
        for span, own in zip(spans, states.split([len(span.rows) for span in spans]), strict=True):
            span.add(self._scores(span, own))

    def _scores(self, span: ScoredSpan, states: Tensor) -> Iterator[Choice]:
        size = part_rows(self.decoder.vocab_size, self._slots, self.decoder.device.type == "cuda")
        for part in parts(len(span.rows), size):
            targets, logits = span.targets[part], self.decoder.logits(states[part])
            count = span.sequence.sampling.logprobs or 0
            yield from choices_of(
                targets, log_probabilities(logits, index_of(array("q", targets), self.decoder.device), count)
            )

    def _attention(self, metadata: AttentionMetadata) -> Attend:
        kernels = self.decoder.kernels
        if kernels is not None and KernelAttention.supports(self._cache):
            return KernelAttention(self._cache, metadata, kernels, self.decoder.rounds_prompts)
        return TorchAttention(self._cache, metadata)

    @staticmethod
    def _token_ids(plan: Plan) -> array[int]:
        ids = array("q", [token for s in plan.decode for token in (s.token_ids[-1], *s.drafts)])
        for sequence, count in plan.prefill:
            ids.extend(sequence.token_ids[sequence.num_computed : sequence.num_computed + count])
        return ids

    def _rope_positions(self, rows: Iterable[tuple[Sequence, Span]]) -> Tensor:
        """Return the positions [3, T] of a step in which a sequence has images."""
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


def _decode_rows(plan: Plan) -> tuple[list[Sequence], list[Span]]:
    """Return the sequence and span of each decoded token, with those of its drafts behind it.

    Drafts are rows of their own, as if they were tokens of other sequences: so each is computed like any other token.
    """
    if not any(sequence.drafts for sequence in plan.decode):
        return plan.decode.copy(), [Span(sequence.slot, sequence.num_computed, 1) for sequence in plan.decode]
    rows = [(sequence, place) for sequence in plan.decode for place in range(1 + len(sequence.drafts))]
    return [sequence for sequence, _ in rows], [Span(s.slot, s.num_computed + place, 1) for s, place in rows]


def _finished(decode: list[Sequence], plan: Plan) -> tuple[list[Sequence], list[int]]:
    """Return the sequences that have a token chosen in this step, and the flat rows whose logits choose it.

    decode: the sequence of each decoded row.
    """
    done, keep, row = decode.copy(), list(range(len(decode))), len(decode)
    for sequence, count in plan.prefill:
        row += count
        if sequence.num_computed + count >= len(sequence.token_ids):
            done.append(sequence)
            keep.append(row - 1)
    return done, keep
