"""The seeded workload: the same for every server, and as long as the documents say."""

from __future__ import annotations

import statistics
from itertools import pairwise

from benchmarks.harness.checkpoints import make_tokenizer
from benchmarks.harness.workload import Workload, arrivals
from engine.text.images import check_header, decode


def test_chat_prompts_have_the_lengths_that_are_promised() -> None:
    """55 to 242 tokens with the benchmark tokenizer, about 148 on average."""
    tokenizer = make_tokenizer()
    chats = [[{"role": "user", "content": job.prompt}] for job in Workload().jobs(600, "lengths")]
    lengths = [len(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) for chat in chats]
    assert (min(lengths) >= 55, max(lengths) <= 242) == (True, True)
    assert 143 <= statistics.mean(lengths) <= 153


def test_a_seed_is_a_workload() -> None:
    """Every server of a round gets the same requests, and the next round others, so that nothing is cached."""
    workload = Workload(images=True, mixed=True)
    assert workload.jobs(4, 1, "c=4") == workload.jobs(4, 1, "c=4")
    assert not set(workload.jobs(4, 1, "c=4")) & set(workload.jobs(4, 2, "c=4"))


def test_lengths_are_fixed_or_mixed() -> None:
    """64 tokens, or anything from 8 to 256."""
    assert {job.max_tokens for job in Workload().jobs(50, 0)} == {64}
    mixed = [job.max_tokens for job in Workload(mixed=True).jobs(500, 0)]
    assert (min(mixed) >= 8, max(mixed) <= 256, len(set(mixed)) > 100) == (True, True, True)


def test_images_are_images_and_hardly_ever_the_same() -> None:
    """Our own image decoder accepts them."""
    images = [job.image for job in Workload(images=True).jobs(8, 0)]
    sizes = [decode(check_header(image)).size for image in images if image is not None]
    assert len(sizes) == len(set(images)) == 8
    assert all(112 <= side <= 224 for size in sizes for side in size)


def test_arrivals_are_a_poisson_process() -> None:
    """The rate is met on average, and the gaps vary as much as they are long."""
    moments = list(arrivals(5.0, 1000.0, 0))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert 4.7 <= len(moments) / 1000 <= 5.3
    assert 0.9 <= statistics.stdev(gaps) / statistics.mean(gaps) <= 1.1
    assert moments == sorted(moments)
    assert moments[-1] < 1000
