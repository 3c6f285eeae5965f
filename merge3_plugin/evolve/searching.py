"""The phase of a run that searches: the strategy of the config over the run's space."""

from __future__ import annotations

from collections.abc import Callable

from merge3_plugin.evolve.assessor import SEARCH, Assessor
from merge3_plugin.evolve.optimizers import Settings, make_optimizer
from merge3_plugin.evolve.search import Improvement, Scored, Search, SearchResult
from merge3_plugin.evolve.spaces.variables import draw, start
from merge3_plugin.evolve.stage import Stage


def search(stage: Stage, assessor: Assessor, improved: Callable[[Improvement], None]) -> SearchResult:
    """Everything that the search scored; ``improved`` hears of each new best."""
    settings, space = stage.config.merge3.search, stage.setting.space
    rng = stage.rng(SEARCH)
    first = draw(space.variables, rng) if stage.config.random_init else start(space.variables)
    made = Settings(settings.max_fevals, settings.popsize, settings.sigma0, options=settings.options)
    optimizer = make_optimizer(settings.optimizer, space.variables, first, made, rng)
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
        interrupted=lambda: "interrupted" if stage.watcher.interrupted() else stage.watcher.stop_reason(),
        refine=assessor.refine,
        improved=better,
        progress=progress,
    )
    return found.run([vector for vector, _ in stage.candidates.known.values()])
