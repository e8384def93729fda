"""Small tokenizers with the added tokens of a Qwen checkpoint, trained without torch and without network."""

from __future__ import annotations

import json
from functools import lru_cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# Added tokens of a Qwen checkpoint, in its order: those marked as special, and the others.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKER_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = (
    "Продам велосипед, красный, хорошее состояние, цена 4500 рублей. Напиши объявление про синий диван.",
    "Что на картинке? Красный квадрат на белом фоне. Какого он цвета? Он зелёный.",
    "Write a listing for a used bicycle, red, good condition. What is in the picture? A red square.",
    "Hello! The quick brown fox jumps over the lazy dog, then answers a question about the price.",
)


@lru_cache
def trained_tokenizer(extra_tokens: tuple[str, ...] = ()) -> Tokenizer:
    """Train a byte-level BPE tokenizer of about 500 tokens with Qwen's pre-tokenizer and added tokens.

    extra_tokens: more tokens of the vocabulary itself, such as the `<0x0A>` of a converted vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_added_tokens(tokenizer, extra_tokens)


@lru_cache
def sentencepiece_tokenizer() -> Tokenizer:
    """Train a SentencePiece-like tokenizer (`▁` for a space, `<0x0A>` for a byte) with Qwen's added tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_added_tokens(tokenizer, ())


def _with_added_tokens(tokenizer: Tokenizer, extra_tokens: tuple[str, ...]) -> Tokenizer:
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for token in extra_tokens:
        vocabulary.setdefault(token, len(vocabulary))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    state["added_tokens"] = [
        {"id": len(vocabulary) + index, "content": token, **flags, "special": token in SPECIAL_TOKENS}
        for index, token in enumerate(SPECIAL_TOKENS + MARKER_TOKENS)
    ]
    return Tokenizer.from_str(json.dumps(state))
