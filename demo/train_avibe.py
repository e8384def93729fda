"""Train the text demo (Qwen3ForCausalLM) from scratch: `python -m demo.train_avibe [FOLDER] [--stage N]`.

One thread, fp32, AdamW, cosine, loss on the assistant's tokens only; saved as fp16 safetensors.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from demo.checkpoint import average, save_model
from demo.make_tokenizer import VOCAB_SIZE, build
from demo.optimiser import Optimiser
from demo.text_data import TASK_WEIGHTS, Dialogue, training_stream

BATCH_TOKENS = 3072
POOL = 400
MAX_LENGTH = 800
PEAK_LR, FINAL_LR_SHARE, WARMUP = 2.5e-3, 0.02, 100
IGNORED = -100
SAVE_EVERY = 500
FOLDER = Path(__file__).with_name("avibe")
Batch = tuple[torch.Tensor, torch.Tensor]
Encoded = tuple[list[int], list[int]]  # token ids and labels


@dataclass(frozen=True)
class Stage:
    """The plan of one stage.

    weights: how often each of TASKS is drawn; peak: its share of PEAK_LR; kept: the share of the weights before the
    stage in an average with those after it (arXiv:2203.05482).
    """

    seed: int
    steps: int
    peak: float
    weights: tuple[float, ...]
    kept: float = 0.0


STAGES = (
    Stage(7, 2000, 1.0, TASK_WEIGHTS),
    Stage(8, 1600, 0.5, (0.36, 0.09, 0.30, 0.02, 0.16, 0.07)),
    Stage(9, 2000, 0.6, (0.42, 0.08, 0.15, 0.06, 0.19, 0.06, 0.04)),
    Stage(10, 1200, 0.5, (0.30, 0.07, 0.10, 0.06, 0.24, 0.06, 0.04, 0.13), kept=0.25),
    Stage(11, 1000, 0.6, (0.22, 0.05, 0.08, 0.32, 0.16, 0.05, 0.03, 0.09), kept=0.25),
    Stage(12, 800, 0.6, (0.19, 0.05, 0.07, 0.38, 0.15, 0.05, 0.06, 0.05), kept=0.25),
)


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
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
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


def encoded(tokenizer: PreTrainedTokenizerBase, dialogues: Iterator[Dialogue]) -> Iterator[Encoded]:
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
        ready, batch = list[list[Encoded]](), list[Encoded]()
        for pair in pool:
            if batch and len(pair[0]) * (len(batch) + 1) > BATCH_TOKENS:
                ready.append(batch)
                batch = []
            batch.append(pair)
        ready.append(batch)
        rng.shuffle(ready)
        yield from (pad(batch, tokenizer.pad_token_id) for batch in ready)


def pad(batch: list[Encoded], pad_id: int) -> Batch:
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
    """Return the weighted cross-entropy over answer tokens; logits are computed for those alone."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    losses = functional.cross_entropy(model.lm_head(hidden[wanted]), targets[wanted], reduction="none")
    weights = answer_weights(targets)[wanted]
    return (losses * weights).sum() / weights.sum()


def answer_weights(targets: torch.Tensor) -> torch.Tensor:
    """Return [B, T] weights, one over the root of the answer's length, so that short answers count as well."""
    weights = torch.zeros(targets.shape)
    for row, marks in enumerate((targets != IGNORED).tolist()):
        offset = 0
        for answered, run in groupby(marks):
            length = len(list(run))
            if answered:
                weights[row, offset : offset + length] = length**-0.5
            offset += length
    return weights


class CountedStream:
    """A training stream with a count of the dialogues drawn from it."""

    def __init__(self, seed: int, weights: tuple[float, ...]) -> None:
        self.seed, self.count, self.stream = seed, 0, training_stream(seed, weights)

    def __iter__(self) -> Iterator[Dialogue]:
        return self

    def __next__(self) -> Dialogue:
        self.count += 1
        return next(self.stream)


class Trainer:
    """Trains a model through one stage and saves it as it goes, with a record of what it was trained on."""

    def __init__(self, folder: Path, model: Qwen3ForCausalLM, number: int) -> None:
        self.folder, self.model, self.number, self.stage = folder, model, number, STAGES[number]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.stream = CountedStream(self.stage.seed, self.stage.weights)
        self.started, self.tokens = time.monotonic(), 0

    def run(self) -> None:
        """Train for the stage's number of steps."""
        steps, mean = self.stage.steps, 0.0
        optimiser = Optimiser([self.model], PEAK_LR)
        stream = batches(self.tokenizer, self.stream, self.stream.seed)
        for step, (ids, labels) in zip(range(steps), stream, strict=False):
            loss = loss_on_answers(self.model, ids, labels)
            optimiser.step(loss, self.stage.peak * learning_rate(step, steps))
            self.tokens += ids.numel()
            mean += (loss.item() - mean) * max(0.02, 1 / (step + 1))
            if (step + 1) % 50 == 0:
                seconds = time.monotonic() - self.started
                print(f"stage {self.number} step {step + 1} loss {mean:.4f} seconds {seconds:.0f}", flush=True)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                self.save(step + 1)

    def save(self, steps: int) -> None:
        """Save the model and add this stage to the folder's record."""
        save_model(self.model, self.tokenizer, self.folder)
        path = self.folder / "training.json"
        record = json.loads(path.read_text(encoding="utf-8"))[: self.number] if self.number else []
        seconds = round(time.monotonic() - self.started)
        seen = {"stage": self.number, "seed": self.stream.seed, "dialogues": self.stream.count}
        record.append(seen | {"steps": steps, "tokens": self.tokens, "seconds": seconds})
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def train(folder: Path, first: int) -> None:
    """Run the stages from number `first` on, each from the model that the one before saved."""
    torch.set_num_threads(1)
    for number, stage in enumerate(STAGES[first:], first):
        torch.manual_seed(stage.seed)
        if number == 0:
            model = Qwen3ForCausalLM(model_config(build(folder)))
        else:
            model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        trainer = Trainer(folder, model.train(), number)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        trainer.run()
        if stage.kept:
            average(model, before, stage.kept)
            save_model(model, trainer.tokenizer, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--stage", type=int, default=0, help="first stage to run, over what the folder holds")
    arguments = parser.parse_args()
    train(arguments.folder, arguments.stage)
