"""Global generators that several pieces of code draw from, each as if they were its own."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from merge3_plugin.generators import GlobalGenerators


def drawn(generators: GlobalGenerators, n: int) -> list[float]:
    with generators.in_use():
        return [value for _ in range(n) for value in (random.random(), np.random.random())]


def test_each_user_draws_its_own_sequence_and_leaves_no_trace() -> None:
    random.seed(3)
    np.random.seed(3)
    expected = [value for _ in range(400) for value in (random.random(), np.random.random())]
    before = random.getstate(), str(np.random.get_state())
    users = [GlobalGenerators(3), GlobalGenerators(3)]
    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(lambda user: [value for _ in range(100) for value in drawn(user, 4)], users))
    assert parts == [expected, expected]
    assert (random.getstate(), str(np.random.get_state())) == before


def test_other_seeds_draw_otherwise() -> None:
    assert drawn(GlobalGenerators(0), 2) != drawn(GlobalGenerators(1), 2)
