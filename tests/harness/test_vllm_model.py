"""Scores by vLLM, or where it is not installed by its stand-in, against those of transformers on the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OpenAIGPTConfig

from merge3_plugin.errors import DataError, ModelError
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.live_model import LiveModel
from merge3_plugin.harness.scoring import Scorer
from merge3_plugin.testing import make_tiny_llama
from tests.harness.test_scoring import METRICS, change_weights

SETTINGS: dict[str, Any] = {
    "batch_size": 4, "max_model_len": 256, "gpu_memory_utilization": 0.1, "enforce_eager": True, "seed": 0,
}  # fmt: skip


def make_engine(live: LiveModel) -> Any:
    from merge3_plugin.harness.vllm_model import VllmModel

    return VllmModel(live, **SETTINGS)


@pytest.fixture(scope="module")
def scorers(vllm, tasks_folder, model_folder, tmp_path_factory):
    """The model, and scorers of it by transformers and by vLLM, whose kernels want heads of some width."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(
        make_tiny_llama(tmp_path_factory.mktemp("model"), 3, hidden=128, tokenizer=tokenizer)
    )
    benchmarks = partial(load_benchmarks, METRICS, include_paths=[tasks_folder], num_fewshot=2)
    hf, vllm = (Scorer(benchmarks(), model, tokenizer, batch_size=4, engine=engine) for engine in (None, make_engine))
    return model, hf, vllm


def texts(scorer: Scorer) -> str:
    """What was generated last, without the special tokens that lm-eval leaves in vLLM's texts alone."""
    found = str([instance.resps for of in scorer.requests("plain_number").values() for instance in of])
    for token in scorer.live("plain_number")[1].tokenizer.all_special_tokens:
        found = found.replace(token, "")
    return found


def test_scores_are_those_of_transformers_at_every_state_of_the_weights(scorers):
    model, hf, vllm = scorers
    written = set()
    for seed in range(3):
        change_weights(model, seed)
        vllm.engine.take(model.state_dict())
        for task in METRICS:
            items = list(hf.requests(task))
            expected, found = hf.score(task, items), vllm.score(task, items)
            assert found.right == expected.right
            assert found.soft == pytest.approx(expected.soft, abs=1e-3)
        answers = texts(hf)
        assert texts(vllm) == answers
        written.add(answers)
    assert len(written) == 3


def test_a_tensor_that_did_not_arrive_is_found_out_at_first(scorers):
    model, _, vllm = scorers
    vllm.engine._trusted = False  # as if it were new
    change_weights(model, 7)
    with pytest.raises(ModelError, match="vLLM: expected a log-likelihood of .* as transformers computes it"):
        vllm.engine.take({name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name})
    vllm.engine.take(model.state_dict())


@pytest.mark.parametrize("task", ["plain_choice", "plain_number"])
def test_weights_that_overflow_are_no_wrong_answer(scorers, task):
    model, _, vllm = scorers
    vllm.engine.take(model.state_dict())
    vllm.score(task, list(vllm.requests(task))[:2])
    vllm.engine.take({**model.state_dict(), "lm_head.weight": torch.full_like(model.lm_head.weight, torch.inf)})
    with pytest.raises(DataError, match="weights overflow this dtype"):
        vllm.score(task, list(vllm.requests(task)))


def test_an_answer_longer_than_the_context_is_refused(scorers):
    with pytest.raises(DataError, match="expected answers of fewer than 256 tokens, got one of 256"):
        scorers[2].engine.plan([(None, [5], [6] * 256)])


def test_an_architecture_that_vllm_does_not_know_is_refused_in_one_line(scorers):
    tokenizer = scorers[1].live("plain_choice")[1].tokenizer
    config = OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=1, n_positions=256)
    with pytest.raises(
        ModelError, match="vLLM: expected it to take this model, got: .*; change eval.model_args, or"
    ) as error:
        make_engine(LiveModel(AutoModelForCausalLM.from_config(config), tokenizer, 4))
    assert "\n" not in str(error.value)
