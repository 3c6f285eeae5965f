"""Full evaluations kept as lm-eval's logs: equal to the plain command's, resumed, and never stale."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from merge3_plugin.errors import DataError, ModelError, RunError
from merge3_plugin.extract.responses import read_responses
from merge3_plugin.harness import collect
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.collect import EvaluationSettings, anchor_yaml, check_models, collect_logs

SETTINGS = EvaluationSettings(dtype="float32", device="cpu", batch_size=16)


@pytest.fixture(scope="module")
def benchmark_of(local_tasks):
    def load(name, metric="acc,none", **settings):
        return load_benchmarks({name: metric}, include_paths=[local_tasks], **settings)[name]

    return load


@pytest.fixture
def runs(monkeypatch):
    """Names of the models that lm-eval really ran."""
    names = []
    evaluate = collect._evaluate
    monkeypatch.setattr(collect, "_evaluate", lambda *args: names.append(args[1]) or evaluate(*args))
    return names


def test_collected_logs_equal_the_plain_commands(benchmark_of, tiny_models, logs, tmp_path):
    models = [str(m) for m in tiny_models[:2]]
    for task in ("unnamed", "pair"):
        benchmark = benchmark_of(task)
        collected = collect_logs(benchmark, models, tmp_path / task, SETTINGS)
        ours = read_responses(collected, task, base=list(benchmark.items.leaves))
        plain = read_responses([logs], task)
        assert ours.matrix.item_ids == plain.matrix.item_ids and set(ours.matrix.item_ids) == set(benchmark.item_ids)
        assert ours.item_hashes == plain.item_hashes
        np.testing.assert_array_equal(ours.matrix.values, plain.matrix.models(ours.matrix.model_ids).values)
        assert {k: ours.provenance[k] for k in ours.provenance.keys() - {"models", "files"}} == {
            k: plain.provenance[k] for k in plain.provenance.keys() - {"models", "files"}
        }
        again = read_responses([tmp_path / task], task)
        np.testing.assert_array_equal(again.matrix.values, ours.matrix.values)


def test_without_a_device_models_run_on_what_is_there(benchmark_of, tiny_models, tmp_path):
    benchmark, model = benchmark_of("named"), str(tiny_models[1])
    assert collect_logs(benchmark, [model], tmp_path, EvaluationSettings(dtype="float32", limit=5))


def test_a_broken_run_goes_on_where_it_stopped(benchmark_of, tiny_models, tmp_path, runs):
    base, first = (str(m) for m in tiny_models[:2])
    benchmark = benchmark_of("named")
    kept = collect_logs(benchmark, [base], tmp_path, SETTINGS)
    assert collect_logs(benchmark, [base, first], tmp_path, SETTINGS)[:1] == kept
    assert runs == [base, first]
    kept[0].write_bytes(kept[0].read_bytes()[:-30])  # killed while it wrote
    collect_logs(benchmark, [base, first], tmp_path, SETTINGS)
    assert runs == [base, first, base]
    for number, damaged in enumerate(
        ("[]", '{"merge3": 7}', '{"merge3": {"lines": 7}}', '{"merge3": {}', "[" * 99_999), 4
    ):
        for results in tmp_path.rglob("results_*.json"):
            results.write_text(damaged)
        collect_logs(benchmark, [first], tmp_path, SETTINGS)
        assert len(runs) == number


def test_other_settings_weights_or_data_are_run_again(benchmark_of, tiny_models, tmp_path, runs):
    model = shutil.copytree(tiny_models[1], tmp_path / "model")
    ask = {
        "benchmark": benchmark_of("named"),
        "models": [str(model)],
        "folder": tmp_path / "logs",
        "settings": SETTINGS,
    }
    collect_logs(**ask)
    collect_logs(**ask)
    assert len(runs) == 1
    collect_logs(**ask | {"settings": EvaluationSettings(dtype="float32", device="cpu", batch_size=4)})
    collect_logs(**ask | {"benchmark": benchmark_of("named", num_fewshot=1)})
    collect_logs(**ask | {"benchmark": benchmark_of("left")})
    shutil.copy(tiny_models[2] / "model.safetensors", model)
    collect_logs(**ask)
    assert len(runs) == 5


def test_limited_runs_say_so(benchmark_of, tiny_models, tmp_path):
    limited = EvaluationSettings(dtype="float32", device="cpu", batch_size=16, limit=5)
    read = read_responses(collect_logs(benchmark_of("named"), [str(tiny_models[0])], tmp_path, limited), "named")
    assert read.matrix.n_items == 5 and "5 of the task's 20 items" in read.notes[0]


def test_a_chat_template_is_named_as_the_scorer_names_it(benchmark_of, tmp_path):
    from merge3_plugin.harness.scoring import Scorer
    from merge3_plugin.testing import TINY_CHAT_TEMPLATE, make_tiny_llama, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer(chat_template=TINY_CHAT_TEMPLATE)
    model = make_tiny_llama(tmp_path / "chat", 1, tokenizer=tokenizer)
    benchmark = benchmark_of("named")
    with_template = EvaluationSettings(dtype="float32", device="cpu", batch_size=16, apply_chat_template=True)
    plain, chat = (
        read_responses(collect_logs(benchmark, [str(model)], tmp_path / name, settings), "named")
        for name, settings in (("plain", SETTINGS), ("templated", with_template))
    )
    assert plain.provenance["chat_template"] is None and chat.provenance["chat_template"] is not None
    live = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    for template, read in ((False, plain), (True, chat)):
        asking = {"apply_chat_template": template, "fewshot_as_multiturn": template}
        scorer = Scorer({"named": benchmark}, live, tokenizer, batch_size=16, **asking)
        assert scorer.provenance("named")["chat_template"] == read.provenance["chat_template"]
        assert scorer.score("named", read.matrix.item_ids).right == dict(
            zip(read.matrix.item_ids, read.matrix.values[0], strict=True)
        )
    twin = shutil.copytree(model, tmp_path / "twin")  # of equal files, yet a model of its own
    other = collect_logs(benchmark, [str(twin)], tmp_path / "plain", SETTINGS)
    with pytest.raises(DataError, match="expected one chat template in all logs"):
        read_responses([tmp_path / "templated", *other], "named")


def test_missing_and_unreadable_models(benchmark_of, tiny_models, tmp_path):
    broken = shutil.copytree(tiny_models[0], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    empty = tmp_path / "empty"
    empty.mkdir()
    for model in (tmp_path / "nowhere", empty):
        with pytest.raises(ModelError, match="expected a Hugging Face folder or name") as caught:
            check_models([str(tiny_models[0]), str(model)], SETTINGS)
        assert str(model) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="expected a causal language model that loads"):
        collect_logs(benchmark_of("named"), [str(broken)], tmp_path / "logs", SETTINGS)


def test_logs_that_cannot_be_written(benchmark_of, tiny_models, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="name another one"):
        collect_logs(benchmark_of("named"), [str(tiny_models[0])], tmp_path / "file", SETTINGS)
    with pytest.raises(RunError, match="name another one"):
        collect_logs(benchmark_of("named"), [str(tiny_models[0])], tmp_path / "no" / "folder", SETTINGS)


def test_what_our_yaml_says_of_metric_and_base():
    assert anchor_yaml("merge3_arc_ja") == ("acc,none", (), None)
    assert anchor_yaml("merge3_mmlu_en") == ("acc,none", ("mmlu",), None)
    assert anchor_yaml("merge3_gsm8k_ja") == ("exact_match,flexible-extract", (), "ja")
    assert anchor_yaml("arc_easy") == (None, (), None)


def test_the_record_in_the_results_is_plain_json(benchmark_of, tiny_models, tmp_path):
    log = collect_logs(benchmark_of("pair"), [str(tiny_models[0])], tmp_path, SETTINGS)[0]
    results = json.loads(next(log.parent.glob("results_*.json")).read_text(encoding="utf-8"))
    assert results["merge3"]["lines"] == {"left": 6, "right": 8} and results["group_subtasks"]["pair"] == [
        "left",
        "right",
    ]
