"""What transformers' generation gets from us: a cache written in place, rows that end by themselves, finite logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from merge3_plugin.errors import DataError

# Tokens that a cache has room for beyond what it holds; when they are there, all of it is copied once.
_ROOM = 128


@contextmanager
def caching_in_place(model: Any) -> Iterator[None]:
    """Let the model's passes write into the caches of full attention, where transformers' copy them at every token.

    Other layers, of windows or of linear attention, keep transformers' own.
    """

    def prepare(module: Any, args: Any, named: dict[str, Any]) -> None:
        cache: Any = named.get("past_key_values")
        if type(cache) is DynamicCache:
            for place, layer in enumerate(cache.layers):
                if type(layer) is DynamicLayer and not layer.is_initialized:
                    cache.layers[place] = _InPlace()

    hook = model.register_forward_pre_hook(prepare, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


class _InPlace(DynamicLayer):
    """A layer's keys and values as views of storage in which there is room for more of them."""

    keys: Any
    values: Any

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._storage: list[torch.Tensor] = [self.keys, self.values]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, of: int, filled: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        begin = filled.shape[-2] if filled.numel() else 0
        end = begin + more.shape[-2]
        storage = self._storage[of]
        # Beam search, for one, puts tensors of its own in the place of what is filled.
        own = filled.data_ptr() == storage.data_ptr() and filled.shape[:-2] == storage.shape[:-2]
        if not begin or not own or end > storage.shape[-2]:
            storage = self._storage[of] = more.new_empty((*more.shape[:-2], end + _ROOM, more.shape[-1]))
            if begin:
                storage[..., :begin, :] = filled
        storage[..., begin:end, :] = more
        return storage[..., :end, :]


class Stops(StoppingCriteria):
    """Ends each row of a batch with the first of the ``stops`` in its own text.

    lm-eval's own criteria end no row before one and the same stop stands in all of them.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt_length: int) -> None:
        self._tokenizer, self._stops, self._prompt_length = tokenizer, stops, prompt_length
        # As far back as lm-eval looks: another tokenization of the stop may be a little longer than its own.
        self._look_back = 2 + max((len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops), default=0)
        self._done: list[bool] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> Any:
        self._done = self._done or [False] * len(input_ids)
        written = input_ids[:, self._prompt_length :].tolist()
        for row, tokens in enumerate(written):
            # The end of a text alone may read otherwise than it does behind the rest, so the rest has the last word.
            self._done[row] = self._done[row] or (self._ended(tokens[-self._look_back :]) and self._ended(tokens))
        return torch.tensor(self._done, device=input_ids.device)

    def _ended(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in self._stops)


class Finite(LogitsProcessor):
    """Raises DataError for logits that are NaN or infinite; leaves all others as they are."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not torch.isfinite(scores.amax(dim=-1)).all():
            raise DataError("model: expected finite logits, got NaN or infinity; its weights overflow this dtype")
        return scores
