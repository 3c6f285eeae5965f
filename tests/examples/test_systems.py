"""The published systems as configs: each can be planned over the quickstart's models; `make examples` runs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from merge3_plugin.cli import merge3, run

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES / "quickstart"))

import train  # noqa: E402

SYSTEMS = sorted((EXAMPLES / "systems").glob("*.yml"))
SETTINGS = train.Settings(evaluation_items=104)
# As published, of three models or two in four layers: SLERP by filter, 2K genes, groups * (1 + sets * (2 models + 3)).
GENES = {
    "merge3_cross_lingual": (4 + 4 + 1, {"real"}),
    "mergenetic_ga": (4 + 4 + 1, {"integer"}),
    "mergenetic_nsga2": (2 * 3, {"integer"}),
    "layer_wise_fusion": (2 * (1 + 3 * (2 * 3 + 3)), {"real", "categorical"}),
    "multi_fidelity": (2 * (1 + 3 * (2 * 3 + 3)), {"real", "categorical"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's items and models, untrained: a plan reads no weights."""
    out = tmp_path_factory.mktemp("quickstart")
    (out / "data").mkdir()
    train.write_data(out / "data", SETTINGS)
    tokenizer = train.make_tokenizer()
    model = train.make_model(SETTINGS, len(tokenizer))
    names = ["base", "addition", "maximum", "position"]
    steps = [f"checkpoints/{skill}-{step}" for skill in names[1:] for step in (80, 160, 240, 320, 400)]
    for name in [*(f"models/{name}" for name in names), "checkpoints/base", *steps]:
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    return out


@pytest.mark.parametrize("config", SYSTEMS, ids=lambda path: path.stem)
def test_each_system_can_be_planned(
    config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    tasks = str(EXAMPLES / "quickstart" / "tasks")
    status = run(merge3, "merge3", ["plan", str(config), "--task-search-path", tasks, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == 0 and found["layers"] == SETTINGS.layers
    assert found["phases"]["search"]["evaluations"] > 0
    assert ("held-out tasks" in found["phases"]) == (config.stem == "recycle"), "tasks kept apart, as published"
    if config.stem in GENES:
        kinds = [variable["kind"] for variable in found["space"]["variables"]]
        assert (len(kinds), set(kinds)) == GENES[config.stem]
    assert not any("takes longer" in warning for warning in found["warnings"]), "a strategy that suits the space"


def test_there_is_one_for_each_of_the_systems() -> None:
    assert len(SYSTEMS) == 7
    recycled = next(path for path in SYSTEMS if path.stem == "recycle").read_text(encoding="utf-8")
    assert "checkpoints/*" in recycled
