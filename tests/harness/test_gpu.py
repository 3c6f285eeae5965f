"""Packs on a GPU against lm-eval's padded batches on it; skipped where there is none."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM

from merge3_plugin.harness.live_model import LiveModel
from merge3_plugin.testing import make_tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 100},
    "gemma3_text": {"head_dim": 8, "sliding_window": 100},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tiny_tokenizer()


def make(tokenizer: Any, kind: str) -> Any:
    """A random model whose logits depend on what it attends to."""
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, pad_token_id=1,
        **ARCHITECTURES[kind],
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().cuda()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def requests(tokenizer: Any) -> list[Any]:
    """Twelve questions of three options, of several lengths."""
    rng = random.Random(0)

    def text(n: int) -> list[int]:
        return [rng.randrange(5, len(tokenizer)) for _ in range(n)]

    asked = []
    for number in range(12):
        context = text(rng.randrange(9, 30))
        asked += [((f"question {number}", f"option {option}"), context, text(1 + option)) for option in range(3)]
    return asked


def padded(model: Any, tokenizer: Any, asked: list[Any]) -> list[tuple[float, bool]]:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)._loglikelihood_tokens(asked, disable_tqdm=True)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packs_give_the_log_likelihoods_of_padded_batches(tokenizer: Any, kind: str) -> None:
    model, asked = make(tokenizer, kind), requests(tokenizer)
    live = LiveModel(model, tokenizer, 2)
    plan = live.plan(asked)
    assert plan.packs is not None and len(plan.packs) > 1
    for factor in (1.0, 1.3, 0.9, 1.1):  # read, recorded, replayed, and replayed with another plan in between
        if factor == 1.1:
            other = live.plan(asked[3:20])
            for _ in range(3):
                live.score(other)
        with torch.no_grad():
            next(model.parameters()).mul_(factor)
        found = live.score(plan)
        expected = padded(model, tokenizer, asked)
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert live._graphs is not None
    assert live._graphs._refused or all(live._graphs._recorded[pack] for pack in plan.packs)


def test_weights_that_moved_are_read_where_they_are(tokenizer: Any) -> None:
    model = make(tokenizer, "llama")
    live = LiveModel(model, tokenizer, 2)
    asked = requests(tokenizer)
    plan = live.plan(asked)
    for _ in range(3):
        before = live.score(plan)
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[0], layers[2], layers[1]])
    assert live.score(plan) != before
    model.model.layers = layers
    layers[1].mlp.up_proj.weight.data = 2 * layers[1].mlp.up_proj.weight.data
    found = live.score(plan)
    assert [value for value, _ in found] == pytest.approx(
        [value for value, _ in padded(model, tokenizer, asked)], abs=1e-4
    )
