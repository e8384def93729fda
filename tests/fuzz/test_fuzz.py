"""Every parser of a stranger's bytes on its corpus, on mutations of it, and on whatever Hypothesis makes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import CORPUS, LARGEST, seeds
from tests.fuzz.targets import TARGETS

# About five seconds of each target on one core.
MUTATIONS = {
    "image": 30_000,
    "json": 60_000,
    "data_url": 60_000,
    "multipart": 8_000,
    "form": 15_000,
    "http_head": 8_000,
    "schema": 80_000,
    "pattern": 60_000,
}
CORPUS_BYTES = 2 * 2**20
INPUTS = [pytest.param(path, id=f"{path.parent.name}-{path.name}") for path in sorted(CORPUS.glob("*/*"))]
TOKENS = (b"\r\n", b"\0", b"\xff", b"{", b"}", b'"', b"[", b":", b"=", b"--", b"\\u", b"0", b"9" * 20, b"chunked", b";")


@pytest.mark.parametrize("path", INPUTS)
def test_no_input_of_the_corpus_crashes_its_target(path: Path) -> None:
    """Hostile inputs of all kinds, and each one that ever crashed."""
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_mutation_of_the_corpus_crashes_its_target(target: str) -> None:
    """A fixed number of them, the same in each run."""
    chance = random.Random(target)
    corpus = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    for _ in range(MUTATIONS[target]):
        data = mutated(chance, corpus)
        try:
            TARGETS[target](data)
        except BaseException:
            print(f"the input was {data!r}"[:4000])
            raise


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=2000))
def test_no_bytes_crash_a_target(target: str, data: bytes) -> None:
    """Whatever Hypothesis makes of bytes."""
    TARGETS[target](data)


def test_the_corpus_is_small_and_that_of_its_seeds() -> None:
    """Each target has inputs, and each seed that the program writes is there."""
    assert {path.name for path in CORPUS.iterdir()} == {*TARGETS}
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < CORPUS_BYTES
    for target in TARGETS:
        kept = {path.read_bytes() for path in (CORPUS / target).iterdir()}
        stable = {seed for seed in seeds(target) if len(seed) <= LARGEST}
        assert len(kept) >= len(stable) > 5, f"python -m tests.fuzz.seeds adds {sorted(stable - kept)[:3]}"


def mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Return an input of the corpus with some changes."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 2, 5, 20))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.choice((1, 4, 100))]
            case 2:
                data[at:at] = chance.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + chance.choice((4, 40, 400))]
            case 4:
                other = chance.choice(corpus)
                start = chance.randrange(len(other) + 1)
                data[at:] = other[start : start + LARGEST]
            case _:
                data[at : at + 4] = chance.choice((0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1)).to_bytes(4)
    return bytes(data[:LARGEST])
