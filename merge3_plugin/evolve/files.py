"""Files and folders of a run, replaced at one blow: a reader, or a crash, never meets half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` as the whole content of the file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def replace_folder(target: Path, save: Callable[[Path], None]) -> None:
    """Have ``save`` write a folder, and put it in the place of ``target``, which is gone with all that was in it."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
