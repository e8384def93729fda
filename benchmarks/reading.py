"""Measure how close a token of a lone client comes to the time that reading its weights takes, on the CPU.

    python -m benchmarks.reading [--text FOLDER] [--rounds 11] [--core 0] ...

In each round the engine answers one request after another, and then as many bytes as a step reads of the weights are
read as often, by loops in C that prefetch at several distances or leave that to the processor: the one that is
quickest over all rounds counts. Means, since memory is slower now and then for everybody who reads it. It needs a C
compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.checkpoints import checkpoint
from benchmarks.harness.command_line import add_run_options, keep_to_core
from benchmarks.harness.comparison import spread
from benchmarks.harness.stepping import SteppedEngine
from benchmarks.harness.targets import exit_status, judged
from benchmarks.harness.workload import Workload
from benchmarks.offline import MODEL_LENGTH, requests, spec
from engine.loading.loader import LoadedModel, load_model
from engine.types import EngineConfig

TARGET = 1.15
SOURCE = record.ROOT / "benchmarks" / "harness" / "reading.c"
PART, PAGE = 256, 4096  # bytes
AHEAD = (0, 1024, 2048, 4096, 8192)
REQUESTS = 2  # of a round


def bytes_read(loaded: LoadedModel) -> int:
    """Return how many bytes of weights one token reads: all but a table of embeddings that is not the head as well."""
    model: Any = loaded.model
    table = model.get_input_embeddings().weight
    own = {id(weight): int(weight.nbytes) for weight in model.parameters()}
    head = model.get_output_embeddings().weight
    tied = head is table or head.data_ptr() == table.data_ptr()
    return sum(own.values()) - (0 if tied else int(table.nbytes))


def token_seconds(engine: SteppedEngine, tokens: int, round_number: int) -> list[float]:
    """Return the seconds of each step of one round that computes one token and no prompt."""
    made = requests(Workload(tokens=tokens), REQUESTS, "reading", round_number)
    return [step.total for step in engine.closed_loop(made, 1) if step.rows == 1 and not step.prompt_tokens]


def reading_seconds(read: Callable[[], object], times: int) -> float:
    """Return the mean seconds of a reading, after a first one."""
    read()
    began = time.perf_counter()
    for _ in range(times):
        read()
    return (time.perf_counter() - began) / times


def readers(size: int) -> dict[str, Callable[[], object]]:
    """Return what reads so many bytes once, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reading.so"
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
        subprocess.run(command, check=True, timeout=60)
        read = ctypes.CDLL(str(library)).read_memory
    read.argtypes, read.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t), ctypes.c_float
    whole = size // PART * PART
    memory = np.ones(whole + PAGE, dtype=np.uint8)  # NumPy asks for huge pages, as the weights have
    start = memory.ctypes.data + -memory.ctypes.data % PAGE

    def reader(ahead: int) -> Callable[[], object]:
        return lambda: (read(start, whole, ahead), memory)

    return {f"{ahead} bytes ahead": reader(ahead) for ahead in AHEAD}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the benchmark's text model (benchmarks.make_model)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    add_run_options(parser, "reading", rounds=11)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, threads: Callable[[int], None] = torch.set_num_threads) -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    options = arguments(argv)
    keep_to_core(options.core)
    threads(1)
    found = record.facts(["torch", "transformers", "numpy"])
    with checkpoint("text", options.text) as folder:
        loaded = load_model(spec(folder, vision=False), lambda progress: None, MODEL_LENGTH)
        size = bytes_read(loaded)
        engine = SteppedEngine(loaded, EngineConfig(max_num_seqs=1, max_model_len=MODEL_LENGTH))
    reading = readers(size)
    token_seconds(engine, options.tokens, -1)
    rounds: list[dict[str, float]] = []
    for number in tqdm(range(options.rounds), unit="round", disable=None):
        steps = token_seconds(engine, options.tokens, number)
        read = {name: reading_seconds(one, len(steps)) for name, one in reading.items()}
        rounds.append({"token": mean(steps), **read})
    means = {name: mean(one[name] for one in rounds) for name in rounds[0]}
    best = min(reading, key=means.__getitem__)
    ratios = spread([one["token"] / one[best] for one in rounds])
    ratio = means["token"] / means[best]
    verdict = judged(f"a token within {TARGET:g} times of reading its weights", ratio <= TARGET, f"{ratio:.2f}")
    rows = [(name, f"{1000 * seconds:.2f}", f"{size / seconds / 1e9:.1f}") for name, seconds in means.items()]
    table = record.table(("of one client", "mean ms", "GB/s of the weights"), rows)
    tables = [table, f"To {best}, ratio of the means {ratio:.2f}; of the rounds: {ratios}.", str(verdict)]
    content = {"bytes": size, "rounds": rounds}
    path = record.write(options.name, found, content, "A token beside reading its weights", tables, options.results)
    print(*tables, path, sep="\n\n")
    return exit_status([verdict.word])


if __name__ == "__main__":
    sys.exit(main())
