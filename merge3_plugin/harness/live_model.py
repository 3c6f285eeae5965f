"""lm-eval's model on a live transformers model whose weights change between evaluations."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from merge3_plugin.harness.graphs import Graphs
from merge3_plugin.harness.packed_forward import Predictions
from merge3_plugin.harness.packed_lm import PackedLM, TokenRequest
from merge3_plugin.harness.packing import Pack
from merge3_plugin.harness.token_tree import TokenTree

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of a forward pass for each prompt of a generation's batch.
TOKENS_A_PROMPT = 64


class LiveModel(PackedLM):
    """PackedLM on ``model`` where it lies, with a copy of ``tokenizer``; scores are lm-eval's ``hf`` scores.

    Texts are tokenized once. Nothing is printed. A log-likelihood or logit that is not finite raises DataError instead
    of counting as a wrong answer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        hf_log = logging.getLogger("lm_eval.models.huggingface")
        level = hf_log.level
        hf_log.setLevel(logging.ERROR)  # It warns of any model that comes as an object.
        try:
            # lm-eval gives a tokenizer without a padding token one; the caller's must stay what it saves.
            super().__init__(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),
                batch_size=batch_size,
                pass_tokens=TOKENS_A_PROMPT * batch_size,
            )
        finally:
            hf_log.setLevel(level)
        self._graphs = Graphs(model, super()._read) if self.device.type == "cuda" else None
        # A tokenizer refuses to change how it pads while another thread is in it.
        self._tokenizing = threading.Lock()
        self._encoded: dict[tuple[Any, ...], list[int]] = {}
        self._encoded_batches: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def encode(self, requests: Sequence[Instance]) -> list[TokenRequest]:
        """The token requests that lm-eval's ``loglikelihood`` makes of these, for ``plan``."""
        return TemplateLM.loglikelihood(_Encoder(self), list(requests), disable_tqdm=True)

    def tokens_scored(self, requests: Sequence[TokenRequest]) -> int:
        """How many tokens are read for these at most, padding aside: what they begin with in common is read once."""
        return len(TokenTree(sorted({self._reading(request).tokens for request in requests})))

    def tokens_read(self, request: Instance) -> int:
        """How many tokens a ``generate_until`` or ``loglikelihood_rolling`` request reads at most, padding aside."""
        text, *settings = request.args
        if not settings:
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            return sum(len(context) + len(target) - 1 for context, target in map(make_disjoint_window, windows))
        wanted = normalize_gen_kwargs(settings[0], self.max_gen_toks)
        most = wanted["max_gen_toks"]
        prompt = min(len(self.tok_encode(text)), max(self.max_length - most, 0))
        return int(max(prompt + most, wanted.get("max_length", 0)))

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        key = (string, *args, *sorted(kwargs.items()))
        if key not in self._encoded:
            with self._tokenizing:
                self._encoded[key] = super().tok_encode(string, *args, **kwargs)
        return self._encoded[key]

    def tok_batch_encode(self, strings: list[str], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        key = (tuple(strings), *args, *sorted(kwargs.items()))
        if key not in self._encoded_batches:
            with self._tokenizing:
                self._encoded_batches[key] = super().tok_batch_encode(strings, *args, **kwargs)
        return self._encoded_batches[key]

    def _read(self, pack: Pack) -> Predictions:
        return self._graphs.read(pack) if self._graphs else super()._read(pack)

    def _loglikelihood_tokens(self, requests: list[TokenRequest], *_: Any, **__: Any) -> Any:
        return super()._loglikelihood_tokens(requests, disable_tqdm=True)


class _Encoder:
    """Stands in for the model while lm-eval tokenizes: the token requests come back unscored."""

    def __init__(self, model: LiveModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _loglikelihood_tokens(self, requests: list[TokenRequest], **_: Any) -> list[TokenRequest]:
        return requests
