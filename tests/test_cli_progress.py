"""What a person sees of a search without a terminal."""

import numpy as np

from merge3_plugin.cli_progress import Progress
from merge3_plugin.config.search import SearchConfig
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.ladder import Place
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Improvement, Scored
from merge3_plugin.harness.scoring import Price


def entry(name, fitness, rung, items):
    return Scored(
        Candidate(name), np.zeros(1), Assessment({}, {}, fitness, 0.1, 0.0), Place((0,), rung), Price(items, 9)
    )


def test_candidates_are_counted_once_and_costs_against_their_budgets(caplog):
    caplog.set_level("INFO")
    with Progress(SearchConfig(max_items=1200, max_tokens=5000)) as progress:
        progress.phase("search", 40)
        best = entry("a", 0.5, 0, 1000)
        progress.improved(Improvement(1, best, None, None))
        progress.scored(best)
        progress.scored(entry("b", 0.9, -2, 5))
        again = entry("b", 0.6, 0, 40)
        progress.improved(Improvement(2, again, None, None))
        progress.scored(again)
    last = caplog.messages[-1]
    assert last == "search 2 of 40: best 0.600 +- 0.196; 1,045 of 1,200 items, 27 of 5,000 tokens"


def test_the_time_is_over_in_a_sentence():
    assert Progress(SearchConfig()).stop_reason() is None
    assert Progress(SearchConfig(timeout=1e-9)).stop_reason() == "the timeout of 1e-09 s has passed"
