"""``merge3 runs``: what it shows and exports of a real run over tiny models, and a fork of it that goes on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shlex

import pytest
import yaml

from merge3_plugin.cli import evolve_main, merge3, run
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore
from tests.commands import refused
from tests.evolve.world import canonical, evolve_here, make_world


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), tiny_models)


class Reader(Watcher):
    """Looks into the record of a run after ten results of its search, and forks it."""

    def __init__(self, folder):
        self.folder, self._results, self.text = folder, 0, ""

    def scored(self, entry):
        self._results += 1
        if self._results == 10:
            with contextlib.redirect_stdout(io.StringIO()) as text:
                assert run(merge3, "merge3", ["runs", "show", str(self.folder)]) == 0
                fork = str(self.folder.with_name("fork"))
                assert run(merge3, "merge3", ["runs", "fork", str(self.folder), fork, "--max-fevals", "24"]) == 0
            self.text = text.getvalue()


@pytest.fixture(scope="module")
def reader(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    reader = Reader(folder)
    evolve_here(config, folder, reader, merge3__search__max_fevals=24)
    return reader


@pytest.fixture(scope="module")
def out(reader):
    return reader.folder


def test_a_finished_run_shows_its_result_and_how_it_went(command, out):
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    status, text, _ = command("runs", "show", out)
    summary = json.loads((out / "summary.json").read_text())
    assert status == 0 and {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert "Its anchors cannot tell" in text and "That was an earlier end" not in text
    best = summary["search"]["improvements"][-1]
    line = next(line for line in text.splitlines() if line.endswith(best["candidate"]))
    assert "after each of 24 candidates; it was begun for 24" in text and "▁" in text and "█" in text
    assert line.split()[0].isdigit()
    assert "Importance of genes" in text
    cost = next(line for line in text.splitlines() if line.startswith("all "))
    assert cost.split()[3] == f"{summary['cost']['items']:,}"


def test_a_run_that_goes_on_shows_what_it_has(command, tmp_path):
    store = RunStore(tmp_path)
    store.pin("config", {"genome": {"models": ["/a/m"], "merge_method": "linear"}, "tasks": ["t"]})
    store.add(Evaluation("p", "parents", COMPLETE, {"t": {"i": 1.0, "j": 0.0}}, seconds=1.5, tokens=1234))
    assert "The search has scored 0 candidates, none" in command("runs", "show", tmp_path)[1]
    for number, error in enumerate(["boom", "bang", "boom"]):
        store.add(Evaluation(f"c{number}", "search", FAILED, error=f"Traceback\nValueError: {error}\n"))
    status, text, _ = command("runs", "show", tmp_path)
    assert status == 0
    assert ["parents", "1", "0", "2", "1,234", "1.5"] in [line.split() for line in text.splitlines()]
    assert text.index("2 x search: ValueError: boom") < text.index("1 x search: ValueError: bang")
    assert "too few to tell, 0 candidates" in text


def test_a_run_is_read_and_forked_while_it_goes_on(reader, out, monkeypatch):
    assert "Best estimated fitness after each of " in reader.text and "; it was begun for 24:" in reader.text
    assert "confirmation" not in reader.text and "held out" not in reader.text
    go_on(reader.text, monkeypatch)
    assert canonical(out.with_name("fork")) == canonical(out)


def go_on(text, monkeypatch):
    """Run the command that a fork printed."""
    monkeypatch.setattr("sys.argv", shlex.split(text.splitlines()[-1]))
    with pytest.raises(SystemExit) as end:
        evolve_main()
    assert end.value.code == 0


def test_an_extended_run_says_that_its_table_is_of_an_earlier_end(command, out, tmp_path):
    assert command("runs", "fork", out, tmp_path / "new", "--max-fevals", "30")[0] == 0
    (tmp_path / "new" / "summary.json").write_text((out / "summary.json").read_text())
    store = RunStore(tmp_path / "new")
    store.add(Evaluation("x", "search", COMPLETE, {"tiny_sum": {"q0": 1.0}}, fitness=0.1))
    store.close()
    assert "That was an earlier end: the run has gone on since." in command("runs", "show", tmp_path / "new")[1]


def test_every_evaluation_is_a_row_with_its_cost_estimate_and_genes(command, out):
    status, text, _ = command("runs", "export", out, "--json")
    table = json.loads(text)
    cost = json.loads((out / "summary.json").read_text())["cost"]
    assert status == 0
    for key in ("items", "tokens"):
        assert sum(row[key] for row in table) == cost[key]
    store = RunStore.open(out)
    asked = {body["trial"]: body for name, body in store.events() if name.startswith("ask ")}
    trials = [row for row in table if row["trial"] is not None]
    assert {row["trial"] for row in trials} == {trial for trial in asked if trial is not None}
    units = [variable["unit"] for variable in store.meta()["variables"]]
    for row in trials:
        own = [coordinate * unit for coordinate, unit in zip(asked[row["trial"]]["vector"], units, strict=True)]
        assert list(row["genes"].values()) == own
        assert row["fitness"] == pytest.approx(row["estimates"]["tiny_sum"]["accuracy"])
    flat = list(csv.DictReader(io.StringIO(command("runs", "export", out, "--csv")[1])))
    assert len(flat) == len(table)
    for row, full in zip(flat, table, strict=True):
        assert (row["candidate"], row["phase"], int(row["items"])) == (full["candidate"], full["phase"], full["items"])
        assert row["trial"] == ("" if full["trial"] is None else str(full["trial"]))
        if full["estimates"]:
            low, high = full["estimates"]["tiny_sum"]["interval"]
            assert (float(row["tiny_sum low"]), float(row["tiny_sum high"])) == (low, high)
        if full["genes"]:
            assert float(row["gene model_1.weight layers 0-0"]) == full["genes"]["model_1.weight layers 0-0"]


def test_an_export_goes_to_one_place_in_one_form(command, out, tmp_path):
    command("runs", "export", out, "--csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == command("runs", "export", out, "--csv", "-")[1]
    lines = [json.loads(line) for line in command("runs", "export", out, "--canonical")[1].splitlines()]
    assert {"meta", "candidate", "evaluation", "event"} <= {key for line in lines for key in line}
    assert "model[0]" in json.dumps(lines)
    for flags in ([], ["--csv", "-", "--json"], ["--canonical", "--json"]):
        assert "expected one of --csv, --json and --canonical" in refused(command("runs", "export", out, *flags))


def test_a_fork_goes_on_with_the_record_and_leaves_the_old_run_alone(command, out, tmp_path, monkeypatch):
    before = (out / "run.sqlite").read_bytes()
    status, text, _ = command("runs", "fork", out, tmp_path / "new", "--max-fevals", "26")
    assert status == 0
    go_on(text, monkeypatch)
    assert (out / "run.sqlite").read_bytes() == before
    old, new = RunStore.open(out), RunStore.open(tmp_path / "new")
    begun, gone_on = list(old.rows()), list(new.rows())
    assert gone_on[: len(begun)] == begun
    later = [row for row in gone_on[len(begun) :] if row["purpose"] == "search" and row["batch"] == 0]
    candidates = {body["trial"] for name, body in new.events() if name.startswith("ask ")}
    assert len(candidates) - len({body["trial"] for name, body in old.events() if name.startswith("ask ")}) == 2
    assert not {row["candidate"] for row in later} & {row["candidate"] for row in begun}
    assert json.loads((tmp_path / "new" / "summary.json").read_text())["cost"]["candidates"] == 26


def test_a_fork_takes_budgets_that_are_not_spent_and_nothing_else(command, out, tmp_path):
    new = tmp_path / "new"
    assert "expected a budget, got none" in refused(command("runs", "fork", out, new))
    assert "expected more than the 24" in refused(command("runs", "fork", out, new, "--max-fevals", 24))
    assert "--max-fevals" in refused(command("runs", "fork", out, new, "--patience", 9))
    assert "--max-items" in refused(command("runs", "fork", out, new, "--max-fevals", 30, "--max-items", 20))
    assert "--seed" in refused(command("runs", "fork", out, new, "--seed", 1))
    assert "found none" in refused(command("runs", "fork", tmp_path, new, "--max-fevals", 30))
    assert not new.exists()
    assert command("runs", "fork", out, new, "--max-fevals", 30, "--patience", 9)[0] == 0
    search = yaml.safe_load((new / "config.yml").read_text())["merge3"]["search"]
    assert (search["max_fevals"], search["patience"], search["max_items"]) == (30, 9, None)
    assert "expected a new or empty folder" in refused(command("runs", "fork", out, new, "--max-fevals", 30))


def test_a_folder_without_a_run_is_one_line(command, tmp_path):
    for subcommand in (["show"], ["export", "--json"]):
        assert "found none" in refused(command("runs", subcommand[0], tmp_path, *subcommand[1:]))
    RunStore(tmp_path).close()
    assert "none was begun" in refused(command("runs", "show", tmp_path))
