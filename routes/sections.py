"""The sections of the API's description, in the order in which people need them: by the address of a route."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """key: of its heading and introduction in the locales; addresses: at or below which its routes are."""

    key: str
    addresses: tuple[str, ...]

    def fit(self, path: str) -> int:
        """Return the length of the longest of the addresses at or below which the path is, -1 if there is none."""
        return max((len(one) for one in self.addresses if f"{path}/".startswith(f"{one}/")), default=-1)


SECTIONS = (
    Section("generate", ("/api/v1",)),
    Section("chat", ("/v1",)),
    Section("responses", ("/v1/responses",)),
    Section("messages", ("/v1/messages",)),
    Section("tokens", ("/v1/tokenize", "/v1/detokenize")),
    Section("health", ("/api/health", "/health", "/ready")),
    Section("operation", ("/api", "/metrics", "/api/v1/usage")),
    Section("pages", ("",)),
)


def section_of(path: str) -> Section:
    """Return the section of a route; the longest of the addresses that fit decides."""
    return max(SECTIONS, key=lambda section: section.fit(path))
