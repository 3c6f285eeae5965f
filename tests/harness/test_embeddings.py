"""Embeddings of items: those of the model itself, whatever the batches, and good for choosing anchors."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.domain import ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.harness import embeddings
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.embeddings import embed_items
from merge3_plugin.harness.scoring import Scorer

METRICS = {
    "plain_choice": "acc,none",
    "plain_number": "exact_match,last",
    "plain_group": "acc,none",
    "plain_text": "word_perplexity,none",
}


@pytest.fixture
def scorer(tasks_folder, model_and_tokenizer):
    benchmarks = load_benchmarks(METRICS, include_paths=[tasks_folder], num_fewshot=2)
    return Scorer(benchmarks, *model_and_tokenizer, batch_size=5)


def distances(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)


def test_they_are_mean_last_hidden_states_of_the_items_own_text(scorer, model_and_tokenizer):
    import torch

    model, tokenizer = model_and_tokenizer
    items = scorer.live("plain_choice")[0]
    expected = []
    for document in items.documents.values():
        text = f"数の問題。\n質問: {document['prompt']}\n答え:"
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
        expected.append(states[0].mean(dim=0).numpy())
    found = embed_items(scorer, "plain_choice")
    assert found.shape == (12, 12) and np.ptp(distances(np.array(expected))) > 0.1
    assert distances(found) == pytest.approx(distances(np.array(expected)), abs=1e-4)


def test_of_a_text_that_is_too_long_the_end_is_read(scorer, model_and_tokenizer, monkeypatch):
    import torch

    model, tokenizer = model_and_tokenizer
    items, live = scorer.live("plain_choice")
    monkeypatch.setattr(live, "_max_length", 9)
    tokens = [tokenizer(f"数の問題。\n質問: {d['prompt']}\n答え:")["input_ids"] for d in items.documents.values()]
    assert min(map(len, tokens)) > 9
    with torch.no_grad():
        states = model(torch.tensor([of[-9:] for of in tokens]), output_hidden_states=True).hidden_states[-1]
    assert distances(embed_items(scorer, "plain_choice")) == pytest.approx(distances(states.mean(1).numpy()), abs=1e-4)


@pytest.mark.parametrize("task", METRICS)
def test_batches_change_nothing(tasks_folder, model_and_tokenizer, scorer, task):
    benchmarks = load_benchmarks({task: METRICS[task]}, include_paths=[tasks_folder])
    alone = Scorer(benchmarks, *model_and_tokenizer, batch_size=1)
    first, second = embed_items(scorer, task), embed_items(alone, task)
    assert len(first) == len(benchmarks[task].item_ids)
    assert distances(first) == pytest.approx(distances(second), abs=1e-4)


def test_they_are_those_of_the_weights_as_they_are_now(scorer, model_and_tokenizer):
    import torch

    before = embed_items(scorer, "plain_choice")
    with torch.no_grad():
        for parameter in model_and_tokenizer[0].parameters():
            parameter.mul_(1.5)
    assert distances(embed_items(scorer, "plain_choice")) != pytest.approx(distances(before), abs=1e-2)
    with torch.no_grad():
        next(model_and_tokenizer[0].parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="finite hidden states"):
        embed_items(scorer, "plain_choice")


def test_many_dimensions_are_reduced_to_the_leading_ones(scorer, monkeypatch):
    whole = embed_items(scorer, "plain_choice")
    monkeypatch.setattr(embeddings, "COMPONENTS", 3)
    fewer = embed_items(scorer, "plain_choice")
    assert fewer.shape == (12, 3)
    assert distances(fewer) == pytest.approx(distances(whole[:, :3]), abs=1e-6)


def test_anchors_are_chosen_by_them(scorer):
    items = scorer.live("plain_choice")[0]
    vectors = embed_items(scorer, "plain_choice")
    rng = np.random.default_rng(0)
    responses = ResponseMatrix(rng.integers(0, 2, (4, 12)), "abcd", list(items.documents))
    parameters = ItemParameters(np.ones((12, 1)), np.zeros(12))
    anchors = select_anchors(responses, parameters, 4, method="representation-clusters", rng=rng, embeddings=vectors)
    assert len(anchors) == 4 and anchors.method in ("representation-clusters", "kd")
