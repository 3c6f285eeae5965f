"""Which merges the anchors cannot tell from the best, where the truth is known."""

import numpy as np

from merge3_plugin.calibrate import build_calibration
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.population import Population
from merge3_plugin.evolve.search import Scored, ranked
from merge3_plugin.harness.scoring import Scores
from merge3_plugin.testing import simulate_merges


def searched(seed, n_merges=40, n_anchors=120):
    """Simulated merges, scored on the anchors of a calibration by ten others; their true accuracies by id."""
    world = simulate_merges(3, 10 + n_merges, 400, rng=np.random.default_rng(seed))
    parents = world.models(["p0", "p1", "p2"])
    calibration = build_calibration(
        world.models([f"m{m}" for m in range(10)]), n_anchors, seed=seed, parents=parents, anchors="stratified"
    )
    population = Population(calibration.item_ids, ())
    objectives = Objectives([Objective("t", 1.0, population, calibration, parents, "gp-irt")], {}, {"t": "t"})
    merges = world.models([f"m{m}" for m in range(10, 10 + n_merges)])
    places = calibration.anchor_positions()
    scored = []
    for model, row in zip(merges.model_ids, merges.values, strict=True):
        answers = Scores({calibration.item_ids[j]: float(row[j]) for j in places}, {})
        scored.append(Scored(Candidate(model), np.zeros(1), objectives.assess({"t": answers}, {})))
    return ranked(scored), objectives, dict(zip(merges.model_ids, merges.accuracy(), strict=True))


def test_the_truly_best_is_hardly_ever_left_out_and_some_are():
    missed = left_out = 0
    for seed in range(5):
        candidates, objectives, truth = searched(seed)
        kept = [s.candidate.id for s in contenders(candidates, objectives)]
        assert kept[0] == candidates[0].candidate.id
        assert kept == [s.candidate.id for s in candidates if s.candidate.id in kept]
        missed += max(truth, key=truth.__getitem__) not in kept
        left_out += len(candidates) - len(kept)
    assert missed <= 1, "at most 1 in 20 of them"
    assert left_out >= 5 * 3, "a merge of mostly the worst parent is not as good as one of mostly the best"


def test_the_best_alone_has_no_rival():
    candidates, objectives, _ = searched(0, n_merges=1)
    assert contenders(candidates, objectives) == candidates
