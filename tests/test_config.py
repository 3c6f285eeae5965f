from typing import get_args

import pytest

from merge3_plugin.config import AnchorMethod, load_config, parse_config
from merge3_plugin.errors import ConfigError

MINIMAL = {"genome": {"models": ["a", "b"], "merge_method": "linear"}, "tasks": ["x"]}

# The example of upstream's documentation, in its own keys.
UPSTREAM = {
    "genome": {
        "models": ["model_1", "model_2", {"model": {"path": "model_3", "revision": "main"}}],
        "merge_method": "dare_ties",
        "base_model": "base",
        "tokenizer_source": "base",
        "layer_granularity": 8,
        "normalize": True,
        "allow_negative_weights": False,
        "smooth": False,
        "filters": ["self_attn", "mlp"],
    },
    "tasks": [{"name": "my_task", "weight": 0.5, "metric": "exact_match,none"}, {"name": "other"}],
    "limit": 100,
    "num_fewshot": 2,
    "shuffle": True,
    "random_init": False,
    "apply_chat_template": True,
    "fewshot_as_multiturn": True,
}


def test_upstreams_keys_are_read_unchanged():
    config = parse_config(UPSTREAM)
    assert config.genome.models[2] == "model_3@main"
    assert config.genome.parents() == ["model_1", "model_2", "model_3@main", "base"]
    assert [(t.name, t.weight, t.metric) for t in config.tasks] == [
        ("my_task", 0.5, "exact_match,none"),
        ("other", 1.0, "acc,none"),
    ]
    assert (config.limit, config.num_fewshot, config.shuffle) == (100, 2, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"genom": {}}, ["'genom'", "did you mean 'genome'?"]),
        ({"merge3": {"ancors": 3}}, ["merge3", "'ancors'", "'anchors'"]),
        ({"merge3": {"search": {"popsise": 3}}}, ["merge3.search", "'popsize'"]),
        ({"merge3": {"anchors": 0}}, ["merge3.anchors", "0"]),
        ({"merge3": {"recalibrate": 0}}, ["merge3.recalibrate", "0"]),
        ({"merge3": {"anchor_method": "neymann"}}, ["merge3.anchor_method", "'neyman'", "'neymann'"]),
        ({"tasks": []}, ["tasks"]),
        ({"tasks": ["x", "x"]}, ["each task once"]),
        ({"tasks": [{"name": "x", "weight": 0}]}, ["weight other than 0"]),
        ({"merge3": {"data": {"y": "f"}}}, ["merge3.data", "'y'", "known: x"]),
        ({"merge3": {"language": {"y": "ja"}}}, ["merge3.language", "'y'", "known: x"]),
        (
            {"tasks": ["x", {"name": "x", "metric": "acc_norm,none"}], "merge3": {"data": {"x:acc,none": "f"}}},
            ["merge3.data", "'x:acc,none'", "known: x, x"],
        ),
        (
            {"tasks": ["x", {"name": "x", "metric": "acc_norm,none"}], "merge3": {"calibration": {"x": "f"}}},
            ["one file serves one metric", "'x:acc,none'"],
        ),
        ({"tasks": [{"name": "x", "weight": float("nan")}]}, ["tasks.0.weight", "finite"]),
        ({"merge3": {"bounds": {"t": [0, float("inf")]}}}, ["merge3.bounds.t", "finite"]),
        ({"genome": {**MINIMAL["genome"], "models": ["a", {"model": {"pth": "b"}}]}}, ["genome.models.1", "path"]),
        ({"merge3": {"anchors": 20, "fidelity": {"fewest": 21}}}, ["merge3.fidelity.fewest", "at most the 20 anchors"]),
        ({"genome": 3}, ["genome"]),
        ({"merge3": 3}, ["merge3"]),
    ],
)
def test_a_mistake_is_one_line_that_says_where(change, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **change})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_task_under_several_metrics_is_several_objectives():
    logs = {"logs": ["folder"]}
    config = parse_config(
        {
            **MINIMAL,
            "tasks": ["y", "x", {"name": "x", "metric": "acc_norm,none", "weight": 2}],
            "merge3": {"calibration": {"x": logs, "x:acc_norm,none": "norm.safetensors"}, "data": {"x": "x.jsonl"}},
        }
    )
    objectives = config.objectives()
    assert {key: (task.name, task.metric, task.weight) for key, task in objectives.items()} == {
        "y": ("y", "acc,none", 1.0),
        "x:acc,none": ("x", "acc,none", 1.0),
        "x:acc_norm,none": ("x", "acc_norm,none", 2.0),
    }
    assert config.calibration_of("y") == "auto" and config.calibration_of("x:acc_norm,none") == "norm.safetensors"
    assert config.calibration_of("x:acc,none").logs == ["folder"]


def test_every_way_to_choose_anchors_can_be_asked_for():
    from merge3_plugin.extract.anchors import METHODS

    for method in ("auto", *METHODS):
        assert parse_config({**MINIMAL, "merge3": {"anchor_method": method}}).merge3.anchor_method == method
    assert set(get_args(AnchorMethod)) == {"auto", *METHODS}


def test_a_live_model_is_on_each_device_that_is_named():
    for device, devices in (("cpu", ["cpu"]), (["cuda:0", "cuda:0", "cuda:1"], ["cuda:0", "cuda:0", "cuda:1"])):
        assert parse_config({**MINIMAL, "merge3": {"device": device}}).merge3.devices() == devices
    assert parse_config(MINIMAL).merge3.devices() == ["auto"]
    for wrong in ([], 2, [0]):
        with pytest.raises(ConfigError, match="merge3.device.*expected auto, cpu, cuda:1"):
            parse_config({**MINIMAL, "merge3": {"device": wrong}})


def test_flags_win_and_leave_the_rest():
    config = parse_config(
        {**MINIMAL, "merge3": {"seed": 3, "search": {"popsize": 5}}},
        flags={"merge3.search.max_fevals": 7, "merge3.seed": 4},
    )
    assert (config.merge3.seed, config.merge3.search.popsize, config.merge3.search.max_fevals) == (4, 5, 7)
    with pytest.raises(ConfigError, match="expected a mapping at merge3"):
        parse_config({**MINIMAL, "merge3": 3}, flags={"merge3.seed": 4})


@pytest.mark.parametrize("text", [None, "a: [", "- 1\n", "\x00"])
def test_unreadable_files(tmp_path, text):
    path = tmp_path / "c.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="c.yml: expected"):
        load_config(path)
