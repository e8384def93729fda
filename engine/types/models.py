"""Models: which checkpoint is loaded, with which limits, and what may be known of it. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The tokens of a model, for grammars.

    tokens: the bytes of each token's text, by its id, b"" for one without a text; encode: plain text to ids; index:
    the grammar library's own form of both.
    """

    tokens: tuple[bytes, ...]
    eos_token_ids: frozenset[int]
    encode: Callable[[str], list[int]]
    index: Any = None


OWN_MODELS = ("avibe", "avision")


def model_of(name: str) -> str:
    """Return the model that a name is of: `avibe` for its further version `avibe@v2` as well."""
    return name.partition("@")[0]


def is_further(name: str) -> bool:
    """Return whether the service serves without what has this name: a further version, or a model beside its own."""
    return name not in OWN_MODELS


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which checkpoint to load, where, and which settings an error about it names.

    name: `avibe`, `avision`, or a further version such as `avibe@v2`: the label in metrics and logs; served_id: the
    value of `X-Model` (`avibe-demo` for the demo); vision: whether it reads images; device: `cpu`, `cuda` or `cuda:N`,
    counted among the GPUs that CUDA shows; dtype: `float16`, `bfloat16` or `float32`; quant: the format of the
    decoder's weights, `none` for that dtype. version: of the model, "" where it has only one; checkpoint_name: of the
    checkpoint, "" for that of its folder or repository; engine_version: of what computes its numbers.
    system_prompt: what the operator has conversations begin with, so that its prefix may be shared between clients.
    """

    name: str
    served_id: str
    vision: bool
    model_dir: Path
    tokenizer_dir: Path
    device: str
    dtype: str
    dir_setting: str
    tokenizer_setting: str
    dtype_setting: str
    demo: bool = False
    version: str = ""
    checkpoint_name: str = ""
    engine_version: str = ""
    quant: str = "none"
    quant_setting: str = ""
    system_prompt: str = ""

    @property
    def weights(self) -> str:
        """Return the format of the decoder's weights."""
        return self.dtype if self.quant == "none" else self.quant

    @property
    def device_type(self) -> str:
        """Return `cpu` or `cuda`."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's limits. Counts are per model; times are in seconds; lengths are in tokens.

    kv_cache_tokens: size of the KV cache; 0: by the memory budget. step_overhead: the fixed cost of a step, in the
    tokens that take as long. draft_tokens: how many tokens of a sequence a step drafts on a processor, at most.
    """

    max_num_seqs: int = 64
    max_waiting: int = 128
    max_model_len: int = 4096
    max_num_batched_tokens: int = 320
    kv_cache_tokens: int = 0
    stall_seconds: float = 20.0
    cpu_threads: int = 0
    prefix_cache: bool = True
    prefix_sharing: str = "client"
    step_overhead: int = 8
    cuda_graphs: bool = True
    reload_reserve: bool = False
    image_workers: int = 0
    draft_tokens: int = 8


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights answer, and how they are computed.

    name: of the checkpoint; digest: SHA-256 of its config and of the headers of its weights, in hexadecimal; revision:
    the commit of the Hugging Face cache that it is from; fingerprint: changes with whatever changes an answer.
    """

    name: str
    digest: str
    revision: str | None
    dtype: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What clients and pages may know of a model: lengths in tokens, the checkpoint's sampling defaults.

    loaded: whether these are the checkpoint's own; before that, max_model_len is the most that it can be.
    tools: whether the chat template renders tools and calls; None where that has not been tried. identity: None before
    the model is loaded. version: "" where the model has only one. image_pixels: the most that is looked at of an image,
    larger ones are scaled down to it; None where that is not known. elsewhere: another server answers for it, which is
    told the rules of an answer and needs no masks. or_elsewhere: another server may answer in its place.
    on_processor: this process's cores compute it. default_temperature: of requests that name none, None for that of the
    settings.
    """

    name: str
    served_id: str
    vision: bool
    demo: bool
    max_model_len: int
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
    loaded: bool = True
    tools: bool | None = None
    identity: ModelIdentity | None = None
    version: str = ""
    image_pixels: int | None = None
    elsewhere: bool = False
    or_elsewhere: bool = False
    on_processor: bool = False
    default_temperature: float | None = None

    @property
    def sends_on(self) -> bool:
        """Whether what a request has is kept to be sent to another server, or may be."""
        return self.elsewhere or self.or_elsewhere

    @property
    def fingerprint(self) -> str | None:
        """Return what changes with the numbers that answers come from; None before the model is loaded."""
        return None if self.identity is None else self.identity.fingerprint

    @property
    def uses_tools(self) -> bool:
        """Whether requests may have tools; one that comes before the model is loaded is not refused for them."""
        if self.tools is None:
            return not self.vision or not self.loaded
        return self.tools

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        max_model_len: int,
        generation_defaults: Mapping[str, float] | None = None,
        tools: bool | None = None,
        identity: ModelIdentity | None = None,
        image_pixels: int | None = None,
    ) -> ModelInfo:
        """Return what clients may know of the model that a spec describes, loaded if its defaults are given."""
        return cls(
            name=spec.name,
            served_id=spec.served_id,
            vision=spec.vision,
            demo=spec.demo,
            max_model_len=max_model_len,
            generation_defaults=generation_defaults or {},
            loaded=generation_defaults is not None,
            tools=tools,
            identity=identity,
            version=spec.version,
            image_pixels=image_pixels,
            on_processor=spec.device_type == "cpu",
        )
