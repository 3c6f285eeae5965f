"""Answers of one model to one benchmark, each on disk before it is used, so that a killed test goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge3_plugin.errors import RunError


class AnswerRecord:
    """Scores by item id in ``scores``, kept in ``path`` (None: nowhere) for the model and settings in ``identity``.

    The file is JSON lines: the identity, then one line for each batch of answers; a line that a kill cut short is
    dropped. Raises RunError for a file that is none, or of another identity.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.scores = path, dict[str, float]()
        if path is None:
            return
        begin = _line(identity)
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise self._unusable(error.strerror) from None
        whole = content[: content.rfind(b"\n") + 1]
        if whole:
            self._read(whole.splitlines(), json.loads(begin))
        elif not begin.startswith(content):
            raise self._unusable("another file")
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        if not whole:
            self._append(begin)

    def add(self, scores: Mapping[str, float]) -> None:
        """Keep the scores of one batch: all of them, or none where the process is killed."""
        self._append(_line({"scores": dict(scores)}))
        self.scores.update(scores)

    def _read(self, lines: list[bytes], identity: Mapping[str, Any]) -> None:
        try:
            kept, *batches = [json.loads(line) for line in lines]
            for batch in batches:
                self.scores.update(batch["scores"])
            different = [key for key in identity if kept.get(key) != identity[key]]
        except (ValueError, AttributeError, KeyError, TypeError):
            raise self._unusable("another file") from None
        if different:
            key = different[0]
            raise self._unusable(f"that of another {key}: {kept.get(key)!r}, now {identity[key]!r}")

    def _append(self, line: bytes) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise self._unusable(error.strerror) from None

    def _unusable(self, got: str | None) -> RunError:
        return RunError(
            f"--record {self.path}: expected the record of this model's answers to this task, or a new file in a "
            f"folder that is there, got: {got}; name another"
        )


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
