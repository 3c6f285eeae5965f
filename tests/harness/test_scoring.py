"""The scorer against lm-eval's own evaluation of the same weights."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.live_model import LiveModel
from merge3_plugin.harness.scoring import Scorer

METRICS = {"plain_choice": "acc,none", "plain_number": "exact_match,last", "plain_group": "acc,none"}


@pytest.fixture
def benchmarks(tasks_folder):
    return load_benchmarks(METRICS, include_paths=[tasks_folder])


def lm_eval_scores(model, tokenizer, manager, task: str, **settings: Any) -> dict[str, float]:
    """Scores of all items by simple_evaluate on the live model, named as the benchmark names them."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from merge3_plugin.extract.items import item_ids

    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=[task],
        task_manager=manager,
        bootstrap_iters=0,
        **settings,
    )
    metric, filter_name = METRICS[task].split(",")
    scores = {}
    for leaf, samples in results["samples"].items():
        chosen = [s for s in samples if s["filter"] == filter_name]
        prefix = "" if leaf == task else f"{leaf}/"
        for item, sample in zip(item_ids([s["doc"] for s in chosen]), chosen, strict=True):
            scores[prefix + item] = float(sample[metric])
    return scores


def change_weights(model, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@pytest.mark.parametrize("settings", [{}, {"num_fewshot": 2, "apply_chat_template": True}], ids=["plain", "chat"])
def test_scores_are_lm_evals_at_every_state_of_the_weights(tasks_folder, manager, model_and_tokenizer, settings):
    model, tokenizer = model_and_tokenizer
    shots, template = settings.get("num_fewshot"), settings.get("apply_chat_template", False)
    benchmarks = load_benchmarks(METRICS, include_paths=[tasks_folder], num_fewshot=shots)
    scorer = Scorer(
        benchmarks, model, tokenizer, batch_size=4, apply_chat_template=template, fewshot_as_multiturn=template
    )
    seen = []
    for seed in (1, 2):
        change_weights(model, seed)
        for task, benchmark in benchmarks.items():
            scores = scorer.score(task, benchmark.item_ids).right
            expected = lm_eval_scores(model, tokenizer, manager, task, **settings, fewshot_as_multiturn=template)
            assert scores == expected
            assert list(scores) == list(benchmark.item_ids)
            seen.append(scores)
    assert seen[:3] != seen[3:]
    assert all(benchmark.per_item for benchmark in benchmarks.values())


def test_a_subset_scores_as_within_the_whole(benchmarks, model_and_tokenizer):
    scorer = Scorer(benchmarks, *model_and_tokenizer, batch_size=4)
    for task, benchmark in benchmarks.items():
        whole = scorer.score(task, benchmark.item_ids)
        some = list(benchmark.item_ids[::3])
        part = scorer.score(task, some[::-1])
        assert part.right == {item: whole.right[item] for item in some}
        assert part.soft == pytest.approx({item: whole.soft[item] for item in some if item in whole.soft}, rel=1e-5)
        assert list(whole.soft) == ([] if task == "plain_number" else list(benchmark.item_ids))
    assert scorer.score("plain_choice", []) == ({}, {})


def test_texts_are_tokenized_once(benchmarks, model_and_tokenizer, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    scorer = Scorer(benchmarks, *model_and_tokenizer, batch_size=4)
    before = {task: scorer.score(task, benchmark.item_ids) for task, benchmark in benchmarks.items()}
    encode, encoded = PreTrainedTokenizerFast._encode_plus, []

    def spy(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        encoded.append(text)
        return encode(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", spy)
    assert {task: scorer.score(task, benchmark.item_ids) for task, benchmark in benchmarks.items()} == before
    assert set(encoded) <= {"\n", "</s>"}  # the stop strings of generation, which lm-eval itself looks up


def test_items_are_tokenized_when_they_are_first_asked(benchmarks, model_and_tokenizer, monkeypatch):
    """A search asks some dozens of thousands of items; those beside the first scorer take what it has made."""
    model, tokenizer = model_and_tokenizer
    first = Scorer(benchmarks, model, tokenizer, batch_size=4)
    beside = Scorer(benchmarks, model, tokenizer, batch_size=4, first=first)
    encode, encoded = LiveModel.encode, []
    monkeypatch.setattr(
        LiveModel, "encode", lambda self, requests: encoded.extend(i.doc_id for i in requests) or encode(self, requests)
    )
    ids = benchmarks["plain_choice"].item_ids
    whole = Scorer(benchmarks, model, tokenizer, batch_size=4).score("plain_choice", ids)
    encoded.clear()
    first.price({"plain_choice": [ids[5], ids[2]]})
    assert set(encoded) == {2, 5}
    encoded.clear()
    assert beside.score("plain_choice", [ids[2], ids[7], ids[5]]).right == {
        ids[i]: whole.right[ids[i]] for i in (2, 5, 7)
    }
    first.score("plain_choice", [ids[7]])
    assert set(encoded) == {7}


def test_the_callers_tokenizer_is_left_as_it_was(benchmarks, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    tokenizer.pad_token = None
    Scorer(benchmarks, model, tokenizer).score("plain_number", benchmarks["plain_number"].item_ids[:2])
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("task", METRICS)
def test_weights_that_overflow_never_count_as_wrong_answers(benchmarks, model_and_tokenizer, task):
    model, tokenizer = model_and_tokenizer
    scorer = Scorer(benchmarks, model, tokenizer)
    model.lm_head.weight.data[5, 0] = float("nan")
    with pytest.raises(DataError, match="expected finite log"):
        scorer.score(task, benchmarks[task].item_ids)


def test_generation_settings_are_used(tasks_folder, model_and_tokenizer):
    benchmarks = load_benchmarks({"plain_number": "exact_match,last"}, include_paths=[tasks_folder])
    scorer = Scorer(benchmarks, *model_and_tokenizer, gen_kwargs={"max_gen_toks": 2})
    scorer.score("plain_number", benchmarks["plain_number"].item_ids)
    leaf = benchmarks["plain_number"].items.leaves["plain_number"]
    assert leaf.config.generation_kwargs == {"until": ["\n"], "max_gen_toks": 2, "do_sample": False}


def test_a_corpus_metric_is_evaluated_whole(tasks_folder, manager, evaluate, model_and_tokenizer):
    (benchmark,) = load_benchmarks({"plain_text": "word_perplexity,none"}, include_paths=[tasks_folder]).values()
    assert not benchmark.per_item
    scorer = Scorer({"plain_text": benchmark}, *model_and_tokenizer, batch_size=4)
    expected = evaluate(manager, "plain_text")["results"]["plain_text"]["word_perplexity,none"]
    assert scorer.evaluate({}, ["plain_text"])[1]["plain_text"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(DataError, match="choose a metric that scores single items"):
        scorer.score("plain_text", benchmark.item_ids)


@pytest.mark.parametrize("name", ["margin", "percent"])
def test_a_mean_of_numbers_outside_the_unit_interval_is_a_corpus_metric(
    tasks_folder, manager, evaluate, model_and_tokenizer, name
):
    task, metric = f"plain_{name}", f"{name},none"
    (benchmark,) = load_benchmarks({task: metric}, include_paths=[tasks_folder]).values()
    assert not benchmark.per_item
    scorer = Scorer({task: benchmark}, *model_and_tokenizer, batch_size=4)
    expected = evaluate(manager, task)["results"][task][metric]
    assert scorer.evaluate({}, [task])[1][task] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def tokens_read(model_and_tokenizer):
    """Counts the tokens of all forward passes from here on; with a batch size of 1 nothing is padded."""
    counted = [0]
    model, _ = model_and_tokenizer

    def count(module, inputs, named) -> None:
        counted[0] += (named["input_ids"] if "input_ids" in named else inputs[0]).numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    yield counted
    handle.remove()


@pytest.mark.parametrize("task", ["plain_choice", "plain_group", "plain_text"])
def test_the_price_is_what_the_model_reads(tasks_folder, model_and_tokenizer, tokens_read, task):
    benchmarks = load_benchmarks({task: METRICS.get(task, "word_perplexity,none")}, include_paths=[tasks_folder])
    scorer, benchmark = Scorer(benchmarks, *model_and_tokenizer, batch_size=1), benchmarks[task]
    several = ({task: benchmark.item_ids[::2]}, ()) if benchmark.per_item else ({}, [task])
    price = scorer.price(*several)
    assert tokens_read == [0] and price.items == len(benchmark.item_ids[:: 2 if benchmark.per_item else 1])
    scorer.evaluate(*several)  # the first time, packs are tried out, which is no part of the price
    tokens_read[0] = 0
    scorer.evaluate(*several)
    # What the prompts of several items begin with in common is read once, and not more often than it is priced.
    assert price.items < tokens_read[0] <= price.tokens
    one = ({task: benchmark.item_ids[:1]}, ()) if benchmark.per_item else ({}, [task])
    tokens_read[0] = 0
    scorer.evaluate(*one)
    assert tokens_read[0] == scorer.price(*one).tokens


@pytest.mark.parametrize("most", [3, 40])
def test_generated_answers_are_priced_at_their_longest(tasks_folder, model_and_tokenizer, tokens_read, most):
    benchmarks = load_benchmarks({"plain_number": "exact_match,last"}, include_paths=[tasks_folder])
    scorer = Scorer(benchmarks, *model_and_tokenizer, batch_size=1, gen_kwargs={"max_gen_toks": most, "until": []})
    ids = benchmarks["plain_number"].item_ids[:4]
    price = scorer.price({"plain_number": ids})
    scorer.score("plain_number", ids)
    assert tokens_read[0] <= price.tokens
    # Nothing stops this model, and the last token that it generates is not read again.
    assert price.tokens == tokens_read[0] + len(ids)


def test_metrics_of_one_task_share_their_tokens(tasks_folder, model_and_tokenizer):
    metrics = {"right": "acc,none", "normed": "acc_norm,none"}
    named = dict.fromkeys(metrics, "plain_choice")
    benchmarks = load_benchmarks(metrics, tasks=named, include_paths=[tasks_folder])
    scorer, ids = Scorer(benchmarks, *model_and_tokenizer), benchmarks["right"].item_ids
    one, other = scorer.price({"right": ids[:5]}), scorer.price({"normed": ids[3:9]})
    both = scorer.price({"right": ids[:5], "normed": ids[3:9]})
    assert both.items == one.items + other.items
    assert both.tokens == scorer.price({"right": ids[:9]}).tokens < one.tokens + other.tokens
    assert scorer.price({}) == scorer.price({"right": []}) == (0, 0)


def test_provenance_says_how_items_are_asked(benchmarks, model_and_tokenizer):
    from lm_eval.utils import hash_string

    model, tokenizer = model_and_tokenizer
    assert Scorer(benchmarks, model, tokenizer).provenance("plain_choice")["chat_template"] is None
    asked = Scorer(benchmarks, model, tokenizer, apply_chat_template=True).provenance("plain_number")
    assert asked["chat_template"] == hash_string(tokenizer.chat_template)
    assert (asked["metric"], asked["filter"], asked["num_fewshot"]) == ("exact_match", "last", 0)


def test_unknown_names_are_one_line(benchmarks, tasks_folder, model_and_tokenizer):
    scorer = Scorer(benchmarks, *model_and_tokenizer)
    with pytest.raises(DataError, match="did you mean 'plain_choice'"):
        scorer.score("plain_choic", [])
    with pytest.raises(DataError, match="got 'nobody', which is not one of them"):
        scorer.score("plain_choice", ["nobody"])
    with pytest.raises(ConfigError, match="did you mean 'acc,none'"):
        load_benchmarks({"plain_choice": "acc,nothing"}, include_paths=[tasks_folder])


def test_scorers_beside_the_first_take_its_requests_and_keep_their_own_responses(benchmarks, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    other = copy.deepcopy(model)
    change_weights(other, 3)
    first = Scorer(benchmarks, model, tokenizer, batch_size=4)
    scorers = [Scorer(benchmarks, each, tokenizer, batch_size=4, first=first) for each in (model, other)]
    asked = {task: benchmark.item_ids for task, benchmark in benchmarks.items()}
    expected = [Scorer(benchmarks, each, tokenizer, batch_size=4).evaluate(asked) for each in (model, other)]
    assert expected[0] != expected[1]

    def ask(scorer: Scorer) -> list[Any]:
        return [scorer.evaluate(asked) for _ in range(3)]

    with ThreadPoolExecutor(2) as threads:
        found = threads.map(ask, scorers)
        prices = [first.price(asked) for _ in range(20)]
        assert list(found) == [[each] * 3 for each in expected]
    assert set(prices) == {scorers[0].price(asked)}
    requests = [scorer.requests("plain_choice") for scorer in (first, *scorers)]
    of_first, *others = [next(iter(of.values()))[0] for of in requests]
    assert not of_first.resps and others[0].resps != others[1].resps
    assert all(each.arguments is of_first.arguments and each.doc is of_first.doc for each in others)
    scorers[1].halve()
    assert first.halved and not scorers[0].halved
    first.halve()
    assert scorers[0].halved
