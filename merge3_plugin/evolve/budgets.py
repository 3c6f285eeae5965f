"""Whether the budgets of a search last for its first generation, which is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.calibration import AUTO, task_population
from merge3_plugin.evolve.fidelity.ladder import share, steps_below
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.strategy import make_strategy
from merge3_plugin.evolve.workload import Workload
from merge3_plugin.harness.benchmark import Benchmark

# Tokens are known of a few items of each task: all of them may have fewer by so much.
FEWER_TOKENS = 0.5


def check_budgets(
    config: RunConfig, space: Space, warm: int, benchmarks: Mapping[str, Benchmark], work: Mapping[str, Workload]
) -> list[str]:
    """A line for each budget of which known merges, which are scored first, leave less than a generation.

    Known are the points of the ``space`` and so many ``warm`` ones. A candidate is reckoned at its least, on as few
    anchors as the config lets any be scored on; known merges are scored on all, and parents have been. Raises
    ConfigError where candidates, items or tokens end before a first generation would, or known merges leave nothing.
    """
    search, points = config.merge3.search, space.known_points()
    known, paid = len(points) + warm, warm + sum(not label.startswith("parent:") for label in points)
    if search.max_fevals <= known:
        raise ConfigError(
            f"search.max_fevals: expected more than the {known} known merges that are scored first, "
            f"got {search.max_fevals}; raise it"
        )
    # A grid is to fit into what they leave.
    make_strategy(config, space.variables, np.random.default_rng(config.merge3.seed), known=known)
    lines = _short(config, space, search.max_fevals - known, f"search.max_fevals, less {known} known merges")
    everything = _anchors(config, benchmarks)
    least = _least(config, everything, benchmarks)
    tokens = {name: FEWER_TOKENS * work[name].tokens for name in everything}
    for key, limit, on_all, each in (
        ("max_items", search.max_items, sum(everything.values()), sum(least.values())),
        ("max_tokens", search.max_tokens, _total(everything, tokens), _total(least, tokens)),
    ):
        if limit is None:
            continue
        first = paid * on_all
        if limit < first + each:
            beside = f", {first} for {paid} known merges, which are scored first, and {each} for it" if first else ""
            raise ConfigError(
                f"search.{key}: expected enough for a candidate, {first + each} or more{beside}, got {limit}; raise it"
            )
        if limit < search.max_fevals * each:
            _check_generation(config, space, limit // each, f"search.{key}, at {each} a candidate")
            what = f"search.{key}, less {first} for {paid} known merges, at {each} a candidate"
            lines += _short(config, space, (limit - first) // each, what)
    return lines


def _short(config: RunConfig, space: Space, budget: int, limit: str) -> list[str]:
    """What the strategy says where so many candidates, by this ``limit``, are less than a generation of it."""
    try:
        _check_generation(config, space, budget, limit)
    except ConfigError as error:
        return [str(error)]
    return []


def _check_generation(config: RunConfig, space: Space, budget: int, limit: str) -> None:
    if config.merge3.search.optimizer != "grid":  # which has none
        make_strategy(config, space.variables, np.random.default_rng(config.merge3.seed), budget=budget, limit=limit)


def _total(items: Mapping[str, int], tokens: Mapping[str, float]) -> int:
    return int(sum(n * tokens[name] for name, n in items.items()))


def _anchors(config: RunConfig, benchmarks: Mapping[str, Benchmark]) -> dict[str, int]:
    """The items of each task that a candidate is scored on, as far as they are known without a calibration."""
    objectives = {name: benchmarks[name] for name in config.objectives()}
    by_item = {name: benchmark for name, benchmark in objectives.items() if benchmark.per_item}
    found = {}
    for name, benchmark in objectives.items():
        if name not in by_item:
            found[name] = len(benchmark.item_ids)
        elif config.calibration_of(name) == AUTO:
            found[name] = min(config.merge3.anchors, len(task_population(config, by_item, name, {}).search))
    return found


def _least(config: RunConfig, anchors: Mapping[str, int], benchmarks: Mapping[str, Benchmark]) -> dict[str, int]:
    """As few of the ``anchors`` of each task as the config lets a candidate be scored on."""
    fidelity, drawn = config.merge3.fidelity, {name: n for name, n in anchors.items() if benchmarks[name].per_item}
    if fidelity.strategy == "fixed":
        return dict(anchors)
    steps = steps_below(list(drawn.values()), fidelity.fewest, fidelity.eta)
    return {**anchors, **{name: share(n, fidelity.eta, -steps) for name, n in drawn.items()}}
