"""Calibrated anchor tasks: found by name, checked against the task, and estimated as the API does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.api import ResponseMatrix, calibrate, estimate
from merge3_plugin.artifact import save_calibration
from merge3_plugin.domain import Calibration
from merge3_plugin.errors import DataError
from merge3_plugin.harness.benchmark import load_benchmarks

ASKED = {"metric": "acc", "filter": "none", "num_fewshot": 0, "chat_template": None}


@pytest.fixture(scope="module")
def calibration(tasks_folder) -> Calibration:
    """Of the 12 items of plain_choice, from 8 invented models."""
    (benchmark,) = load_benchmarks({"plain_choice": "acc,none"}, include_paths=[tasks_folder]).values()
    rng = np.random.default_rng(0)
    ability, difficulty = rng.normal(size=(8, 1)), rng.normal(size=12)
    answers = (rng.random((8, 12)) < 1 / (1 + np.exp(difficulty - 2 * ability))).astype(float)
    made = calibrate(ResponseMatrix(answers, range(8), benchmark.item_ids), 4, seed=0)
    return replace(made, item_hashes=benchmark.item_hashes, provenance={**made.provenance, **ASKED})


def run_metadata(path: Path, **settings: Any) -> dict[str, Any]:
    return {"merge3": {"tasks": {"anchor_choice": {"calibration": str(path), **settings}}}}


def test_the_estimate_is_the_apis(make_manager, evaluate, calibration, tmp_path, caplog):
    path = tmp_path / "choice.safetensors"
    save_calibration(calibration, path)
    for estimator in ("auto", "gp-irt"):
        manager = make_manager(metadata=run_metadata(path, estimator=estimator))
        results = evaluate(manager, "anchor_choice")
        scores = dict(sample["merge3_acc"][:2] for sample in results["samples"]["anchor_choice"])
        assert set(scores) == set(calibration.anchors.item_ids)
        expected = estimate(calibration, scores, estimator=estimator)
        row = results["results"]["anchor_choice"]
        assert row["merge3_acc,none"] == expected.accuracy
        assert row["merge3_se,none"] == expected.standard_error
        assert (row["merge3_lo,none"], row["merge3_hi,none"]) == expected.interval
        assert row["merge3_items,none"] == 4
    assert "not calibrated" not in caplog.text


def test_a_limited_run_estimates_from_fewer_anchors(make_manager, evaluate, calibration, tmp_path):
    path = tmp_path / "choice.safetensors"
    save_calibration(calibration, path)
    row = evaluate(make_manager(metadata=run_metadata(path)), "anchor_choice", limit=3)["results"]["anchor_choice"]
    assert row["merge3_items,none"] == 3


def test_a_calibration_in_the_users_folder_is_found_by_name(make_manager, calibration, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGE3_HOME", str(tmp_path))
    (tmp_path / "calibrations").mkdir()
    save_calibration(calibration, tmp_path / "calibrations" / "anchor_choice.safetensors")
    loaded = make_manager().load(["anchor_choice", "anchor_number"])["tasks"]
    assert loaded["anchor_choice"].calibration.anchors.item_ids == calibration.anchors.item_ids
    assert {d.item_id for d in loaded["anchor_choice"].eval_docs} == set(calibration.anchors.item_ids)
    assert loaded["anchor_number"].calibration is None


def test_a_calibration_of_some_of_the_items_says_so(make_manager, calibration, tmp_path, caplog):
    from merge3_plugin.calibrate import restrict

    path = tmp_path / "part.safetensors"
    anchors = calibration.anchors.item_ids
    others = [item for item in calibration.item_ids if item not in anchors]
    save_calibration(restrict(calibration, [*anchors, *others[:3]]), path)
    task = make_manager(metadata=run_metadata(path)).load(["anchor_choice"])["tasks"]["anchor_choice"]
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    assert "its calibration holds 7 of the 12 items, and speaks of those alone" in caplog.text


@pytest.mark.parametrize(
    ("change", "shots", "message"),
    [
        ({"metric": "acc_norm"}, 0, "expected a calibration for metric 'acc', got one for 'acc_norm'"),
        ({"filter": "strict"}, 0, "expected a calibration for filter 'none', got one for 'strict'"),
        ({}, 2, "expected a calibration for num_fewshot 2, got one for 0"),
        ({"chat_template": "abc"}, 0, "expected a calibration for chat_template None, got one for 'abc'"),
    ],
)
def test_a_calibration_made_otherwise_is_refused(make_manager, calibration, tmp_path, change, shots, message):
    path = tmp_path / "choice.safetensors"
    save_calibration(replace(calibration, provenance={**calibration.provenance, **change}), path)
    task = make_manager(metadata=run_metadata(path)).load(["anchor_choice"])["tasks"]["anchor_choice"]
    task.set_config("num_fewshot", shots)
    with pytest.raises(DataError) as error:
        task.build_all_requests()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_chat_template_is_compared_by_its_hash(make_manager, evaluate, calibration, tmp_path):
    from lm_eval.utils import hash_string

    from merge3_plugin.testing import TINY_CHAT_TEMPLATE

    path = tmp_path / "choice.safetensors"
    template = {"chat_template": hash_string(TINY_CHAT_TEMPLATE)}
    save_calibration(replace(calibration, provenance={**calibration.provenance, **template}), path)
    manager = make_manager(metadata=run_metadata(path))
    assert evaluate(manager, "anchor_choice", apply_chat_template=True)["results"]
    with pytest.raises(DataError, match="chat_template"):
        evaluate(manager, "anchor_choice")


def test_responses_without_settings_are_not_held_against_a_calibration(make_manager, calibration, tmp_path):
    """An .npz says neither metric nor few-shot count."""
    path = tmp_path / "choice.safetensors"
    unknown = {key: value for key, value in calibration.provenance.items() if key not in ASKED}
    save_calibration(replace(calibration, provenance=unknown, item_hashes=None), path)
    task = make_manager(metadata=run_metadata(path)).load(["anchor_choice"])["tasks"]["anchor_choice"]
    task.set_config("num_fewshot", 2)
    task.set_fewshot_seed(0)
    task.build_all_requests()
    assert len(task.instances) == 16


def test_a_calibration_of_other_items_is_refused(make_manager, calibration, tmp_path):
    path = tmp_path / "choice.safetensors"
    changed = replace(calibration, item_hashes=("0" * 32, *calibration.item_hashes[1:]))
    save_calibration(changed, path)
    with pytest.raises(DataError, match="item 'q0' has another text; calibrate this task on this data"):
        make_manager(metadata=run_metadata(path)).load(["anchor_choice"])["tasks"]["anchor_choice"].eval_docs  # noqa: B018
    ids = ("elsewhere", *calibration.item_ids[1:])
    responses = ResponseMatrix(calibration.responses.values, range(8), ids)
    if "q0" not in calibration.anchors.item_ids:
        save_calibration(replace(calibration, item_ids=ids, responses=responses), path)
        with pytest.raises(DataError, match="item 'elsewhere' is not in the data"):
            make_manager(metadata=run_metadata(path)).load(["anchor_choice"])["tasks"]["anchor_choice"].eval_docs  # noqa: B018
