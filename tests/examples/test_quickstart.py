"""The world and the models of the quickstart: what its figures rest on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from merge3_plugin.config import load_config
from merge3_plugin.evolve.population import split_items

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import train  # noqa: E402
import world  # noqa: E402

SETTINGS = train.Settings()
SKILLS = list(world.SKILLS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The documents of each file that the demo writes."""
    folder = tmp_path_factory.mktemp("data")
    train.write_data(folder, SETTINGS)
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in folder.glob("*.jsonl")
    }


@pytest.mark.parametrize("skill", SKILLS)
def test_every_answer_position_is_as_frequent_in_each_script(data: dict[str, Any], skill: str) -> None:
    kanji = {world.numeral(number, "kanji") for number in range(100)}
    counts = Counter((document["choices"][0] in kanji, document["label"]) for document in data[skill])
    assert len(counts) == 2 * world.N_CHOICES
    assert set(counts.values()) == {SETTINGS.evaluation_items // 8}


@pytest.mark.parametrize("skill", SKILLS)
def test_no_text_repeats_between_training_search_and_held_out_items(data: dict[str, Any], skill: str) -> None:
    asked = [document["prompt"] for document in data[skill]]
    trained = {item.prompt for item in train.training_items(skill, SETTINGS)}
    assert len(set(asked)) == len(asked)
    assert len(trained) == SETTINGS.training_items
    assert not trained & set(asked)


def test_operations_are_told_apart_by_their_words(data: dict[str, Any]) -> None:
    words = [operation.words for operation in world.OPERATIONS.values()]
    assert len(set(words)) == len(words)
    everything = [document["prompt"] for document in data["all"]]
    assert len(set(everything)) == len(everything) == len(SKILLS) * SETTINGS.evaluation_items
    assert len({document["_id"] for document in data["all"]}) == len(everything)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_thousand_items_are_held_out(data: dict[str, Any], skill: str) -> None:
    config = load_config(QUICKSTART / "evolve.yml")
    ids = [document["_id"] for document in data[skill]]
    # As if every anchor had been taken out beforehand: the case with the fewest.
    split = split_items(ids, anchors=ids[: config.merge3.anchors], fraction=config.merge3.held_out, seed=0)
    assert len(split.held_out) >= 1000


@pytest.mark.parametrize("skill", SKILLS)
def test_the_labelled_choice_and_no_other_is_right(data: dict[str, Any], skill: str) -> None:
    value = {world.numeral(number, script): number for script in world.SCRIPTS for number in range(100)}
    for document in data[skill]:
        words = document["prompt"].split()
        numbers = [value[word] for word in words[:4]]
        right = {
            "addition": lambda numbers, words: numbers[0] + numbers[3],
            "maximum": lambda numbers, words: sorted(numbers)[-1],
            "position": lambda numbers, words: numbers[value[words[5]] - 1],
        }[skill](numbers, words)
        assert [value[choice] == right for choice in document["choices"]].index(True) == document["label"]
        assert len(set(document["choices"])) == world.N_CHOICES


def test_the_seed_decides_the_items() -> None:
    first, again, other = (list(islice(world.items("addition", seed), 16)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("number", "digits", "kanji"), [(0, "0", "零"), (10, "10", "十"), (42, "42", "四十二")])
def test_numerals(number: int, digits: str, kanji: str) -> None:
    assert (world.numeral(number, "digits"), world.numeral(number, "kanji")) == (digits, kanji)


def test_each_word_and_each_choice_is_one_known_token(data: dict[str, Any]) -> None:
    tokenizer = train.make_tokenizer()
    for document in data["all"][::40]:
        text = world.TEMPLATE.format(prompt=document["prompt"])
        words = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(words) == text.split()
        for choice in document["choices"]:
            assert tokenizer(text + choice)["input_ids"] == [*words, tokenizer.convert_tokens_to_ids(choice)]
        assert tokenizer.unk_token_id not in words


SMALL = train.Settings(
    hidden_size=32, layers=2, heads=2, batch_size=16, base_steps=30, skill_steps=5, evaluation_items=16,
    training_items=64,
)  # fmt: skip


def test_training_learns_is_seeded_and_is_skipped_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import math

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train.prepare(tmp_path / "a", SMALL)
    report = capsys.readouterr().out
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in report.splitlines()]
    assert len(losses) == 4
    assert losses[0] < math.log(len(train.make_tokenizer()))  # better than a guess among all tokens

    weights = (tmp_path / "a" / "models" / "position" / "model.safetensors").read_bytes()
    generator = torch.get_rng_state()
    train.prepare(tmp_path / "a", SMALL)
    assert not capsys.readouterr().out
    train.prepare(tmp_path / "b", SMALL)
    assert (tmp_path / "b" / "models" / "position" / "model.safetensors").read_bytes() == weights
    assert torch.equal(torch.get_rng_state(), generator)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "models" / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "models" / "base")
    assert model.config.vocab_size == len(tokenizer)


def test_models_have_about_half_a_million_parameters() -> None:
    model = train.make_model(SETTINGS, len(train.make_tokenizer()))
    assert 0.4e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.6e6


@pytest.mark.parametrize("script", ["examples/quickstart/demo.py", "benchmarks/quickstart_seeds.py"])
def test_help_says_what_a_script_makes(script: str) -> None:
    command = [sys.executable, str(QUICKSTART.parents[1] / script), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--out" in shown.stdout
