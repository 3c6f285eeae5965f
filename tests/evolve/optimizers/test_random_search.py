import numpy as np

from tests.evolve.optimizers.worlds import MIXED, made, told


def test_it_covers_the_space_whatever_it_is_told():
    def run(value):
        search = made("random", MIXED, seed=1)
        first = search.ask(100)
        assert search.tell([told(trial, value) for trial in first])
        return np.array([trial.vector for trial in first + search.ask(100)])

    drawn = run(1.0)
    assert np.array_equal(drawn, run(None)) and len(np.unique(drawn[:, 0])) == 200
    assert drawn[:, 0].min() < 0.05 and drawn[:, 0].max() > 0.95
    assert np.unique(drawn[:, 3]).tolist() == list(range(10)) and np.unique(drawn[:, 4]).tolist() == [0, 1, 2]
    assert made("random", MIXED).mean() is None and not made("random", MIXED).stop()
