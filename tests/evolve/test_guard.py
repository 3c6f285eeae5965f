from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError, RunError
from merge3_plugin.evolve.claim import claim
from merge3_plugin.evolve.guard import chat_template, check_sampling, check_test_sets, fingerprint, locked
from merge3_plugin.evolve.store import RunStore


def config(**merge3):
    return parse_config({"genome": {"models": ["a", "b"], "merge_method": "linear"}, "tasks": ["x"], "merge3": merge3})


def benchmark(task, source=None, split=None):
    return SimpleNamespace(task=task, provenance={"source_benchmark": source, "split": split})


@pytest.mark.parametrize(
    ("name", "source", "split"),
    [
        ("arc_challenge", None, "test"),
        ("merge3_arc_ja", "ARC-Challenge", "test"),
        ("tinyArc", None, "validation"),
        ("mgsm_direct_ja", None, None),
        ("hellaswag", None, "validation"),
        ("my_copy", "GSM8K", "test[:100]"),
    ],
)
def test_a_public_test_set_is_refused_unless_the_flag_says_so(name, source, split):
    # Two metrics of one task are one matter.
    benchmarks = {f"{name}:{metric}": benchmark(name, source, split) for metric in ("acc,none", "acc_norm,none")}
    with pytest.raises(ConfigError, match=f"task {name}.*--i-understand-the-depths"):
        check_test_sets(config(), benchmarks, allowed=False)
    assert len(check_test_sets(config(), benchmarks, allowed=True)) == 1


@pytest.mark.parametrize(
    ("name", "source", "split"),
    [("my_task", None, "test"), ("gsm8k_train", None, "test"), ("arc_easy", None, "train"), ("tiny_sum", None, "test")],
)
def test_own_tasks_and_training_splits_pass(name, source, split):
    assert check_test_sets(config(), {name: benchmark(name, source, split)}, allowed=False) == []


@pytest.mark.parametrize(
    ("asked", "of_task", "sampled"),
    [
        ({}, {"temperature": 0.7}, True),
        ({"do_sample": False}, {"temperature": 0.7}, False),
        ({}, {"do_sample": True}, True),
        ({"temperature": 0.0}, {"temperature": 0.7}, False),
        ({"temperature": 0.7}, None, True),
        ({}, {"until": ["x"]}, False),
    ],
)
def test_sampled_answers_are_for_one_live_model(asked, of_task, sampled):
    leaf = SimpleNamespace(config=SimpleNamespace(generation_kwargs=of_task))
    items = SimpleNamespace(output_type="generate_until", leaves={"x": leaf})
    benchmarks = {"x": SimpleNamespace(items=items)}
    check_sampling(config(eval={"gen_kwargs": asked}), benchmarks)
    two = config(eval={"gen_kwargs": asked}, device=["cpu", "cpu"])
    if sampled:
        with pytest.raises(ConfigError, match="task x: expected greedy answers"):
            check_sampling(two, benchmarks)
    else:
        check_sampling(two, benchmarks)


def test_a_folder_may_go_on_with_other_live_models_of_the_same_kind(tmp_path):
    store = RunStore(tmp_path)
    claim(store, config(device="cuda"), tmp_path)
    store._db.execute(
        "INSERT INTO evaluations (candidate, purpose, state, estimates, whole, n_items, started, seconds)"
        " VALUES ('c', 'search', 'COMPLETE', '{}', '{}', 0, 0, 0)"
    )
    for device in (["cuda:0", "cuda:1"], "cuda:3", ["cuda", "cuda"]):
        claim(store, config(device=device), tmp_path)
    for other in ("cpu", ["cpu", "cpu"]):
        with pytest.raises(RunError, match="merge3.device was 'cuda', is 'cpu'"):
            claim(store, config(device=other), tmp_path)
    store.close()


def test_the_config_may_say_which_split_it_is():
    said = SimpleNamespace(merge3=SimpleNamespace(split={"merge3_arc_ja": "train"}))
    assert check_test_sets(said, {"merge3_arc_ja": benchmark("merge3_arc_ja", "ARC", "test")}, allowed=False) == []


@pytest.mark.parametrize(
    ("templates", "on", "word"),
    [
        ({"a": "T", "b": "T"}, True, "same"),
        ({"a": "T", "b": "U"}, False, "differ"),
        ({"a": "T", "b": None}, False, "b has none"),
    ],
)
def test_the_chat_template_follows_the_parents_unless_written(templates, on, word):
    used, reason = chat_template(config(), templates)
    assert used is on and word in reason
    for written in (True, False):
        raw = {"genome": {"models": ["a", "b"], "merge_method": "linear"}, "tasks": ["x"]}
        assert chat_template(parse_config({**raw, "apply_chat_template": written}), templates) == (written, None)


def test_one_run_a_folder(tmp_path):
    with locked(tmp_path / "new"), pytest.raises(RunError, match="another run"), locked(tmp_path / "new"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="got a file"), locked(tmp_path / "file"):
        pass
    with pytest.raises(RunError, match="expected a writable folder"), locked(tmp_path / "file" / "below"):
        pass
    with pytest.raises(RunError, match="expected a writable folder"), locked(Path("/proc/no/such")):
        pass
    assert FileLock(tmp_path / "new" / "run.lock").acquire(timeout=0)


def test_a_model_is_known_again_and_a_changed_one_is_not(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a" * 3_000_000)
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"a" * 2_999_999 + b"b")
    assert fingerprint(tmp_path) != before
