"""lm-eval's ``vllm`` model on an engine in this process, whose weights are replaced between evaluations."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.vllm_causallms import VLLM

from merge3_plugin.errors import DataError, ModelError
from merge3_plugin.harness.packed_lm import Answer, Plan, TokenRequest, finite

if TYPE_CHECKING:
    from merge3_plugin.harness.live_model import LiveModel

# More requests than there are: vLLM gets all of them, and decides itself which it reads together.
_ALL = 2**31
# Before the engine is trusted, both models read so many texts of so many tokens. The log-likelihoods may be apart by so
# much a token: rounding moves them by less, and a tensor that did not arrive by more.
_TRIED, _TOKENS = 4, 64
_APART = {torch.float32: 1e-3}
_APART_ROUNDED = 0.1


class VllmModel(VLLM):
    """VLLM in the place of ``live``, whose weights it has after each `take`; its scores are lm-eval's ``vllm`` scores.

    Config and tokenizer are those of ``live`` as it is now. At most ``batch_size`` requests are read together. The
    other arguments are vLLM's own. Raises ModelError where vLLM cannot serve the model or has too little memory.
    """

    def __init__(self, live: LiveModel, *, batch_size: int, **settings: Any) -> None:
        self._live, self._trusted = live, False
        self._folder = TemporaryDirectory()
        config = copy.deepcopy(live.model.config)
        config.architectures = [type(live.model).__name__]  # which the configs of some parents do not say
        for part in (config, live.model.generation_config, live.tokenizer):
            part.save_pretrained(self._folder.name)
        with _in_this_process(), _refusals():
            super().__init__(
                self._folder.name,
                dtype=str(live.model.dtype).removeprefix("torch."),
                batch_size=_ALL,
                max_batch_size=batch_size,
                load_format="dummy",
                # It reads other models by transformers' code, which it changes for all of this process.
                model_impl="vllm",
                **settings,
            )

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Let these, by their names in a checkpoint, be the weights; what was cached under others is forgotten.

        They have to be those of ``live``: the first time, both models read a few random tokens. Raises ModelError where
        vLLM has other weights or computes something else than transformers, DataError where that is not finite.
        """
        with _refusals():
            self.model.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors.items())})
            if not self.model.reset_prefix_cache():
                raise RuntimeError("it keeps what it read with other weights")
            if not self._trusted:
                self._try()
                self._trusted = True

    def plan(self, requests: Sequence[TokenRequest]) -> Plan:
        """How these are read: vLLM finds that out itself. Raises DataError for an answer longer than its context."""
        longest = max((len(continuation) for _, _, continuation in requests), default=0)
        if longest >= self.max_length:
            raise DataError(f"vLLM: expected answers of fewer than {self.max_length} tokens, got one of {longest}")
        return Plan(requests, [], None, 0)

    def score(self, plan: Plan) -> list[Answer]:
        """(log-likelihood, is greedy) of each request. Raises DataError for a log-likelihood that is not finite."""
        return self._loglikelihood_tokens(list(plan.requests), disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[TokenRequest], disable_tqdm: bool = False) -> list[Answer]:
        return finite(super()._loglikelihood_tokens(requests, disable_tqdm))

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
        for asked in sampling_params or ():
            asked.logprobs = 0  # of the chosen tokens: they tell whether the logits are finite
        outputs = super()._model_generate(requests, generate, sampling_params)
        if generate and not all(math.isfinite(output.outputs[0].cumulative_logprob) for output in outputs):
            raise DataError("model: expected finite logits, got NaN or infinity; its weights overflow this dtype")
        return outputs

    def _try(self) -> None:
        draw, known = random.Random(0), min(len(self._live.tokenizer), self._config.get_text_config().vocab_size)
        texts = [draw.choices(range(known), k=min(_TOKENS, self.max_length - 1)) for _ in range(_TRIED)]
        asked: list[TokenRequest] = [(None, text[:1], text[1:]) for text in texts]
        expected, found = self._live.score(self._live.plan(asked)), self.score(self.plan(asked))
        allowed = _APART.get(self._live.model.dtype, _APART_ROUNDED)
        for (_, _, tokens), (value, _), (other, _) in zip(asked, expected, found, strict=True):
            if abs(other - value) > allowed * len(tokens):
                raise ModelError(
                    f"vLLM: expected a log-likelihood of {value:.2f} for {len(tokens)} tokens, as transformers "
                    f"computes it, got {other:.2f}; write eval.model: hf"
                )


@contextmanager
def _in_this_process() -> Iterator[None]:
    """vLLM's engine where the weights are, and without its reports to its makers."""
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _refusals() -> Iterator[None]:
    """In one line, what vLLM says of a model that it cannot have, by whatever error it says it."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, AttributeError, TypeError, AssertionError) as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"vLLM: expected it to take this model, got: {text:.300}; change eval.model_args, or write eval.model: hf"
        ) from error
