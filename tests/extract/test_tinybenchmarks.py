"""tinyBenchmarks' published parameters, from a file of its layout, against tinyBenchmarks' published formula."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from merge3_plugin import irt
from merge3_plugin.api import estimate
from merge3_plugin.artifact import load_calibration, save_calibration
from merge3_plugin.calibrate.adaptive import run_adaptive
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.base import gather
from merge3_plugin.estimate.irt_estimators import GP_IRT, gp_irt
from merge3_plugin.extract.tinybenchmarks import read_tinybenchmarks
from merge3_plugin.plugins import plugin_host

N_SEEN = 40  # of each scenario; 100 in the published file
SCENARIOS = {"harness_gsm8k": [150], "mmlu": [20, 60, 100], "truthfulqa": [90, 30]}


def published_file(seed=0, n_dimensions=2, difficulties=None):
    """The content of a tinyBenchmarks.pkl of two benchmarks, whose anchors and weights are drawn at random."""
    rng = np.random.default_rng(seed)
    scenarios, subs, start = {}, {}, 0
    for scenario, sizes in SCENARIOS.items():
        scenarios[scenario] = list(range(start, start + sum(sizes)))
        subs[scenario] = {}
        for k, size in enumerate(sizes):
            # As in the published file, a sub-scenario's items need not lie side by side with those of the next.
            subs[scenario][f"{scenario}_{k}"] = list(range(start, start + size))
            start += size
    b_rows = n_dimensions if difficulties is None else difficulties
    lb = {
        "seen_examples": np.concatenate([rng.choice(s, N_SEEN, replace=False) for s in scenarios.values()]),
        "examples_weights": {s: rng.dirichlet(np.full(N_SEEN, 3.0)) for s in scenarios},
        "irt_parameters": {
            "A": rng.lognormal(0.0, 0.4, (1, n_dimensions, start)),
            "B": rng.normal(0.0, 0.7, (1, b_rows, start)),
        },
        "optimal_lambdas": {s: np.float64(value) for s, value in zip(scenarios, (0.92, 0.29, 0.6), strict=True)},
        "scenarios_position": scenarios,
        "subscenarios_position": subs,
    }
    alpaca = {
        "seen_examples": list(range(0, 50, 5)),
        "examples_weights": {"alpaca_v2": np.full(10, 0.1)},
        "irt_parameters": {"A": np.ones((1, 1, 50)), "B": rng.normal(size=(1, 1, 50))},
        "optimal_lambdas": {"alpaca_v2": 0.5},
        "scenarios_position": {"alpaca_v2": np.arange(50)},
        "subscenarios_position": {"alpaca_v2": {"alpaca_v2": np.arange(50)}},
    }
    return {"lb": lb, "alpaca": alpaca}


class Published:
    """tinyBenchmarks' own formulas (``evaluate`` of one scenario, MIT licence), written out as they are published."""

    def __init__(self, benchmark, scenario):
        self.scenario, self.entry = scenario, benchmark
        self.a, self.b = benchmark["irt_parameters"]["A"], benchmark["irt_parameters"]["B"]
        self.positions = np.asarray(benchmark["scenarios_position"][scenario])
        self.seen = np.array([s for s in benchmark["seen_examples"] if s in self.positions])
        self.unseen = np.array([s for s in self.positions if s not in self.seen])
        self.balance = np.ones(self.a.shape[2])
        subs = benchmark["subscenarios_position"][scenario]
        for positions in subs.values():
            self.balance[positions] = len(self.positions) / (len(subs) * len(positions))

    @staticmethod
    def item_curve(theta, a, b):
        return 1 / (1 + np.exp(-np.clip(a * theta - b, -30, 30).sum(axis=1)))

    def fit_theta(self, y):
        dimensions = self.a.shape[1]
        a, b = self.a[:, :, self.seen], self.b[:, :, self.seen]

        def neg_log_like(x):
            p = self.item_curve(x.reshape(1, dimensions, 1), a, b).squeeze()
            return -np.sum(y[self.seen] * np.log(p + 1e-10) + (1 - y[self.seen]) * np.log(1 - p + 1e-10))

        return minimize(neg_log_like, np.zeros(dimensions), method="BFGS").x

    def gp_irt(self, y, theta):
        share = len(self.seen) / len(self.positions)
        curve = self.item_curve(theta[None, :, None], self.a, self.b)[0]
        seen = (self.balance * y)[self.seen].mean()
        p_irt = share * seen + (1 - share) * (self.balance * curve)[self.unseen].mean()
        weighted = (self.entry["examples_weights"][self.scenario] * y[self.seen]).sum()
        weight = self.entry["optimal_lambdas"][self.scenario]
        return weight * weighted + (1 - weight) * p_irt


@pytest.fixture
def write(tmp_path):
    def call(content, name="tinyBenchmarks.pkl"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content))
        return path

    return call


def answers_of(published, theta, rng):
    chance = published.item_curve(np.asarray(theta)[None, :, None], published.a, published.b)[0]
    return (rng.random(len(chance)) < chance).astype(float)


@pytest.mark.parametrize("n_dimensions", [1, 2, 5])
@pytest.mark.parametrize("difficulties", [None, 1])
def test_gp_irt_equals_the_published_formula(write, tmp_path, n_dimensions, difficulties):
    content = published_file(n_dimensions=n_dimensions, difficulties=difficulties)
    calibrations = read_tinybenchmarks(write(content), benchmark="lb")
    assert list(calibrations) == [("lb", scenario) for scenario in SCENARIOS]
    rng, tried = np.random.default_rng(1), 0
    for (_, scenario), calibration in calibrations.items():
        save_calibration(calibration, tmp_path / "c.safetensors")
        calibration = load_calibration(tmp_path / "c.safetensors")
        published = Published(content["lb"], scenario)
        for theta in rng.normal(0.0, 0.7, (4, n_dimensions)):
            y = answers_of(published, theta, rng)
            # tinyBenchmarks' vector of answers belongs to our anchors, one by one.
            scores = dict(zip(calibration.anchors.item_ids, y[published.seen], strict=True))
            evidence = gather(calibration, scores)
            ours = gp_irt(
                float(evidence.weights @ evidence.scores),
                evidence.completed(irt.probabilities(calibration.items, theta)),
                GP_IRT.trust_in_answers(evidence),
            )
            assert ours == pytest.approx(published.gp_irt(y, theta), abs=1e-6)
            fitted = published.fit_theta(y)
            # Five abilities from forty answers: where these are separable there is no maximum to agree on.
            if 0 < y[published.seen].mean() < 1 and np.abs(fitted).max() < 8:
                found = estimate(calibration, scores, estimator="gp-irt")
                assert found.accuracy == pytest.approx(published.gp_irt(y, fitted), abs=1e-3)
                assert found.interval[0] < found.accuracy < found.interval[1]
                tried += 1
    assert tried >= 8


def test_the_three_conventions_of_the_logit(write):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=3)
    for rows in (3, 1):
        content = published_file(n_dimensions=3, difficulties=rows)
        path = write(content)
        a, b = content["lb"]["irt_parameters"]["A"][0], content["lb"]["irt_parameters"]["B"][0]
        logits = {
            "tinybenchmarks": (a * theta[:, None] - b).sum(axis=0),
            "py-irt": (a * (theta[:, None] - b)).sum(axis=0),
            "a.theta-b": theta @ a - b[0],
        }
        if rows > 1:
            with pytest.raises(ConfigError, match=r"'a.theta-b', got 3; use 'tinybenchmarks'"):
                read_tinybenchmarks(path, benchmark="lb", scenario="mmlu", convention="a.theta-b")
            del logits["a.theta-b"]
        for convention, expected in logits.items():
            found = read_tinybenchmarks(path, scenario="mmlu", convention=convention)["lb", "mmlu"]
            places = content["lb"]["scenarios_position"]["mmlu"]
            np.testing.assert_allclose(irt.logits(found.items, theta), expected[places], rtol=1e-12)
            assert found.provenance["convention"] == {"file": convention, "here": "a.theta - b"}
    with pytest.raises(ConfigError, match="did you mean 'py-irt'"):
        read_tinybenchmarks(path, convention="pyirt")


def test_what_a_calibration_holds(write):
    content = published_file()
    path = write(content)
    found = read_tinybenchmarks(path)
    assert [key for key, _ in found.items()] == [*(("lb", s) for s in SCENARIOS), ("alpaca", "alpaca_v2")]
    mmlu = found["lb", "mmlu"]
    assert mmlu.item_ids == tuple(str(k) for k in range(180)) and mmlu.responses.n_models == 0
    seen = [s - 150 for s in content["lb"]["seen_examples"] if 150 <= s < 330]
    assert mmlu.anchors.item_ids == tuple(map(str, seen)) and mmlu.anchors.inclusion is None
    np.testing.assert_allclose(mmlu.anchors.weights, content["lb"]["examples_weights"]["mmlu"])
    # Three sub-scenarios count alike, whatever their size.
    groups = np.array(mmlu.responses.item_groups)
    for k, size in enumerate(SCENARIOS["mmlu"]):
        assert (groups == f"mmlu_{k}").sum() == size
        assert mmlu.responses.item_weights[groups == f"mmlu_{k}"].sum() == pytest.approx(1 / 3)
    assert found["lb", "harness_gsm8k"].responses.balance is None
    assert mmlu.provenance["gp_irt_weight"] == 0.29 and mmlu.provenance["task"] == "lb/mmlu"
    assert mmlu.provenance["files"][0]["name"] == "tinyBenchmarks.pkl"
    assert list(read_tinybenchmarks(path, scenario="mmlu")) == [("lb", "mmlu")]
    assert list(read_tinybenchmarks(path, benchmark="alpaca")) == [("alpaca", "alpaca_v2")]


def test_an_example_that_was_seen_twice_has_the_weight_of_both(write):
    content = published_file()
    content["lb"]["seen_examples"][1] = content["lb"]["seen_examples"][0]
    found = read_tinybenchmarks(write(content), scenario="harness_gsm8k")["lb", "harness_gsm8k"]
    weights = content["lb"]["examples_weights"]["harness_gsm8k"]
    assert len(found.anchors) == N_SEEN - 1 and found.anchors.weights[0] == pytest.approx(weights[0] + weights[1])


def test_items_get_the_ids_of_a_task(write):
    path, names = write(published_file()), [f"gsm8k-test-{k}" for k in range(150)]
    plain = read_tinybenchmarks(path, scenario="harness_gsm8k")["lb", "harness_gsm8k"]
    named = read_tinybenchmarks(path, scenario="harness_gsm8k", item_ids=names)["lb", "harness_gsm8k"]
    assert named.item_ids == tuple(names) == named.responses.item_ids
    assert named.anchors.item_ids == tuple(names[int(k)] for k in plain.anchors.item_ids)
    np.testing.assert_array_equal(named.anchors.weights, plain.anchors.weights)
    with pytest.raises(DataError, match="expected 150, one for each item of harness_gsm8k, got 149"):
        read_tinybenchmarks(path, scenario="harness_gsm8k", item_ids=names[1:])
    with pytest.raises(DataError, match="distinct ids"):
        read_tinybenchmarks(path, scenario="harness_gsm8k", item_ids=["x", "x", *names[2:]])
    with pytest.raises(ConfigError, match="expected one scenario, got 4"):
        read_tinybenchmarks(path, item_ids=names)


def test_the_published_weight_is_for_all_anchors(write):
    """c = b^2 / (b^2 + v / 4n): its odds are proportional to the number n of answers."""
    calibration = read_tinybenchmarks(write(published_file()), scenario="mmlu")["lb", "mmlu"]
    scores = dict.fromkeys(calibration.anchors.item_ids, 1.0)
    assert GP_IRT.trust_in_answers(gather(calibration, scores)) == pytest.approx(0.29)
    half = GP_IRT.trust_in_answers(gather(calibration, dict(list(scores.items())[: N_SEEN // 2])))
    assert half / (1 - half) == pytest.approx(0.5 * 0.29 / 0.71)


def test_adaptive_tests_do_without_models(write):
    calibration = read_tinybenchmarks(write(published_file()), scenario="mmlu")["lb", "mmlu"]
    published = Published(published_file()["lb"], "mmlu")
    y = answers_of(published, [0.5, 0.2], np.random.default_rng(0))[published.positions]
    found = run_adaptive(calibration, lambda items: {item: y[int(item)] for item in items}, seed=0, budget=60)
    low, high = found.estimate.interval
    assert low <= y @ calibration.responses.item_weights <= high


def test_every_estimator_does_without_models(write):
    calibration = read_tinybenchmarks(write(published_file()), scenario="mmlu")["lb", "mmlu"]
    published = Published(published_file()["lb"], "mmlu")
    y = answers_of(published, [0.5, 0.2], np.random.default_rng(0))
    scores = dict(zip(calibration.anchors.item_ids, y[published.seen], strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, estimator in plugin_host().estimators().items():
            if estimator.needs_parents or getattr(estimator, "needs_soft", False):
                continue
            found = estimate(calibration, scores, estimator=name)
            assert abs(found.accuracy - y[published.positions].mean()) < 0.2
    assert estimate(calibration, scores).method == "gp-irt", "what the parameters were published for"


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_answers_all_right_or_all_wrong_have_an_estimate(write, answer):
    calibration = read_tinybenchmarks(write(published_file()), scenario="mmlu")["lb", "mmlu"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("mean", "weighted", "p-irt", "gp-irt", "auto"):
            found = estimate(calibration, dict.fromkeys(calibration.anchors.item_ids, answer), estimator=name)
            assert abs(found.accuracy - answer) < 0.01
            assert found.interval[1] - found.interval[0] > 0.05, "no model was seen: wide on purpose"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lb: lb.clear(), "expected names with values"),
        (lambda lb: lb.pop("irt_parameters"), "expected 'irt_parameters', got none"),
        (lambda lb: lb["irt_parameters"].pop("A"), "A: expected an array of numbers of shape (1, dimensions, items)"),
        (lambda lb: lb["irt_parameters"].update(A=np.ones((2, 450))), "got shape (2, 450)"),
        (lambda lb: lb["irt_parameters"].update(B=np.ones((1, 2, 449))), "expected B of shape (1, 2 or 1, 450)"),
        (lambda lb: lb["irt_parameters"].update(A=np.full((1, 2, 450), np.nan)), "expected finite numbers, got NaN"),
        (lambda lb: lb["irt_parameters"].update(A=np.full((1, 2, 450), "x")), "expected an array of numbers"),
        (lambda lb: lb["scenarios_position"]["mmlu"].append(450), "expected positions of 450 items"),
        (lambda lb: lb["scenarios_position"]["mmlu"].append(151), "got one twice"),
        (lambda lb: lb["scenarios_position"].update(mmlu=[0.5]), "expected positions"),
        (lambda lb: lb["scenarios_position"].update(mmlu={"a": 1}), "expected a list of finite numbers"),
        (lambda lb: lb["subscenarios_position"]["mmlu"].popitem(), "expected each item in one sub-scenario"),
        (lambda lb: lb["subscenarios_position"]["mmlu"].update(extra=[0]), "expected each item in one sub-scenario"),
        (lambda lb: lb["subscenarios_position"].pop("mmlu"), "expected 'mmlu' in subscenarios_position"),
        (lambda lb: lb["examples_weights"].update(mmlu=np.ones(3)), "expected a weight for each of 40 seen examples"),
        (lambda lb: lb["examples_weights"].update(mmlu=np.ones(40)), "weights of sum 1, got 40"),
        (lambda lb: lb["optimal_lambdas"].update(mmlu=1.5), "expected a number in [0, 1] in optimal_lambdas"),
        (lambda lb: lb["optimal_lambdas"].update(mmlu="x"), "expected a number in [0, 1] in optimal_lambdas"),
        (lambda lb: lb.update(seen_examples=["a"]), "seen_examples: expected a list of finite numbers"),
        (lambda lb: lb.update(scenarios_position={"a\x1b[2J": [0]}), "expected names with values"),
        (lambda lb: lb.update(scenarios_position={"a" * 100_000: [0]}), "expected names with values"),
        (lambda lb: lb.update(scenarios_position=lb), "expected"),
    ],
)
def test_another_layout_is_one_clear_line(write, spoil, message):
    content = published_file()
    spoil(content["lb"])
    with pytest.raises(DataError) as raised:
        read_tinybenchmarks(write(content), benchmark="lb")
    assert message in str(raised.value) and "tinyBenchmarks.pkl" in str(raised.value)
    assert str(raised.value).isprintable()


def test_names_that_are_not_there(write):
    path = write(published_file())
    with pytest.raises(ConfigError, match="benchmark: expected one of the file's, got 'helm'; known: alpaca, lb"):
        read_tinybenchmarks(path, benchmark="helm")
    with pytest.raises(ConfigError, match="scenario: expected one of the file's, got 'mmul'; did you mean 'mmlu'"):
        read_tinybenchmarks(path, scenario="mmul")
    with pytest.raises(ConfigError, match="got 'alpaca_v2'"):
        read_tinybenchmarks(path, benchmark="lb", scenario="alpaca_v2")
    for content in ([1, 2], {"lb": 3}, {1: {}}):
        with pytest.raises(DataError, match="expected names with values, as in tinyBenchmarks.pkl"):
            read_tinybenchmarks(write(content))


def test_a_hostile_file_is_refused_unread(write, tmp_path):
    import os

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    content = published_file()
    content["lb"]["optimal_lambdas"]["mmlu"] = Hostile()
    with pytest.raises(DataError, match=r"got (posix|nt)\.system; nothing of it was run"):
        read_tinybenchmarks(write(content))
    assert not (tmp_path / "ran").exists()
