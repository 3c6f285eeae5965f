"""lm-eval's ``hf`` model with packs in place of padded batches: ``lm_eval --model merge3-hf``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from tqdm import tqdm
from transformers import LogitsProcessorList, StoppingCriteriaList

from merge3_plugin.errors import DataError
from merge3_plugin.harness.generation import Finite, Stops, caching_in_place
from merge3_plugin.harness.packed_forward import (
    Predictions,
    Unpackable,
    logits,
    longest_packed,
    predictions,
    reading_packs,
    why_not_packed,
)
from merge3_plugin.harness.packing import Pack, Reading, make_packs

log = logging.getLogger(__name__)
T = TypeVar("T")

# What lm-eval makes of a request: its texts (None: of a part of one), and the tokens of context and continuation.
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
Answer = tuple[float, bool]

# Bytes that the logits of one pass may take.
LOGITS = 2**28
# Before packs are trusted, so many readings are scored both ways. Logits may be apart by so much of their standard
# deviation over the vocabulary: rounding moves them by less, and attention to the wrong tokens by more.
_TRIED = 8
_APART = {torch.float64: 1e-3, torch.float32: 1e-3}
_APART_ROUNDED = 0.15


@dataclass(eq=False)
class Plan:
    """What is read for some requests, whatever the weights: ``packs`` of ``readings``, or None for padded batches."""

    requests: Sequence[TokenRequest]
    readings: Sequence[Reading]
    packs: Sequence[Pack] | None
    pass_tokens: int


class PackedLM(HFLM):
    """HFLM whose log-likelihoods come from packs, wherever the model's attention allows that.

    A forward pass reads at most ``pass_tokens``, unless one question alone has more; ``batch_size`` is for generation,
    and for models that take no packs, which the log says. Where memory does not suffice, both are halved, once:
    ``halved``. The other arguments are those of lm-eval's ``hf``.
    """

    def __init__(self, *args: Any, pass_tokens: int = 2048, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pass_tokens = int(pass_tokens)
        self._max_length = self.max_length  # lm-eval would read it from the config again for every request
        self.halved = self._trusted = False
        self._why_not = why_not_packed(self.model)
        self._told: set[str] = set()

    def plan(self, requests: Sequence[TokenRequest]) -> Plan:
        """How these are read.

        Raises DataError for an answer without tokens or longer than the model's context, and, while packs are on trial,
        for weights whose logits are not finite.
        """
        readings = [self._reading(request) for request in requests]
        packed = bool(readings) and self._halving(lambda: self._takes_packs(readings))
        return Plan(requests, readings, self._packs(readings) if packed else None, self.pass_tokens)

    def score(self, plan: Plan, progress: bool = False) -> list[Answer]:
        """(log-likelihood, is greedy) of each request of the plan.

        Raises DataError for a log-likelihood that is not finite.
        """
        if plan.packs is None:
            return self._halving(lambda: self._padded(plan.requests, progress))
        return self._halving(lambda: self._packed(plan, progress))

    def halve(self) -> None:
        """Read half as much at a time from now on."""
        self.halved = True
        self.pass_tokens = max(1, self.pass_tokens // 2)
        if isinstance(self.batch_size, int):  # else lm-eval finds out what fits
            self.batch_size_per_gpu = max(1, self.batch_size // 2)

    def _reading(self, request: TokenRequest) -> Reading:
        """What is read for a request, cut from the left where it is too long, as lm-eval does."""
        texts, context, continuation = request
        if not 0 < len(continuation) <= self.max_length:
            raise DataError(
                f"model: expected an answer of 1 to {self.max_length} tokens, got {len(continuation)}: {texts!r:.200}"
            )
        return Reading((*context, *continuation)[-(self.max_length + 1) : -1], tuple(continuation))

    def _packs(self, readings: Sequence[Reading]) -> list[Pack]:
        vocabulary = self.model.config.get_text_config().vocab_size
        limits = self.pass_tokens, max(1, LOGITS // (8 * vocabulary))
        return make_packs(readings, limits, self.model.dtype, self.device)

    def _packed(self, plan: Plan, progress: bool) -> list[Answer]:
        if plan.packs is None or plan.pass_tokens != self.pass_tokens:
            plan.packs, plan.pass_tokens = self._packs(plan.readings), self.pass_tokens
        totals = torch.zeros(len(plan.readings), dtype=torch.float64)
        greedy = torch.ones(len(plan.readings), dtype=torch.bool)
        bar = tqdm(plan.packs, desc="Running loglikelihood requests, packed", disable=not progress or self.rank != 0)
        with self._forward():
            found = [(pack.readers, *self._read(pack)) for pack in bar]
        for readers, values, right in found:  # here, after all passes, a GPU is first waited for
            totals.index_add_(0, readers.cpu(), values.cpu().double())
            greedy[readers[~right].cpu()] = False
        return finite(list(zip(totals.tolist(), greedy.tolist(), strict=True)))

    def _padded(self, requests: Sequence[TokenRequest], progress: bool) -> list[Answer]:
        return finite(super()._loglikelihood_tokens(list(requests), disable_tqdm=not progress))

    def _read(self, pack: Pack) -> Predictions:
        return predictions(logits(self.model, pack), pack)

    @contextmanager
    def _forward(self) -> Iterator[None]:
        dtype = self.mixed_precision_dtype
        autocast = torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)
        with torch.no_grad(), autocast, reading_packs(self.model):
            yield

    def _takes_packs(self, readings: Sequence[Reading]) -> bool:
        """Whether these are read in packs: no window cuts them, and a trial, the first time, shows the same logits."""
        if self._why_not is None and not self._trusted:
            self._why_not = self._try(readings[:_TRIED])
            self._trusted = True
        longest = max(len(reading.tokens) for reading in readings)
        window = longest_packed(self.model)
        why_not = self._why_not or (f"its attention sees {window:g} tokens back" if longest > window else None)
        if why_not and why_not not in self._told:
            self._told.add(why_not)
            log.info("model: questions are read in padded batches, which takes longer: %s", why_not)
        return why_not is None

    def _try(self, readings: Sequence[Reading]) -> str | None:
        """Why this model does not take packs; None: it does, for the logits of these readings are the same."""
        packs = self._packs(readings)
        try:
            with self._forward():
                packed = [logits(self.model, pack) for pack in packs]
        except Unpackable as error:
            return str(error)
        except TypeError:
            return "its code takes no arguments but its own"
        for pack, found in zip(packs, packed, strict=True):
            for reader in set(pack.readers.tolist()):
                tokens, targets = readings[reader]
                plain = self._model_call(torch.tensor([tokens], device=self.device))[0, -len(targets) :].float()
                finite([(float(plain.sum()), False)])  # other weights would show nothing
                apart = found[pack.rows[pack.readers == reader]].float() - plain
                allowed = _APART.get(self.model.dtype, _APART_ROUNDED)
                if not (apart.std(dim=-1) <= allowed * plain.std(dim=-1)).all():
                    return "packs change its logits"
        return None

    def _halving(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if self.halved or not should_reduce_batch_size(error):
                raise
        self.halve()
        log.warning(
            "model: out of memory; from now on %d tokens, or %s prompts, at a time", self.pass_tokens, self.batch_size
        )
        clear_device_cache()
        return work()

    # What lm-eval asks of its models.

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        answers = self.score(self.plan(requests), progress=not disable_tqdm)
        for (request, _, _), answer in zip(requests, answers, strict=True):
            if request is not None:
                self.cache_hook.add_partial("loglikelihood", request, answer)
        return answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return self._halving(lambda: super(PackedLM, self).generate_until(requests, disable_tqdm))

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> torch.Tensor:
        if not kwargs.get("temperature") and not kwargs.get("do_sample"):
            kwargs = {**kwargs, "do_sample": False}
            kwargs.pop("temperature", None)
        prompt, dtype = context.shape[1], self.mixed_precision_dtype
        stops: Any = StoppingCriteriaList([Stops(self.tokenizer, stop, prompt)])
        if (kwargs.get("num_beams") or self.model.generation_config.num_beams or 1) > 1:
            # Where a row ends decides which of its beams is the best.
            stops = stop_sequences_criteria(self.tokenizer, stop, prompt, context.shape[0])
        autocast = torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)
        with autocast, caching_in_place(self.model):
            return self.model.generate(
                input_ids=context,
                max_length=max_length,
                stopping_criteria=stops,
                logits_processor=LogitsProcessorList([Finite()]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **kwargs,
            )


def finite(answers: list[Answer]) -> list[Answer]:
    bad = next((value for value, _ in answers if not abs(value) < float("inf")), None)
    if bad is not None:
        raise DataError(f"model: expected finite log-likelihoods, got {bad}; its weights overflow this dtype")
    return answers
