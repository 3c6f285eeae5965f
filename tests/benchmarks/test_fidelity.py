"""The table of estimates: what is left out takes no part, and the figures are what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.testing import simulate_responses

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fidelity.py"


@pytest.fixture(scope="module")
def fidelity():
    spec = importlib.util.spec_from_file_location("fidelity", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_matrix_becomes_a_table(fidelity, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fidelity, "OUTER_FOLDS", 2)
    world = simulate_responses(10, 40, rng=np.random.default_rng(0))
    np.savez(tmp_path / "world.npz", values=world.values, model_ids=world.model_ids, item_ids=world.item_ids)
    written = tmp_path / "rows.json"
    command = [SCRIPT, tmp_path / "world.npz", "--seeds", "1", "--sizes", "15", "--json", written]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    fidelity.main()
    rows = {(r["anchors"], r["estimator"], r["n"]): r for r in json.loads(written.read_text())}
    assert {("auto", "auto", 15), ("tinyBenchmarks", "gp-irt", 15), ("kd", "core", 15), ("kd", "auto", 0)} <= set(rows)
    found = rows["auto", "auto", 15]
    assert (
        found["estimates"] == 10 and 0 < found["ratio"] < 2 and 0 <= found["covered_low"] <= found["covered_high"] <= 1
    )
    out, err = capsys.readouterr()
    assert "auto" in out and "part" not in out and "part 2 of 2" in err


def test_pseudo_merges_are_measured_on_items_that_did_not_choose_their_parents(fidelity):
    """A model that copies one parent's answers, or the other's, is found with these two, from half of the items."""
    rng = np.random.default_rng(0)
    world = simulate_responses(7, 200, rng=rng, misfit=2.0)
    mixed = np.where(rng.random(200) < 0.5, world.values[0], world.values[1])
    responses = ResponseMatrix(np.vstack([world.values, mixed]), [*world.model_ids, "merge"], world.item_ids)
    splits = {split.left_out.model_ids[0]: split for split in fidelity.pseudo_merges(responses, 0, 3)}
    split = splits["merge"]
    assert set(split.parents.model_ids) == {"m0", "m1"}
    assert set(split.calibrators.model_ids) >= {"m0", "m1"} and split.calibrators.n_models == 5
    assert "merge" not in split.calibrators.model_ids
    assert split.left_out.n_items == 100
    # Answers on the measured items change nothing in what is chosen.
    turned = np.array(responses.values)
    places = [responses.item_ids.index(item) for item in split.left_out.item_ids]
    turned[-1, places] = 1 - turned[-1, places]
    again = fidelity.pseudo_merges(ResponseMatrix(turned, responses.model_ids, responses.item_ids), 0, 3)
    for other in again:
        assert other.parents.model_ids == splits[other.left_out.model_ids[0]].parents.model_ids


def test_figures(fidelity):
    def trial(seed, model, error, held):
        return fidelity.Trial(seed, model, 0.5, 0.5 + error, 0.05, held, 0.3, 0.4, 0.001)

    trials = [
        trial(0, "a", 0.02, True),
        trial(0, "b", -0.06, True),
        trial(1, "a", 0.04, True),
        trial(1, "b", 0.08, False),
    ]
    found = fidelity.figures(trials)
    assert found["ratio"] == pytest.approx(1.0) and found["covered"] == 0.75 and found["width"] == pytest.approx(0.75)
    # By seed 0.8 and 1.2: their standard deviation is 0.2 sqrt(2).
    assert found["standard_error"] == pytest.approx(0.2)
    assert (found["covered_low"], found["covered_high"]) == (0.5, 1.0), "models are drawn whole"


def test_nothing_of_the_left_out_reaches_the_calibration(fidelity):
    """Their answers beside the anchors may change; neither choices nor estimates do."""
    world = simulate_responses(10, 80, rng=np.random.default_rng(1))
    calibrators, out = world.models(world.model_ids[:7]), world.models(world.model_ids[7:])
    first = dict(fidelity.measured(fidelity.Split(calibrators, None, out), 0, [20]))
    made = fidelity.study(calibrators, seed=0).calibration(20)
    values = np.array(out.values)
    rest = np.setdiff1d(np.arange(80), made.anchor_positions())
    values[:, rest] = 1 - values[:, rest]
    changed = ResponseMatrix(values, out.model_ids, out.item_ids)
    second = dict(fidelity.measured(fidelity.Split(calibrators, None, changed), 0, [20]))
    assert first["auto", "auto", 20].estimate == pytest.approx(second["auto", "auto", 20].estimate, abs=1e-12)
