"""Errors a person can act on: each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Merge3Error(Exception):
    """Root of the package's errors; the commands print it as one line and exit with status 2."""


class ConfigError(Merge3Error):
    """A setting, flag or config file is wrong."""


class DataError(Merge3Error):
    """Responses, items, scores or a calibration do not fit together."""


class ModelError(Merge3Error):
    """A model is missing, unreadable, or does not fit the other parents."""


class RunError(Merge3Error):
    """A run folder cannot be used: locked, foreign, or without space."""


class PluginError(Merge3Error):
    """A plug-in is misspelt, doubled or broken."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Hint for an unknown name: ``"; did you mean 'x'?"``, else the known names, else ``""``."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if choices and len(choices) <= 30:
        return f"; known: {', '.join(choices)}"
    return ""
