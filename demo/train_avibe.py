"""Train the text demo (Qwen3ForCausalLM) from scratch: `python -m demo.train_avibe [FOLDER] [--steps N]`.

One thread, fp32, AdamW, cosine, loss on the assistant's tokens only; saved as fp16 safetensors.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from demo.checkpoint import save_model
from demo.make_tokenizer import VOCAB_SIZE, build
from demo.optimiser import Optimiser
from demo.text_data import Dialogue, training_stream

SEED = 7
STEPS = 1300
BATCH_TOKENS = 3072
POOL = 400
MAX_LENGTH = 800
PEAK_LR, FINAL_LR_SHARE, WARMUP = 2.5e-3, 0.02, 100
IGNORED = -100
SAVE_EVERY = 400
FOLDER = Path(__file__).with_name("avibe")
Batch = tuple[torch.Tensor, torch.Tensor]


def model_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """Return the architecture: 192 wide, 4 layers, 4 heads over 2 key-value heads, tied embeddings."""
    return Qwen3Config(
        vocab_size=VOCAB_SIZE, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def mask_labels(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Return labels equal to ids inside the assistant's turns (end token included) and IGNORED elsewhere."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    opening = [start, *tokenizer("assistant\n").input_ids]
    labels, inside, position = [IGNORED] * len(ids), False, 0
    while position < len(ids):
        if ids[position : position + len(opening)] == opening:
            inside, position = True, position + len(opening)
            continue
        if inside:
            labels[position] = ids[position]
            inside = ids[position] != end
        position += 1
    return labels


def encoded(tokenizer: PreTrainedTokenizerBase, dialogues: Iterator[Dialogue]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (ids, labels) of the training dialogues that fit in MAX_LENGTH tokens."""
    for dialogue in dialogues:
        text = tokenizer.apply_chat_template(dialogue.messages, tools=dialogue.tools, tokenize=False)
        ids = tokenizer(text).input_ids
        if len(ids) <= MAX_LENGTH:
            yield ids, mask_labels(tokenizer, ids)


def batches(tokenizer: PreTrainedTokenizerBase, dialogues: Iterator[Dialogue], seed: int) -> Iterator[Batch]:
    """Yield (ids [B, T], labels [B, T]) of similar lengths, about BATCH_TOKENS tokens each."""
    stream, rng = encoded(tokenizer, dialogues), random.Random(seed)
    while True:
        pool = sorted(islice(stream, POOL), key=lambda pair: len(pair[0]))
        ready, batch = [], []
        for pair in pool:
            if batch and len(pair[0]) * (len(batch) + 1) > BATCH_TOKENS:
                ready.append(batch)
                batch = []
            batch.append(pair)
        ready.append(batch)
        rng.shuffle(ready)
        yield from (pad(batch, tokenizer.pad_token_id) for batch in ready)


def pad(batch: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Right-pad a batch; padded labels are IGNORED."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in batch])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in batch])
    return ids, labels


def learning_rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: linear warm-up, then cosine down to FINAL_LR_SHARE."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def loss_on_answers(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over answer tokens; logits are computed for those alone."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[wanted]), targets[wanted])


class CountedStream:
    """The training stream with a count of the dialogues drawn from it."""

    def __init__(self, seed: int) -> None:
        self.count, self.stream = 0, training_stream(seed)

    def __iter__(self) -> Iterator[Dialogue]:
        return self

    def __next__(self) -> Dialogue:
        self.count += 1
        return next(self.stream)


def train(folder: Path, steps: int) -> None:
    """Train for `steps` steps and save into `folder`, also every SAVE_EVERY steps."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    build(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForCausalLM(model_config(tokenizer))
    optimiser = Optimiser([model], PEAK_LR)
    started, tokens, mean, stream = time.monotonic(), 0, 0.0, CountedStream(SEED)
    for step, (ids, labels) in zip(range(steps), batches(tokenizer, stream, SEED), strict=False):
        loss = loss_on_answers(model, ids, labels)
        optimiser.step(loss, learning_rate(step, steps))
        tokens += ids.numel()
        mean += (loss.item() - mean) * max(0.02, 1 / (step + 1))
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1} loss {mean:.4f} tokens {tokens} seconds {time.monotonic() - started:.0f}", flush=True
            )
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            seconds = round(time.monotonic() - started)
            record = {"seed": SEED, "steps": step + 1, "tokens": tokens, "dialogues": stream.count, "seconds": seconds}
            (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            save_model(model, tokenizer, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.steps)
