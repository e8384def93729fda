"""Both models on one card: while one of them starts, at the same time, and over many sizes of images."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks import gpu
from benchmarks.card.aims import aimed_together
from benchmarks.card.engines import (
    Reader,
    Started,
    broken,
    every_token_streamed,
    figures_row,
    gaps_row,
    random_lengths,
    unanswered,
)
from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.harness.gpu_report import BOTH, TEXT, VISION, ByPoint, together
from benchmarks.harness.in_process import Clients, ask, request_of
from benchmarks.harness.shapes import shapes
from benchmarks.harness.workload import Job, draw_image
from engine.text.images import check_header
from engine.types import GenerationRequest

IMAGE_SIDES = (28, 900)  # pixels
LONGEST = 20.0  # seconds in which a token must have come


def both(options: Options) -> Rows:
    """Yield the failures while the second model starts, the figures of each alone and both, and those of images."""
    clients = options.pick(64, 2)
    text_shape, vision_shape = shapes(options.tiny)
    sizes = gpu.SMALL if options.tiny else gpu.FULL
    with Started(TEXT, text_shape, random_lengths(text_shape, options), options, clients) as text:
        yield "start", text.facts
        early = Clients(text.engine, text.running.requests, options.pick(8, 1))
        early.start()
        vision = Started(VISION, vision_shape, gpu.vision_requests(sizes), options, clients)
        early.stop()
        with vision:
            meanwhile = _outcomes(early)
            yield "start", {**vision.facts, **meanwhile}
            answered = float(str(meanwhile["answers of the first model meanwhile"]))
            yield from unanswered("while the other started", answered, meanwhile["failed"])
            yield from _together(text, vision, clients, options)
            yield from _gaps(text, vision, clients, options)
            yield from _images(vision, options)
            yield from broken(text)
            yield from broken(vision)


def _outcomes(early: Clients) -> Row:
    ended = early.take_outcomes()
    return {
        "answers of the first model meanwhile": len(ended),
        "failed": sum(outcome.error is not None for outcome in ended),
        "longest answer, s": max((outcome.seconds for outcome in ended), default=None),
    }


def _together(text: Started, vision: Started, clients: int, options: Options) -> Rows:
    figures: ByPoint = {}
    for name, models in ((TEXT, [text]), (VISION, [vision]), (BOTH, [text, vision])):
        figures[f"{name}, c={clients}"] = gpu.steady([model.running for model in models], clients, text.sizes)
        for kind, own in figures[f"{name}, c={clients}"].items():
            yield "load", figures_row(f"{name}, c={clients}: {kind}", own)
            yield from unanswered(f"{name}: {kind}", own["tokens_per_second"], own["failures"])
        if options.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            row: Row = {
                "after": name,
                "GB used": (total - free) / 1e9,
                "GB in use": torch.cuda.memory_allocated() / 1e9,
            }
            yield "memory", row
    ratio = together(figures, clients)
    yield "together", {"clients of each": clients, "of alternation": None if ratio is None else f"{ratio:.0%}"}
    if not options.tiny:
        yield from aimed_together(ratio)


def _gaps(text: Started, vision: Started, clients: int, options: Options) -> Rows:
    """Yield the gaps between the tokens of one client of each model, alone with its model's others and beside all.

    A prompt of one model never holds a row of the other longer than a step.
    """
    seeds = itertools.count(1)
    requests: dict[str, Callable[[], Iterator[GenerationRequest]]] = {
        TEXT: lambda: random_lengths(shapes(options.tiny)[0], options, next(seeds)),
        VISION: lambda: gpu.vision_requests(text.sizes),
    }
    with every_token_streamed():
        for name, models in ((TEXT, {TEXT: text}), (VISION, {VISION: vision}), (BOTH, {TEXT: text, VISION: vision})):
            others = [Clients(one.engine, one.running.requests, clients - 1) for one in models.values()]
            readers = {kind: Reader(one, requests[kind]()) for kind, one in models.items()}
            everyone: list[Clients | Reader] = [*readers.values(), *others]
            for client in everyone:
                client.start()
            time.sleep(text.sizes.settle / 2)
            since = time.perf_counter()
            time.sleep(text.sizes.window / 2)
            while time.perf_counter() < since + LONGEST and not all(one.gaps(since) for one in readers.values()):
                time.sleep(0.01)  # on a slow machine no token may have come yet
            for kind, reader in readers.items():
                row = gaps_row(f"{name}: {kind}", [reader], since)
                yield "gaps", row
                yield from unanswered(f"gaps, {name}: {kind}", float(str(row["gaps"])), row["failed"])
            for client in everyone:
                client.stop()


def _images(vision: Started, options: Options) -> Rows:
    before = vision.engine.stats().nan_logits_total
    failed: list[str] = []
    images = options.pick(40, 3)
    for number, request in enumerate(itertools.islice(_any_size(), images)):
        outcome = ask(vision.engine, request)
        if outcome.error is not None:
            failed.append(f"{number}: {outcome.error}")
    row: Row = {
        "images": images,
        "failed": ", ".join(failed) or 0,
        "logits that are not finite": vision.engine.stats().nan_logits_total - before,
    }
    yield "images of any size", row
    if failed:
        yield problem(f"images of any size: {row['failed']}")


def _any_size() -> Iterator[GenerationRequest]:
    rng = random.Random(7)
    for number in itertools.count():
        image = check_header(draw_image(rng, IMAGE_SIDES))
        yield request_of(Job("sofa", 4, temperature=0.0), number, image)
