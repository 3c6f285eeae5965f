"""The run's record: one SQLite file that holds every evaluation before anything is decided on it.

The search is a deterministic program over recorded evaluations: run again after a stop, it asks for the same
evaluations in the same order, finds those that are here, and goes on with the first that is not. So the record is all
that a resume needs, and a process killed at any moment loses the evaluations in flight and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from merge3_plugin.domain import Estimate
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.schema import FILE_NAME, connect, snapshot, transaction
from merge3_plugin.harness.scoring import Scores

COMPLETE, FAILED = "COMPLETE", "FAILED"

# Of an evaluation, as they are.
_COLUMNS = (
    "candidate", "purpose", "batch", "rung", "state", "fitness", "n_items", "tokens", "reused_items", "reused_tokens",
    "error", "seconds",
)  # fmt: skip
# Of an evaluation, what is the same for equal runs; its error and its answers are too, in their way.
_CANONICAL = ("candidate", "purpose", "batch", "rung", "state", "fitness", "estimates", "whole", "tokens")


@dataclass(frozen=True)
class Evaluation:
    """One scoring of one candidate, merged by ``recipe`` (None: a parent that the search space cannot express).

    ``purpose`` is parents, calibration, search or confirmation; ``answers`` maps task -> item id -> score for the
    items scored here, ``soft`` likewise the probability given to the right option, where there are options; ``whole``
    maps task -> value for metrics that are no per-item score; ``estimates`` (by task) and ``fitness``, their weighted
    sum, belong to the search; ``error`` is set when ``state`` is FAILED.

    One candidate may be scored for one purpose on several sets of items, told apart by ``batch`` and ``rung`` (see
    `evolve.fidelity.ladder`). ``tokens`` are read for it; ``beside`` items are asked that leave no answers: those of
    whole-benchmark metrics, and of a failure. Of the items and tokens, an earlier run has paid the ``reused`` ones.
    """

    candidate: str
    purpose: str
    state: str
    answers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    fitness: float | None = None
    error: str | None = None
    seconds: float = 0.0
    recipe: Mapping[str, Any] | None = None
    soft: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    batch: int = 0
    rung: int = 0
    tokens: int = 0
    beside: int = 0
    reused_items: int = 0
    reused_tokens: int = 0

    @property
    def n_items(self) -> int:
        return sum(len(scores) for scores in self.answers.values()) + self.beside


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def last_line(error: str | None) -> str:
    """The line of a traceback that says what failed."""
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else ""


def _estimate(fields: dict[str, Any]) -> Estimate:
    low, high = fields.pop("interval")
    return Estimate(interval=(low, high), **fields)


class RunStore:
    """The record of one run folder. Raises RunError for a file that is not one, or of a newer schema."""

    def __init__(self, folder: Path, how: Callable[[Path], sqlite3.Connection] = connect) -> None:
        self.path = folder / FILE_NAME
        self._db = how(self.path)

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """The record of a folder that has one, as it is now, to be read. Raises RunError when it has none.

        A run may go on there meanwhile: nothing is written, and what it adds is not seen.
        """
        if not (folder / FILE_NAME).is_file():
            raise RunError(f"{folder}: expected a run folder with {FILE_NAME}, found none; name a --storage-path")
        return cls(folder, snapshot)

    def copy_to(self, folder: Path) -> None:
        """Begin the record of another folder with all that this one holds."""
        target = connect(folder / FILE_NAME)
        self._db.backup(target)
        target.close()

    def close(self) -> None:
        self._db.close()

    def pin(self, key: str, value: Any) -> Any:
        """Keep ``value`` under ``key`` unless something is there already; returns what is there."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, _dump(value)))
        return json.loads(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def forget_unless_scored(self) -> None:
        """Forget what was pinned and what happened, unless there is an evaluation."""
        with transaction(self._db):
            for table in ("meta", "events"):
                self._db.execute(f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM evaluations)")

    def meta(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM meta ORDER BY key")}

    def add(self, evaluation: Evaluation) -> None:
        """Write the evaluation, its candidate and all its answers, or nothing."""
        with transaction(self._db):
            if evaluation.recipe is not None:
                self._db.execute(
                    "INSERT OR IGNORE INTO candidates VALUES (?, ?)", (evaluation.candidate, _dump(evaluation.recipe))
                )
            row = {
                **{key: getattr(evaluation, key) for key in _COLUMNS},
                "estimates": _dump({task: asdict(estimate) for task, estimate in evaluation.estimates.items()}),
                "whole": _dump(dict(evaluation.whole)),
                "started": time.time() - evaluation.seconds,
            }
            places = ", ".join(f":{key}" for key in row)
            number = self._db.execute(f"INSERT INTO evaluations ({', '.join(row)}) VALUES ({places})", row).lastrowid
            self._db.executemany(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
                (
                    (number, task, item, score, evaluation.soft.get(task, {}).get(item))
                    for task, scores in evaluation.answers.items()
                    for item, score in scores.items()
                ),
            )

    def find(self, candidate: str, purpose: str, batch: int = 0, rung: int = 0) -> Evaluation | None:
        """The recorded evaluation of this candidate for this purpose, on this set of items, or None."""
        row = self._db.execute(
            "SELECT number, state, fitness, estimates, whole, n_items, tokens, reused_items, reused_tokens, error,"
            " seconds FROM evaluations WHERE candidate = ? AND purpose = ? AND batch = ? AND rung = ?",
            (candidate, purpose, batch, rung),
        ).fetchone()
        if row is None:
            return None
        number, state, fitness, estimates, whole, n_items, tokens, *reused, error, seconds = row
        answers: dict[str, dict[str, float]] = {}
        graded: dict[str, dict[str, float]] = {}
        rows = self._answers(number)
        for task, item, score, soft in rows:
            answers.setdefault(task, {})[item] = score
            if soft is not None:
                graded.setdefault(task, {})[item] = soft
        return Evaluation(
            candidate,
            purpose,
            state,
            answers,
            json.loads(whole),
            {task: _estimate(fields) for task, fields in json.loads(estimates).items()},
            fitness,
            error,
            seconds,
            self.recipe(candidate),
            graded,
            batch,
            rung,
            tokens,
            n_items - len(rows),
            *reused,
        )

    def _answers(self, evaluation: int) -> list[tuple[str, str, float, float | None]]:
        """Task, item, score and soft score of what an evaluation scored."""
        return self._db.execute(
            "SELECT task, item, score, soft FROM answers WHERE evaluation = ? ORDER BY task, item", (evaluation,)
        ).fetchall()

    def recipe(self, candidate: str) -> dict[str, Any] | None:
        """The candidate's recipe, or None where it has none (a parent that the space cannot express)."""
        row = self._db.execute("SELECT recipe FROM candidates WHERE id = ?", (candidate,)).fetchone()
        return None if row is None else json.loads(row[0])

    def discard_failure(self, candidate: str, purpose: str) -> None:
        """Forget a failed evaluation, so that the next run tries it again."""
        self._db.execute(
            "DELETE FROM evaluations WHERE candidate = ? AND purpose = ? AND state = ?", (candidate, purpose, FAILED)
        )

    def last_error(self, purpose: str) -> str:
        """The last line of the newest failure of this purpose, or ""."""
        row = self._db.execute(
            "SELECT error FROM evaluations WHERE purpose = ? AND state = ? ORDER BY number DESC", (purpose, FAILED)
        ).fetchone()
        return last_line(row[0]) if row else ""

    def known_answers(self, candidate: str, task: str) -> Scores:
        """Every recorded score of the candidate on the task, whatever it was scored for."""
        rows = self._db.execute(
            "SELECT item, score, soft FROM answers JOIN evaluations ON evaluation = number"
            " WHERE candidate = ? AND task = ? ORDER BY number",
            (candidate, task),
        ).fetchall()
        return Scores(
            {item: score for item, score, _ in rows}, {item: soft for item, _, soft in rows if soft is not None}
        )

    def known_whole(self, candidate: str) -> dict[str, float]:
        """Every recorded whole-benchmark metric of the candidate by task, whatever it was evaluated for."""
        rows = self._db.execute("SELECT whole FROM evaluations WHERE candidate = ? ORDER BY number", (candidate,))
        return {task: value for (whole,) in rows.fetchall() for task, value in json.loads(whole).items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every evaluation without its answers, by column, in their order."""
        keys = ("number", *_COLUMNS, "estimates", "whole", "started")
        for values in self._db.execute(f"SELECT {', '.join(keys)} FROM evaluations ORDER BY number"):
            row = dict(zip(keys, values, strict=True))
            yield row | {key: json.loads(row[key]) for key in ("estimates", "whole")}

    def scored(self, purpose: str) -> list[tuple[str, int]]:
        """Candidate and number of items of each evaluation of this purpose, in their order."""
        return self._db.execute(
            "SELECT candidate, n_items FROM evaluations WHERE purpose = ? ORDER BY number", (purpose,)
        ).fetchall()

    def spent(self) -> dict[str, dict[str, float]]:
        """For each purpose: evaluations, failures, items scored, tokens read and seconds; and items that were reused.

        What was reused is not among the items and the tokens.
        """
        keys = ("evaluations", "failed", "items", "tokens", "seconds", "reused")
        rows = self._db.execute(
            "SELECT purpose, COUNT(*), SUM(state = 'FAILED'), SUM(n_items - reused_items), SUM(tokens - reused_tokens),"
            " SUM(seconds), SUM(reused_items) FROM evaluations GROUP BY purpose ORDER BY MIN(number)"
        )
        return {purpose: dict(zip(keys, row, strict=True)) for purpose, *row in rows}

    def event(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a step happened, once. Raises RunError when the record says that it went otherwise.

        Returns ``body``. The names are those of the program's steps ("ask 3", "tell 3"): a replay
        that differs from the record means that something outside the config has changed.
        """
        text = _dump(body)
        with transaction(self._db):
            row = self._db.execute("SELECT body FROM events WHERE name = ?", (name,)).fetchone()
            if row is None:
                self._db.execute("INSERT INTO events (name, body, time) VALUES (?, ?, ?)", (name, text, time.time()))
            elif row[0] != text:
                raise RunError(
                    f"{self.path}: expected step {name!r} to go as recorded, it went differently now: a library, the "
                    "machine's arithmetic or the data has changed; start in a new --storage-path"
                )
        return dict(body)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(n, json.loads(b)) for n, b in self._db.execute("SELECT name, body FROM events ORDER BY number")]

    def canonical(self, model_names: Iterable[str] = ()) -> Iterator[str]:
        """The record as JSON lines without wall-clock and paths: equal for equal runs, broken or not.

        ``model_names`` are the parents as the config names them; each is written as ``model[i]``.
        """
        alias = {name: f"model[{i}]" for i, name in enumerate(model_names)}

        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {alias.get(k, k): clean(v) for k, v in value.items()}
            if isinstance(value, list):
                return [clean(v) for v in value]
            return alias.get(value, value) if isinstance(value, str) else value

        for key, value in self.meta().items():
            if not key.startswith("local."):
                yield _dump({"meta": key, "value": clean(value)})
        for candidate, recipe in self._db.execute("SELECT id, recipe FROM candidates ORDER BY id"):
            yield _dump({"candidate": candidate, "recipe": clean(json.loads(recipe))})
        for row in self.rows():
            kept = {key: row[key] for key in _CANONICAL}
            # Of a traceback, the other lines name files.
            kept |= {"error": last_line(row["error"]), "answers": self._answers(row["number"])}
            yield _dump({"evaluation": row["number"], **kept})
        for name, body in self.events():
            yield _dump({"event": name, "body": clean(body)})
