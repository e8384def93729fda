"""How answers are sampled where a request does not say: by the settings and by the checkpoint."""

from __future__ import annotations

from engine.backend import Backend
from engine.types import SamplingParams
from routes.services import services


def default_sampling(backend: Backend) -> SamplingParams:
    """Return the parameters of a request that sets none."""
    settings, checkpoint = services().settings.generation, backend.info.generation_defaults
    temperature = backend.info.default_temperature
    return SamplingParams(
        max_tokens=settings.default_tokens(backend.info.vision, backend.info.max_model_len),
        temperature=settings.temperature if temperature is None else temperature,
        names_temperature=False,
        top_p=float(checkpoint.get("top_p", 1.0)),
        top_k=int(checkpoint.get("top_k", 0)),
        min_p=float(checkpoint.get("min_p", 0.0)),
        repetition_penalty=float(checkpoint.get("repetition_penalty", 1.0)),
    )
