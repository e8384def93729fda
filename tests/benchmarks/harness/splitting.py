"""Bytes as a network may deliver them."""

from __future__ import annotations


def split(data: bytes, offsets: list[int]) -> list[bytes]:
    """Return the data in parts, none empty, split at each offset modulo its length."""
    ends = sorted({offset % (len(data) + 1) for offset in offsets} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]
