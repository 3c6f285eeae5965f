"""The phase of a run that searches: the strategies of the config over the run's space and items."""

from __future__ import annotations

from collections.abc import Callable

from merge3_plugin.config.search import FidelityConfig
from merge3_plugin.evolve.assessor import SEARCH, Assessor
from merge3_plugin.evolve.executor import Executor, InOrder, Replay
from merge3_plugin.evolve.fidelity.brackets import by_rank, halving, hyperband
from merge3_plugin.evolve.fidelity.ladder import Ladder
from merge3_plugin.evolve.fidelity.strategies import Difference, Fidelity, Fixed, Racing
from merge3_plugin.evolve.front import by_fronts
from merge3_plugin.evolve.loop import Search, steps
from merge3_plugin.evolve.objectives import Objectives, several_objectives
from merge3_plugin.evolve.search import Improvement, Scored, SearchResult
from merge3_plugin.evolve.spaces.variables import described
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.stopping import Limits
from merge3_plugin.evolve.strategy import make_strategy

BUDGET, VARIABLES = "search budget", "variables"


def make_assessor(stage: Stage, objectives: Objectives) -> Assessor:
    """What turns vectors into assessed candidates, on the items that the config's fidelity gives them."""
    settings = stage.config.merge3
    fidelity = settings.fidelity
    return Assessor(
        objectives,
        stage.setting.evaluator,
        stage.setting.store,
        stage.candidates.at,
        Ladder(objectives.items, seed=settings.seed, eta=fidelity.eta, fewest=fidelity.fewest, fresh=fidelity.fresh),
        complete=[parent.id for parent in stage.candidates.parents.values()],
        every=settings.recalibrate,
        folder=stage.setting.folder,
    )


def make_fidelity(config: FidelityConfig, ladder: Ladder, difference: Difference, *, several: bool) -> Fidelity:
    """The strategy of this name, from the lowest rung of the ``ladder``, for one objective or ``several``."""
    order = by_fronts if several else by_rank
    if config.strategy == "racing":
        return Racing(ladder.lowest, difference, lambda entry: ladder.share(entry.place))
    if config.strategy == "halving":
        return halving(ladder.lowest, config.eta, order)
    if config.strategy == "hyperband":
        return hyperband(ladder.lowest, config.eta, order)
    return Fixed()


def search(
    stage: Stage, assessor: Assessor, improved: Callable[[Improvement], None], executor: Executor | None = None
) -> SearchResult:
    """Everything that the search scored; ``improved`` hears of each new best. ``executor``: instead of `InOrder`.

    What the record holds of this search is replayed first. Strategies are made for the budget with which it was begun,
    so that a greater one extends it.
    """
    settings, store, space = stage.config.merge3, stage.setting.store, stage.setting.space
    budget = int(store.pin(BUDGET, settings.search.max_fevals))
    store.pin(VARIABLES, [described(variable) for variable in space.variables])  # for who reads the record
    stage.watcher.phase(SEARCH, settings.search.max_fevals)
    uniform, several = stage.candidates.uniform, several_objectives(stage.config)
    known = [*(vector for vector, _ in stage.candidates.known.values()), *stage.setting.warm]
    seen: dict[str, Scored] = {}

    def better(number: int, entry: Scored, previous: Scored | None) -> None:
        of_uniform = seen.get(uniform.id) if uniform else None
        against = [assessor.difference(entry, other) for other in (previous, of_uniform)]
        improved(Improvement(number, entry, *against))

    def progress(entry: Scored) -> None:
        seen[entry.candidate.id] = entry
        stage.watcher.scored(entry)

    found = Search(
        store,
        make_strategy(stage.config, space.variables, stage.rng(SEARCH), budget=budget, known=len(known)),
        assessor,
        make_fidelity(settings.fidelity, assessor.ladder, assessor.difference, several=several),
        Limits(settings.search, assessor.difference),
        Replay(executor or InOrder(stage.setting.evaluator.live_models), steps(store)),
        several=several,
        interrupted=lambda: "interrupted" if stage.watcher.interrupted() else None,
        late=stage.watcher.stop_reason,
        improved=better,
        progress=progress,
    )
    return found.run(known)
