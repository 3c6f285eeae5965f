"""The phase of a run that searches: the strategy of the config over the run's space."""

from __future__ import annotations

from collections.abc import Callable

from merge3_plugin.evolve.assessor import SEARCH, Assessor
from merge3_plugin.evolve.objectives import several_objectives
from merge3_plugin.evolve.search import Improvement, Scored, Search, SearchResult
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.strategy import make_strategy


def search(stage: Stage, assessor: Assessor, improved: Callable[[Improvement], None]) -> SearchResult:
    """Everything that the search scored; ``improved`` hears of each new best."""
    settings, space = stage.config.merge3.search, stage.setting.space
    optimizer = make_strategy(stage.config, space.variables, stage.rng(SEARCH))
    stage.watcher.phase(SEARCH, settings.max_fevals)
    uniform = stage.candidates.uniform
    seen: dict[str, Scored] = {}

    def better(number: int, entry: Scored, previous: Scored | None) -> None:
        of_uniform = seen.get(uniform.id) if uniform else None
        against = [assessor.difference(entry, other) for other in (previous, of_uniform)]
        improved(Improvement(number, entry, *against))

    def progress(entry: Scored) -> None:
        seen.setdefault(entry.candidate.id, entry)
        stage.watcher.scored(entry)

    found = Search(
        stage.setting.store,
        optimizer,
        assessor.score,
        max_fevals=settings.max_fevals,
        max_failures=settings.max_failures,
        several=several_objectives(stage.config),
        interrupted=lambda: "interrupted" if stage.watcher.interrupted() else stage.watcher.stop_reason(),
        refine=assessor.refine,
        improved=better,
        progress=progress,
    )
    return found.run([vector for vector, _ in stage.candidates.known.values()])
