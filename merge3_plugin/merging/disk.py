"""Room on the disk for a saved model, checked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from merge3_plugin.errors import RunError


def saved_size(tensors: int) -> int:
    """The bytes of a saved model whose tensors have so many: with its headers, config and tokenizer."""
    return int(1.02 * tensors) + 2**24


def check_space(folder: Path, needed: int) -> None:
    """RunError unless the disk of ``folder``, which need not exist yet, has so many bytes free."""
    here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if (free := shutil.disk_usage(here).free) < needed:
        raise RunError(
            f"{folder}: expected {needed / 1e6:,.0f} MB free to save the model, got {free / 1e6:,.0f} MB; free some"
        )
