"""The text of `.env.example`, generated from the settings; `settings.generate` writes it.

Docker, Compose, systemd and python-dotenv parse it alike: no inline comments, quotes, `export` or interpolation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from settings.table import Setting

TITLE = """\
# Settings of Avito AI API. Copy this file to .env and uncomment what you change; each line shows the default.
# Environment variables take precedence over this file; ENV_FILE in the environment sets another path than .env.
# A secret can be read from a file of its own: the setting with _FILE at its end, below it, is the path."""

PROFILES: Mapping[str, Mapping[str, str]] = {
    "a laptop without a GPU, for one person; demo models replace those whose folders are missing": {
        "HOST": "127.0.0.1",
        "DEVICE": "cpu",
        "RATE_LIMIT_PER_MINUTE": "0",
        "RATE_LIMIT_PER_HOUR": "0",
    },
    "one GPU": {"ENVIRONMENT": "production", "CUDA_VISIBLE_DEVICES": "0"},
    "behind nginx on the same machine": {
        "ENVIRONMENT": "production",
        "HOST": "127.0.0.1",
        "TRUSTED_PROXIES": "1",
    },
}
# The only line that is not commented out: production runs on the second GPU of its machine.
ACTIVE = {"CUDA_VISIBLE_DEVICES": "1"}


def env_example(settings: Iterable[Setting]) -> str:
    """Return the whole file."""
    blocks = [TITLE]
    for purpose, values in PROFILES.items():
        blocks.append("\n".join([f"# Profile: {purpose}", *(f"#   {name}={value}" for name, value in values.items())]))
    for group, members in groupby(settings, key=lambda setting: setting.group):
        blocks.append(f"# [{group or 'service'}]")
        blocks.extend(_entry(setting) for setting in members)
    return "\n\n".join(blocks) + "\n"


def _entry(setting: Setting) -> str:
    default = "" if setting.default is None else setting.kind.show(setting.default)
    line = f"{setting.name}={ACTIVE[setting.name]}" if setting.name in ACTIVE else f"#{setting.name}={default}"
    unset = f" (default: {setting.unset})" if setting.default is None else ""
    pointer = f"\n#{setting.name}_FILE=" if setting.secret else ""
    return f"# {setting.help[0].upper()}{setting.help[1:]}{unset}\n{line}{pointer}"
