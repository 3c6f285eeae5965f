"""Fields of documents that our task YAML reads through a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label(document: Mapping[str, Any]) -> int:
    """The index of the right choice, also where the data set keeps it as text: lm-eval would take text for a choice."""
    return int(document["label"])
