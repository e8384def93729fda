"""Train the image demo (Qwen2.5-VL) from scratch: `python -m demo.train_avision [FOLDER] [--stage N]`.

First the vision tower alone learns shape and colour through a head that is thrown away; then the whole model learns to
answer, easy images first. One thread, fp32, AdamW, cosine; saved as fp16 safetensors.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from demo import vision_batch
from demo.checkpoint import average, save_model
from demo.image_data import TRAINING_SEEDS, LabelledImage, draw_image
from demo.image_dialogues import REGIME_WEIGHTS, REGIMES, ImageDialogue, Mixture, dialogue_stream
from demo.image_questions import COLOURS, SHAPES
from demo.make_tokenizer import VOCAB_SIZE, build
from demo.optimiser import Optimiser
from demo.processor import load_processor
from demo.train_avibe import IGNORED, learning_rate, mask_labels

TOWER_BATCH, TOWER_LR = 64, 2e-3
BATCH, PEAK_LR = 48, 2e-3
TOWER_WIDTH = 64
HEAD_WEIGHT, HEAD_UNTIL, HEAD_QUERIES = 0.3, 0.5, 4
POOL, SAMPLES = 8, 300
BOX_UNIT = math.sqrt(vision_batch.MAX_PIXELS)
SAVE_EVERY = 300
FOLDER = Path(__file__).with_name("avision")
SHAPE_NAMES, COLOUR_NAMES = [*SHAPES, "plain", "unclear"], list(COLOURS)
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "do_convert_rgb": True,
    "do_resize": True, "resample": 3,
    "size": {"shortest_edge": vision_batch.MIN_PIXELS, "longest_edge": vision_batch.MAX_PIXELS},
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": vision_batch.MEAN.astype(float).round(8).tolist(),
    "image_std": vision_batch.STD.astype(float).round(8).tolist(), "patch_size": 14, "temporal_patch_size": 2,
    "merge_size": 2,
}  # fmt: skip


def model_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    """Return the architecture: a tower 64 wide and 4 deep, a language part 128 wide and 3 deep."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": VOCAB_SIZE, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": TOWER_WIDTH, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128,
        "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [0, 1, 2, 3], "initializer_range": 0.1,
    }  # fmt: skip
    ids: dict[str, Any] = {
        "image_token_id": token("<|image_pad|>"), "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"), "vision_end_token_id": token("<|vision_end|>"),
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


@dataclass(frozen=True)
class Stage:
    """The plan of one stage: the tower alone, then the answers; shares are of a peak rate or of the shapes drawn.

    kept: the share of the weights before the stage in an average with those after it (arXiv:2203.05482).
    """

    seed: int
    tower_steps: int
    steps: int
    peak: float
    clean_until: float
    easy_until: float
    mixture: Mixture
    box_weight: float = 0.0
    kept: float = 0.0


SMALL_AND_SIDES = ("small", "small", "trained", "sides")
EDGES_AND_SIDES = ("edges", "edges", "edges", "small", "trained", "sides")
STAGES = (
    Stage(11, 1700, 900, 1.0, 0.2, 0.5, Mixture()),
    Stage(21, 1000, 1000, 0.6, 0.1, 0.1, Mixture(0.4, kinds=(0.77, 0.17, 0.06))),
    Stage(31, 3600, 2400, 0.8, 0.05, 0.05, Mixture(0.25, SMALL_AND_SIDES, (0.66, 0.28, 0.06)), 5.0),
    Stage(41, 900, 900, 0.5, 0.02, 0.02, Mixture(0.1, EDGES_AND_SIDES, (0.68, 0.26, 0.06)), 5.0, 0.5),
    Stage(51, 500, 900, 0.5, 0.02, 0.02, Mixture(0.1, EDGES_AND_SIDES, (0.74, 0.20, 0.06)), 5.0, 0.5),
)


class Head(nn.Module):
    """The throw-away head: features, weighted by learned attention, to shape and colour logits and to a box."""

    def __init__(self, width: int, box_weight: float = 0.0) -> None:
        super().__init__()
        self.box_weight = box_weight
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, HEAD_QUERIES)
        self.shape = nn.Linear(width * HEAD_QUERIES, len(SHAPE_NAMES))
        self.colour = nn.Linear(width * HEAD_QUERIES, len(COLOUR_NAMES))
        self.box = nn.Linear(width * HEAD_QUERIES, 4)

    def pool(self, features: Tensor) -> Tensor:
        """Return [queries * D] from the [N, D] features of one image."""
        normed: Tensor = self.norm(features)
        scores: Tensor = self.score(normed)
        return (scores.softmax(0).T @ normed).flatten()

    def loss(self, features: list[Tensor], images: list[LabelledImage]) -> Tensor:
        """Return the cross-entropy of shape and colour, and the distance of the box, without unknown parts."""
        pooled = torch.stack([self.pool(item) for item in features])
        shapes = torch.tensor([SHAPE_NAMES.index(one.shape or one.kind) for one in images])
        colours = torch.tensor([COLOUR_NAMES.index(one.colour) if one.colour else IGNORED for one in images])
        colour_loss = functional.cross_entropy(self.colour(pooled), colours)
        loss = functional.cross_entropy(self.shape(pooled), shapes) + colour_loss
        return loss + self.box_weight * self.box_distance(pooled, images) if self.box_weight else loss

    def box_distance(self, pooled: Tensor, images: list[LabelledImage]) -> Tensor:
        """Return the mean distance of the boxes, in sides of an image of the largest size."""
        known = [index for index, one in enumerate(images) if one.box]
        wanted = [
            [share * side / BOX_UNIT for share, side in zip(one.box, vision_batch.resized(one.image) * 2, strict=True)]
            for one in images
            if one.box
        ]
        return functional.l1_loss(self.box(pooled[known]), torch.tensor(wanted))


def sample_patches() -> vision_batch.Patches:
    """Return the [N, 588] patches of SAMPLES training images."""
    return np.concatenate([vision_batch.patches(draw_image(seed).image)[0] for seed in range(SAMPLES)])


def tower_batches(stage: Stage) -> Iterator[list[LabelledImage]]:
    """Yield batches of training images, clean and large shapes first."""
    rng = random.Random(stage.seed)
    for step in range(stage.tower_steps):
        batch = []
        for _ in range(TOWER_BATCH):
            regime = rng.choices(REGIMES, weights=REGIME_WEIGHTS)[0]
            if regime == "shape":
                regime = shape_regime(rng, stage, step / stage.tower_steps)
            batch.append(draw_image(rng.randrange(TRAINING_SEEDS), regime))
        yield batch


def shape_regime(rng: random.Random, stage: Stage, done: float) -> str:
    """Return the regime of a shape when `done` of the steps are over: clean ones, then large ones, then all."""
    if rng.random() < 1 - done / stage.clean_until:
        return "clean"
    easy = rng.random() < max(stage.mixture.easy, 1 - done / stage.easy_until)
    return "easy" if easy else rng.choice(stage.mixture.rest)


class Trainer:
    """The model, its head and its optimiser; one object for a stage."""

    def __init__(self, folder: Path, stage: Stage, model: Qwen2_5_VLForConditionalGeneration) -> None:
        self.folder, self.stage, self.model = folder, stage, model
        self.tokenizer, self.tower = load_processor(folder).tokenizer, model.model.visual
        self.head = Head(model.config.get_text_config().hidden_size, stage.box_weight)
        self.started = time.monotonic()

    def report(self, stage: str, step: int, mean: float) -> None:
        """Print the progress."""
        print(f"{stage} step {step} loss {mean:.4f} seconds {time.monotonic() - self.started:.0f}", flush=True)

    def train_tower(self) -> None:
        """Teach the tower shape and colour."""
        optimiser, mean = Optimiser([self.tower, self.head], TOWER_LR), 0.0
        for step, images in enumerate(tower_batches(self.stage)):
            features = vision_batch.features(self.tower, [vision_batch.patches(one.image) for one in images])
            loss = self.head.loss(features, images)
            optimiser.step(loss, self.stage.peak * max(0.15, learning_rate(step, self.stage.tower_steps)))
            mean += (loss.item() - mean) * max(0.02, 1 / (step + 1))
            if (step + 1) % 50 == 0:
                self.report("tower", step + 1, mean)

    def dialogue_loss(self, dialogues: list[ImageDialogue], head_weight: float) -> tuple[Tensor, float]:
        """Return the loss of a batch, and its answer part as a number."""
        images = [image for dialogue in dialogues for image in dialogue.images]
        prepared = [vision_batch.patches(one.image) for one in images]
        features = vision_batch.features(self.tower, prepared)
        ids, labels, mask = self.encode(dialogues, prepared)
        image_token = self.model.config.image_token_id
        embedded = self.model.get_input_embeddings()(ids)
        embedded = embedded.masked_scatter((ids == image_token)[..., None], torch.cat(features))
        grids = torch.tensor([[1, *grid] for _, grid in prepared])
        positions, _ = self.model.model.get_rope_index(ids, (ids == image_token).int(), grids, attention_mask=mask)
        hidden = self.model.model.language_model(inputs_embeds=embedded, position_ids=positions).last_hidden_state[
            :, :-1
        ]
        wanted = labels[:, 1:] != IGNORED
        answers = functional.cross_entropy(self.model.lm_head(hidden[wanted]), labels[:, 1:][wanted])
        return answers + head_weight * self.head.loss(features, images) if head_weight else answers, answers.item()

    def encode(
        self, dialogues: list[ImageDialogue], prepared: list[vision_batch.Prepared]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return right-padded (ids, labels, attention mask), each [B, T], with one image token per merged patch."""
        counts = iter([rows * columns // 4 for _, (rows, columns) in prepared])
        rows = []
        for dialogue in dialogues:
            pieces = self.tokenizer.apply_chat_template(dialogue.messages, tokenize=False).split("<|image_pad|>")
            text = pieces[0] + "".join("<|image_pad|>" * next(counts) + piece for piece in pieces[1:])
            rows.append(self.tokenizer(text).input_ids)
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.tensor([mask_labels(self.tokenizer, row) + [IGNORED] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids, labels, mask

    def dialogue_batches(self) -> Iterator[list[ImageDialogue]]:
        """Yield batches of dialogues of similar length, so that little is padded."""
        stage = self.stage
        stream, rng = dialogue_stream(stage.seed + 1, stage.mixture), random.Random(stage.seed)
        while True:
            pool = sorted(
                islice(stream, BATCH * POOL), key=lambda item: len(str(item.messages)) + 60 * len(item.images)
            )
            ready = [pool[start : start + BATCH] for start in range(0, len(pool), BATCH)]
            rng.shuffle(ready)
            yield from ready

    def train_answers(self) -> None:
        """Teach the whole model to answer, and save every SAVE_EVERY steps."""
        optimiser, mean, steps = Optimiser([self.model, self.head], PEAK_LR), 0.0, self.stage.steps
        for step, dialogues in zip(range(steps), self.dialogue_batches(), strict=False):
            loss, answers = self.dialogue_loss(dialogues, HEAD_WEIGHT if step < HEAD_UNTIL * steps else 0.0)
            optimiser.step(loss, self.stage.peak * learning_rate(step, steps))
            mean += (answers - mean) * max(0.02, 1 / (step + 1))
            if (step + 1) % 50 == 0:
                self.report("answers", step + 1, mean)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                save_model(self.model, self.tokenizer, self.folder)


def prepare(folder: Path) -> None:
    """Put the tokenizer (the same as the text demo's) and the image settings into `folder`."""
    build(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")


def first_model(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """Return an untrained model whose patch embedding starts from cosines."""
    model = Qwen2_5_VLForConditionalGeneration(model_config(load_processor(folder).tokenizer))
    vision_batch.start_from_cosines(model.model.visual, sample_patches())
    return model


def train(folder: Path, first: int) -> None:
    """Run the stages from number `first` on, each from what the one before saved."""
    torch.set_num_threads(1)
    if first == 0:
        prepare(folder)
    for number, stage in enumerate(STAGES[first:], first):
        torch.manual_seed(stage.seed)
        saved = Qwen2_5_VLForConditionalGeneration.from_pretrained
        model = saved(folder, dtype=torch.float32).train() if number else first_model(folder)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        trainer = Trainer(folder, stage, model)
        trainer.train_tower()
        trainer.train_answers()
        if stage.kept:
            average(model, before, stage.kept)
            save_model(model, trainer.tokenizer, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--stage", type=int, default=0, help="first stage to run, over what the folder holds")
    arguments = parser.parse_args()
    train(arguments.folder, arguments.stage)
