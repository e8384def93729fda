"""The service's own start at its default settings: both models, of the real shapes, on one card.

A card too small for both in half precision holds them in 8 bits, and in 4: there they start in each of these.

The checkpoints have the exact shapes and no weights (holes in files, which read as zeros), so every answer is the same
token: what is shown is that the card holds both, how long the start takes, and that 64 clients of each are answered.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.harness.in_process import Clients, generation
from benchmarks.harness.workload import Job
from config import load_settings
from engine.types import GenerationRequest, TokensPrompt
from models.model_set import ModelSet
from models.selection import build_models
from tests.checkpoints import write_text_checkpoint, write_tokenizer, write_vision_checkpoint
from tests.sparse_checkpoints import sparse_text, sparse_vision

CLIENTS, SECONDS = 64, 8.0
BOTH_GB = 42.0  # of a card that holds both models in half precision


def defaults(options: Options) -> Rows:
    """Yield what a start takes, what each model has, and what 64 clients of each get."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, options.tiny)
        for quant in formats_of(torch.cuda.mem_get_info()[1] / 1e9 if options.device == "cuda" else None):
            yield from _started(folder, quant, options)


def formats_of(gigabytes: float | None) -> tuple[str, ...]:
    """Return the formats of weights in which a card of so many gigabytes holds both models, of those to be tried."""
    return ("none",) if gigabytes is None or gigabytes >= BOTH_GB else ("int8", "int4")


def _started(folder: Path, quant: str, options: Options) -> Rows:
    wanted = {"VIBE_MODEL_DIR": "vibe", "VIBE_TOKENIZER_DIR": "vibe", "VISION_MODEL_DIR": "vision"}
    settings = {key: str(folder / value) for key, value in wanted.items()}
    settings |= {"DEVICE": options.device, "VIBE_QUANT": quant, "VISION_QUANT": quant}
    models = build_models(load_settings(settings, None))
    began = time.perf_counter()
    models.start()
    try:
        start: Row = {"quant": quant, "seconds": time.perf_counter() - began, "ready": str(models.ready)}
        yield "start", start | _memory(options)
        if not models.ready:
            yield problem(f"the models are not ready ({quant})")
        for name, backend in models:
            stats = backend.stats()
            yield (
                "models",
                {
                    "model": name,
                    "quant": quant,
                    "sequences": stats.max_num_seqs,
                    "tokens of cache": stats.kv_cache_tokens_capacity,
                    "full contexts": stats.kv_cache_tokens_capacity / backend.info.max_model_len,
                },
            )
        yield from _asked(models, quant, options)
        yield "afterwards", _memory(options)
    finally:
        models.stop(0.0)


def _asked(models: ModelSet, quant: str, options: Options) -> Rows:
    """Yield what the clients of each model get while both are asked."""
    clients = options.pick(CLIENTS, 2)
    groups = [Clients(backend, _requests(seed), clients) for seed, (_, backend) in enumerate(models)]
    before = [backend.stats().generation_tokens_total for _, backend in models]
    for group in groups:
        group.start()
    time.sleep(options.pick(int(SECONDS), 1))
    tokens = [backend.stats().generation_tokens_total for _, backend in models]
    for group in groups:
        group.stop()
    for (name, backend), group, first, last in zip(models, groups, before, tokens, strict=True):
        outcomes = group.take_outcomes()
        failed = sum(outcome.error is not None for outcome in outcomes)
        counted = {"answers": len(outcomes), "failed": failed, "tokens": last - first}
        yield "both asked", {"model": name, "quant": quant, **counted}
        if failed or last == first or backend.stats().nan_logits_total:
            yield problem(f"{name}: {failed} of {len(outcomes)} failed, {last - first} tokens; or not finite")


def _write(folder: Path, tiny: bool) -> None:
    if tiny:
        write_text_checkpoint(folder / "vibe")
        write_vision_checkpoint(folder / "vision")
        return
    sparse_text(folder / "vibe")
    sparse_vision(folder / "vision")
    write_tokenizer(folder / "vibe")
    small = write_vision_checkpoint(folder / "small")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    own = json.loads((small / "config.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "vision" / "config.json").read_text(encoding="utf-8"))
    config |= {name: own[name] for name in names}
    (folder / "vision" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in small.iterdir():
        if "token" in file.name or file.name in ("chat_template.json", "preprocessor_config.json"):
            file.rename(folder / "vision" / file.name)


def _requests(seed: int) -> Iterator[GenerationRequest]:
    """Yield requests of 50 to 300 tokens of text without end, for answers of 64 to 256 tokens."""
    rng = random.Random(seed)
    for number in itertools.count():
        ids = tuple(rng.randrange(400) for _ in range(rng.randint(50, 300)))
        yield generation(TokensPrompt(ids), Job("", rng.randint(64, 256), temperature=0.7), number)


def _memory(options: Options) -> Row:
    if options.device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "GB used": (total - free) / 1e9,
        "GB of the card": total / 1e9,
        "GB allocated": torch.cuda.memory_allocated() / 1e9,
    }
