"""What the two published models are called, and what they take: for the command that downloads them, and its page.

The sizes are those of Qwen3-8B and Qwen2.5-VL-7B in half precision, from which both are derived; a repository's own
listing has the exact ones. The memory is what the service's budget needs at the default settings for one context.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model and its settings. disk_gb, gpu_gb: in 10^9 bytes, rounded up for the GPU."""

    name: str
    repository: str
    settings: tuple[str, ...]
    disk_gb: float
    gpu_gb: int


MODELS = {
    model.name: model
    for model in (
        PublishedModel("avibe", "AvitoTech/avibe", ("VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR"), 16.4, 20),
        PublishedModel("avision", "AvitoTech/avision", ("VISION_MODEL_DIR",), 16.6, 21),
    )
}
BOTH_GPU_GB = 40
CARDS_FOR_ONE = "L4, A10, RTX 3090, RTX 4090"
CARDS_FOR_BOTH = "A100 40 GB, RTX A6000, L40S, H100, H200"
