"""The search strategy that a config asks for, over the variables of its space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.evolve.objectives import several_objectives
from merge3_plugin.evolve.optimizers import Optimizer, Settings, make_optimizer
from merge3_plugin.evolve.optimizers.scalarised import make_scalarised
from merge3_plugin.evolve.spaces.variables import Variable, draw, start


def make_strategy(
    config: RunConfig,
    variables: Sequence[Variable],
    rng: np.random.Generator,
    *,
    budget: int | None = None,
    limit: str = "search.max_fevals",
    known: int = 0,
) -> Optimizer:
    """``merge3.search.optimizer``, to start at the variables' start, or at a random point with ``random_init``.

    ``budget`` is how many trials it plans for; None: as many as the config allows. ``limit`` is what of the config sets
    it, and so many ``known`` vectors are scored before. Raises ConfigError for settings that the strategy refuses.
    Cheap, and of the same outcome with any generator.
    """
    search = config.merge3.search
    first = draw(variables, rng) if config.random_init else start(variables)
    objectives = sum(bool(task.weight) for task in config.tasks) if several_objectives(config) else 1
    trials = search.max_fevals if budget is None else budget
    settings = Settings(trials, search.popsize, search.sigma0, objectives, search.options, limit, known)
    if search.scalarisation == "sum":
        return make_optimizer(search.optimizer, variables, first, settings, rng)
    return make_scalarised(search.scalarisation, search.optimizer, variables, first, settings, rng)
