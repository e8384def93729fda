"""How a checkpoint's identity is shown, in readiness, on the operator's page and in the list of models."""

from __future__ import annotations

from edge.bodies import CheckpointIdentity
from engine.types import ModelIdentity


def shown_identity(identity: ModelIdentity) -> CheckpointIdentity:
    """Return an identity as bodies show it."""
    return CheckpointIdentity(
        name=identity.name, hash=f"sha256:{identity.digest}", revision=identity.revision, dtype=identity.dtype
    )
