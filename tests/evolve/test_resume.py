"""Runs broken off by SIGKILL and SIGINT, in every phase, against an unbroken one."""

import json
import os
import shutil
import signal

import pytest

from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import RunProcess, canonical, evolve_here, make_world, run_here, run_paused


@pytest.fixture(scope="module")
def unbroken(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    config = make_world(folder, tiny_models)
    status, _, stderr = RunProcess(config, folder / "out", folder / "output").finished()
    assert status == 0, stderr
    return config, folder / "out", stderr


# Known points are 1 (the uniform merge) or more; the sixth search evaluation lies between an ask and its tell.
@pytest.mark.parametrize(("purpose", "number"), [("calibration", 2), ("search", 7), ("confirmation", 2)])
def test_a_killed_run_goes_on_to_the_same_record(unbroken, tmp_path, purpose, number):
    config, reference, _ = unbroken
    out = tmp_path / "out"
    run_paused(config, out, purpose, number, tmp_path / "pause").kill()
    store = RunStore.open(out)
    begun, steps = store.spent(), [name for name, _ in store.events()]
    store.close()
    assert begun[purpose]["evaluations"] == number
    asks, tells = sum(s.startswith("ask") for s in steps), sum(s.startswith("tell") for s in steps)
    assert asks == tells + 1 if purpose == "search" else asks >= tells
    assert run_here(config, out) == 0
    assert canonical(out) == canonical(reference)
    assert (out / "best_config.yaml").read_text() == (reference / "best_config.yaml").read_text()
    ours, theirs = (json.loads((f / "summary.json").read_text()) for f in (out, reference))
    assert ours == theirs


def test_a_run_killed_in_a_recalibration_and_before_its_surrogate_is_confirmed_goes_on(tiny_models, tmp_path):
    config = make_world(tmp_path, tiny_models, recalibrate=12, search={"max_fevals": 30, "popsize": 6})
    assert run_here(config, tmp_path / "unbroken") == 0
    out = tmp_path / "out"
    for number, (purpose, seen) in enumerate((("recalibration", 1), ("search", 3), ("surrogate", 1))):
        run_paused(config, out, purpose, seen, tmp_path / f"pause {number}").kill()
        store = RunStore.open(out)
        steps = dict(store.events())
        store.close()
        # The first time it is scored in full, and that is not used yet.
        assert ("recalibration 1" in steps) == (purpose != "recalibration")
    assert run_here(config, out) == 0
    assert canonical(out) == canonical(tmp_path / "unbroken")
    ours, theirs = (json.loads((f / "summary.json").read_text()) for f in (out, tmp_path / "unbroken"))
    assert ours == theirs
    found = ours["search"]["recalibrations"]
    assert [body["candidates"] // 12 for body in found] == [*range(1, len(found) + 1)]
    assert len({body["tasks"]["tiny_sum"]["items"] for body in found}) == len(found) > 1
    assert "surrogate" in {model["label"] for model in ours["models"]}


def test_a_run_of_two_live_models_killed_with_several_in_flight_goes_on_to_the_same_record(tiny_models, tmp_path):
    config = make_world(tmp_path, tiny_models, device=["cpu", "cpu"])
    expected = evolve_here(config, tmp_path / "unbroken")
    out = tmp_path / "out"
    run_paused(config, out, "search", 5, tmp_path / "pause").kill()
    store = RunStore.open(out)
    steps = [name.split()[0] for name, _ in store.events()]
    store.close()
    assert steps.count("ask") == steps.count("tell") + 3, "three were in flight"
    assert evolve_here(config, out) == expected
    assert canonical(out) == canonical(tmp_path / "unbroken")


def test_ctrl_c_ends_with_the_best_so_far_and_the_run_goes_on(unbroken, tmp_path):
    config, reference, _ = unbroken
    out = tmp_path / "out"
    run = run_paused(config, out, "search", 7, tmp_path / "pause")
    os.kill(run.process.pid, signal.SIGINT)
    (tmp_path / "pause" / "go").touch()
    status, _, stderr = run.finished()
    assert status == 130, stderr
    assert "Traceback" not in stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "stopped before the confirmation"
    assert (out / "best_config.yaml").is_file() and (out / "final_model" / "config.json").is_file()
    assert "confirmation" not in RunStore.open(out).spent()
    assert run_here(config, out) == 0
    assert canonical(out) == canonical(reference)


def test_ctrl_c_in_the_confirmation_keeps_the_search(unbroken, tmp_path):
    config, reference, _ = unbroken
    out = tmp_path / "out"
    run = run_paused(config, out, "confirmation", 1, tmp_path / "pause")
    os.kill(run.process.pid, signal.SIGINT)
    (tmp_path / "pause" / "go").touch()
    status, stdout, stderr = run.finished()
    assert status == 130 and "Traceback" not in stderr
    assert "stopped before the confirmation" in stdout and "the same command goes on" in stdout
    assert (out / "best_config.yaml").is_file()
    assert run_here(config, out) == 0
    assert canonical(out) == canonical(reference)


def test_the_same_command_again_computes_nothing_and_more_budget_extends_the_search(unbroken, tmp_path):
    config, reference, _ = unbroken
    out = shutil.copytree(reference, tmp_path / "out")
    before = canonical(out)
    assert run_here(config, out) == 0 and canonical(out) == before
    assert run_here(config, out, "--max-fevals", "18") == 0
    steps = dict(RunStore.open(out).events())
    begun = [body for name, body in steps.items() if name.startswith("ask") and not body["again"]]
    assert len(begun) == 18
    kept = dict(RunStore.open(reference).events())
    assert all(steps[name] == body for name, body in kept.items())


def test_without_a_terminal_progress_is_in_lines(unbroken):
    _, _, stderr = unbroken
    assert "merge3: parents 1 of 4: model_1, 150 items" in stderr
    assert "merge3: search 1 of 14: best 0." in stderr
    assert "\r" not in stderr.split("merge3: parents: 4 models")[1]
