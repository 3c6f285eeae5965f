"""What an installation gives and takes away: real pip and real commands, in fresh environments."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TASK_FILES = [path for path in (ROOT / "lm_eval_tasks").iterdir() if path.is_file()]
TASKS = {path.stem for path in TASK_FILES if path.suffix == ".yaml"}

LIST_TASKS = """
import json, logging
logging.basicConfig(level=logging.WARNING)
from lm_eval.tasks import TaskManager
print(json.dumps([task for task in TaskManager(include_defaults=False).all_tasks if task.startswith("merge3_")]))
"""


@pytest.fixture(params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue({"wheel": "from_wheel"}.get(request.param, request.param))


@pytest.fixture(params=["outside", "inside"])
def cwd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return ROOT if request.param == "inside" else tmp_path


def merge_config(folder: Path, models: list[Path], method: str, **parameters: float) -> Path:
    base, *others = map(str, models)
    path = folder / "merge.yml"
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "float32", "parameters": parameters}
    if method == "linear":
        recipe["models"] = [{"model": model, "parameters": {"weight": 1.0}} for model in others]
    else:
        recipe |= {"base_model": base, "models": [{"model": model} for model in others]}
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def warnings_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("merge3:")]


def test_the_wheel_holds_the_package_the_tasks_and_the_hook_into_python_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name for name in names if name.startswith("lm_eval_tasks/")} == {
        f"lm_eval_tasks/{path.name}" for path in TASK_FILES
    }
    assert {"merge3_autoload.pth", "merge3_autoload.py", "merge3_plugin/cli.py"} <= names
    assert {name.split("/")[0] for name in names} == {
        "merge3_plugin",
        "lm_eval_tasks",
        "merge3_autoload.py",
        "merge3_autoload.pth",
    }
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_lm_eval_finds_each_task_once(installed: Any, cwd: Path) -> None:
    done = installed.run("python", "-c", LIST_TASKS, cwd=cwd)
    assert set(json.loads(done.stdout.splitlines()[-1])) == TASKS, done.stderr
    assert "overrides" not in done.stderr and "Duplicate" not in done.stderr and not warnings_of(done)


def test_the_tasks_are_found_once_by_an_lm_eval_that_reads_entry_points(installed: Any, cwd: Path) -> None:
    code = """
from importlib.metadata import entry_points
from importlib.resources import files
(entry,) = entry_points(group="lm_eval.tasks", name="merge3")
print(files(entry.load()))
"""
    folder = Path(installed.run("python", "-c", code, cwd=cwd).stdout.strip())
    assert {path.name for path in folder.glob("*.yaml")} == {f"{task}.yaml" for task in TASKS}


def test_python_starts_as_if_we_were_not_there(installed: Any, cwd: Path) -> None:
    code = (
        "import sys; print(*(m for m in sys.modules if m.startswith(('merge3', 'lm_eval', 'mergekit', 'importlib.'))))"
    )
    done = installed.run("python", "-c", code, cwd=cwd)
    ours = [name for name in done.stdout.split() if not name.startswith("importlib")]
    assert (ours, done.stderr) == (["merge3_autoload"], "")
    assert (installed.run("python", "-c", "pass", cwd=cwd).stdout, done.returncode) == ("", 0)


def test_the_autoload_module_imports_what_python_has_already_imported() -> None:
    source = (ROOT / "merge3_autoload.py").read_text(encoding="utf-8")
    assert [line for line in source.splitlines() if line.startswith(("import ", "from "))] == [
        "import os",
        "import sys",
    ]
    assert len(source.splitlines()) < 120


def test_the_commands_are_installed(installed: Any) -> None:
    for command in ("merge3", "mergekit-evolve-merge3"):
        done = installed.run(command, "--help")
        assert done.returncode == 0 and done.stdout.startswith("Usage:"), done.stderr


def test_the_bare_lm_eval_command_scores_our_task_by_our_model(
    from_wheel: Any, tiny_models: list[Path], tmp_path: Path
) -> None:
    data = tmp_path / "ja.jsonl"
    items = [
        {"_id": f"q{i}", "prompt": f"{i}と{i + 1}の和?", "choices": [str(2 * i + k) for k in range(4)], "label": 1}
        for i in range(12)
    ]
    data.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    settings = {"merge3": {"tasks": {"merge3_arc_ja": {"data": str(data)}}}}
    done = from_wheel.run(
        *("lm_eval", "--model", "merge3-hf", "--model_args", f"pretrained={tiny_models[0]},dtype=float32"),
        *("--device", "cpu", "--tasks", "merge3_arc_ja", "--metadata", json.dumps(settings)),
        *("--output_path", tmp_path / "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "merge3_acc" in done.stdout and "overrides" not in done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]["merge3_arc_ja"]
    assert results["merge3_items,none"] == 12 and 0 <= results["merge3_acc,none"] <= 1


def test_mergekit_yaml_knows_the_method_of_a_plugin(from_wheel: Any, tiny_models: list[Path], tmp_path: Path) -> None:
    config = merge_config(tmp_path, tiny_models, "soft_median", scale=0.5, sharpness=0.0)
    done = from_wheel.run("mergekit-yaml", config, tmp_path / "merged")
    assert done.returncode == 0 and not warnings_of(done), done.stderr
    base, *others = map(tensors, tiny_models)
    for name, merged in tensors(tmp_path / "merged").items():
        mean = sum(other[name] for other in others) / len(others)
        assert (merged - (base[name] + 0.5 * (mean - base[name]))).abs().max() < 1e-6, name


def test_merge3_plugins_says_what_a_plugin_brings(from_wheel: Any) -> None:
    listed = from_wheel.run("merge3", "plugins").stdout
    assert "example (merge3-example-plugin 1.0)" in listed
    assert "merge method: soft_median (scale in [0, 2], sharpness in [0, 4])" in listed
    assert "estimators: parent-difference" in listed


def test_switched_off_lm_eval_and_mergekit_are_as_they_were(
    from_wheel: Any, tiny_models: list[Path], tmp_path: Path
) -> None:
    done = from_wheel.run("python", "-c", LIST_TASKS, MERGE3_AUTOLOAD="0")
    assert json.loads(done.stdout.splitlines()[-1]) == []
    config = merge_config(tmp_path, tiny_models, "soft_median")
    done = from_wheel.run("mergekit-yaml", config, tmp_path / "merged", MERGE3_AUTOLOAD="0")
    assert done.returncode != 0 and "Unimplemented merge method soft_median" in done.stderr


def test_a_broken_plugin_is_one_warning_in_mergekit_yaml_and_an_error_in_merge3(
    from_wheel: Any, tiny_models: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "twin.py").write_text("from merge3_example_plugin import merge3_register_merge_methods\n")
    info = tmp_path / "twin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[merge3]\ntwin = twin\n")
    config = merge_config(tmp_path, tiny_models, "linear")
    done = from_wheel.run("mergekit-yaml", config, tmp_path / "merged", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0 and tensors(tmp_path / "merged")
    (warning,) = warnings_of(done)
    assert "'soft_median'" in warning and "'twin'" in warning and "'example'" in warning
    done = from_wheel.run("merge3", "plugins", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'twin'" in done.stderr


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_after_uninstall_nothing_of_us_is_left(
    kind: str,
    new_environment: Callable[[], Any],
    request: pytest.FixtureRequest,
    tiny_models: list[Path],
    tmp_path: Path,
) -> None:
    environment = new_environment()
    environment.install(*([request.getfixturevalue("wheel")] if kind == "wheel" else ["--editable", ROOT]))
    assert environment.run("python", "-c", "import merge3_autoload, merge3_plugin").returncode == 0
    environment.pip("uninstall", "--yes", "merge3-plugin")
    assert not [path for path in environment.folder.rglob("*merge3*") if "__pycache__" not in path.parts]
    for cwd in (ROOT, tmp_path):
        done = environment.run("python", "-c", LIST_TASKS, cwd=cwd)
        assert (done.returncode, json.loads(done.stdout.splitlines()[-1]), warnings_of(done)) == (0, [], [])
    if kind == "wheel":
        done = environment.run("mergekit-yaml", merge_config(tmp_path, tiny_models, "linear"), tmp_path / "merged")
        assert done.returncode == 0 and not warnings_of(done)


def test_a_removed_clone_silences_its_editable_installation(new_environment: Callable[[], Any], tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for folder in ("merge3_plugin", "lm_eval_tasks"):
        shutil.copytree(ROOT / folder, clone / folder)
    for file in ("pyproject.toml", "README.md", "LICENSE", "merge3_autoload.py", "merge3_autoload.pth"):
        shutil.copy(ROOT / file, clone)
    environment = new_environment()
    environment.install("--editable", clone)
    shutil.rmtree(clone)
    done = environment.run("python", "-c", LIST_TASKS)
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1]), warnings_of(done)) == (0, [], []), done.stderr
