"""merge3's own search strategies, offered through the hook that any plug-in uses."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Factory, Optimizer, Settings
from merge3_plugin.evolve.spaces.variables import Variable
from merge3_plugin.hookspecs import RegisterOptimizer, hookimpl

# By name: where the factory is, imported when it is asked for, and whether it takes several objectives.
_STRATEGIES = {
    "cma-es": ("cma_es", "CmaEs", False),
    "lq-cma-es": ("lq_cma_es", "LqCmaEs", False),
    "ga": ("pymoo_search", "make_ga", False),
    "de": ("pymoo_search", "make_de", False),
    "nsga2": ("pymoo_search", "make_nsga2", True),
    "nsga3": ("pymoo_search", "make_nsga3", True),
    "tpe": ("optuna_search", "make_tpe", False),
    "gp": ("optuna_search", "make_gp", False),
    "random": ("random_search", "RandomSearch", False),
    "grid": ("grid", "GridSearch", False),
}


@hookimpl
def merge3_register_optimizers(register: RegisterOptimizer) -> None:
    for name, (module, attribute, several_objectives) in _STRATEGIES.items():
        register(name, _later(module, attribute), several_objectives=several_objectives)


def _later(module: str, attribute: str) -> Factory:
    def factory(
        variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> Optimizer:
        make: Factory = getattr(import_module(f"merge3_plugin.evolve.optimizers.{module}"), attribute)
        return make(variables, start, settings, rng)

    return factory
