"""The example plug-in installed: its method is searched by its strategy, its estimator estimates, its observer hears"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from tests.evolve.world import make_world


def test_a_plugin_is_searched_estimates_observes_and_its_result_is_mergekits_too(
    from_wheel: Any, tiny_models: list[Path], tmp_path: Path
) -> None:
    config = make_world(tmp_path, tiny_models, estimator="parent-difference")
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["genome"] |= {"merge_method": "soft_median", "layer_granularity": 0}
    tree["merge3"]["search"] = tree["merge3"].get("search", {}) | {"optimizer": "one-plus-one"}
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    out, log = tmp_path / "out", tmp_path / "evaluations.jsonl"
    done = from_wheel.run(
        *("mergekit-evolve-merge3", config, "--storage-path", out, "--task-search-path", tmp_path / "tasks"),
        *("--max-fevals", 6),
        MERGE3_EXAMPLE_LOG=str(log),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    evaluated = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {line["state"] for line in evaluated} == {"COMPLETE"}
    assert len({line["candidate"] for line in evaluated}) > 6
    assert "parent-difference" in json.dumps(summary)
    best = out / "best_config.yaml"
    recipe = yaml.safe_load(best.read_text(encoding="utf-8"))
    assert recipe["merge_method"] == "soft_median"
    command = shlex.split(best.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    assert command[:3] == ["mergekit-yaml", "best_config.yaml", "final_model"]
    again = from_wheel.run(command[0], command[1], tmp_path / "again", *command[3:], cwd=out)
    assert again.returncode == 0, again.stderr

    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out / "final_model", tmp_path / "again"))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-6
