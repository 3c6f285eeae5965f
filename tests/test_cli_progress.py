"""What a person, or a program, sees of a search on stderr."""

import json
import sys

import click
import numpy as np
import pytest
from tqdm import tqdm

from merge3_plugin.cli import run
from merge3_plugin.cli_display import Bar, Events, Lines, make_display
from merge3_plugin.cli_log import log_format_option
from merge3_plugin.cli_progress import RECENT, Mark, Pace, Progress
from merge3_plugin.config.search import SearchConfig
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.ladder import Place
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Improvement, Scored
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation
from merge3_plugin.harness.scoring import Price


class Clock:
    """Two seconds pass between any two looks at it."""

    now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now


def entry(name, fitness, rung, items):
    return Scored(
        Candidate(name), np.zeros(1), Assessment({}, {}, fitness, 0.1, 0.0), Place((0,), rung), Price(items, 9)
    )


def searched(display, search=None, clock=None):
    """A search of 40 candidates that has scored two of them, one twice."""
    with Progress(search or SearchConfig(max_items=1200, max_tokens=5000), display, clock or Clock()) as progress:
        progress.phase("parents", 1)
        progress.evaluated("base", Evaluation("p", "parents", COMPLETE, {"t": {"a": 1.0}}, seconds=1.0, tokens=7))
        progress.phase("search", 40)
        best = entry("a", 0.5, 0, 1000)
        progress.improved(Improvement(1, best, None, None))
        progress.scored(best)
        progress.scored(entry("b", 0.9, -2, 5))
        again = entry("b", 0.6, 0, 40)
        progress.improved(Improvement(2, again, None, None))
        progress.scored(again)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr("merge3_plugin.cli_progress.memory_in_use", lambda: {"memory_bytes": 1_500_000_000})


def test_candidates_are_counted_once_and_costs_against_their_budgets(caplog):
    caplog.set_level("INFO")
    searched(Lines())
    best, cost = "best 0.600 +- 0.196", "1,045 of 1,200 items, 27 of 5,000 tokens"
    # Two candidates in six seconds; at 1,045 items in that time the budget of items is spent first.
    assert caplog.messages[-1] == f"search 2 of 40: {best}; {cost}; 20 a minute; 1 s left; 1.5 GB"


def test_programs_get_every_result_as_figures(capsys):
    @click.command()
    @log_format_option()
    def command(log_format):
        searched(Events())

    assert run(command, "x", ["--log-format", "json"]) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    assert out == "" and [e["event"] for e in events] == ["phase", "progress", "phase", *["progress"] * 3]
    parent = events[1]
    assert (parent["label"], parent["state"], parent["items"], parent["best"]) == ("base", COMPLETE, 1, None)
    first, _, last = events[3:]
    assert first["interval"] == [pytest.approx(0.304), pytest.approx(0.696)]
    assert (last["phase"], last["done"], last["total"]) == ("search", 2, 40)
    assert (last["items"], last["tokens"], last["memory_bytes"]) == (1045, 27, 1_500_000_000)
    assert last["best"] == 0.6 and last["candidates_per_minute"] == pytest.approx(20)
    assert last["seconds_left"] == pytest.approx(155 / 1045 * 6) and last["time"] > 1.7e9


def test_what_is_logged_and_what_fails_are_events_too(capsys):
    @click.command()
    @log_format_option()
    def command(log_format):
        with Progress(SearchConfig(), Events()) as progress:
            progress.phase("calibration", 3)
            progress.evaluated("merge 1", Evaluation("c", "calibration", FAILED, error="Traceback\nboom: NaN"))
        raise ConfigError("expected this,\n  got that")

    assert run(command, "x", ["--log-format", "json"]) == 2
    *_, logged, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (logged["event"], logged["level"], logged["message"]) == ("log", "warning", "merge 1 failed: boom: NaN")
    assert (failed["event"], failed["message"], failed["status"]) == ("failed", "expected this, got that", 2)
    assert run(command, "x", ["--log-format", "yaml"]) == 2
    assert run(command, "x", ["--log-format", "json", "--no-such-flag"]) == 2
    assert run(command, "x", []) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "merge3: error: expected this, got that"


def test_a_terminal_gets_a_bar_that_log_lines_leave_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = make_display(as_json=False)
    assert isinstance(bar, Bar) and isinstance(make_display(as_json=True), Events)
    shown = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda self, text: shown.append((self.desc, self.n, text)))
    searched(bar)
    assert shown[0] == ("parents", 1, "base; 30 a minute; 0 s left; 1.5 GB; 1 items")
    assert shown[-1][:2] == ("search", 2) and shown[-1][2].startswith("best 0.600 +- 0.196; 20 a minute; 1 s left")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert isinstance(make_display(as_json=False), Lines)


def test_the_pace_is_that_of_the_latest_results():
    pace = Pace(Mark(0.0, 0, Price()))
    assert pace.per_minute() is None and pace.seconds_to(100, None, None) is None
    for done in range(1, 51):  # a resume
        pace.hear(Mark(0.001 * done, done, Price(done, done)))
    for more in range(1, RECENT + 1):
        pace.hear(Mark(0.05 + 3.0 * more, 50 + more, Price(50 + 2 * more, 0)))
    assert pace.per_minute() == pytest.approx(20)
    assert pace.seconds_to(100, None, None) == pytest.approx(90)
    assert pace.seconds_to(100, 100, None) == pytest.approx(15) and pace.seconds_to(100, 60, 9) == 0


def test_the_time_is_over_in_a_sentence(caplog):
    assert Progress(SearchConfig(), Lines()).stop_reason() is None
    assert Progress(SearchConfig(timeout=1e-9), Lines()).stop_reason() == "the timeout of 1e-09 s has passed"
    caplog.set_level("INFO")
    searched(Lines(), SearchConfig(timeout=100), clock := Clock())
    # 38 candidates at three seconds each would take longer than the time allows.
    assert f"{100 - (clock.now - 2):.0f} s left" in caplog.messages[-1]
