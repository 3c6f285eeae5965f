import os

import numpy as np
import pytest

from merge3_plugin.evolve.optimizers.cma_es import CmaEs


def run(seed, generations=5, optimum=0.3, extra=()):
    es = CmaEs(np.full(4, 0.5), 0.2, popsize=8, rng=np.random.default_rng(seed))
    asked = []
    for generation in range(generations):
        xs = es.ask()
        asked.append(np.array(xs))
        told = xs + (list(extra) if generation == 0 else [])
        es.tell(told, [float(((x - optimum) ** 2).sum()) for x in told])
    return es, asked


def test_finds_a_known_optimum():
    es, _ = run(1, generations=80)
    assert np.abs(es.mean() - 0.3).max() < 1e-3


def test_same_seed_same_search_without_touching_the_global_generator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    _, first = run(0)
    _, second = run(0)
    _, other = run(3)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (first[0] == other[0]).all()
    assert (np.random.get_state()[1] == before).all()
    assert os.listdir(tmp_path) == []


def test_candidates_scored_beside_the_first_generation_move_the_search():
    _, plain = run(0)
    _, helped = run(0, extra=[np.full(4, 0.3)])
    assert (plain[0] == helped[0]).all()
    assert not (plain[1] == helped[1]).all()
    assert np.linalg.norm(helped[1].mean(0) - 0.3) < np.linalg.norm(plain[1].mean(0) - 0.3)


@pytest.mark.parametrize("failure", [None, float("nan"), float("inf")])
def test_failures_rank_last_and_a_failed_generation_teaches_nothing(failure):
    def after(costs):
        es = CmaEs(np.full(3, 0.5), 0.2, popsize=6, rng=np.random.default_rng(0))
        xs = es.ask()
        told = es.tell(xs, costs)
        return told, es.mean(), es.ask()

    told, mean, _ = after([failure, 1.0, 2.0, 3.0, 4.0, 5.0])
    _, worst, _ = after([99.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert told and (mean == worst).all()
    told, mean, again = after([failure] * 6)
    assert not told and (mean == 0.5).all() and len(again) == 6
