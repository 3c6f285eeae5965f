"""Ranks of assessed candidates; whole searches are in test_run."""

import numpy as np

from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Scored, ranked


def scored(number, fitness, tie_breaker=0.0):
    assessment = None if fitness is None else Assessment({}, {}, fitness, 0.0, tie_breaker)
    return Scored(Candidate(str(number)), np.zeros(1), assessment)


def test_ranked_names_every_candidate_once_best_first():
    entries = [scored(0, 0.5, 0.2), scored(1, 0.5, 0.9), scored(2, None), scored(1, 0.5, 0.9), scored(3, 0.6)]
    assert [s.candidate.id for s in ranked([*entries, scored(4, 0.5, 0.2)])] == ["3", "1", "0", "4"]
