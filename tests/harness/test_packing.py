"""Packs against lm-eval's padded batches, on small models of many architectures; and the model lm-eval knows."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM

from merge3_plugin.errors import DataError
from merge3_plugin.harness import generation, packed_lm
from merge3_plugin.harness.live_model import LiveModel
from merge3_plugin.testing import make_tiny_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
}
PACKED = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 100},
    "gemma3_text": {"head_dim": 8, "sliding_window": 100},
    "granite": {},
    "olmo2": {},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
}
PADDED = {
    "mistral": ({"sliding_window": 8}, "sees 8 tokens back"),
    "gemma2": ({"head_dim": 8}, "takes softcap"),
    "gpt_oss": ({"head_dim": 8, "num_local_experts": 4}, "takes s_aux"),
    "bloom": ({"n_layer": 3, "n_head": 4}, "cannot be replaced"),
    "mamba": ({}, "cannot be replaced"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tiny_tokenizer()


def make(tokenizer: Any, kind: str, **settings: Any) -> Any:
    """A random model whose logits depend on what it attends to."""
    config = AutoConfig.for_model(kind, **{"vocab_size": len(tokenizer), **SIZES, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def requests(tokenizer: Any, longest: int = 20) -> list[Any]:
    """Six questions of three options: of several lengths, of one token, and some cut off on the left."""
    rng = random.Random(0)

    def text(n: int) -> list[int]:
        return [rng.randrange(5, len(tokenizer)) for _ in range(n)]

    shots = text(9)
    found = []
    for number in range(6):
        context = [*shots, *text(rng.randrange(4, longest))]
        for option in range(3):
            found.append(((f"question {number}", f"option {option}"), context, text(1 if number == 2 else 1 + option)))
    return found


def padded(model: Any, tokenizer: Any, asked: list[Any]) -> list[tuple[float, bool]]:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)._loglikelihood_tokens(asked, disable_tqdm=True)


def same(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("kind", PACKED)
def test_packs_give_the_log_likelihoods_of_padded_batches(tokenizer, kind):
    model = make(tokenizer, kind, **PACKED[kind])
    live, asked = LiveModel(model, tokenizer, 1), requests(tokenizer)
    plan = live.plan(asked)
    assert plan.packs is not None and len(plan.packs) > 1
    before = model.config._attn_implementation
    same(live.score(plan), padded(model, tokenizer, asked))
    assert model.config._attn_implementation == before != "merge3_packed"
    # A plan holds for other weights.
    with torch.no_grad():
        next(model.parameters()).mul_(1.3)
    same(live.score(plan), padded(model, tokenizer, asked))


@pytest.mark.parametrize("kind", PADDED)
def test_models_that_read_no_packs_say_why_and_are_read_in_padded_batches(tokenizer, kind, caplog):
    settings, reason = PADDED[kind]
    model = make(tokenizer, kind, **settings)
    with caplog.at_level(logging.INFO, "merge3_plugin"):
        live, asked = LiveModel(model, tokenizer, 4), requests(tokenizer)
        plan = live.plan(asked)
        live.plan(asked[:3])  # it is said once
    assert plan.packs is None
    assert [reason in record.message for record in caplog.records if "padded batches" in record.message] == [True]
    same(live.score(plan), padded(model, tokenizer, asked))


def test_a_window_that_sees_all_of_a_question_takes_packs(tokenizer):
    model = make(tokenizer, "mistral", sliding_window=30)
    live = LiveModel(model, tokenizer, 4)
    short, long = (requests(tokenizer, longest) for longest in (10, 40))
    assert live.plan(short).packs is not None and live.plan(long).packs is None
    for asked in (short, long):
        same(live.score(live.plan(asked)), padded(model, tokenizer, asked))


def test_attention_that_does_not_do_as_it_is_told_is_found_out(tokenizer, monkeypatch):
    """Stands in for code that replaces its attention but reads other positions than those it is given."""
    model = make(tokenizer, "llama")
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))
    live, asked = LiveModel(model, tokenizer, 4), requests(tokenizer)
    assert live.plan(asked).packs is None
    same(live.score(live.plan(asked)), padded(model, tokenizer, asked))


def test_weights_that_overflow_are_no_trial(tokenizer, monkeypatch):
    """The same attention, met first under weights under which all logits are NaN."""
    model = make(tokenizer, "llama")
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))
    live, asked = LiveModel(model, tokenizer, 4), requests(tokenizer)
    kept = model.lm_head.weight.data.clone()
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="expected finite log-likelihoods, got nan"):
        live.plan(asked)
    model.lm_head.weight.data.copy_(kept)
    assert live.plan(asked).packs is None


def test_bfloat16_takes_packs_and_the_same_options(tokenizer):
    model = make(tokenizer, "llama").to(torch.bfloat16)
    live, asked = LiveModel(model, tokenizer, 4), requests(tokenizer)
    plan = live.plan(asked)
    assert plan.packs is not None
    found, expected = live.score(plan), padded(model, tokenizer, asked)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=0.02)


def test_contexts_longer_than_the_model_are_cut_on_the_left(tokenizer):
    model = make(tokenizer, "llama", max_position_embeddings=24)
    live, asked = LiveModel(model, tokenizer, 4), requests(tokenizer, 40)
    assert max(len(context) for _, context, _ in asked) > 24
    same(live.score(live.plan(asked)), padded(model, tokenizer, asked))
    with pytest.raises(DataError, match="an answer of 1 to 24 tokens, got 25"):
        live.plan([(("a", "b"), [5], [5] * 25)])


def test_the_passes_hold_no_more_tokens_and_logits_than_they_may(tokenizer, monkeypatch):
    model = make(tokenizer, "llama")
    live, asked = LiveModel(model, tokenizer, 1), requests(tokenizer)
    live.plan(asked)  # the trial
    monkeypatch.setattr(packed_lm, "LOGITS", 8 * len(tokenizer) * 9)
    read: list[tuple[int, int]] = []
    model.register_forward_hook(lambda _, args, found: read.append((found.logits.shape[1], 0)))
    plan = live.plan(asked)
    live.score(plan)
    assert max(pack.tokens.shape[1] for pack in plan.packs) <= 64
    assert [scored for scored, _ in read] == [len(pack.scored) for pack in plan.packs] and max(read)[0] <= 9


class TestOutOfMemory:
    """torch's own error, raised by hand: memory that really runs out would take the machine along."""

    @pytest.fixture
    def fails(self, monkeypatch):
        """Passes of more than so many tokens fail."""

        def limit(model: Any, most: int) -> None:
            def check(module: Any, args: Any, named: Any) -> None:
                if named["input_ids"].numel() > most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

            model.register_forward_pre_hook(check, with_kwargs=True)

        return limit

    def test_halves_the_passes_once_and_goes_on(self, tokenizer, fails, caplog):
        model = make(tokenizer, "llama")
        live, asked = LiveModel(model, tokenizer, 2), requests(tokenizer)
        plan = live.plan(asked)
        expected = live.score(plan)
        fails(model, 70)
        assert max(pack.tokens.shape[1] for pack in plan.packs) > 70 and not live.halved
        same(live.score(plan), expected)
        assert live.halved and live.pass_tokens == 64 and live.batch_size == 1
        assert "out of memory" in caplog.text

    def test_a_second_time_it_is_an_error(self, tokenizer, fails):
        model = make(tokenizer, "llama")
        live, asked = LiveModel(model, tokenizer, 2), requests(tokenizer)
        plan = live.plan(asked)
        fails(model, 10)
        with pytest.raises(torch.OutOfMemoryError):
            live.score(plan)

    def test_other_errors_are_not_taken_for_it(self, tokenizer):
        model = make(tokenizer, "llama")
        live = LiveModel(model, tokenizer, 2)
        plan = live.plan(requests(tokenizer))
        model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
        with pytest.raises(RuntimeError, match="shape mismatch"):
            live.score(plan)
        assert not live.halved


def generating(texts: list[str], **settings: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance("generate_until", {}, (text, settings), number) for number, text in enumerate(texts)]


def test_each_row_of_a_batch_ends_with_its_own_stop(model_and_tokenizer):
    """The texts are lm-eval's, and no row is written on after all of them have ended."""
    model, tokenizer = model_and_tokenizer
    texts, free = ["1+2=", "99+3=", "4", "7+7=1"], {"until": [], "max_gen_toks": 24, "do_sample": False}
    written = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).generate_until(
        generating(texts, **free), disable_tqdm=True
    )
    # A stop of its own for each text, early in it.
    settings = {**free, "until": sorted({text[2:4] for text in written})}
    asked = generating(texts, **settings)
    expected = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).generate_until(asked, disable_tqdm=True)
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    assert LiveModel(model, tokenizer, 4).generate_until(asked, disable_tqdm=True) == expected
    assert all(len(text) <= 3 for text in expected) and len(passes) <= 5


CACHED = {
    "llama": ({}, 3),
    "gpt2": (PACKED["gpt2"], 3),
    "gpt_neox": ({}, 3),
    "bloom": ({**PADDED["bloom"][0], "tie_word_embeddings": False}, 3),
    "mixtral": (PACKED["mixtral"], 3),
    # Layers of windows and of linear attention have caches of their own.
    "gemma3_text": ({"head_dim": 8, "sliding_window": 8, "num_hidden_layers": 6}, 1),
    "mistral": ({"sliding_window": 8}, 0),
    "qwen3_next": ({"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4,
                    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
                    "linear_value_head_dim": 8}, 1),
    "mamba": ({}, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", CACHED)
def test_what_is_generated_is_lm_evals_and_full_attention_is_cached_in_place(tokenizer, kind, monkeypatch):
    settings, in_place = CACHED[kind]
    model = make(tokenizer, kind, **settings)
    monkeypatch.setattr(generation, "_ROOM", 5)  # so that it runs out several times
    kinds: list[list[str]] = []
    model.register_forward_hook(
        lambda _, args, named, out: kinds.append(
            [type(c).__name__ for c in getattr(named.get("past_key_values"), "layers", [])]
        ),
        with_kwargs=True,
    )
    texts = ["1+2=3;4+5=", "99+3=", "4", "7+7=1"]
    live = LiveModel(model, tokenizer, 4)
    for more in ({}, {"num_beams": 2}):
        asked = generating(texts, until=["7", "\n"], max_gen_toks=24, do_sample=False, **more)
        expected = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).generate_until(asked, disable_tqdm=True)
        kinds.clear()
        assert live.generate_until(asked, disable_tqdm=True) == expected
        assert {layers.count("_InPlace") for layers in kinds} == {in_place}


def test_lm_eval_knows_the_model_by_name(manager, evaluate):
    """By the hook into Python; its results are those of lm-eval's own model."""
    tasks = ["plain_choice", "plain_number"]
    found, expected = (evaluate(manager, *tasks, model=model)["results"] for model in ("merge3-hf", "hf"))
    for task in tasks:
        metrics = {key for key in expected[task] if "," in key and "stderr" not in key}
        assert metrics and {key: found[task][key] for key in metrics} == {key: expected[task][key] for key in metrics}
