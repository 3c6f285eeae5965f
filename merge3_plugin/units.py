"""Bytes and seconds as people say them."""

from __future__ import annotations


def in_bytes(size: float) -> str:
    """``1.2 GB``, or ``34.5 MB`` where it is little."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def in_time(seconds: float) -> str:
    """``12 s``, ``4 min`` or ``2 h 10 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
