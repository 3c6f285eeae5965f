"""``merge3 anchors import``: calibrations from tinyBenchmarks' published parameters, and back to their figures."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.api import estimate
from merge3_plugin.artifact import load_calibration
from tests.commands import refused
from tests.extract.test_tinybenchmarks import SCENARIOS, Published, answers_of, published_file


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tinyBenchmarks.pkl"
    path.write_bytes(pickle.dumps(published_file()))
    return path


def test_one_scenario_into_a_file_then_shown_and_used(command, file):
    ask = ("anchors", "import", file, "--benchmark", "lb", "--scenario", "mmlu", "--out", "mmlu.safetensors")
    status, out, _ = command(*ask)
    assert status == 0 and "task     lb/mmlu" in out and "Wrote mmlu.safetensors" in out
    assert "180, 3 sub-tasks counted by their weights" in out and "no estimator is unbiased by design" in out
    calibration = load_calibration("mmlu.safetensors")
    published = Published(published_file()["lb"], "mmlu")
    y = answers_of(published, [0.3, -0.5], np.random.default_rng(0))
    found = estimate(
        calibration, dict(zip(calibration.anchors.item_ids, y[published.seen], strict=True)), estimator="gp-irt"
    )
    assert found.accuracy == pytest.approx(published.gp_irt(y, published.fit_theta(y)), abs=1e-3)

    status, out, _ = command("anchors", "show", "mmlu.safetensors")
    assert status == 0 and "tinyBenchmarks.pkl (sha256" in out and "weight 0.29 of the answers" in out
    assert "tinybenchmarks in the file" in out and "models   none" in out
    status, out, _ = command("anchors", "show", "mmlu.safetensors", "--json")
    assert status == 0 and json.loads(out)["provenance"]["gp_irt_weight"] == 0.29 and json.loads(out)["accuracy"] == {}


def test_all_scenarios_into_a_folder(command, file):
    Path("made").mkdir()
    status, *_ = command("anchors", "import", file, "--out", "made")
    names = {f"lb_{scenario}.safetensors" for scenario in SCENARIOS} | {"alpaca_alpaca_v2.safetensors"}
    assert status == 0 and {path.name for path in Path("made").iterdir()} == names
    line = refused(command("anchors", "import", file, "--out", "elsewhere"))
    assert "expected an existing folder for 4 scenarios" in line and "harness_gsm8k" in line


def test_a_scenario_cannot_name_a_file_outside_the_folder(command, tmp_path):
    content = published_file()
    for part in ("examples_weights", "optimal_lambdas", "scenarios_position", "subscenarios_position"):
        content["alpaca"][part] = {"../../alpaca": content["alpaca"][part]["alpaca_v2"]}
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"alpaca": content["alpaca"]}))
    Path("made").mkdir()
    assert command("anchors", "import", "odd.pkl", "--out", "made")[0] == 0
    assert [path.name for path in Path("made").iterdir()] == ["alpaca_.._.._alpaca.safetensors"]


def test_ids_of_a_task(command, file, tmp_path):
    (tmp_path / "ids.txt").write_text("".join(f"gsm8k-{k}\n" for k in range(150)))
    ask = ["anchors", "import", file, "--scenario", "harness_gsm8k", "--out", "g.safetensors", "--item-ids"]
    assert command(*ask, "ids.txt")[0] == 0
    assert load_calibration("g.safetensors").item_ids[:2] == ("gsm8k-0", "gsm8k-1")
    assert "--item-ids: expected a text file" in refused(command(*ask, "nowhere.txt"))


def test_what_is_refused(command, file, tmp_path):
    ask = ("--out", "x.safetensors", "--scenario", "mmlu")
    assert "expected a pickle, got: No such file" in refused(command("anchors", "import", "nowhere.pkl", *ask))
    assert "did you mean 'py-irt'" in refused(command("anchors", "import", file, *ask, "--convention", "pyirt"))
    assert "did you mean 'mmlu'" in refused(command("anchors", "import", file, *ask[:3], "mmul"))

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"lb": Hostile()}))
    assert "nothing of it was run" in refused(command("anchors", "import", "evil.pkl", *ask))
    assert not Path("ran").exists() and not Path("x.safetensors").exists()
