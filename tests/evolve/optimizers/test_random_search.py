import numpy as np

from merge3_plugin.evolve.optimizers.random_search import RandomSearch


def test_it_covers_the_space_whatever_it_is_told():
    def run(cost):
        search = RandomSearch(lambda rng: rng.random(3), 50, np.random.default_rng(1))
        first = search.ask()
        assert search.tell(first, [cost] * 50)
        return np.array(first + search.ask())

    drawn = run(1.0)
    assert np.array_equal(drawn, run(-1.0)) and len(np.unique(drawn[:, 0])) == 100
    assert drawn.min() < 0.05 and drawn.max() > 0.95
    assert not RandomSearch(lambda rng: rng.random(3), 4, np.random.default_rng(1)).tell([], [None, None])
