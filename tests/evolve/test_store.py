import json
import sqlite3
import subprocess
import sys

import pytest

from merge3_plugin.domain import Estimate
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore

ESTIMATE = Estimate(0.5, 0.1, (0.3, 1 / 3 + 0.4), "mean", 2, 10)
ANSWERS = {"t": {"b": 0.1, "a": 1.0}, "u": {"a": 1 / 3}}
SOFT = {"t": {"a": 2 / 3}}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def test_an_evaluation_comes_back_exactly_also_from_another_process(store, tmp_path):
    store.add(Evaluation("c", "search", COMPLETE, ANSWERS, {"ppl": 12.5}, {"t": ESTIMATE}, 0.7, seconds=2.0, soft=SOFT))
    again = RunStore.open(tmp_path).find("c", "search")
    assert again.estimates == {"t": ESTIMATE} and again.fitness == 0.7
    assert again.answers == ANSWERS and again.whole == {"ppl": 12.5} and again.n_items == 3
    assert again.soft == SOFT
    assert store.find("c", "confirmation") is None
    assert store.known_answers("c", "t") == (ANSWERS["t"], SOFT["t"])
    store.add(Evaluation("c", "confirmation", COMPLETE, {"t": {"z": 0.0}}, soft={"t": {"z": 0.25}}))
    assert store.known_answers("c", "t") == ({**ANSWERS["t"], "z": 0.0}, {**SOFT["t"], "z": 0.25})
    assert store.spent()["search"] == {
        "evaluations": 1,
        "failed": 0,
        "items": 3,
        "tokens": 0,
        "seconds": 2.0,
        "reused": 0,
    }


def test_a_candidate_is_scored_on_several_sets_of_items_for_one_purpose(store, tmp_path):
    first = Evaluation("c", "search", COMPLETE, {"t": {"a": 1.0}}, batch=2, rung=-1, tokens=7)
    second = Evaluation("c", "search", COMPLETE, {"t": {"b": 0.0}}, {"ppl": 2.0}, batch=2, tokens=30, beside=4)
    store.add(first)
    store.add(second)
    with pytest.raises(sqlite3.IntegrityError):
        store.add(first)
    again = RunStore.open(tmp_path)
    assert (again.find("c", "search", 2, -1), again.find("c", "search", 2)) == (first, second)
    assert again.find("c", "search") is None and second.n_items == 5
    assert store.known_answers("c", "t").right == {"a": 1.0, "b": 0.0}
    assert store.known_whole("c") == {"ppl": 2.0} and store.known_whole("d") == {}
    spent = store.spent()["search"]
    assert (spent["evaluations"], spent["items"], spent["tokens"]) == (2, 6, 37)


def test_an_evaluation_is_written_whole_or_not_at_all(store):
    with pytest.raises(sqlite3.IntegrityError):
        store.add(Evaluation("c", "search", COMPLETE, {"t": {"a": 1.0, "b": None}}))
    assert store.find("c", "search") is None and store.known_answers("c", "t") == ({}, {})
    store.add(Evaluation("c", "search", FAILED, error="boom"))
    with pytest.raises(sqlite3.IntegrityError):
        store.add(Evaluation("c", "search", COMPLETE, ANSWERS))
    assert store.find("c", "search").state == FAILED


def test_a_step_that_goes_otherwise_than_recorded_is_an_error(store):
    assert store.event("ask 0", {"x": [0.1]}) == {"x": [0.1]}
    store.event("ask 0", {"x": [0.1]})
    assert store.events() == [("ask 0", {"x": [0.1]})]
    with pytest.raises(RunError, match="'ask 0'"):
        store.event("ask 0", {"x": [0.2]})


def test_a_failure_can_be_forgotten_a_success_cannot(store):
    store.add(Evaluation("c", "parents", FAILED, error="Traceback\n  x\nValueError: boom\n"))
    assert store.last_error("parents") == "ValueError: boom" and store.last_error("search") == ""
    store.discard_failure("c", "parents")
    store.add(Evaluation("c", "parents", COMPLETE, ANSWERS))
    store.discard_failure("c", "parents")
    assert store.find("c", "parents").state == COMPLETE


def test_pin_keeps_the_first(store):
    assert store.pin("config", {"a": 1}) == {"a": 1}
    assert store.pin("config", {"a": 2}) == {"a": 1}


def test_canonical_leaves_out_clocks_and_paths(tmp_path):
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store = RunStore(tmp_path / name)
        store.pin("seed", 3)
        store.pin("local.folder", str(tmp_path / name))
        recipe = {"models": [{"model": f"/{name}/m"}], "base_model": f"/{name}/m"}
        store.add(Evaluation("c", "search", COMPLETE, ANSWERS, seconds=len(texts), recipe=recipe, soft=SOFT))
        assert store.find("c", "search").recipe == recipe
        store.add(Evaluation("d", "search", FAILED, error=f'File "/{name}/x.py"\nValueError: nan\n'))
        store.event("tell 0", {"costs": [1.0]})
        texts.append("\n".join(store.canonical([f"/{name}/m"])))
    assert texts[0] == texts[1]
    lines = [json.loads(line) for line in texts[0].splitlines()]
    assert lines[1]["recipe"] == {"models": [{"model": "model[0]"}], "base_model": "model[0]"}
    assert [line["error"] for line in lines if "evaluation" in line] == ["", "ValueError: nan"]
    assert lines[2]["answers"] == [["t", "a", 1.0, 2 / 3], ["t", "b", 0.1, None], ["u", "a", 1 / 3, None]]


# A record as version 0.1 made it, with one evaluation.
SCHEMA_1 = """
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
CREATE TABLE events (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL, time REAL NOT NULL);
INSERT INTO meta VALUES ('seed', '3');
INSERT INTO evaluations VALUES (1, 'c', 'search', 'COMPLETE', 0.7, '{}', '{}', 2, NULL, 0.0, 1.5);
INSERT INTO evaluations VALUES (7, 'e', 'search', 'FAILED', NULL, '{}', '{"ppl": 2.5}', 0, 'boom', 0.0, 1.5);
INSERT INTO answers VALUES (1, 't', 'a', 1.0), (1, 't', 'b', 0.0);
PRAGMA user_version=1;
"""


def test_an_older_record_is_migrated_in_place(tmp_path):
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.executescript(SCHEMA_1)
    db.close()
    for how in (RunStore.open, RunStore, RunStore):  # read, migrated, and opened again
        store = how(tmp_path)
        assert store.meta() == {"seed": 3}
        assert store.known_answers("c", "t") == ({"a": 1.0, "b": 0.0}, {})
        found = store.find("c", "search")
        assert (found.fitness, found.n_items, found.tokens, found.beside, found.rung) == (0.7, 2, 0, 0, 0)
        assert (store.find("e", "search").error, store.known_whole("e")) == ("boom", {"ppl": 2.5})
        store.close()
    store = RunStore(tmp_path)
    store.add(Evaluation("d", "search", COMPLETE, {"t": {"a": 1.0}}, soft={"t": {"a": 0.75}}))
    store.add(Evaluation("c", "search", COMPLETE, {"t": {"z": 1.0}}, batch=1, rung=1))
    assert [candidate for candidate, _ in store.scored("search")] == ["c", "e", "d", "c"]
    assert store.known_answers("d", "t") == ({"a": 1.0}, {"a": 0.75})
    assert '["t", "a", 1.0, null]' in "\n".join(store.canonical())


def test_foreign_and_newer_files_are_refused(tmp_path):
    with pytest.raises(RunError, match="found none"):
        RunStore.open(tmp_path)
    (tmp_path / "run.sqlite").write_text("no database " * 100)
    with pytest.raises(RunError, match="expected a run's record"):
        RunStore(tmp_path)
    (tmp_path / "run.sqlite").unlink()
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match="99; upgrade"):
        RunStore(tmp_path)


@pytest.mark.parametrize("older", [False, True])
def test_reading_writes_nothing(tmp_path, older):
    if older:
        with sqlite3.connect(tmp_path / "run.sqlite") as db:
            db.executescript(SCHEMA_1)
        db.close()
    else:
        RunStore(tmp_path).close()
    before = (tmp_path / "run.sqlite").read_bytes()
    store = RunStore.open(tmp_path)
    list(store.canonical())
    assert [path.name for path in tmp_path.iterdir()] == ["run.sqlite"]
    with pytest.raises(sqlite3.OperationalError):
        store.pin("x", 1)
    store.close()
    assert (tmp_path / "run.sqlite").read_bytes() == before


def test_a_record_is_read_as_it_was_while_another_writes_it(store, tmp_path):
    store.add(Evaluation("c", "search", COMPLETE, ANSWERS, fitness=0.5))
    reader = RunStore.open(tmp_path)
    store.add(Evaluation("d", "search", COMPLETE, ANSWERS, fitness=0.7))
    assert [row["candidate"] for row in reader.rows()] == ["c"]
    assert [row["fitness"] for row in RunStore.open(tmp_path).rows()] == [0.5, 0.7]
    (tmp_path / "copy").mkdir()
    reader.copy_to(tmp_path / "copy")
    copy = RunStore(tmp_path / "copy")
    copy.add(Evaluation("e", "search", COMPLETE, ANSWERS))
    assert [row["candidate"] for row in copy.rows()] == ["c", "e"]
    assert [row["candidate"] for row in store.rows()] == ["c", "d"]


def test_each_commit_waits_for_the_disk(tmp_path):
    """In a process of its own, for these tests wait for none."""
    code = "import sys, pathlib; from merge3_plugin.evolve.schema import connect; "
    code += "print(connect(pathlib.Path(sys.argv[1])).execute('PRAGMA synchronous').fetchone())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "record.sqlite"], capture_output=True, text=True)
    assert done.stdout.strip() == "(2,)", done.stderr
