"""The hooks a plug-in may implement; its entry point stands in the group ``merge3``.

Implementations are marked with ``@merge3_plugin.hookspecs.hookimpl`` and take the arguments they need, by name. Hooks
grow by new arguments only, so that an implementation of today keeps working.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from mergekit.merge_methods import MergeMethod

PROJECT = "merge3"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RegisterMergeMethod(Protocol):
    def __call__(self, method: MergeMethod, *, bounds: Mapping[str, tuple[float, float]] | None = None) -> None: ...


class RegisterEstimator(Protocol):
    def __call__(self, estimator: Any) -> None: ...


class RegisterOptimizer(Protocol):
    def __call__(self, name: str, factory: Callable[..., Any], *, several_objectives: bool = False) -> None: ...


@hookspec
def merge3_register_merge_methods(register: RegisterMergeMethod) -> None:
    """Offer merge methods made with mergekit's ``merge_method``.

    Fires once in a process, before the first merge method is looked up, in ``mergekit-yaml`` too. Import torch and
    mergekit inside the implementation: the module of a plug-in is also imported where no model is.

    :param register: called once for each method; ``bounds`` maps a float parameter to its search interval (low, high).
        Flags, counts and tolerances keep their default in a search. Any other float without bounds here must get them
        from the run's config, or a fixed value there, unless it has one of the common names that merge3 knows
        (weight, density, lambda, gamma, epsilon, t, r, alpha, scale, select_topk).
    """


@hookspec
def merge3_register_estimators(register: RegisterEstimator) -> None:
    """Offer estimators, which turn answers on the anchors into an ``Estimate``.

    Fires once in a process, when an estimator is first looked up.

    :param register: called once for each estimator; its ``name`` is what ``estimator:`` in a config selects.
    """


@hookspec
def merge3_register_optimizers(register: RegisterOptimizer) -> None:
    """Offer search strategies, which ask for trials and are told results.

    Fires once in a process, when a strategy is first looked up. Import heavy packages inside the factory.

    :param register: called once for each strategy: the name that ``search.optimizer`` selects, and a
        ``merge3_plugin.evolve.optimizers.Factory`` that makes an ``Optimizer``; it raises ConfigError for settings
        that it refuses. ``several_objectives``: whether results may have more values than one.
    """


@hookspec
def merge3_evaluation_finished(evaluation: Any) -> None:
    """Observe a finished evaluation, failed ones included; what the hook raises is logged and the run goes on.

    Fires after the evaluation is in the run's record, and not again for recorded ones when a run is resumed.

    :param evaluation: the record: candidate, recipe, state, estimates, fitness and cost. Read it, do not change it.
    """
