"""Finds the checkpoint folder that a setting names and validates it before anything is loaded.

A setting may name a plain folder, a Hugging Face cache (`models--*/snapshots/*`), one `models--*` folder of it, or the
parent of a cache in a `hub` folder; of several snapshots the newest complete one is used. Only local files and only
safetensors are considered. Every problem is a StartError of one sentence with the setting and the folder.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import StartError
from engine.types import ModelSpec

Found = TypeVar("Found")

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# Of the two models, by their names.
ARCHITECTURES = {"avibe": "Qwen3ForCausalLM", "avision": "Qwen2_5_VLForConditionalGeneration"}
# What a config of each architecture may name in its place.
_MODEL_TYPES = {"Qwen3ForCausalLM": "qwen3", "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format
_HALVES = {"F16": "float16", "BF16": "bfloat16"}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint.

    headers: dtype, shape and offsets of each tensor, by its name in the files. floats: number of floating-point
    elements; other_bytes: size of all other tensors.
    """

    folder: Path
    config: Mapping[str, Any]
    headers: Mapping[str, Any]
    floats: int
    other_bytes: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: tuple(header["shape"]) for name, header in self.headers.items()}

    @property
    def stored_dtype(self) -> str:
        """Return the dtype of most elements: `float32`, `bfloat16` or `float16`."""
        counts = Counter[str]()
        for header in self.headers.values():
            counts[_HALVES.get(header["dtype"], "float32")] += math.prod(header["shape"])
        return max(counts, key=counts.__getitem__, default="float32")

    @property
    def stored_bytes(self) -> dict[str, int]:
        """Return the size of each tensor as stored."""
        return {name: _size(header) for name, header in self.headers.items()}

    @property
    def total_bytes(self) -> int:
        """Return the size of all tensors as stored."""
        return sum(self.stored_bytes.values())

    def loaded_bytes(self, itemsize: int) -> int:
        """Return the size of all tensors once loaded with `itemsize` bytes per floating-point element."""
        return self.floats * itemsize + self.other_bytes


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A folder that a setting may mean, with the setting for error messages."""

    setting: str
    folder: Path

    def error(self, problem: str) -> StartError:
        return StartError(f"{self.setting}: the folder {self.folder} {problem}.")

    def read_json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_bytes())
        except ValueError as error:
            raise self.error(f"has a broken {name}: it is not JSON") from error


def find_checkpoint(folder: Path, setting: str, architecture: str) -> Checkpoint:
    """Return the complete checkpoint of an architecture such as `Qwen3ForCausalLM`. Raises StartError."""
    return _first_valid(folder, setting, "config.json", lambda candidate: _check_model(candidate, architecture))


def find_tokenizer(folder: Path, setting: str, model: Path | None = None, architecture: str = "") -> Path:
    """Return the folder that contains the files of a tokenizer. Raises StartError.

    model: the checkpoint that it is for, whose own is taken where both are in one cache; architecture: of that, so that
    another model's in the cache is passed over.
    """
    return _first_valid(
        folder,
        setting,
        "tokenizer_config.json",
        lambda candidate: _check_tokenizer(candidate, architecture if candidate.folder != folder else ""),
        model,
    )


def unusable(spec: ModelSpec, error: Exception) -> StartError:
    """Return what is told of a checkpoint whose config holds values that no model can be made from."""
    problem = f"has a config.json that no model can be made from ({type(error).__name__}: {_first_line(error)})"
    return _Candidate(spec.dir_setting, spec.model_dir).error(problem)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]


def _first_valid(
    folder: Path, setting: str, required: str, check: Callable[[_Candidate], Found], preferred: Path | None = None
) -> Found:
    """Return the result of `check` for the first candidate that passes; else raise the error of the first candidate.

    required: the file by which a plain folder is recognized; preferred: the candidate that is looked at first.
    """
    try:
        folders = sorted(_folders(folder, required), key=lambda one: preferred is None or not _same(one, preferred))
        candidates = [_Candidate(setting, candidate) for candidate in folders]
        if not candidates:
            raise _Candidate(setting, folder).error("does not exist" if not folder.exists() else "is not a folder")
        first: StartError | None = None
        for candidate in candidates:
            try:
                return check(candidate)
            except StartError as error:
                first = first or error
        assert first is not None
        raise first
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _Candidate(setting, folder).error(f"cannot be read ({reason})") from error


def _folders(folder: Path, required: str) -> Iterator[Path]:
    """Yield the candidates: the folder itself if it has the file `required` or no snapshots, else its snapshots."""
    if not folder.is_dir():
        return
    next(folder.iterdir(), None)  # raises if the folder cannot be listed; glob would find nothing
    snapshots = [
        snapshot
        for pattern in ("snapshots/*", "models--*/snapshots/*", "hub/models--*/snapshots/*")
        for snapshot in folder.glob(pattern)
        if snapshot.is_dir()
    ]
    if (folder / required).exists() or not snapshots:
        yield folder
        return
    yield from sorted(snapshots, key=lambda snapshot: snapshot.stat().st_mtime, reverse=True)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _check_tokenizer(candidate: _Candidate, architecture: str = "") -> Path:
    """Accept a folder with `tokenizer.json`, or with the older `vocab.json` and `merges.txt`.

    architecture: of the model that the folder must hold, if it holds one.
    """
    folder = candidate.folder
    if architecture and (folder / "config.json").exists():
        _check_config(candidate, candidate.read_json("config.json"), architecture)
    single = (folder / "tokenizer.json").exists()
    if not single and not ((folder / "vocab.json").exists() and (folder / "merges.txt").exists()):
        raise candidate.error("holds no tokenizer (neither tokenizer.json nor vocab.json with merges.txt)")
    for name in ("tokenizer.json" if single else "vocab.json", "tokenizer_config.json"):
        if (folder / name).exists():
            candidate.read_json(name)
    return folder


def _check_model(candidate: _Candidate, architecture: str) -> Checkpoint:
    if not (candidate.folder / "config.json").exists():
        raise candidate.error("holds no model (config.json is missing)")
    config = candidate.read_json("config.json")
    _check_config(candidate, config, architecture)
    tensors = _tensors(candidate)
    floats = sum(math.prod(info["shape"]) for info in tensors.values() if info["dtype"] in _FLOATS)
    others = sum(_size(info) for info in tensors.values() if info["dtype"] not in _FLOATS)
    return Checkpoint(candidate.folder, config, tensors, floats, others)


def _end(header: Mapping[str, Any]) -> int:
    """Return where the data of a tensor ends. Raises ValueError, KeyError or TypeError for what describes none."""
    begin, end = header["data_offsets"]
    numbers = [begin, end, *header["shape"]]
    if not isinstance(header["dtype"], str) or not all(type(one) is int and one >= 0 for one in numbers):
        raise ValueError(header)
    return int(end)


def _size(header: Mapping[str, Any]) -> int:
    """Return the bytes of a tensor."""
    begin, end = header["data_offsets"]
    return int(end - begin)


def _check_config(candidate: _Candidate, config: Any, architecture: str) -> None:
    if not isinstance(config, dict):
        raise candidate.error("has a broken config.json")
    found = config.get("architectures") or [str(config.get("model_type"))]
    if not isinstance(found, list):
        raise candidate.error("has a broken config.json: its architectures are no list")
    if architecture not in found and found != [_MODEL_TYPES.get(architecture)]:
        raise candidate.error(f"holds a model of the architecture {found[0]}, but {architecture} is needed")
    if config.get("quantization_config"):
        raise candidate.error("holds quantized weights, which this service does not load: take those it was made from")


def _tensors(candidate: _Candidate) -> dict[str, Any]:
    """Return the header entry of every tensor, after checking each shard against the index and its own header."""
    indexed, single = ((candidate.folder / name).exists() for name in (_INDEX, _SINGLE))
    if indexed:
        return _indexed_tensors(candidate, single)
    if single:
        return _read_header(candidate, _SINGLE)
    pickles = [path.name for pattern in _PICKLES for path in sorted(candidate.folder.glob(pattern))]
    if pickles:
        raise candidate.error(
            f"holds its weights as {pickles[0]}, a pickle, which is never loaded: convert to safetensors"
        )
    if next(candidate.folder.glob("*.safetensors"), None):
        raise candidate.error(f"lacks {_INDEX}, which names its shards: copy it from where they are from")
    raise candidate.error(f"holds no weights (neither {_SINGLE} nor {_INDEX})")


def _indexed_tensors(candidate: _Candidate, single: bool) -> dict[str, Any]:
    """Return them from the shards. single: there is a file of the name that weights have without an index."""
    index = candidate.read_json(_INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
        raise candidate.error(f"has a broken {_INDEX}")
    if single and _SINGLE not in shards.values():
        raise candidate.error(f"holds weights twice, as {_SINGLE} and by {_INDEX}: remove those that are not meant")
    headers = {name: _read_header(candidate, name) for name in sorted(set(shards.values()))}
    for tensor, name in shards.items():
        if tensor not in headers[name]:
            raise candidate.error(f"lacks the tensor {tensor}, which its index places in {name}")
    return {tensor: headers[name][tensor] for tensor, name in shards.items()}


def _read_header(candidate: _Candidate, name: str) -> dict[str, Any]:
    """Return the tensors of a shard. Format: 8 bytes of header length, a JSON header, the data, nothing after it."""
    path = candidate.folder / name
    if not path.exists():
        raise candidate.error(f"lacks the shard {name}: copy it from where the others are from")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise candidate.error(f"has a truncated or broken shard {name} ({size:,} bytes)")
        header = file.read(length)
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        expected = 8 + length + max(map(_end, tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise candidate.error(f"has a broken shard {name}") from error
    if size != expected:
        word = "truncated" if size < expected else "broken"
        raise candidate.error(f"has a {word} shard {name}: {size:,} bytes where its header says {expected:,}")
    return tensors
