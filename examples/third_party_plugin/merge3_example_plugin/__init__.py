"""A plug-in of merge3: one merge method, one estimator, one search strategy, and an observer of evaluations."""

from __future__ import annotations

import json
import os
from typing import Any

from merge3_plugin.hookspecs import RegisterEstimator, RegisterMergeMethod, RegisterOptimizer, hookimpl


@hookimpl
def merge3_register_merge_methods(register: RegisterMergeMethod) -> None:
    # Imported here: this module is imported wherever merge3 runs, torch and mergekit are needed only where it merges.
    from merge3_example_plugin.methods import soft_median

    register(soft_median, bounds={"scale": (0.0, 2.0), "sharpness": (0.0, 4.0)})


@hookimpl
def merge3_register_estimators(register: RegisterEstimator) -> None:
    from merge3_example_plugin.estimators import ParentDifference

    register(ParentDifference())


@hookimpl
def merge3_register_optimizers(register: RegisterOptimizer) -> None:
    from merge3_example_plugin.optimizers import StepSearch

    register("one-plus-one", StepSearch)


@hookimpl
def merge3_evaluation_finished(evaluation: Any) -> None:
    """Append a line of JSON for each evaluation to the file that MERGE3_EXAMPLE_LOG names."""
    path = os.environ.get("MERGE3_EXAMPLE_LOG")
    if path:
        line = {"candidate": evaluation.candidate, "state": evaluation.state, "items": evaluation.n_items}
        with open(path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
