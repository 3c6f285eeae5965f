import pytest
import yaml

from merge3_plugin.cli import run
from merge3_plugin.cli_evolve import _overrides, evolve

# Every flag of upstream's command, each with a value that its users write.
UPSTREAM_FLAGS = [
    "--max-fevals=7", "--no-vllm", "--strategy=pool", "-s=serial", "--in-memory", "--no-in-memory", "--num-gpus=1",
    "--merge-cuda", "--no-merge-cuda", "--trust-remote-code", "--no-trust-remote-code", "--allow-crimes",
    "--no-allow-crimes", "--random-seed=3", "--batch-size=8", "--sigma0=0.2", "--no-wandb", "--wandb-project=p",
    "--wandb-entity=e", "--task-search-path=a", "--i-understand-the-depths-of-the-evils-i-am-unleashing",
    "--save-final-model", "--no-save-final-model", "--reshard", "--no-reshard", "--timeout=60",
    "--force-population-size=9",
]  # fmt: skip


@pytest.mark.parametrize("flag", UPSTREAM_FLAGS)
def test_upstreams_flags_are_accepted(flag):
    flag = ["-s", "serial"] if flag.startswith("-s=") else [flag]
    context = evolve.make_context("mergekit-evolve-merge3", ["config.yml", "--storage-path", "out", *flag])
    params = {key: value for key, value in context.params.items() if key not in ("genome_config_path", "storage_path")}
    _overrides(params)


def test_flags_become_config_keys():
    flags = ["--max-fevals=7", "--random-seed=3", "--batch-size=8", "--sigma0=0.2", "--timeout=60", "--max-items=900"]
    flags += ["--max-tokens=8000", "--patience=20", "--optimizer=random", "--fidelity=racing", "--baselines"]
    context = evolve.make_context(
        "x", ["c", "--storage-path", "o", *flags, "--force-population-size=9", "--no-merge-cuda"]
    )
    assert _overrides(context.params) == {
        "merge3.search.max_fevals": 7,
        "merge3.search.max_items": 900,
        "merge3.search.max_tokens": 8000,
        "merge3.search.patience": 20,
        "merge3.search.timeout": 60.0,
        "merge3.search.optimizer": "random",
        "merge3.fidelity.strategy": "racing",
        "merge3.baselines": True,
        "merge3.search.sigma0": 0.2,
        "merge3.search.popsize": 9,
        "merge3.seed": 3,
        "merge3.eval.batch_size": 8,
        "merge3.device": "cpu",
    }


@pytest.mark.parametrize(
    ("flags", "device"),
    [(["--num-gpus=2"], ["cuda:0", "cuda:1"]), (["--num-gpus=2", "--merge-cuda"], ["cuda:0", "cuda:1"]), ([], None)],
)
def test_several_gpus_have_a_live_model_each(flags, device):
    context = evolve.make_context("x", ["c", "--storage-path", "o", *flags])
    assert _overrides(context.params).get("merge3.device") == device


@pytest.mark.parametrize(("flags", "model"), [(["--vllm"], "vllm"), (["--no-vllm"], "hf"), ([], None)])
def test_vllm_scores_where_the_flag_says_so(flags, model):
    context = evolve.make_context("x", ["c", "--storage-path", "o", *flags])
    assert _overrides(context.params).get("merge3.eval.model") == model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--load-in-8bit"], "leave the flag out"),
        (["--load-in-4bit"], "leave the flag out"),
        (["--wandb"], "observer plug-in"),
        (["--num-gpus", "4", "--no-merge-cuda"], "expected 1 with --no-merge-cuda, got 4"),
        (["--num-gpus", "0"], "0 is not in the range"),
        ([], "expected a readable YAML file"),
        (["--max-feval", "4"], "--max-fevals"),
        (["--max-fevals", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_status_2(arguments, words, tmp_path, capsys):
    status = run(evolve, "x", [str(tmp_path / "none.yml"), "--storage-path", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert status == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_config_with_a_wrong_key_leaves_no_folder_behind(tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({"genome": {"models": ["a"], "merge_methd": "linear"}, "tasks": ["t"]}))
    assert run(evolve, "x", [str(path), "--storage-path", str(tmp_path / "out")]) == 2
    assert "did you mean 'merge_method'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
