"""The models that servers elsewhere answer for: alone, or beside a checkpoint that stands in for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from config import Settings
from engine.backend import Backend
from telemetry.version import VERSION

if TYPE_CHECKING:
    from upstream.backend import UpstreamBackend


def upstream_backends(settings: Settings) -> dict[str, UpstreamBackend]:
    """Return a backend for each upstream of the settings, by the name of its model; none is started."""
    upstreams = settings.model.upstreams
    if not upstreams:
        return {}  # their libraries are not loaded where nobody needs them
    from upstream.backend import UpstreamBackend
    from upstream.loop import UpstreamLoop

    loop, limits = UpstreamLoop(f"avito-ai/{VERSION}"), settings.engine
    context, capacity = settings.generation.max_model_len, limits.max_num_seqs + limits.max_waiting
    return {name: UpstreamBackend(one, loop, context, capacity) for name, one in upstreams.items()}


def with_upstreams(loaded: Mapping[str, Backend], elsewhere: Mapping[str, UpstreamBackend]) -> dict[str, Backend]:
    """Return what answers for each name: a checkpoint, an upstream, or both. The models of the service come first."""
    found: dict[str, Backend] = {}
    for name in dict.fromkeys(("avibe", "avision", *loaded, *elsewhere)):
        own, other = loaded.get(name), elsewhere.get(name)
        if own is not None and other is not None:
            from upstream.standing_in import StandingIn

            found[name] = StandingIn(own, other)
        elif (one := own or other) is not None:
            found[name] = one
    return found
