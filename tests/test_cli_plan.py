"""`merge3 plan`: what it shows, without weights; and every bad config as one line before a model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge3_plugin.cli import merge3, run
from merge3_plugin.cli_evolve import evolve
from merge3_plugin.evolve.optimizers.overhead import overhead
from tests.evolve.world import evolve_here, make_world

Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tiny_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    for model in tiny_models:
        shutil.copytree(model, folder / model.name)
    return make_world(folder, [folder / model.name for model in tiny_models])


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may load a model."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("merge3_plugin.merging.merger.load_family", load)


def changed(world: Path, path: Path, **changes: Any) -> Path:
    """The world's config with ``genome``, ``merge3`` and ``search`` keys changed; None takes one out."""
    config = yaml.safe_load(world.read_text())
    for block, node in (
        ("genome", config["genome"]),
        ("search", config["merge3"]["search"]),
        ("merge3", config["merge3"]),
    ):
        node.update(changes.get(block, {}))
        for key in [key for key, value in node.items() if value is None]:
            del node[key]
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def plan(world: Path, unloaded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    def planned(*flags: str, **changes: Any) -> tuple[int, str, str]:
        config = changed(world, tmp_path / "config.yml", **changes)
        tasks = ["--task-search-path", str(world.parent / "tasks")]
        status = run(merge3, "merge3", ["plan", str(config), *tasks, *flags])
        return status, *capsys.readouterr()

    return planned


def test_a_plan_shows_the_space_and_counts_the_items(plan: Plan) -> None:
    status, text, _ = plan("--json")
    found = json.loads(text)
    assert status == 0
    assert (found["layers"], found["dtype"], list(found["parents"])) == (
        2,
        "float32",
        ["model_1", "model_2", "model_3", "base"],
    )
    space = found["space"]
    assert space["dimension"] == 6 and space["variables"][0] == {
        "name": "model_1.weight layers 0-0",
        "kind": "real",
        "low": 0.0,
        "high": None,
        "start": 1 / 3,
        "unit": 1.0,
        "offset": 0.0,
        "choices": [],
        "when": None,
    }
    assert found["tasks"]["tiny_sum"] == {
        "items": 150,
        "search": 100,
        "held_out": 50,
        "anchors": 20,
        "in_full": False,
    }
    each = {name: phase["evaluations"] for name, phase in found["phases"].items()}
    assert each == {
        "parents": 4 * 150,
        "calibration": 3 * 100,
        "search": 14 * 20,
        "incumbents": 60,
        "surrogate and mean": 40,
        "confirmation": (5 + 4) * 50,
    }
    assert (found["evaluations"], found["full_search_evaluations"]) == (sum(each.values()), 14 * 100)


def test_what_a_config_adds_to_a_run_is_counted(plan: Plan) -> None:
    added = {"baselines": True, "recalibrate": 5}
    found = json.loads(plan("--json", merge3=added, search={"max_items": 200})[1])
    each = {name: (phase["models"], phase["evaluations"]) for name, phase in found["phases"].items()}
    assert each["search"] == (14, 200)
    assert each["recalibration"] == (2, 2 * 100)
    assert each["baselines"] == (4 + 5 + 14, 23 * 20)
    assert each["baselines confirmed"] == (4 + 2, 6 * 50)


def test_what_vllm_takes_is_shown_and_where_it_cannot_score_is_said(plan: Plan, vllm: None) -> None:
    served = {"model": "vllm", "model_args": {"gpu_memory_utilization": 0.01}}
    status, text, _ = plan(merge3={"eval": served})
    assert status == 0 and "MB, vLLM " in text and "a batch" not in text
    status, text, error = plan(merge3={"eval": served, "device": ["cpu", "cpu"]})
    assert (status, text) == (2, "") and "expected vLLM with one live model, got 2" in error and error.count("\n") == 1


def test_a_run_reads_no_more_than_its_plan_says(
    world: Path, tiny_models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").mkdir()
    config = make_world(tmp_path / "world", tiny_models)
    tasks = ["--task-search-path", str(world.parent / "tasks")]
    assert run(merge3, "merge3", ["plan", str(world), *tasks, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    cost = evolve_here(config, tmp_path / "out")["cost"]
    # What a parent answered before is not asked again: the space has the base exactly.
    phases = found["phases"]
    least = phases["search"]["evaluations"] - 20
    beside = phases["incumbents"]["evaluations"] + phases["surrogate and mean"]["evaluations"]
    assert least <= cost["search_items"] <= least + beside
    assert cost["items"] <= found["evaluations"] <= 1.3 * cost["items"]


def test_the_recipe_is_the_start_and_long_spaces_are_cut_short(plan: Plan) -> None:
    status, text, _ = plan("--recipe")
    recipe = yaml.safe_load(text)
    assert status == 0 and text.startswith("# mergekit-yaml ")
    assert recipe["merge_method"] == "task_arithmetic" and len(recipe["slices"]) == 2
    assert {s["parameters"]["weight"] for s in recipe["slices"][1]["sources"] if "parameters" in s} == {1 / 3}
    several = {"merge3": {"space": {"methods": ["ties", "della"]}}}
    status, short, _ = plan(**several)
    status, long, _ = plan("--all", **several)
    dimension = 1 + 6 + 12 + 2 * (3 * 3 + 1)
    assert f"genome, {dimension} genes" in short
    assert f"... and {dimension - 20} more; --all shows them" in short and "more" not in long
    assert "of task_arithmetic, ties, della" in short and "when merge_method is della" in long


def test_a_plan_shows_a_parameter_that_has_steps_in_its_own_units(plan: Plan) -> None:
    status, text, _ = plan(merge3={"bounds": {"weight": {"min": 0.1, "max": 1.3, "step": 0.1}}})
    (gene,) = [line.split() for line in text.splitlines() if line.startswith("model_1.weight layers 0-0")]
    assert (status, gene[3:]) == (0, ["integer", "0.1", "1.3", "0.3", "in", "steps", "of", "0.1"])


def test_a_plan_shows_how_many_values_each_filter_has_over_the_depth(plan: Plan) -> None:
    genome = {"layer_granularity": None, "filters": ["self_attn", "mlp"]}
    knots = [{"filter": "mlp", "value": 2}, {"value": 1}]
    status, text, _ = plan(genome=genome, merge3={"space": {"knots": knots}})
    assert status == 0 and "Space: genome, 12 genes\n" in text
    assert "  interpolated over the depth between several values: 1 for self_attn, 2 for mlp, 1 for all other" in text
    assert "\nmodel_1.weight[mlp] knot 2/2 " in text and "\nmodel_1.weight[self_attn]  " in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {"max_fevals": 59}}, "59 candidates for 6 genes"),
        ({"search": {"max_fevals": 8}}, "less 5 known merges: expected at least one generation of 4 candidates, got 3"),
        (
            {"search": {"max_items": 159}},
            "less 80 for 4 known merges, at 20 a candidate: expected at least one generation of 4 candidates, got 3",
        ),
        ({"search": {"max_tokens": 450}}, "Warning: search.max_tokens, less 264 for 4 known merges, at 66 a candidate"),
        (
            {"genome": {"filters": ["q_proj", "k_proj", "v_proj", "o_proj", "mlp"]}},
            "14 candidates for 36 genes",
        ),
        (
            {
                "genome": {"merge_method": "della", "filters": ["q_proj", "k_proj", "v_proj", "o_proj", "mlp"]},
                "search": {"optimizer": "cma-es", "options": {"covariance": "full"}},
            },
            "full covariance of 120 genes",
        ),
    ],
)
def test_what_will_not_work_well_is_said(changes: dict[str, Any], words: str, plan: Plan) -> None:
    status, text, _ = plan(**changes)
    (warning,) = [line for line in text.splitlines() if line.startswith("Warning: ") and words in line]
    assert status == 0 and warning
    assert "Warning" not in plan(search={"max_fevals": 60})[1]


# A candidate of the world merges 26,464 weights of 4 bytes, and scores 20 items of some tokens each.
@pytest.mark.parametrize(
    ("optimizer", "rate", "warned"),
    [
        ("gp", 1e8, True),
        ("tpe", 1e7, False),
        ("tpe", 1e9, True),
        ("lq-cma-es", 1e8, False),
        ("cma-es", 1e12, False),
    ],
)
def test_a_strategy_that_takes_more_than_a_tenth_of_its_candidates_is_said(
    optimizer: str, rate: float, warned: bool, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That depends on the machine and the models, not on the genes alone: there are six."""
    monkeypatch.setattr("merge3_plugin.evolve.preflight.flops_per_second", lambda device, dtype: rate)
    monkeypatch.setattr("merge3_plugin.evolve.preflight.bytes_per_second", lambda device: rate)
    found = json.loads(plan("--json", search={"optimizer": optimizer, "max_fevals": 60, "max_items": 300})[1])
    said = [line for line in found["warnings"] if f"{optimizer} over 6 genes takes some " in line]
    assert len(said) == warned == len(found["warnings"])
    # The run's time is of models on many items each; a candidate has 20.
    time = found["machine"]["time"]
    a_candidate = 20 * time["scoring_seconds"] / found["evaluations"] + time["merging_seconds"] / time["merges"]
    assert (overhead(optimizer, 6) > 0.1 * a_candidate) is warned
    if warned:
        assert f"more than 10% of the {1000 * a_candidate:,.1f} ms" in said[0]


@pytest.mark.parametrize(
    ("optimizer", "space", "named"),
    [
        ("cma-es", {"kind": "genome"}, True),
        ("gp", {"kind": "genome"}, False),
        ("cma-es", {"methods": ["ties", "linear"]}, False),
    ],
)
def test_few_candidates_of_real_genes_are_for_a_gaussian_process(
    optimizer: str, space: dict[str, Any], named: bool, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merge3_plugin.evolve.preflight.flops_per_second", lambda device, dtype: 1e3)
    genome = {"merge_method": None} if "methods" in space else {}
    found = json.loads(plan("--json", genome=genome, merge3={"space": space}, search={"optimizer": optimizer})[1])
    (line,) = [line for line in found["warnings"] if "a gene a search goes part of the way only" in line]
    assert line.endswith("fewer genes may get further" + ", and so may optimizer: gp" * named)


def test_models_of_many_genes_are_warned_of_on_any_machine(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge3_plugin.evolve.preflight.flops_per_second", lambda device, dtype: 1e3)
    genome = {"merge_method": "della", "filters": ["q_proj", "k_proj", "v_proj", "o_proj", "mlp"]}
    warned = json.loads(plan("--json", genome=genome, search={"optimizer": "tpe", "max_fevals": 1200})[1])["warnings"]
    assert [line.split(":")[1] for line in warned] == [" tpe is for up to 50 genes, got 120"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"genome": {"layer_granularity": 3}}, "expected a divisor of 2 (layers), got 3"),
    ({"genome": {"filters": ["mpl"]}}, "genome.filters: expected a part of tensor names, got 'mpl', .* mean 'mlp'"),
    ({"genome": {"filters": ["self_attn", "q_proj"]}}, "tensors left for 'q_proj', got none"),
    ({"merge3": {"bounds": {"weight": [1, 0]}}}, "finite low < high"),
    ({"merge3": {"parameters": {"weight": 0.5}}}, "no parameter to search"),
    ({"merge3": {"space": {"kind": "weights"}}, "genome": {"merge_method": None}}, "layer_granularity: the space we"),
    ({"search": {"max_fevals": 3}}, "at least one generation of 4 candidates, got 3"),
    ({"search": {"max_fevals": 5}}, "search.max_fevals: expected more than the 5 known merges that .* got 5; raise it"),
    (
        {"search": {"max_fevals": 68, "optimizer": "grid"}},
        "two values each of 6 genes, got 63 of 68, less 5 known merges",
    ),
    ({"search": {"max_items": 99}}, "search.max_items: expected enough for a candidate, 100 or more, 80 for 4 known"),
    (
        {"search": {"max_items": 81}, "merge3": {"fidelity": {"strategy": "hyperband"}}},
        "82 or more, 80 for 4 known merges, which are scored first, and 2 for it, got 81",
    ),
    ({"search": {"popsize": 8, "max_items": 130}}, "search.max_items, at .* a candidate: expected at least one gene"),
    ({"search": {"max_tokens": 3}}, "search.max_tokens: expected enough for a candidate"),
    ({"merge3": {"reference": {"tiny_sum": 5}}}, "less than or equal to 1"),
    ({"search": {"optimizer": "cma"}}, "did you mean 'cma-es'"),
    ({"search": {"options": {"covariance": "sparse"}}}, "search.options"),
    ({"search": {"optimizer": "nsga2"}}, "at least two tasks"),
    ({"genome": {"base_model": None}}, "task_arithmetic needs the model"),
    ({"genome": {"models": ["nowhere/run/checkpoint-*"]}}, "expected folders of models at nowhere/run/checkpoint-*"),
    ({"merge3": {"dtype": "float64"}}, "merge3.dtype"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_a_bad_config_is_one_line_before_a_model_is_loaded(
    changes: dict[str, Any],
    words: str,
    plan: Plan,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, error = plan(**changes)
    first, *rest = words.split(" .* ")
    assert (status, text, error.count("\n")) == (2, "", 1), error
    assert error.count(", got ") <= 1, "what came is said once"
    assert error.startswith("merge3: error: ") and first in error and all(word in error for word in rest)
    # The run itself ends with the same line, and has loaded no more.
    tasks = ["--task-search-path", str(world.parent / "tasks")]
    status = run(evolve, "evolve", [str(tmp_path / "config.yml"), "--storage-path", str(tmp_path / "out"), *tasks])
    assert (status, capsys.readouterr().err) == (2, error)


def test_the_checkpoints_of_a_run_are_planned_as_parents(plan: Plan, world: Path, tmp_path: Path) -> None:
    for step in (900, 1000, 50):
        shutil.copytree(world.parent / "model_1", tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "logs").mkdir()
    genome = {"models": [str(tmp_path / "run" / "*")], "merge_method": None, "layer_granularity": None}
    found = json.loads(plan("--json", genome=genome, merge3={"space": "weights"})[1])
    assert list(found["parents"]) == ["checkpoint-50", "checkpoint-900", "checkpoint-1000", "base"]
    assert [v["name"] for v in found["space"]["variables"]] == [f"checkpoint-{step}.logit" for step in (50, 900, 1000)]


def test_a_plan_says_what_was_checked_and_what_the_machine_needs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge3_plugin.evolve.preflight.flops_per_second", lambda device, dtype: 1e6)
    monkeypatch.setattr("merge3_plugin.evolve.preflight.bytes_per_second", lambda device: 1e6)
    found = json.loads(plan("--json")[1])
    weights, models = 26464, len(found["parents"])
    needs = found["machine"]
    assert needs["memory"]["live"] == 4 * weights and needs["memory"]["mapped"] == 4 * weights * models
    assert needs["time"]["flops"] == 2 * weights * needs["time"]["tokens"]
    assert needs["time"]["scoring_seconds"] == needs["time"]["flops"] / 1e6
    merges = sum(phase["models"] for phase in found["phases"].values())
    assert needs["time"]["merging_seconds"] == pytest.approx(merges * (models + 1) * 4 * weights / 1e6)
    assert needs["too_little"] is None and needs["disk"]["final_model"] > 4 * weights
    _, text, _ = plan()
    lines = text.splitlines()
    assert lines[1:5] == [
        "  4 parents: one architecture, depth and shape of every weight",
        "  vocabulary: the same 123 tokens under the same ids",
        f"  chat template: off, since {found['parents']['base']} has none (apply_chat_template: true overrides)",
        "  output layer: of its own in every parent",
    ]
    assert [line.split(":")[0] for line in lines if line.startswith(("Memory", "Disk", "Time"))] == [
        "Memory",
        "Disk",
        "Time",
    ]
    assert "  0.4 MB of parents stay in their files, read through the page cache" in lines


def test_a_plan_counts_each_live_model(plan: Plan) -> None:
    one, two = (json.loads(plan("--json", merge3={"device": d})[1])["machine"]["memory"] for d in ("cpu", ["cpu"] * 2))
    assert (one["live_models"], two["live_models"], two["devices"]) == (1, 2, 1)
    for of in (one, two):
        assert of["on_host"] == of["live_models"] * (of["live"] + of["activations"]) + of["spare"]
    assert f"and {one['spare'] / 1e6:.1f} MB to merge with" in plan()[1]
    assert "2 live models of 0.1 MB, a batch for each about " in plan(merge3={"device": ["cpu", "cpu"]})[1]
    status, _, error = plan(merge3={"device": ["cpu", "cuda:9"]})
    assert status == 2 and "device: expected auto, cpu or one that is here, got 'cuda:9'" in error


def test_too_little_memory_shows_the_plan_and_fails_as_the_run_would(
    plan: Plan, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("merge3_plugin.evolve.preflight.memory_available", lambda: 200_000)
    status, text, error = plan()
    assert status == 2 and text.startswith("Parents: ") and "of 0.2 MB that are free" in text
    assert error.startswith("merge3: error: memory: expected ") and error.count("\n") == 1
    tasks = ["--task-search-path", str(world.parent / "tasks")]
    status = run(evolve, "evolve", [str(tmp_path / "config.yml"), "--storage-path", str(tmp_path / "out"), *tasks])
    assert (status, capsys.readouterr().err) == (2, error)
