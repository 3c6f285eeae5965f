"""The tables of a run's record, and how an older record is brought to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from merge3_plugin.errors import RunError

FILE_NAME = "run.sqlite"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (id TEXT PRIMARY KEY, recipe TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE evaluations (
  number INTEGER PRIMARY KEY, candidate TEXT NOT NULL, purpose TEXT NOT NULL, state TEXT NOT NULL,
  fitness REAL, estimates TEXT NOT NULL, whole TEXT NOT NULL, n_items INTEGER NOT NULL, error TEXT,
  started REAL NOT NULL, seconds REAL NOT NULL,
  UNIQUE (candidate, purpose));
CREATE TABLE answers (
  evaluation INTEGER NOT NULL REFERENCES evaluations (number), task TEXT NOT NULL, item TEXT NOT NULL,
  score REAL NOT NULL, PRIMARY KEY (evaluation, task, item)) WITHOUT ROWID;
CREATE TABLE events (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL, time REAL NOT NULL)
"""

# A candidate may be scored on several sets of items, and tokens count. SQLite cannot widen a UNIQUE of its own.
_RUNGS = """
CREATE TABLE wider (
  number INTEGER PRIMARY KEY, candidate TEXT NOT NULL, purpose TEXT NOT NULL, batch INTEGER NOT NULL DEFAULT 0,
  rung INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, fitness REAL, estimates TEXT NOT NULL, whole TEXT NOT NULL,
  n_items INTEGER NOT NULL, tokens INTEGER NOT NULL DEFAULT 0, error TEXT, started REAL NOT NULL, seconds REAL NOT NULL,
  UNIQUE (candidate, purpose, batch, rung));
INSERT INTO wider (number, candidate, purpose, state, fitness, estimates, whole, n_items, error, started, seconds)
  SELECT number, candidate, purpose, state, fitness, estimates, whole, n_items, error, started, seconds
  FROM evaluations;
DROP TABLE evaluations;
ALTER TABLE wider RENAME TO evaluations
"""

# Parents' answers may come from an earlier run.
_REUSED = """
ALTER TABLE evaluations ADD COLUMN reused_items INTEGER NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN reused_tokens INTEGER NOT NULL DEFAULT 0
"""

# What makes schema n + 1 of schema n; a new file goes through all of them.
_STEPS = (_TABLES, "ALTER TABLE answers ADD COLUMN soft REAL", _RUNGS, _REUSED)
SCHEMA_VERSION = len(_STEPS)

# Every commit reaches the disk before the optimiser hears of it, power cuts included.
SYNCHRONOUS = "FULL"


def connect(path: Path) -> sqlite3.Connection:
    """The record at ``path``, made if need be; an older one is migrated in place, at one blow.

    Raises RunError for a file that is no record, or of a newer schema.
    """
    with _understood(path):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        _migrate(db, path)
    return db


def snapshot(path: Path) -> sqlite3.Connection:
    """The record at ``path`` as it is now, only to be read; of an older schema, a migrated copy in memory.

    A process that writes it is not disturbed, nor seen. Raises RunError as `connect`.
    """
    with _understood(path):
        # Without a log beside it nobody has it open. Then SQLite need not make one, in a folder that is another's.
        mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
        db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
        if _version(db) < SCHEMA_VERSION:
            older, db = db, sqlite3.connect(":memory:", isolation_level=None)
            older.backup(db)
            older.close()
        else:
            db.execute("BEGIN")  # what is read first is read to the end
        _migrate(db, path)
        db.execute("PRAGMA query_only=1")
    return db


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise RunError(f"{path}: expected a run's record, got: {error}; name another --storage-path") from None


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the record to this schema, at one blow. Raises RunError for a newer one."""
    version = _version(db)
    if version > SCHEMA_VERSION:
        raise RunError(f"{path}: expected schema {SCHEMA_VERSION} or older, got {version}; upgrade merge3-plugin")
    if version == SCHEMA_VERSION:
        return
    with transaction(db):
        for step in _STEPS[_version(db) :]:  # another process may have been faster
            for statement in step.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is written inside, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # on a full disk SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
