"""The declarations of settings of the models: their checkpoints, what answers may be, and how the engine runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from settings import kinds
from settings.kinds import ANY_COUNT, SECONDS_A_DAY, number, whole
from settings.table import Group, setting
from settings.upstreams import Upstream

DATA = Path("/mnt/data/avito")
QUANTS = ("none", "int8", "int4", "fp8")
DTYPES = ("float16", "bfloat16", "float32")
BATCHES_BEYOND_SLOTS = 16  # batches at once beyond those of which each has a text that runs


@dataclass(frozen=True, repr=False)
class ModelSettings(Group):
    """upstreams: what answers in place of a checkpoint, by the name of the model, as `UpstreamSettings` states it."""

    cuda_visible_devices: str | None = setting(
        None,
        kinds.gpus(),
        "GPUs that are visible: comma-separated indexes in PCI order, UUIDs or MIG names",
        unset="all of them",
    )
    device: str = setting(
        "auto",
        kinds.choice("auto", "cuda", "cpu"),
        "device of the models; in production the CPU must be set explicitly",
    )
    vibe_device: str | None = setting(
        None, kinds.device(), "device of Avibe; cuda:1 is the second of the visible GPUs", unset="DEVICE"
    )
    vision_device: str | None = setting(
        None, kinds.device(), "device of Avision; cuda:1 is the second of the visible GPUs", unset="DEVICE"
    )
    dtype: str | None = setting(
        None,
        kinds.choice(*DTYPES),
        "dtype of both models",
        unset="float16 on CUDA; on a processor bfloat16 for checkpoints stored so where our kernels run, else float32",
    )
    vibe_dtype: str | None = setting(None, kinds.choice(*DTYPES), "dtype of Avibe", unset="DTYPE")
    vision_dtype: str | None = setting(None, kinds.choice(*DTYPES), "dtype of Avision", unset="DTYPE")
    vibe_quant: str = setting(
        "none",
        kinds.choice(*QUANTS),
        "weights of Avibe, quantized while loading: none, int8 (8 bits), int4 (4 bits) or, on new GPUs, fp8",
    )
    vision_quant: str = setting("none", kinds.choice(*QUANTS), "the same for Avision, its vision tower excepted")
    vibe_model_dir: Path = setting(
        DATA / "vibe/models",
        kinds.folder(),
        "Avibe's checkpoint or Hugging Face cache folder; `demo` for the demo model",
    )
    vibe_tokenizer_dir: Path = setting(
        DATA / "vibe/tokenizers", kinds.folder(), "Avibe's tokenizer or Hugging Face cache folder"
    )
    vision_model_dir: Path = setting(
        DATA / "vision/models",
        kinds.folder(),
        "Avision's checkpoint or Hugging Face cache folder; `demo` for the demo model",
    )

    vibe_name: str | None = setting(
        None,
        kinds.checkpoint_name(),
        "name of Avibe's checkpoint, shown to clients and operators",
        unset="its repository in a Hugging Face cache, else its folder",
    )
    vision_name: str | None = setting(
        None,
        kinds.checkpoint_name(),
        "name of Avision's checkpoint, shown to clients and operators",
        unset="its repository in a Hugging Face cache, else its folder",
    )

    vibe_models: tuple[tuple[str, Path], ...] | None = setting(
        None,
        kinds.versions(),
        "versions of Avibe, as name=folder,name=folder, in place of VIBE_MODEL_DIR; the first is the default",
        unset="the one checkpoint of VIBE_MODEL_DIR",
    )
    vision_models: tuple[tuple[str, Path], ...] | None = setting(
        None,
        kinds.versions(),
        "versions of Avision, as name=folder,name=folder, in place of VISION_MODEL_DIR; the first is the default",
        unset="the one checkpoint of VISION_MODEL_DIR",
    )
    vibe_split: tuple[tuple[str, float], ...] | None = setting(
        None,
        kinds.shares(),
        "percent of the clients that a version of Avibe answers where a request names just avibe, as v2=10",
        unset="none: the default answers all",
    )
    vision_split: tuple[tuple[str, float], ...] | None = setting(
        None,
        kinds.shares(),
        "percent of the clients that a version of Avision answers where a request names just avision, as v2=10",
        unset="none: the default answers all",
    )
    model_aliases: tuple[tuple[str, str], ...] | None = setting(
        None,
        kinds.aliases(),
        "others' names for the models, as gpt-3.5-turbo=avibe,gpt-4o=avision; AvitoTech/avibe and AvitoTech/avision "
        "are always known",
    )

    upstreams: Mapping[str, Upstream] = field(default_factory=kinds.Table)

    @property
    def own_devices(self) -> Mapping[str, str | None]:
        """Return the devices of single models, by setting."""
        return {"VIBE_DEVICE": self.vibe_device, "VISION_DEVICE": self.vision_device}


@dataclass(frozen=True, repr=False)
class GenerationSettings(Group):
    max_tokens_avibe: int = setting(256, whole(1, ANY_COUNT), "default max_tokens of Avibe")
    max_tokens_avision: int = setting(200, whole(1, ANY_COUNT), "default max_tokens of Avision")
    max_tokens_limit: int = setting(2048, whole(1, ANY_COUNT), "largest max_tokens that a request may set")
    max_model_len: int = setting(
        4096,
        whole(kinds.SHORTEST_CONTEXT, ANY_COUNT),
        "context length in tokens, prompt and answer together; the checkpoint's own limit applies as well",
    )
    temperature: float = setting(0.7, number(0, 2), "default sampling temperature; 0 is greedy")
    max_prompt_length: int = setting(2000, whole(1, ANY_COUNT), "maximum length of a prompt in characters")
    system_prompt_avibe: str | None = setting(
        None, kinds.prompt(), "system prompt of what is asked of Avibe on the page; \\n begins a new line"
    )
    system_prompt_avision: str | None = setting(None, kinds.prompt(), "the same for Avision")

    def default_tokens(self, vision: bool, context: int) -> int:
        """Return max_tokens of a request that names none: half of the context where it would leave a prompt no room.

        context: of the model, in tokens, which may be less than MAX_MODEL_LEN.
        """
        tokens = self.max_tokens_avision if vision else self.max_tokens_avibe
        return tokens if tokens <= kinds.longest_default(context) else max(1, context // 2)

    def system_prompt(self, model: str) -> str:
        """Return the system prompt of a model on the page, "" for none."""
        return (self.system_prompt_avision if model == "avision" else self.system_prompt_avibe) or ""


@dataclass(frozen=True, repr=False)
class EngineSettings(Group):
    max_num_seqs: int = setting(
        None,
        whole(1, 4096),
        "maximum number of concurrent sequences per model; the KV cache may hold fewer",
        unset="256 on CUDA, 64 on the CPU",
    )
    kv_cache_tokens: Mapping[str, int] | None = setting(
        None,
        kinds.tokens_by_model(kinds.SHORTEST_CONTEXT, 1_000_000_000),
        "size of each model's KV cache in tokens, one figure for both or avibe=...,avision=...",
        unset="as many contexts for both as the device's memory holds",
    )
    max_waiting: int = setting(
        128, whole(0, 65_536), "maximum length of the waiting queue per model; one client alone may hold half of it"
    )
    max_num_batched_tokens: int = setting(
        0, whole(0, ANY_COUNT), "token budget of one step; 0: 320 on the CPU, 2048 on CUDA"
    )
    queue_timeout: float = setting(
        30.0, number(0.1, SECONDS_A_DAY), "seconds from its arrival until a request has to start"
    )
    request_timeout: float = setting(300.0, number(1, SECONDS_A_DAY), "seconds a request may take in total")
    stall_seconds: float = setting(
        20.0, number(1, SECONDS_A_DAY), "seconds without a step after which a busy model counts as stalled"
    )
    cpu_threads: int = setting(0, whole(0, 1024), "most compute threads of a model on the CPU; 0: one per core")
    draft_tokens: int = setting(
        8,
        whole(0, 64),
        "tokens that one step on a processor may draft from an answer's own text and verify; 0: none",
    )
    prefix_cache: bool = setting(True, kinds.switch(), "cache keys and values of shared prompt prefixes")
    prefix_sharing: str = setting(
        "client",
        kinds.choice("client", "all", "none"),
        "between whom cached prompt prefixes are reused: requests of one client, of all clients, or none",
    )
    cuda_graphs: bool = setting(True, kinds.switch(), "replay steps as CUDA graphs")
    image_workers: int = setting(2, whole(1, 64), "processes that decode images; they serve both models and the page")
    reload_reserve: bool = setting(
        False, kinds.switch(), "reserve GPU memory for a second copy of the weights during a reload"
    )

    @property
    def max_batches(self) -> int:
        """How many batches there may be at once, each of which has a thread; after the defaults are known."""
        return self.max_num_seqs + BATCHES_BEYOND_SLOTS
