"""What the user's cache folder keeps from run to run: small JSON files, each by the hash of what it is about.

Runs may read and write it at the same time: a file appears whole or not at all, and always with the same content. One
that was spoilt is ignored. Nothing depends on the folder: it may be deleted, read-only or full.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# A file that changed less than so many nanoseconds ago may change again under the same time stamp.
_SETTLED = 2 * 10**9
_CHUNK = 1 << 24


def hash_of(value: Any) -> str:
    """The sha256 of a value of plain JSON; of what is none by its text, which differs where that names an address."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class UserCache:
    """JSON values by kind and key in ``folder``, made at need."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._complained = folder, False

    def find(self, kind: str, key: str) -> Any:
        """What was kept; None where nothing was, or it cannot be read, which is logged."""
        path = self._path(kind, key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if hash_of(kept["value"]) == kept["sha256"]:
                return kept["value"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        log.warning("%s: expected what an earlier run kept, got a spoilt file; it is not used", path)
        return None

    def keep(self, kind: str, key: str, value: Any) -> None:
        """Keep a value for later runs; where that cannot be, the log says so once."""
        path = self._path(kind, key)
        partial: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as stream:
                partial = Path(stream.name)
                json.dump({"sha256": hash_of(value), "value": value}, stream, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError as error:
            if not self._complained:
                log.warning("%s: expected to keep something there for later runs, got: %s", path, error.strerror)
            self._complained = True
            if partial is not None:
                partial.unlink(missing_ok=True)

    def _path(self, kind: str, key: str) -> Path:
        return self._folder / kind / key[:2] / f"{key}.json"

    def digest(self, path: Path) -> str:
        """The sha256 of a file's content, computed once for the file as it is: path, size, times, inode."""
        path = path.resolve()
        stat, key = _stat(path), hash_of(str(path))
        kept = self.find("digests", key)
        if isinstance(kept, dict) and kept.get("stat") == stat:
            return str(kept["sha256"])
        settled = time.time_ns() - max(stat[1:3]) > _SETTLED
        digest = hashlib.sha256()
        for chunk in _chunks(path):
            digest.update(chunk)
        if settled and _stat(path) == stat:
            self.keep("digests", key, {"path": str(path), "stat": stat, "sha256": digest.hexdigest()})
        return digest.hexdigest()


def _stat(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
