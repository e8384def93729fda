"""The benchmark checkpoints: random weights in the real architectures, with a small tokenizer of their own.

text: a Qwen3-shaped model of 39 million parameters (hidden 512, 12 layers, 8 heads over 4 key heads, head_dim 64, FFN
1,536, vocabulary 2,048, tied) in float32. vision: the same language part with 6 layers under a small Qwen2.5-VL tower.
wide: two layers of Qwen3-0.6B's shape and 151,936 tokens, in bfloat16. qwen3-0.6b: all of its 28 layers, 596 million
parameters. Everything is seeded: the folders are reproducible. No configuration names an end token; the tokenizer does
(<|im_end|>), which random weights draw about once in as many tokens as there are.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SEED = 0
VOCABULARY = 2048
WIDE_VOCABULARY = 151_936  # that of Qwen3
SMALL_QWEN3 = "qwen3-0.6b"
# huggingface.co/Qwen/Qwen3-0.6B, config.json
SMALL_QWEN3_SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
# For trying it: as many tokens and the same names, in 20 MB.
TINY_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 2,048 words, trained on seeded random text."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(3000)]
    lines = [" ".join(rng.choices(words, k=40)) for _ in range(2000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def make_text_model(folder: Path) -> None:
    """Write the 39M text model and its tokenizer to `folder`."""
    tokenizer = make_tokenizer()
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(Qwen3Config(**_language(len(tokenizer), layers=12), tie_word_embeddings=True))
    _save(model, tokenizer, folder)


def make_wide_model(folder: Path) -> None:
    """Write two layers of Qwen3-0.6B's shape with as many tokens: sampling takes a larger share than in any Qwen3."""
    tokenizer = widened(make_tokenizer())
    torch.manual_seed(SEED)
    shape = _language(len(tokenizer), layers=2) | {"hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128}
    shape |= {"num_attention_heads": 16, "num_key_value_heads": 8}
    model = Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True))
    _save(model.bfloat16(), tokenizer, folder)


def make_small_qwen3(folder: Path, tokenizer: Path | None = None, tiny: bool = False) -> None:
    """Write Qwen3-0.6B's shape in bfloat16.

    tokenizer: a folder with one, None for the widened small one; tiny: two narrow layers instead, to try the program.
    Raises ValueError if the tokenizer has more tokens than the model.
    """
    words = widened(make_tokenizer()) if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
    if len(words) > WIDE_VOCABULARY:
        raise ValueError(f"The tokenizer in {tokenizer} has {len(words):,} tokens, the model {WIDE_VOCABULARY:,}.")
    torch.manual_seed(SEED)
    _save(Qwen3ForCausalLM(small_qwen3(tiny)).bfloat16(), words, folder)


def small_qwen3(tiny: bool = False) -> Qwen3Config:
    """Return the configuration of Qwen3-0.6B, without an end token."""
    shape = _language(WIDE_VOCABULARY, layers=0) | SMALL_QWEN3_SHAPE | (TINY_SHAPE if tiny else {})
    return Qwen3Config(**shape, tie_word_embeddings=True)


def widened(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer with words that texts are never encoded to, up to WIDE_VOCABULARY tokens."""
    rng = random.Random(SEED)
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    while len(vocabulary) < WIDE_VOCABULARY:
        word = rng.choice(("", "\u0120")) + "".join(rng.choices(SYLLABLES, k=rng.randint(2, 5)))
        vocabulary.setdefault(word, len(vocabulary))
    wide = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        clean_up_tokenization_spaces=False,
    )
    wide.chat_template = TEMPLATE
    return wide


def make_vision_model(folder: Path) -> None:
    """Write a small Qwen2.5-VL-shaped model with its tokenizer and image processor to `folder`."""
    tokenizer = make_tokenizer()
    torch.manual_seed(SEED)
    language = _language(len(tokenizer), layers=6)
    language["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 384,
        "out_hidden_size": 512,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [3],
    }
    ids: dict[str, Any] = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    ids |= {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    config = Qwen2_5_VLConfig(text_config=language, vision_config=vision, tie_word_embeddings=True, **ids)
    _save(Qwen2_5_VLForConditionalGeneration(config), tokenizer, folder)
    write_processor(folder, longest_side=224)


def write_processor(folder: Path, longest_side: int) -> None:
    """Write the image processor's settings. longest_side: of a square image that is not scaled down, in pixels."""
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 56 * 56,
        "max_pixels": longest_side * longest_side,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))


@contextmanager
def checkpoint(kind: str, given: Path | None) -> Iterator[Path]:
    """Yield the given folder, or a temporary one with the model of this kind."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        MAKERS[kind](Path(folder))
        yield Path(folder)


def _language(vocabulary: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": 0,
    }


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MAKERS = {
    "text": make_text_model,
    "vision": make_vision_model,
    "wide": make_wide_model,
    SMALL_QWEN3: make_small_qwen3,
}
