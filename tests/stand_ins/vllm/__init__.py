"""Stands in for vLLM, which most machines cannot install: what lm-eval and we call of it, computed by transformers.

Like vLLM's, the engine has config, tokenizer and random weights of its own, gets weights by the names of a checkpoint,
gives what it has computed for a prompt again and again until it is told that its cache no longer holds, and refuses
architectures that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    logprobs: int | None = None
    detokenize: bool = True
    stop: list[str] = field(default_factory=list)
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


@dataclass(frozen=True)
class TokensPrompt:
    prompt_token_ids: list[int]


class LLM:
    def __init__(self, model: str, dtype: str, load_format: str, max_model_len: int | None, **settings: Any) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        config = AutoConfig.from_pretrained(model)
        if load_format != "dummy" or config.architectures != ["LlamaForCausalLM"]:
            raise ValueError(f"1 validation error for ModelConfig\n  {config.architectures} are not supported for now.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self._model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._cached: dict[tuple[int, ...], torch.Tensor] = {}
        length = max_model_len or config.max_position_embeddings
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[None]:
        if method != "reload_weights":
            raise NotImplementedError(method)
        self._model.load_state_dict(dict(kwargs["weights_iterator"]), strict=False)
        return [None]

    def reset_prefix_cache(self) -> bool:
        self._cached.clear()
        return True

    def generate(
        self, prompts: list[TokensPrompt], sampling_params: list[SamplingParams], use_tqdm: bool, lora_request: None
    ) -> list[SimpleNamespace]:
        self._read([tuple(prompt.prompt_token_ids) for prompt in prompts])
        asked = zip(prompts, sampling_params, strict=True)
        return [self._answer(list(prompt.prompt_token_ids), wanted) for prompt, wanted in asked]

    def _answer(self, tokens: list[int], wanted: SamplingParams) -> SimpleNamespace:
        if len(tokens) + wanted.max_tokens > self.llm_engine.model_config.max_model_len:
            raise ValueError("prompt too long")
        found: list[dict[int, float] | None] = [None]
        if wanted.prompt_logprobs:
            logprobs = self._logprobs(tokens)
            best = logprobs.max(-1)
            for row, token in enumerate(tokens[1:]):
                found.append({token: float(logprobs[row, token]), int(best.indices[row]): float(best.values[row])})
        written: list[int] = []
        total, text = 0.0, ""
        while len(written) < wanted.max_tokens and not any(stop in text for stop in wanted.stop):
            last = self._logprobs([*tokens, *written])[-1]
            written.append(int(last.argmax()))
            total += float(last.max())
            text = self._tokenizer.decode(written)
        for stop in wanted.stop:
            text = text.partition(stop)[0]
        output = SimpleNamespace(text=text, cumulative_logprob=None if wanted.logprobs is None else total)
        return SimpleNamespace(prompt_logprobs=found if wanted.prompt_logprobs else None, outputs=[output])

    def _logprobs(self, tokens: list[int]) -> torch.Tensor:
        self._read([tuple(tokens)])
        return self._cached[tuple(tokens)]

    def _read(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Read what is not cached, together: what is filled up on the right does not reach back."""
        left = [text for text in dict.fromkeys(texts) if text not in self._cached]
        if not left:
            return
        longest = max(map(len, left))
        with torch.no_grad():
            logits = self._model(torch.tensor([(*text, *[0] * (longest - len(text))) for text in left])).logits
        for text, row in zip(left, logits, strict=True):
            self._cached[text] = row[: len(text)].float().log_softmax(-1)
