"""Loads the model of a ModelSpec: checks the folders and the memory first, then loads weights, tokenizer and template.

Context length, end tokens, chat template and sampling defaults come from the files of the checkpoint.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.errors import Message, StartError
from engine.loading.checkpoint import ARCHITECTURES, Checkpoint, find_checkpoint, find_tokenizer
from engine.loading.host import available_bytes
from engine.loading.identity import identify
from engine.loading.quantization import weight_bytes
from engine.loading.weights import load_weights
from engine.text.detokenizer import TokenTable
from engine.text.image_decoder import ImageDecoder
from engine.text.processor import ImagePreparer, load_processor, load_tokenizer
from engine.text.prompt import PromptPreparer
from engine.text.spelling import Spelling
from engine.types import ModelIdentity, ModelSpec, Progress

log = logging.getLogger("avito_ai.loading")

TEXT_ARCHITECTURE, VISION_ARCHITECTURE = ARCHITECTURES["avibe"], ARCHITECTURES["avision"]
# What a checkpoint may state, with what a request may ask for: more than the one, and at most the other.
_SAMPLING_DEFAULTS = {
    "temperature": (-1e-9, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (-math.inf, math.inf),
    "min_p": (-1e-9, 1.0),
    "repetition_penalty": (0.0099, 10.0),
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device with its tokenizer and prompt preparation. max_model_len and vocab_size are in tokens.

    generation_defaults: the sampling parameters of the checkpoint. They are removed from `generation_config` of the
    model, which keeps its end and pad tokens only, so `generate()` does not apply them.
    tools: whether the chat template renders tools and calls. identity: of the checkpoint. spelling: how tokens read
    that are shown as such.
    """

    model: PreTrainedModel
    preparer: PromptPreparer
    token_table: TokenTable
    eos_token_ids: frozenset[int]
    max_model_len: int
    vocab_size: int
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
    tools: bool | None = None
    identity: ModelIdentity | None = None
    spelling: Spelling = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spelling", Spelling(self.token_table, self.preparer.control_tokens))

    @property
    def image_token_id(self) -> int | None:
        """The token that stands for a part of an image, None for a model without vision."""
        token_id: int | None = getattr(self.model.config, "image_token_id", None)
        return token_id


def load_model(
    spec: ModelSpec,
    report: Callable[[Progress], None],
    max_model_len: int | None = None,
    available: Callable[[str], int] = available_bytes,
    decoder: ImageDecoder | None = None,
) -> LoadedModel:
    """Load the checkpoint of `spec`. Raises StartError and then leaves nothing loaded.

    report: receives the progress, in this thread. max_model_len: the configured limit in tokens; the limit of the
    checkpoint applies too. available: returns the free bytes of a device. decoder: of images, by default in the thread
    that brings them.
    """
    report(Progress(Message("stage_files", "checking the files")))
    checkpoint = find_checkpoint(
        spec.model_dir, spec.dir_setting, VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    )
    _check_memory(spec, checkpoint, available(spec.device))
    tokenizer, processor = _load_tokenizer(spec, checkpoint)
    identity = identify(spec, checkpoint)
    log.info("%s: loading %s onto %s as %s", spec.name, checkpoint.folder, spec.device, spec.weights)
    log.info(
        "%s: checkpoint %s, revision %s, sha256 of headers and config %s, fingerprint %s",
        spec.name,
        identity.name,
        identity.revision or "unknown",
        identity.digest,
        identity.fingerprint,
    )
    model = load_weights(spec, checkpoint, report)
    length = _context_length(model, max_model_len)
    images = None if processor is None else _image_preparer(spec, processor, image_tokens(length), decoder)
    loaded = _assemble(spec, model, tokenizer, _chat_template(spec, tokenizer, processor), images, length)
    return replace(loaded, identity=identity)


def loaded_bytes(spec: ModelSpec, checkpoint: Checkpoint) -> int:
    """Return what the weights take once they are loaded."""
    itemsize = getattr(torch, spec.dtype).itemsize
    if spec.quant == "none":
        return checkpoint.loaded_bytes(itemsize)
    return weight_bytes(checkpoint.shapes.items(), spec.quant, itemsize, spec.device_type)


def check_files(spec: ModelSpec) -> Checkpoint:
    """Check everything that a start reads of a checkpoint, except the values of its weights. Raises StartError."""
    checkpoint = find_checkpoint(
        spec.model_dir, spec.dir_setting, VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    )
    tokenizer, processor = _load_tokenizer(spec, checkpoint)
    _chat_template(spec, tokenizer, processor)
    return checkpoint


def _check_memory(spec: ModelSpec, checkpoint: Checkpoint, available: int) -> None:
    needed = loaded_bytes(spec, checkpoint)
    if needed > available:
        raise StartError(
            f"{spec.dir_setting}: the model in {checkpoint.folder} does not fit: its weights take "
            f"{needed / 1e9:.2f} GB in {spec.weights} and {available / 1e9:.2f} GB of memory are free on {spec.device}."
        )


def _load_tokenizer(spec: ModelSpec, checkpoint: Checkpoint) -> tuple[PreTrainedTokenizerBase, Any]:
    """Return the tokenizer and, for a vision model, its processor (else None)."""
    architecture = VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    folder = find_tokenizer(spec.tokenizer_dir, spec.tokenizer_setting, checkpoint.folder, architecture)
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # transformers raises many types for broken files
        raise StartError(f"{spec.tokenizer_setting}: the tokenizer in {folder} cannot be loaded.") from error
    if not spec.vision:
        return tokenizer, None
    try:
        return tokenizer, load_processor(checkpoint.folder, tokenizer)
    except Exception as error:
        raise _processor_failure(spec, checkpoint) from error


def _processor_failure(spec: ModelSpec, checkpoint: Checkpoint) -> StartError:
    names = ("preprocessor_config.json", "processor_config.json")
    there = [name for name in names if (checkpoint.folder / name).exists()]
    if not there:
        return StartError(
            f"{spec.dir_setting}: the folder {checkpoint.folder} lacks {names[0]} (or {names[1]}), which says how "
            f"images are prepared: copy it from where the weights are from."
        )
    return StartError(
        f"{spec.dir_setting}: the image processor in {checkpoint.folder} cannot be loaded: {' and '.join(there)} must "
        f"be those of the published model."
    )


def image_tokens(length: int) -> int:
    """Return how many tokens the images of one prompt may have together in a context of `length` tokens."""
    return max(1, length // 2)


def _context_length(model: PreTrainedModel, limit: int | None) -> int:
    own = int(model.config.get_text_config().max_position_embeddings)
    return min(own, limit or own)


def _image_preparer(spec: ModelSpec, processor: Any, max_tokens: int, decoder: ImageDecoder | None) -> ImagePreparer:
    try:
        return ImagePreparer(processor, max_tokens, decoder)
    except ValueError as error:
        raise StartError(
            f"{spec.dir_setting}: the image processor in {spec.model_dir} is not supported: its settings must be those "
            f"of a Qwen2.5-VL."
        ) from error


def _assemble(
    spec: ModelSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    images: ImagePreparer | None,
    length: int,
) -> LoadedModel:
    vocab_size = int(model.config.get_text_config().vocab_size)
    eos = _end_tokens(spec, model, tokenizer)
    if max(max(tokenizer.get_vocab().values()), *eos) >= vocab_size:
        raise StartError(
            f"{spec.tokenizer_setting}: the tokenizer in {spec.tokenizer_dir} is not this model's: it has token ids "
            f"beyond the model's vocabulary of {vocab_size:,}."
        )
    preparer = PromptPreparer(tokenizer, vocab_size, template, images, length)
    # The published Avision shows SentencePiece markers in its text whatever its vocabulary, so it is always cleaned.
    table = TokenTable.of(tokenizer.backend_tokenizer, vocab_size, eos, cleans=True if spec.vision else None)
    defaults = _take_defaults(model, tokenizer, eos)
    return LoadedModel(model, preparer, table, eos, length, vocab_size, defaults, preparer.renders_tools())


def _end_tokens(spec: ModelSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer.

    Those of the generation config (one or a list), else of the model's config, and that of the tokenizer.
    """
    assert model.generation_config is not None
    stated: Any = model.generation_config.eos_token_id
    if stated is None:
        stated = model.config.get_text_config().eos_token_id
    ids = set(stated if isinstance(stated, list) else [stated]) | {tokenizer.eos_token_id}
    ids.discard(None)
    if not ids:
        raise StartError(f"{spec.dir_setting}: the model in {spec.model_dir} names no end-of-sequence token.")
    return frozenset(ids)


def _chat_template(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, processor: Any) -> str:
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise StartError(
            f"{spec.tokenizer_setting}: the tokenizer in {spec.tokenizer_dir} has no chat template: copy "
            f"chat_template.jinja from where it is from."
        )
    return str(template)


def _take_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos: frozenset[int]) -> dict[str, float]:
    """Move the sampling parameters of the checkpoint out of the model, where `generate()` would apply them."""
    stated = {name: getattr(model.generation_config, name, None) for name in _SAMPLING_DEFAULTS}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
    config: Any = GenerationConfig
    model.generation_config = config(eos_token_id=sorted(eos), pad_token_id=pad)
    return {name: usable for name, value in stated.items() if (usable := _in_range(name, value)) is not None}


def _in_range(name: str, value: Any) -> float | None:
    """Return a default of the checkpoint as a request may have it; None for none, and for what means nothing."""
    low, high = _SAMPLING_DEFAULTS[name]
    if not isinstance(value, int | float) or not math.isfinite(value) or not low < value <= high:
        return None
    return float(max(0, value)) if name == "top_k" else float(value)  # -1 is for all tokens, too
