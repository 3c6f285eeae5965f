"""Whole runs on tiny real models, in this process."""

import json
import shutil

import pytest
import torch
import yaml
from filelock import FileLock

from merge3_plugin.artifact import load_calibration
from merge3_plugin.errors import ConfigError, DataError, ModelError, RunError
from merge3_plugin.evolve.assessor import MEAN, RECALIBRATION, SEARCH, SURROGATE
from merge3_plugin.evolve.confirmation import CONFIRMATION
from merge3_plugin.evolve.setting import Interrupted, Watcher
from merge3_plugin.evolve.store import FAILED, RunStore
from merge3_plugin.hookspecs import hookimpl
from merge3_plugin.plugins import plugin_host
from tests.evolve.world import N_ITEMS, canonical, evolve_here, make_world
from tests.mergekit_command import assert_same_weights, by_command


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), tiny_models)


def asked(out, items, *, by_candidates):
    """How many of these items were scored, by parents or by candidates."""
    store = RunStore.open(out)
    rows = store._db.execute(
        "SELECT item, candidate LIKE 'parent:%' FROM answers JOIN evaluations ON evaluation = number"
    ).fetchall()
    store.close()
    return sum(item in items and bool(parent) != by_candidates for item, parent in rows)


def held_out_items(out):
    store = RunStore.open(out)
    events = dict(store.events())
    store.close()
    return set(events["items tiny_sum"]["held_out"]), set(events["anchors tiny_sum"]["items"])


def test_candidates_never_see_a_held_out_item_before_the_confirmation(config, tmp_path):
    counts = []

    class Count(Watcher):
        def phase(self, name, total):
            if name == CONFIRMATION:
                held_out, _ = held_out_items(tmp_path / "out")
                counts.append(asked(tmp_path / "out", held_out, by_candidates=True))

    summary = evolve_here(config, tmp_path / "out", Count())
    assert counts == [0]
    held_out, anchors = held_out_items(tmp_path / "out")
    assert len(held_out) == N_ITEMS // 3 and not held_out & anchors
    finalists = [m for m in summary["models"] if m["label"].startswith(("best", "mean", "surrogate", "uniform"))]
    assert asked(tmp_path / "out", held_out, by_candidates=True) == len(finalists) * len(held_out)
    # In the search every candidate was asked the anchors of its batches and nothing else.
    store = RunStore.open(tmp_path / "out")
    told = [body for name, body in store.events() if name.startswith("tell")]
    beside = [row["items"] for purpose, row in store.spent().items() if purpose in (MEAN, SURROGATE)]
    store.close()
    assert all(body["items"] <= len(anchors) * len(body["batches"]) for body in told)
    assert summary["cost"]["search_items"] == sum(body["paid"] for body in told) + sum(beside)


def test_the_result_is_what_its_files_say(config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    summary = evolve_here(config, out)
    assert summary["state"] == "finished" and summary == json.loads((out / "summary.json").read_text())
    assert {m["label"] for m in summary["models"]} >= {"base", "model_1", "uniform", "best 1"}
    text = (out / "best_config.yaml").read_text()
    assert yaml.safe_load(text)["slices"] == summary["winner"]["recipe"]["slices"]
    assert_same_weights(out / "final_model", by_command(text, tmp_path, monkeypatch))


def test_the_search_is_told_by_paired_differences(config, tmp_path):
    # On the same anchors throughout, so that all differences are paired.
    summary = evolve_here(config, tmp_path / "out", merge3__fidelity__fresh=False)
    search = summary["search"]
    assert 1 <= search["contenders"] <= search["merges"] <= 14
    first, *later = search["improvements"]
    assert first["candidates"] == 1 and first["against_previous"] is None
    fitness = [found["fitness"] for found in search["improvements"]]
    assert fitness == sorted(fitness)
    for before, found in zip(search["improvements"], later, strict=False):
        difference = found["against_previous"]
        assert difference["difference"] == pytest.approx(found["fitness"] - before["fitness"])
        low, high = difference["interval"]
        assert low < difference["difference"] < high and difference["n_items"] == 20
    assert search["soft_scores"]["tiny_sum"]["models"] >= 5
    labels = [m["label"] for m in summary["models"] if m["label"].startswith("best")]
    assert len(labels) == min(2, search["contenders"]) and search["recalibrations"] == []


def test_soft_scores_break_ties_only(config, tmp_path):
    """With two anchors nearly all candidates tie; the optimizer is told apart those whose soft scores differ."""
    evolve_here(config, tmp_path / "out", merge3__anchors=2, merge3__estimator="mean")
    store = RunStore.open(tmp_path / "out")
    events = dict(store.events())
    breaks = events["soft scores tiny_sum"]["break ties"]
    told = [body for name, body in events.items() if name.startswith("tell")]
    store.close()
    fitness = {body["values"][0] for body in told if len(body["batches"]) == 1}
    assert len(fitness) <= 3
    assert (len({(*body["values"], body["tie_breaker"]) for body in told}) > len(told) / 2) == breaks


def test_recalibration_scores_the_best_in_full_and_ranks_all_anew(config, tmp_path):
    summary = evolve_here(config, tmp_path / "out", merge3__recalibrate=5)
    store = RunStore.open(tmp_path / "out")
    events, spent = dict(store.events()), store.spent()
    first = events["recalibration 1"]
    known = store.known_answers(first["in full"], "tiny_sum").right
    assert set(events["items tiny_sum"]["search"]) <= set(known)
    assert spent["recalibration"]["evaluations"] == len(summary["search"]["recalibrations"]) >= 2
    before, after = (
        load_calibration(tmp_path / "out" / "calibration" / f"tiny_sum{kind}.safetensors")
        for kind in ("", "-recalibrated")
    )
    assert first["in full"] in after.responses.model_ids and first["in full"] not in before.responses.model_ids
    assert (before.items.difficulty != after.items.difficulty).any()
    # What is reported is by the last calibration: other than what was recorded when the candidate was scored.
    (uniform,) = [m for m in summary["models"] if m["label"] == "uniform"]
    recorded = store.find(uniform["candidate"], SEARCH).estimates["tiny_sum"]
    store.close()
    assert uniform["estimated"]["tiny_sum"]["accuracy"] != recorded.accuracy


@pytest.mark.parametrize("method", ["neyman", "representation-clusters"])
def test_the_config_says_how_anchors_are_chosen(config, tmp_path, method):
    summary = evolve_here(config, tmp_path / "out", merge3__anchor_method=method, merge3__search__max_fevals=9)
    # Clusters of unequal size fall back to groups of equal size.
    assert summary["tasks"]["tiny_sum"]["anchor_method"] in (method, "kd" if method != "neyman" else method)
    auto = evolve_here(config, tmp_path / "auto", merge3__anchor_method="stratified", merge3__search__max_fevals=9)
    assert auto["tasks"]["tiny_sum"]["anchor_method"] == "stratified"


@pytest.mark.parametrize("budget", [9, 14])
def test_the_budget_of_candidates_is_never_passed(config, tmp_path, budget):
    summary = evolve_here(config, tmp_path / "out", merge3__search__max_fevals=budget)
    store = RunStore.open(tmp_path / "out")
    asked = [body for name, body in store.events() if name.startswith("ask")]
    store.close()
    assert len([body for body in asked if not body["again"]]) == budget
    assert summary["search_ended"] == f"the budget of {budget} candidates is spent"


def test_where_known_merges_leave_less_than_a_generation_the_run_says_so_too(config, tmp_path, caplog):
    evolve_here(config, tmp_path / "out", merge3__search__max_fevals=6)
    assert "max_fevals, less 5 known merges: expected at least one generation of 4 candidates, got 1" in caplog.text


def test_all_of_a_grid_is_asked_within_the_budget_beside_known_merges(config, tmp_path):
    changes = {"genome__layer_granularity": 0, "merge3__search": {"optimizer": "grid", "max_fevals": 31}}
    summary = evolve_here(config, tmp_path / "out", **changes)
    assert summary["search_ended"] == "the strategy is done: grid 8", "27 are too many beside 5"


@pytest.mark.parametrize("strategy", ["fixed", "racing"])
@pytest.mark.parametrize(("unit", "budget"), [("items", 130), ("tokens", 4000)])
def test_budgets_of_items_and_tokens_are_never_passed_and_can_be_raised(config, tmp_path, unit, budget, strategy):
    out, changes = tmp_path / "out", {"merge3__fidelity": {"strategy": strategy}, "merge3__recalibrate": 4}
    changes["merge3__search__max_fevals"] = 60
    found = []
    for limit in (budget, 2 * budget):
        summary = evolve_here(config, out, **{f"merge3__search__max_{unit}": limit}, **changes)
        assert f"budget of {limit:,}" in summary["search_ended"]
        store = RunStore.open(out)
        counted = (SEARCH, RECALIBRATION, MEAN, SURROGATE)
        spent = [row for purpose, row in store.spent().items() if purpose in counted]
        found.append((sum(row[unit] for row in spent), summary["cost"]["candidates"]))
        store.close()
        assert found[-1][0] <= limit
    (before, few), (after, many) = found
    assert before > budget / 2 and after > before and many > few


def spent_on(out, purpose, unit="items"):
    store = RunStore.open(out)
    spent = store.spent()
    store.close()
    return int(spent[purpose][unit]) if purpose in spent else 0


def estimated(summary, label):
    (model,) = [model for model in summary["models"] if model["label"] == label]
    return bool(model["estimated"])


OF_SEARCH = {"max_fevals": 30, "popsize": 6}


@pytest.fixture(scope="module")
def free(config, tmp_path_factory):
    """A search that only its candidates limit: its folder, and what it found."""
    out = tmp_path_factory.mktemp("free") / "out"
    return out, evolve_here(config, out, merge3__search=OF_SEARCH)


@pytest.mark.parametrize("unit", ["items", "tokens"])
def test_peak_and_mean_are_scored_within_the_searchs_budget_or_not_at_all(config, free, tmp_path, unit):
    folder, free = free
    cost = free["cost"][f"search_{unit}"]
    peak, mean = (spent_on(folder, purpose, unit) for purpose in (SURROGATE, MEAN))
    assert peak > 0 and mean > 0
    for limit, paid in ((cost, [peak, mean]), (cost - 1, [peak, 0]), (cost - mean - 1, [0, 0])):
        out = tmp_path / str(limit)
        changes = {"merge3__search": {**OF_SEARCH, f"max_{unit}": limit}}
        summary = evolve_here(config, out, **changes)
        assert [spent_on(out, purpose, unit) for purpose in (SURROGATE, MEAN)] == paid
        assert estimated(summary, SURROGATE) == (paid[0] > 0)
        assert (MEAN in {model["label"] for model in summary["models"]}) == (paid[1] > 0)
        assert summary["search_ended"] == free["search_ended"] == "the budget of 30 candidates is spent"
        assert summary["cost"][f"search_{unit}"] == cost - peak - mean + sum(paid)
        before = canonical(out)
        assert evolve_here(config, out, **changes) == summary and canonical(out) == before


def test_what_the_surrogate_takes_of_the_budget_changes_nothing_of_the_search_that_is_resumed(config, tmp_path):
    """A search that its budget ends at a recalibration leaves enough for the peak."""
    changes = {"merge3__recalibrate": 24, "merge3__search": {"max_fevals": 60, "popsize": 6}}
    evolve_here(config, tmp_path / "free", **changes)
    store = RunStore.open(tmp_path / "free")
    steps = [(name, body.get("paid", 0)) for name, body in store.events()]
    in_full = next(items for _, items in store.scored(RECALIBRATION))
    store.close()
    before = sum(paid for _, paid in steps[: [name for name, _ in steps].index("recalibration 1")])
    changes["merge3__search"] |= {"max_items": before + in_full - 1}
    out = tmp_path / "out"
    summary = evolve_here(config, out, **changes)
    beside = [spent_on(out, purpose) for purpose in (SURROGATE, MEAN)]
    assert beside[0] > 0 and estimated(summary, SURROGATE)
    assert f"too little is left for the {in_full}" in summary["search_ended"]
    assert summary["cost"]["search_items"] == before + sum(beside)
    record = canonical(out)
    assert evolve_here(config, out, **changes) == summary and canonical(out) == record


def test_the_mean_of_a_search_without_a_model_is_left_out_where_it_does_not_fit_the_budget(config, tmp_path):
    free = evolve_here(config, tmp_path / "free", merge3__search__max_fevals=10)
    assert MEAN in {model["label"] for model in free["models"]}
    cost = free["cost"]["search_items"]
    tight = evolve_here(config, tmp_path / "tight", merge3__search__max_fevals=10, merge3__search__max_items=cost - 1)
    assert MEAN not in {model["label"] for model in tight["models"]} | tight["cost"]["by_phase"].keys()
    assert tight["cost"]["search_items"] < cost - 1


@pytest.fixture(scope="module")
def explosive():
    """A merge method that gives NaN where its gene passes a half."""
    import torch
    from mergekit.merge_methods import TensorGroup, merge_method

    def half_nan(group: TensorGroup, heat: float = 0.25) -> torch.Tensor:
        merged = torch.stack(group.tensors).mean(dim=0) * (1 + heat)
        return merged * float("nan") if heat > 0.5 else merged

    class Plugin:
        @hookimpl
        def merge3_register_merge_methods(self, register):
            register(merge_method(half_nan, name="half_nan"), bounds={"heat": (0.0, 1.0)})

    plugin_host.cache_clear()
    plugin_host().add(Plugin(), "explosive", "this test")
    yield {"genome__merge_method": "half_nan", "genome__base_model": None}
    plugin_host.cache_clear()


def test_a_candidate_with_nan_weights_is_a_record_ranked_last(config, tmp_path, explosive):
    summary = evolve_here(config, tmp_path / "out", **explosive)
    store = RunStore.open(tmp_path / "out")
    spent = store.spent()["search"]
    assert 0 < spent["failed"] < spent["evaluations"]
    assert "NaN or infinity" in store.last_error("search")
    told = [body["values"] for name, body in store.events() if name.startswith("tell")]
    assert told.count(None) == spent["failed"]
    confirmed = [store.find(m["candidate"], "confirmation").state for m in summary["models"]]
    assert FAILED not in confirmed
    store.close()


def test_a_search_without_one_good_candidate_says_why(config, tmp_path, explosive):
    hot = {"merge3__bounds": {"heat": [0.6, 1.0]}, "merge3__calibration": "auto"}
    with pytest.raises(ModelError, match="half_nan: expected finite weights"):
        evolve_here(config, tmp_path / "out", **explosive, **hot)
    store = RunStore.open(tmp_path / "out")
    assert not any(body["learned"] for name, body in store.events() if name.startswith("tell"))
    store.close()


def test_a_task_whose_metric_is_no_item_score_is_evaluated_in_full(config, tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = config.parent / "data.jsonl"
    (folder / "tiny_sum.yaml").write_text((config.parent / "tasks" / "tiny_sum.yaml").read_text())
    (folder / "tiny_perplexity.yaml").write_text(
        f"""\
task: tiny_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}}"
metric_list: [{{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}]
metadata: {{version: 1}}
"""
    )
    raw = yaml.safe_load(config.read_text())
    raw["tasks"] = ["tiny_sum", {"name": "tiny_perplexity", "weight": -0.001, "metric": "word_perplexity,none"}]
    (tmp_path / "config.yml").write_text(yaml.safe_dump(raw))
    summary = evolve_here(tmp_path / "config.yml", tmp_path / "out", merge3__search__max_fevals=9)
    assert summary["whole_tasks"] == {"tiny_perplexity": -0.001}
    store = RunStore.open(tmp_path / "out")
    (candidate,) = [m["candidate"] for m in summary["models"] if m["label"] == "uniform"]
    found = store.find(candidate, "search")
    assert found.whole["tiny_perplexity"] > 1
    expected = found.estimates["tiny_sum"].accuracy - 0.001 * found.whole["tiny_perplexity"]
    assert found.fitness == pytest.approx(expected)
    store.close()
    raw["tasks"] = raw["tasks"][1:]
    (tmp_path / "config.yml").write_text(yaml.safe_dump(raw))
    alone = evolve_here(tmp_path / "config.yml", tmp_path / "alone", merge3__search__max_fevals=9)
    assert alone["state"].startswith("finished without a confirmation") and alone["verdict"] is None
    assert (tmp_path / "alone" / "final_model" / "config.json").is_file()


def test_a_task_that_nobody_can_answer_is_named(config, tmp_path):
    rows = [{"_id": f"q{n}", "prompt": str(n), "choices": ["1", "1"], "label": 1} for n in range(60)]
    (tmp_path / "hopeless.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"task tiny_sum: .* got only 0"):
        evolve_here(config, tmp_path / "out", merge3__data={"tiny_sum": str(tmp_path / "hopeless.jsonl")})


def test_a_full_disk_is_one_line_and_nothing_is_lost(config, tmp_path, monkeypatch):
    opening = RunStore.__init__

    def small(self, folder):
        opening(self, folder)
        # SQLite's own limit raises what a full disk raises, in the middle of the calibration.
        self._db.execute("PRAGMA max_page_count = 26")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "__init__", small)
        with pytest.raises(RunError, match="got: database or disk is full; free some space"):
            evolve_here(config, tmp_path / "out")
    store = RunStore.open(tmp_path / "out")
    before = store.spent()
    store.close()
    assert before["parents"]["evaluations"] >= 1 and "confirmation" not in before
    evolve_here(config, tmp_path / "out")
    evolve_here(config, tmp_path / "unbroken")
    assert canonical(tmp_path / "out") == canonical(tmp_path / "unbroken")


def test_a_config_key_newer_than_the_record_had_its_default(config, tmp_path):
    out = tmp_path / "out"
    evolve_here(config, out, merge3__search__max_fevals=9)
    before = canonical(out)
    store = RunStore(out)
    older = store.meta()["config"]
    del older["merge3"]["recalibrate"], older["merge3"]["anchor_method"]
    store._db.execute("UPDATE meta SET value = ? WHERE key = 'config'", (json.dumps(older, sort_keys=True),))
    store.close()
    with pytest.raises(RunError, match=r"merge3\.recalibrate was None, is 7"):
        evolve_here(config, out, merge3__search__max_fevals=9, merge3__recalibrate=7)
    evolve_here(config, out, merge3__search__max_fevals=9)
    assert canonical(out).splitlines()[2:] == before.splitlines()[2:]


def test_a_lora_adapter_can_be_a_parent(config, tmp_path, tiny_models):
    import peft
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        base = AutoModelForCausalLM.from_pretrained(tiny_models[0])
        peft.get_peft_model(base, settings).save_pretrained(tmp_path / "lora")
    parents = [f"{tiny_models[0]}+{tmp_path / 'lora'}", str(tiny_models[1])]
    out = tmp_path / "out"
    evolve_here(config, out, genome__models=parents, merge3__search__max_fevals=9)
    recipe = yaml.safe_load((out / "best_config.yaml").read_text())
    assert parents[0] in str(recipe)
    changed = load_file(out / "final_model" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    weights = [load_file(f / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"] for f in tiny_models[:2]]
    span = torch.linalg.lstsq((weights[1] - weights[0]).reshape(-1, 1), (changed - weights[0]).reshape(-1, 1))
    # More than the plain parent explains: the adapter's part is in the merge.
    rest = changed - weights[0] - span.solution.item() * (weights[1] - weights[0])
    assert rest.norm() > 1e-3


def test_limit_is_a_random_part_of_the_search_items(config, tmp_path):
    summary = evolve_here(config, tmp_path / "out", limit=40, merge3__search__max_fevals=9)
    task = summary["tasks"]["tiny_sum"]
    assert (task["search_items"], task["held_out_items"]) == (40, N_ITEMS // 3)


def test_a_calibration_file_serves_and_a_wrong_one_is_refused(config, tmp_path):
    evolve_here(config, tmp_path / "first", merge3__search__max_fevals=9)
    given = tmp_path / "first" / "calibration" / "tiny_sum.safetensors"
    evolve_here(config, tmp_path / "second", merge3__search__max_fevals=9, merge3__calibration=str(given))
    _, first = held_out_items(tmp_path / "first")
    held_out, second = held_out_items(tmp_path / "second")
    assert second == first and not second & held_out
    with pytest.raises(DataError, match=r"nothing\.safetensors"):
        evolve_here(config, tmp_path / "third", merge3__calibration=str(tmp_path / "nothing.safetensors"))
    rows = [json.loads(line) for line in (config.parent / "data.jsonl").read_text().splitlines()]
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps({**row, "prompt": row["prompt"] + "0"}) + "\n" for row in rows))
    other = {"merge3__calibration": str(given), "merge3__data": {"tiny_sum": str(changed)}}
    with pytest.raises(DataError, match="has another text"):
        evolve_here(config, tmp_path / "fourth", **other)


@pytest.mark.usefixtures("no_environment_report")
def test_the_logs_of_other_models_calibrate_a_run(config, tmp_path, tiny_models):
    from merge3_plugin.harness.benchmark import load_benchmarks
    from merge3_plugin.harness.collect import EvaluationSettings, collect_logs
    from merge3_plugin.testing import make_tiny_llama

    others = [make_tiny_llama(tmp_path / f"other_{i}", 100 + i, base=tiny_models[0], delta=0.05) for i in range(6)]
    benchmark = load_benchmarks({"tiny_sum": "acc,none"}, include_paths=[config.parent / "tasks"])["tiny_sum"]
    settings = EvaluationSettings(dtype="float32", device="cpu")
    collect_logs(benchmark, list(map(str, others)), tmp_path / "logs", settings)
    setting = {"tiny_sum": {"logs": [str(tmp_path / "logs")]}}
    summary = evolve_here(config, tmp_path / "out", merge3__calibration=setting, merge3__search__max_fevals=9)
    assert "calibration" not in summary["cost"]["by_phase"]
    held_out, anchors = held_out_items(tmp_path / "out")
    assert len(anchors) == 20 and not anchors & held_out
    kept = load_calibration(tmp_path / "out" / "calibration" / "tiny_sum.safetensors")
    assert len(kept.responses.model_ids) == 6 and not set(kept.item_ids) & held_out


def test_wrong_folders_are_refused(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="expected a folder, got a file"):
        evolve_here(config, tmp_path / "file")
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / "run.lock"), pytest.raises(RunError, match="another run is using it"):
        evolve_here(config, out)
    evolve_here(config, out, merge3__search__max_fevals=9)
    with pytest.raises(RunError, match="merge3.anchors was 20, is 21"):
        evolve_here(config, out, merge3__anchors=21)


def test_a_folder_in_which_nothing_was_scored_takes_the_mended_config(config, tmp_path):
    out = tmp_path / "out"
    for wrong in (
        {"genome__layer_granularity": 3},
        {"merge3__estimator": "gmp-itr"},
        {"merge3__held_out": 0.999},
        {"merge3__data": {"tiny_sum": str(tmp_path / "nothing.jsonl")}},
    ):
        with pytest.raises((ConfigError, DataError)):
            evolve_here(config, out, **wrong)
        assert RunStore.open(out).spent() == {}
    assert evolve_here(config, out, merge3__search__max_fevals=9)["state"] == "finished"


def test_a_search_that_is_stopped_before_its_first_candidate_says_so(config, tmp_path, caplog):
    class Late(Watcher):
        def stop_reason(self):
            return "timeout of 1 s"

    class Stop(Watcher):
        stopped = False

        def phase(self, name, total):
            self.stopped = name == SEARCH

        def interrupted(self):
            return self.stopped

    out, changes = tmp_path / "out", {"merge3__search__max_fevals": 9}
    late = evolve_here(config, out, Late(), **changes)
    assert "expected time for a candidate, got none (timeout of 1 s); give it more" in caplog.text
    assert (late["state"], late["search_ended"], spent_on(out, SEARCH)) == ("finished", "timeout of 1 s", 0)
    recipe = yaml.safe_load((out / "best_config.yaml").read_text())
    assert {model["parameters"]["weight"] for part in recipe["slices"] for model in part["sources"][:-1]} == {0.0}
    with pytest.raises(Interrupted):
        evolve_here(config, tmp_path / "stopped", Stop(), **changes)
    whole, once = (evolve_here(config, folder, **changes) for folder in (out, tmp_path / "once"))
    assert whole["search_ended"] == once["search_ended"] and whole["models"] == once["models"]


def test_a_search_without_time_has_nothing_where_its_space_has_no_parent(config, tmp_path):
    class Late(Watcher):
        def stop_reason(self):
            return "timeout of 1 s"

    with pytest.raises(RunError, match=r"timeout of 1 s\); give it more"):
        evolve_here(config, tmp_path / "out", Late(), merge3__bounds={"weight": [0.1, 1]})


def test_a_parent_that_changed_under_a_run_is_noticed(config, tmp_path, tiny_models):
    names = [shutil.copytree(folder, tmp_path / folder.name) for folder in tiny_models]
    models = {"genome__models": list(map(str, names[1:])), "genome__base_model": str(names[0])}
    evolve_here(config, tmp_path / "out", **models, merge3__search__max_fevals=9)
    shutil.copyfile(names[2] / "model.safetensors", names[1] / "model.safetensors")
    with pytest.raises(RunError, match="expected model 0 as the run began"):
        evolve_here(config, tmp_path / "out", **models, merge3__search__max_fevals=9)


def test_a_model_that_is_not_there_is_named(config, tmp_path):
    with pytest.raises(ModelError, match="no_such_model"):
        evolve_here(config, tmp_path / "out", genome__models=["/no_such_model", "/neither"])


def test_memory_that_runs_out_fails_no_candidate_and_is_recorded(config, tmp_path, monkeypatch):
    """torch's own error, raised by hand: memory that really runs out would take the machine along."""
    from merge3_plugin.harness import packed_lm

    real, begun, errors = packed_lm.logits, [], []

    def logits(model, pack):
        begun.append(pack.tokens.shape[1])
        if len(begun) == 9:
            errors.append(begun[-1])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, pack)

    monkeypatch.setattr(packed_lm, "logits", logits)
    summary = evolve_here(config, tmp_path / "out")
    assert summary["state"] == "finished" and len(errors) == 1
    store = RunStore.open(tmp_path / "out")
    assert store.meta()["local.halved"] is True
    assert not [row for row in store.rows() if row["state"] == FAILED]
    store.close()
    whole = len(begun)
    # What is not yet scored is read in the smaller parts, at once.
    halved = []
    monkeypatch.setattr(packed_lm.PackedLM, "halve", lambda self: halved.append(self))
    evolve_here(config, tmp_path / "out")
    assert len(halved) == 1 and len(begun) == whole
