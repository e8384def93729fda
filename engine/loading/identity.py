"""What tells one checkpoint from another, from the files alone: its name, a hash of its headers, its revision.

The headers of the weights (names, dtypes, shapes, offsets) and the config are hashed, never the weights themselves, so
that a checkpoint of 16 GB costs milliseconds. Two trainings of one shape have the same hash: name and revision tell
them apart, which is why the fingerprint of a model takes all three.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from engine.loading.checkpoint import Checkpoint
from engine.types import ModelIdentity, ModelSpec

# huggingface_hub's cache: models--<owner>--<name>/snapshots/<commit>
_REPOSITORY = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)|models--(?P<alone>[^/]+)")


def identify(spec: ModelSpec, checkpoint: Checkpoint) -> ModelIdentity:
    """Return the identity of a checkpoint that is loaded as `spec` says. Reads no file."""
    name, revision = _place(checkpoint.folder)
    name = spec.checkpoint_name or (spec.served_id.partition("@")[0] if spec.demo else name)
    digest = _digest({"config": checkpoint.config, "tensors": checkpoint.headers})
    numbers = {"dtype": spec.weights, "device": spec.device_type, "engine": spec.engine_version}
    fingerprint = _digest({"name": name, "digest": digest, "revision": revision, **numbers})
    return ModelIdentity(name, digest, revision, spec.weights, f"fp_{fingerprint[:12]}")


def _place(folder: Path) -> tuple[str, str | None]:
    """Return the name of a checkpoint in this folder, and the revision if the folder is a snapshot of a cache."""
    if folder.parent.name == "snapshots" and (match := _REPOSITORY.fullmatch(folder.parent.parent.name)):
        return match["alone"] or f"{match['owner']}/{match['name']}", folder.name
    return folder.resolve().name, None


def _digest(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
