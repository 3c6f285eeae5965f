"""The measurement of searches: what was the best when, on which items that is judged, and what the tables say of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search
from quickstart_world import Quickstart, Settings
from search_runs import Bests, Measured, Plan, measure
from search_tables import report

Curve = Sequence[tuple[int, float]]


def measured(seed: int, accuracy: float, curve: Curve = ((100, 0.5), (300, 0.6))) -> Measured:
    return Measured(seed, accuracy, accuracy, search=900, all=2000, candidates=10, curve=list(curve))


def small(plan: Plan, candidates: int) -> Plan:
    return replace(plan, merge3={**plan.merge3, "search": {**plan.merge3["search"], "max_fevals": candidates}})


def test_a_curve_says_who_was_the_best_at_each_mark() -> None:
    """Not when a candidate was scored last, nor when first: the best may fall, and who follows it is older."""
    bests = Bests(None)
    bests.found = [(40, "a"), (120, "b"), (130, "a"), (400, "c")]
    assert bests.at_marks(450) == [(100, "a"), (150, "a"), (200, "a"), (300, "a"), (450, "c")]
    run = measured(0, 0.8, [(100, 0.5), (150, 0.6), (450, 0.8)])
    assert np.isnan(run.at(99)) and [run.at(mark) for mark in (100, 149, 150, 10_000)] == [0.5, 0.5, 0.6, 0.8]


def test_a_run_in_a_response_world() -> None:
    plan = next(plan for plan in search.grid() if plan.name == "random, 3 genes, mean")
    found = measure(small(plan, 8), 3)
    # Of the base, which is a point of this space, all answers are known before; the parents are asked all items.
    assert found.candidates == 8 and found.search == 7 * 17 and found.all > 4 * 1000
    assert found.curve[-1] == (found.search, found.best) and found.curve[0][0] == 100
    assert found.points == [] and set(found.rivals) == {"best parent, truly"}


def test_a_run_of_the_quickstarts_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure comes of real answers to items that neither search nor confirmation reads."""
    monkeypatch.setenv("MERGE3_HOME", "")  # which a run there sets
    settings = Settings(base_steps=2, skill_steps=2, evaluation_items=104, training_items=200)
    plan = next(plan for plan in search.quickstart(tmp_path) if plan.name == "random, weights, mean")
    models = Quickstart(tmp_path, settings, searched=48)
    judged = []

    class Watched(Quickstart):
        def accuracy(self, setting, candidate):
            found = super().accuracy(setting, candidate)
            asked = dict(setting.store.events())
            items = setting.benchmarks["quickstart_maximum"].item_ids
            known = setting.evaluator.answers(candidate, "quickstart_maximum", items).right
            read = {item for ids in asked["items quickstart_maximum"].values() for item in ids}
            unread = [known[item] for item in items if item not in read]
            judged.append((len(unread), found[1] == np.mean(unread)))
            return found

    found = measure(small(replace(plan, world=Watched(**vars(models)).at), 12), 0)
    assert found.candidates == 12 and 0 < found.accuracy < 1
    assert set(judged) == {(104 - 48 - 10, True)}
    # Parents are known from an earlier run then, and count all the same.
    again = measure(small(replace(plan, world=models.at), 12), 0)
    assert (again.curve, again.all) == (found.curve, found.all)


def test_tables_show_curves_and_factors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plans = {
        f"{optimizer}, {space}, mean": [measured(seed, 0.5 + 0.1 * worth + 0.01 * seed) for seed in range(3)]
        for optimizer, worth in (("cma-es", 1), ("random", 0))
        for space in ("genome", "lfs")
    }
    search.write(tmp_path / "found.json", {"quickstart": plans})
    again = search.read(tmp_path / "found.json")
    assert [run.at(300) for run in again["quickstart"]["random, lfs, mean"]] == [0.6] * 3
    report("quickstart", "three seeds", again["quickstart"])
    printed = capsys.readouterr().out
    assert "61.0 (60.0-62.0)" in printed and "60.0 (60.0-60.0)" in printed
    factors = {line[:34].strip(): line[34:].split() for line in printed.splitlines() if "[" in line}
    assert factors["random"] == ["-10.0", "[-10.0,", "-10.0]"] * 3, "over all spaces, and in each"
    assert factors["lfs"] == ["+0.0", "[+0.0,", "+0.0]"]
