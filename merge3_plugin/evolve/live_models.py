"""The live models of a run, with what scores each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from merge3_plugin.config import RunConfig
from merge3_plugin.evolve.guard import chat_template
from merge3_plugin.evolve.serving import Served, vllm_settings
from merge3_plugin.evolve.workers import Worker, Workers
from merge3_plugin.harness.benchmark import Benchmark

if TYPE_CHECKING:
    from merge3_plugin.harness.live_model import LiveModel
    from merge3_plugin.harness.scoring import Scorer
    from merge3_plugin.harness.vllm_model import VllmModel
    from merge3_plugin.merging.merger import Merger

log = logging.getLogger(__name__)


def make_scorer(
    config: RunConfig, merger: Merger, benchmarks: Mapping[str, Benchmark], first: Scorer | None = None
) -> Scorer:
    from merge3_plugin.harness.scoring import Scorer

    settings = config.merge3.eval
    template, reason = chat_template(config, merger.chat_templates)
    if reason and first is None:
        log.info(reason)
    return Scorer(
        benchmarks,
        merger.model,
        merger.tokenizer,
        batch_size=settings.batch_size,
        apply_chat_template=template,
        fewshot_as_multiturn=template if config.fewshot_as_multiturn is None else config.fewshot_as_multiturn,
        gen_kwargs=settings.gen_kwargs,
        system_instruction=settings.system_instruction,
        first=first,
        engine=_engine(config),
    )


def _engine(config: RunConfig) -> Callable[[LiveModel], VllmModel] | None:
    settings = vllm_settings(config)
    if settings is None:
        return None
    from merge3_plugin.harness.vllm_model import VllmModel

    return partial(VllmModel, **settings)


def make_workers(config: RunConfig, merger: Merger, scorer: Scorer, benchmarks: Mapping[str, Benchmark]) -> Workers:
    """The live models: ``merger`` with its ``scorer``, or, beside others, with one that no other thread asks."""
    from merge3_plugin.merging.devices import use_device

    use_device(merger.device)
    if scorer.engine is not None:
        return Workers([Worker(Served(merger, scorer.engine), scorer)])
    others = merger.beside(config.merge3.devices()[1:])
    if not others:
        return Workers([Worker(merger, scorer)])
    mergers = [merger, *others]
    workers = Workers(
        [
            Worker(
                each, make_scorer(config, each, benchmarks, scorer), partial(use_device, each.device, own_stream=True)
            )
            for each in mergers
        ]
    )
    for each in mergers:
        each.model.register_forward_pre_hook(lambda *_: workers.check())
    return workers
