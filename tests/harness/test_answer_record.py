"""The record of a test's answers: what survives a kill, and what is refused."""

from __future__ import annotations

import pytest

from merge3_plugin.errors import RunError
from merge3_plugin.harness.answer_record import AnswerRecord

IDENTITY = {"task": "質問", "model": ["m", "abc"]}
BATCHES = [{"q1": 1.0, "q2": 0.25}, {"q3": 0.0}]


@pytest.fixture
def path(tmp_path):
    record = AnswerRecord(tmp_path / "r.jsonl", IDENTITY)
    for batch in BATCHES:
        record.add(batch)
    return record.path


def test_answers_come_back(path):
    assert AnswerRecord(path, IDENTITY).scores == {"q1": 1.0, "q2": 0.25, "q3": 0.0}


def test_whatever_a_kill_leaves_is_whole_batches(path):
    """Cut at every byte, the record goes on to the same bytes."""
    content = path.read_bytes()
    ends = [end + 1 for end, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        record = AnswerRecord(path, IDENTITY)
        done = max(sum(end <= cut for end in ends) - 1, 0)
        assert record.scores == {item: score for batch in BATCHES[:done] for item, score in batch.items()}
        for batch in BATCHES[done:]:
            record.add(batch)
        assert path.read_bytes() == content


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = AnswerRecord(None, IDENTITY)
    record.add(BATCHES[0])
    assert record.scores == BATCHES[0] and not list(tmp_path.iterdir())


def test_the_answers_of_another_model_are_refused(path):
    with pytest.raises(RunError, match="that of another model: .'m', 'abc'., now .'m', 'xyz'.; name another"):
        AnswerRecord(path, {**IDENTITY, "model": ["m", "xyz"]})


@pytest.mark.parametrize("content", [b"my only copy", b"[1]\n[2]\n", b"{}\n7\n", b"\x80\x81\n", b"notes\nwithout end"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(RunError, match="got: another file; name another"):
        AnswerRecord(path, IDENTITY)
    assert path.read_bytes() == content


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="Is a directory"):
        AnswerRecord(tmp_path, IDENTITY)
    with pytest.raises(RunError, match="No such file or directory"):
        AnswerRecord(tmp_path / "no" / "r.jsonl", IDENTITY)
