"""The declarations of settings of upstreams: servers that answer for a model in place of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settings import kinds
from settings.table import Group, setting
from settings.upstreams import ROLES

ADDRESSES = "base URLs of OpenAI-compatible servers that answer for {}, such as http://gpu1:8000/v1, or a name of "


@dataclass(frozen=True, repr=False)
class UpstreamSettings(Group):
    vibe_upstream: tuple[str, ...] | None = setting(
        None,
        kinds.upstream(),
        ADDRESSES.format("Avibe") + "UPSTREAMS_FILE; no checkpoint is loaded for it then",
        unset="none: the checkpoint answers",
    )
    vision_upstream: tuple[str, ...] | None = setting(
        None, kinds.upstream(), "the same for Avision", unset="none: the checkpoint answers"
    )
    vibe_upstream_model: str | None = setting(
        None, kinds.served_name(), "what the upstream calls Avibe", unset="avibe, or what UPSTREAMS_FILE says"
    )
    vision_upstream_model: str | None = setting(
        None, kinds.served_name(), "what the upstream calls Avision", unset="avision, or what UPSTREAMS_FILE says"
    )
    vibe_upstream_key: str | None = setting(None, kinds.bearer(), "key that Avibe's upstream asks for", secret=True)
    vision_upstream_key: str | None = setting(None, kinds.bearer(), "key that Avision's upstream asks for", secret=True)
    vibe_upstream_role: str = setting(
        "only",
        kinds.choice(*ROLES),
        "only: no checkpoint of Avibe is loaded; first: the checkpoint answers when the upstream cannot; spare: the "
        "upstream answers when the checkpoint cannot",
    )
    vision_upstream_role: str = setting("only", kinds.choice(*ROLES), "the same for Avision")
    upstreams_file: Path | None = setting(
        None, kinds.file(), "TOML file of further models that servers answer for, see docs/upstreams.md"
    )
