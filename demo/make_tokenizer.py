"""Train the demo tokenizer: byte-level BPE of 1,280 tokens with Qwen's pre-tokenizer and special tokens.

A word has the same pieces after a space, a comma or nothing, because no learned merge holds a leading space; only
frequent words of the demo's own sentences get one, as merges of the lowest rank. So a word is copied piece by piece.
Run `python -m demo.make_tokenizer FOLDER`.
"""

import json
import random
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from demo import image_questions as images
from demo.text_data import Dialogue, training_stream
from demo.words import COLOURS, CONDITIONS, ITEMS

VOCAB_SIZE = 1280
SPACED_WORDS = 150
CORPUS_DIALOGUES = 6000
SEED = 1
SPACE = "Ġ"
CONTROL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEXT_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
WORD_OR_MARK = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"
TEMPLATE = Path(__file__).with_name("avibe") / "chat_template.jinja"


def corpus(dialogues: int) -> list[str]:
    """Return the training lines: text dialogues, and the questions and answers about images."""
    lines = [text for item in islice(training_stream(SEED), dialogues) for text in _texts(item)]
    rng = random.Random(SEED)
    for _ in range(dialogues):
        lang = rng.choice(("en", "ru"))
        kind = rng.choice(("describe", "colour", "shape"))
        shape, colour = rng.choice(list(images.SHAPES)), rng.choice(list(images.COLOURS))
        lines += [images.ask(rng, kind, lang), images.answer(shape, colour, kind, lang)]
    for lang in ("en", "ru"):
        lines += list(images.IMAGE_TALK[lang].values()) * (dialogues // 50)
    return lines + ["system", "user", "assistant", "tool"] * dialogues


def _texts(dialogue: Dialogue) -> list[str]:
    return [message["content"] for message in dialogue.messages]


def learn_merges(lines: list[str], vocab_size: int) -> list[tuple[str, str]]:
    """Learn BPE merges over words cut from their leading space or mark; return them in rank order."""
    trainee = Tokenizer(models.BPE())
    trainee.normalizer = normalizers.NFC()
    trainee.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORD_OR_MARK), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    trainee.train_from_iterator(lines, trainer)
    return [tuple(pair) for pair in json.loads(trainee.to_str())["model"]["merges"]]


def spaced_merges(lines: list[str], merges: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Return (space, word) merges for the most frequent one-token words that are no item, colour or condition."""
    known = {left + right for left, right in merges}
    copied = {
        word.lower()
        for lang in ("en", "ru")
        for phrase in ITEMS[lang] + COLOURS[lang] + CONDITIONS[lang]
        for word in phrase.split()
    }
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    frequency: Counter[str] = Counter()
    for line in lines:
        for before, word in zip(line.split(" "), line.split(" ")[1:], strict=False):
            word = word.strip(".,!?:;()")
            if before and len(word) >= 3 and word.isalpha() and word.lower() not in copied:
                frequency[word] += 1
    ranked = (encode.pre_tokenize_str(word)[0][0] for word, _ in frequency.most_common())
    return [(SPACE, word) for word in ranked if word in known][:count]


def build(folder: Path) -> Qwen2Tokenizer:
    """Train, save into `folder` with the chat template, and return the tokenizer."""
    lines = corpus(CORPUS_DIALOGUES)
    merges = learn_merges(lines, VOCAB_SIZE - len(CONTROL_TOKENS) - len(TEXT_TOKENS) - SPACED_WORDS)
    merges += spaced_merges(lines, merges, SPACED_WORDS)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    make: Any = Qwen2Tokenizer  # its annotations admit neither pairs as merges nor the absence of an unknown token
    tokenizer: Qwen2Tokenizer = make(
        vocab=vocab, merges=merges, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS],
        chat_template=TEMPLATE.read_text(encoding="utf-8"), model_max_length=2048,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TEXT_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


if __name__ == "__main__":
    print(len(build(Path(sys.argv[1]))), "tokens")
