"""The item fit: recovery of known worlds, its invariances, and the odd matrices that real runs give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.fit import _collapse, fit_items

CHEMBENCH = Path(__file__).parents[2].parent / "shared" / "data" / "responses_chembench.npz"


class World:
    """Models and items of a known 2PL, and one draw of answers."""

    def __init__(self, seed: int, n_models: int, n_items: int, dimensions: int) -> None:
        rng = np.random.default_rng(seed)
        further = rng.normal(0.0, 0.9, (n_items, dimensions - 1))
        self.items = ItemParameters(
            np.column_stack([rng.normal(1.2, 0.4, n_items), further]), rng.normal(0.2, 1.3, n_items)
        )
        self.abilities = rng.normal(size=(n_models, dimensions))
        self.chances = irt.probabilities(self.items, self.abilities)
        self.answers = (rng.random(self.chances.shape) < self.chances).astype(float)
        self.responses = matrix(self.answers)

    def error(self, chances: np.ndarray) -> float:
        return float(np.sqrt(((chances - self.chances) ** 2).mean()))


def matrix(values: np.ndarray) -> ResponseMatrix:
    values = np.asarray(values, dtype=float)
    return ResponseMatrix(values, [f"m{i}" for i in range(len(values))], [f"q{j}" for j in range(values.shape[1])])


def explained(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Share of each true dimension's variance that a linear map of the found abilities explains."""
    design = np.column_stack([found, np.ones(len(found))])
    rest = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    return 1 - rest.var(axis=0) / truth.var(axis=0)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_known_world_is_recovered(dimensions):
    world = World(1, 60, 500, dimensions)
    items, abilities = fit_items(world.responses, dimensions)
    assert (explained(world.abilities, abilities) > 0.9).all()
    assert world.error(irt.probabilities(items, abilities)) < 0.11
    fewer = fit_items(world.responses, dimensions - 1) if dimensions > 1 else None
    if fewer:
        assert world.error(irt.probabilities(items, abilities)) < 0.9 * world.error(irt.probabilities(*fewer))


def test_parameters_are_recovered_on_the_scale_of_their_prior():
    world = World(2, 300, 150, 1)
    items, abilities = fit_items(world.responses, 1)
    assert abs(abilities.mean()) < 0.1 and abilities.std() == pytest.approx(1.0, abs=0.1)
    scale, centre = world.abilities.std(), world.abilities.mean()
    discrimination = world.items.discrimination[:, 0] * scale
    difficulty = world.items.difficulty - world.items.discrimination[:, 0] * centre
    assert np.corrcoef(items.discrimination[:, 0], discrimination)[0, 1] > 0.85
    assert np.corrcoef(items.difficulty, difficulty)[0, 1] > 0.98
    assert np.polyfit(difficulty, items.difficulty, 1)[0] == pytest.approx(1.0, abs=0.08)


def test_few_models_beat_the_mean_of_their_answers():
    world = World(3, 11, 600, 2)
    for dimensions in (1, 2):
        fitted = irt.probabilities(*fit_items(world.responses, dimensions))
        assert world.error(fitted) < 0.85 * world.error(np.tile(world.answers.mean(axis=0), (11, 1)))


def test_equal_items_are_fitted_once():
    values = World(5, 6, 200, 1).answers
    values[2, :50] = np.nan
    answers, pattern_of = _collapse(values)
    assert len(answers.counts) < 128 < 200 == answers.counts.sum()
    assert np.array_equal(answers.patterns[pattern_of], values.T, equal_nan=True)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_permuting_items_and_models_permutes_the_fit(dimensions):
    world, rng = World(6, 12, 300, 2), np.random.default_rng(0)
    items, abilities = fit_items(world.responses, dimensions)
    models, columns = rng.permutation(12), rng.permutation(300)
    moved_items, moved = fit_items(matrix(world.answers[models][:, columns]), dimensions)
    assert moved == pytest.approx(abilities[models], abs=1e-6)
    assert moved_items.discrimination == pytest.approx(items.discrimination[columns], abs=1e-6)
    assert moved_items.difficulty == pytest.approx(items.difficulty[columns], abs=1e-6)


def test_the_fit_is_deterministic_and_its_signs_are_settled():
    world = World(7, 15, 300, 3)
    first, second = fit_items(world.responses, 3), fit_items(world.responses, 3)
    assert (first[1] == second[1]).all() and (first[0].discrimination == second[0].discrimination).all()
    assert (first[0].discrimination.sum(axis=0) > 0).all()
    assert np.corrcoef(first[1][:, 0], world.responses.accuracy())[0, 1] > 0.9


def test_graded_scores_keep_their_means():
    world = World(8, 20, 400, 1)
    scores = np.clip(world.chances + np.random.default_rng(0).normal(0, 0.1, world.chances.shape), 0, 1)
    items, abilities = fit_items(matrix(scores), 1)
    fitted = irt.probabilities(items, abilities)
    assert fitted.mean(axis=1) == pytest.approx(scores.mean(axis=1), abs=0.02)
    binary = irt.probabilities(*fit_items(world.responses, 1))
    assert world.error(fitted) < 0.85 * world.error(binary)


def test_unasked_items_are_skipped_not_wrong():
    world = World(9, 30, 400, 1)
    values = np.where(np.random.default_rng(0).random(world.answers.shape) < 0.5, np.nan, world.answers)
    values[:10, 200:] = np.nan
    items, abilities = fit_items(matrix(values), 1)
    assert explained(world.abilities, abilities)[0] > 0.9
    assert world.error(irt.probabilities(items, abilities)) < 0.15


def test_a_model_and_an_item_without_answers_get_the_prior():
    values = World(10, 8, 100, 1).answers
    values[3], values[:, 17] = np.nan, np.nan
    items, abilities = fit_items(matrix(values), 1)
    others = np.delete(np.arange(8), 3)
    assert abs(abilities[3, 0]) < 0.3 < abilities[others].std()
    assert items.difficulty[17] == pytest.approx(np.delete(items.difficulty, 17).mean(), abs=0.2)


def test_items_that_all_answer_alike_stay_in_and_finite():
    values = World(11, 10, 120, 1).answers
    values[:, :30], values[:, 30:60] = 1.0, 0.0
    items, _ = fit_items(matrix(values), 1)
    assert (items.difficulty[:30] < items.difficulty[60:].min() + 1.0).all()
    assert items.difficulty[:30].max() < items.difficulty[60:].mean() < items.difficulty[30:60].min()
    assert np.abs(items.difficulty).max() < 15


@pytest.mark.parametrize("dimensions", [1, 2, 5])
@pytest.mark.parametrize(
    "values",
    [
        np.array([[1, 0] * 20, [0, 1] * 20]),
        np.array([[1, 0, 1] * 10, [1, 0, 1] * 10]),
        np.array([[1, 1, 1, 1], [0, 0, 0, 0]]),
        np.array([[1, np.nan], [np.nan, 0]]),
        np.array([[1, 0, 0], [1, 1, 0]]),
    ],
    ids=["complements", "twins", "all and nothing", "disjoint", "three items"],
)
def test_two_models_are_enough(values, dimensions):
    items, abilities = fit_items(matrix(values), dimensions)
    assert abilities.shape == (2, dimensions) and np.isfinite(abilities).all()
    fitted = irt.probabilities(items, abilities)
    assert np.abs(np.nanmean(fitted - values)) < 0.1


@pytest.mark.skipif(not CHEMBENCH.exists(), reason="needs the shared response matrix")
def test_left_out_chembench_models_are_estimated_better_than_by_chance():
    from scipy.stats import hypergeom

    with np.load(CHEMBENCH, allow_pickle=False) as data:
        values = data["values"].astype(float)
    n, n_items = 50, values.shape[1]
    errors, chance = [], []
    for left_out in (0, 6, 16):
        items, _ = fit_items(matrix(np.delete(values, left_out, axis=0)), 2)
        truth, rng = values[left_out], np.random.default_rng(left_out)
        hits = np.arange(n + 1)
        odds = hypergeom(n_items, int(truth.sum()), n).pmf(hits)
        chance.append(odds @ np.abs(hits / n - truth.mean()))
        for _ in range(30):
            anchors = rng.choice(n_items, n, replace=False)
            ability = irt.fit_ability(items.take(anchors), truth[anchors]).mean
            expected = irt.probabilities(items, ability)
            expected[anchors] = truth[anchors]
            errors.append(abs(expected.mean() - truth.mean()))
    assert np.mean(errors) < 0.95 * np.mean(chance)


@pytest.mark.parametrize(
    ("values", "dimensions", "error", "message"),
    [
        (np.ones((3, 4)), 1, DataError, "got 1 everywhere"),
        (np.full((3, 4), np.nan), 1, DataError, "expected answered items, got none"),
        (np.eye(1, 4), 1, DataError, "at least 2 models, got 1"),
        (np.eye(3), 0, ConfigError, "1 to 5 dimensions, got 0"),
        (np.eye(3), 6, ConfigError, "1 to 5 dimensions, got 6"),
    ],
)
def test_matrices_that_say_nothing_are_refused_in_one_line(values, dimensions, error, message):
    with pytest.raises(error, match=message) as caught:
        fit_items(matrix(values), dimensions)
    assert "\n" not in str(caught.value)
