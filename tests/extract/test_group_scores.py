"""Sub-tasks that count alike in lm-eval's score of a group count alike in what is read from its logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.extract.responses import read_responses


@pytest.fixture(scope="module")
def even_logs(tiny_models: list[Path], run_lm_eval, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("even")
    for model in tiny_models[:2]:
        run_lm_eval(model, ["even"], output)
    return output


def group_scores(folder: Path, group: str) -> dict[str, float]:
    """lm-eval's own score of the group, by model."""
    results = [json.loads(path.read_text()) for path in folder.rglob("results_*.json")]
    return {r["model_name"]: r["results"][group]["acc,none"] for r in results}


def test_accuracies_are_lm_evals_scores_of_the_group(even_logs: Path, logs: Path) -> None:
    for folder, group in ((even_logs, "even"), (logs, "pair")):
        matrix = read_responses([folder], group, metric="acc").matrix
        found = dict(zip(matrix.model_ids, matrix.accuracy(), strict=True))
        assert found == pytest.approx(group_scores(folder, group), abs=1e-12)
        # 6 and 8 items: what tells whether sub-tasks or items count alike
        assert (matrix.balance is None) == (group == "pair")
    leaves = read_responses([even_logs], "even", metric="acc").matrix
    expected = [14 / (2 * {"left": 6, "right": 8}[leaf]) for leaf in leaves.item_groups or ()]
    assert leaves.balance == pytest.approx(expected)


def test_weights_of_a_known_task_come_before_what_logs_tell(even_logs: Path, logs: Path) -> None:
    given = read_responses([logs], "pair", metric="acc", balance=lambda items: [1.0 + (i == items[0]) for i in items])
    assert given.matrix.balance is not None and given.matrix.balance[0] == 2.0
    assert read_responses([even_logs], "even", metric="acc", balance=lambda items: None).matrix.balance is None


def test_a_calibration_of_the_group_with_other_weights_is_refused(even_logs: Path, logs: Path, local_tasks) -> None:
    from dataclasses import replace

    from merge3_plugin.api import calibrate
    from merge3_plugin.harness.benchmark import load_benchmarks
    from merge3_plugin.harness.calibrations import check_items

    tasks = {"even": "acc,none", "pair": "acc,none"}
    even, pair = load_benchmarks(tasks, include_paths=[local_tasks]).values()
    read = {name: read_responses([f], name, metric="acc") for name, f in (("even", even_logs), ("pair", logs))}
    made = {
        name: replace(calibrate(r.matrix, 4, seed=0), item_hashes=r.item_hashes, provenance=r.provenance)
        for name, r in read.items()
    }
    check_items(made["even"], even.items, Path("even.safetensors"))
    check_items(made["pair"], pair.items, Path("pair.safetensors"))
    with pytest.raises(DataError, match="expected a calibration in which the sub-tasks of 'even' count as in lm-eval"):
        check_items(made["pair"], even.items, Path("pair.safetensors"))
    with pytest.raises(DataError, match="expected a calibration in which the items of 'pair' count as in lm-eval"):
        check_items(made["even"], pair.items, Path("even.safetensors"))
