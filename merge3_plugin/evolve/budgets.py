"""Whether the budgets of a search last for its first generation, which is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.calibration import AUTO
from merge3_plugin.evolve.fidelity.ladder import share, steps_below
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.spaces.variables import Variable
from merge3_plugin.evolve.strategy import make_strategy
from merge3_plugin.evolve.workload import Workload
from merge3_plugin.harness.benchmark import Benchmark

# Tokens are known of a few items of each task: all of them may have fewer by so much.
FEWER_TOKENS = 0.5


def check_budgets(
    config: RunConfig,
    variables: Sequence[Variable],
    benchmarks: Mapping[str, Benchmark],
    work: Mapping[str, Workload],
) -> None:
    """Raise ConfigError where the search's items or tokens end before its first generation does.

    A candidate is reckoned at its least: on as few anchors as the config lets any be scored on.
    """
    search = config.merge3.search
    items = _least(config, benchmarks)
    tokens = FEWER_TOKENS * sum(n * work[name].tokens for name, n in items.items())
    for key, limit, each in (
        ("max_items", search.max_items, sum(items.values())),
        ("max_tokens", search.max_tokens, int(tokens)),
    ):
        if limit is None or limit >= search.max_fevals * each:
            continue
        if limit < each:
            raise ConfigError(f"search.{key}: expected enough for a candidate, {each} or more, got {limit}; raise it")
        if search.optimizer != "grid":  # which has no generations
            what = f"search.{key}, at {each} a candidate"
            make_strategy(
                config, variables, np.random.default_rng(config.merge3.seed), budget=limit // each, limit=what
            )


def few_left(config: RunConfig, space: Space, known: int) -> list[str]:
    """A line where so many ``known`` merges, which are scored first, leave the strategy less than a generation."""
    search = config.merge3.search
    if search.max_fevals <= known:
        return [
            f"search.max_fevals: {known} known merges are scored first and leave the search nothing of "
            f"{search.max_fevals}; raise it"
        ]
    left, limit = search.max_fevals - known, f"search.max_fevals, less {known} known merges that are scored first"
    try:
        make_strategy(config, space.variables, np.random.default_rng(config.merge3.seed), budget=left, limit=limit)
    except ConfigError as error:
        return [str(error)]
    return []


def _least(config: RunConfig, benchmarks: Mapping[str, Benchmark]) -> dict[str, int]:
    """The fewest items of each task that a candidate is scored on, as far as they are known without a calibration."""
    settings, found = config.merge3, {}
    for name in config.objectives():
        n_items = len(benchmarks[name].item_ids)
        if not benchmarks[name].per_item:
            found[name] = n_items
        elif config.calibration_of(name) == AUTO:
            found[name] = min(settings.anchors, n_items)
    drawn = [name for name in found if benchmarks[name].per_item]
    if settings.fidelity.strategy != "fixed":
        eta = settings.fidelity.eta
        steps = steps_below([found[name] for name in drawn], settings.fidelity.fewest, eta)
        found |= {name: share(found[name], eta, -steps) for name in drawn}
    return found
