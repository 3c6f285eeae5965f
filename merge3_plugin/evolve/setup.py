"""From a config to what a run works with: tasks, parents, live model, scorer, space and record, each checked."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import ConfigError, RunError
from merge3_plugin.estimate.auto import AUTO
from merge3_plugin.estimate.base import find_estimator
from merge3_plugin.evolve.budgets import check_budgets
from merge3_plugin.evolve.claim import claim, pin_inputs
from merge3_plugin.evolve.constraints import check_constraints
from merge3_plugin.evolve.evaluate import Evaluator
from merge3_plugin.evolve.guard import (
    check_filters,
    check_metrics,
    check_sampling,
    check_scales,
    check_test_sets,
    depth_note,
    locked,
)
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.live_models import make_scorer, make_workers
from merge3_plugin.evolve.objectives import check_objectives
from merge3_plugin.evolve.preflight import Memory, check_memory, disk_needed, memory_needed, workloads
from merge3_plugin.evolve.reuse import Reuse
from merge3_plugin.evolve.serving import check_vllm, vllm_identity, vllm_memory
from merge3_plugin.evolve.setting import Setting
from merge3_plugin.evolve.spaces import Space, make_space
from merge3_plugin.evolve.spaces.dis import DisSpace
from merge3_plugin.evolve.spaces.variables import start
from merge3_plugin.evolve.store import Evaluation, RunStore
from merge3_plugin.evolve.strategy import make_strategy
from merge3_plugin.evolve.user_cache import UserCache
from merge3_plugin.evolve.warm_start import warm_start
from merge3_plugin.evolve.workload import Workload
from merge3_plugin.harness.benchmark import Benchmark, load_benchmarks
from merge3_plugin.harness.calibrations import user_folder
from merge3_plugin.plugins import plugin_host

if TYPE_CHECKING:
    from merge3_plugin.harness.scoring import Scorer
    from merge3_plugin.merging.merger import Merger
    from merge3_plugin.merging.outline import Outline

log = logging.getLogger(__name__)

FLAGS = "local.flags"
# Memory ran out once: what is scored from then on is read in smaller parts, after a resume too.
HALVED = "local.halved"


@dataclass(frozen=True)
class Flags:
    """What the command line adds to a config and what is no part of the run's identity."""

    task_search_path: tuple[str, ...] = ()
    allow_benchmark_tasks: bool = False
    save_final_model: bool = True
    trust_remote_code: bool = False
    allow_crimes: bool = False


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What of a run can be made, and so be found wrong, before a weight is read."""

    outline: Outline
    space: Space

    @property
    def more_layers(self) -> int:
        """How many layers more than the parents a merged model may get."""
        return max(0, self.space.depth - self.outline.n_layers) if isinstance(self.space, DisSpace) else 0


def rehearse(config: RunConfig, flags: Flags) -> Rehearsal:
    """The depth and dtype that the parents' configs announce, and the space over them.

    Raises Merge3Error children for parents that do not fit each other, and for an estimator, a space or a strategy
    that the config cannot have.
    """
    from merge3_plugin.merging.outline import read_outline

    genome, settings = config.genome, config.merge3
    check_vllm(config)
    for note in check_objectives(config):
        log.warning(note)
    if settings.estimator != AUTO:
        find_estimator(settings.estimator)
    outline = read_outline(
        genome.models,
        genome.base_model,
        tokenizer_source=genome.tokenizer_source,
        dtype=settings.dtype,
        trust_remote_code=flags.trust_remote_code,
        allow_crimes=flags.allow_crimes,
    )
    check_filters(config, outline.tensors)
    check_scales(config, outline.unscalable)
    if unwritten := depth_note(config, outline.by_layer):
        log.warning(unwritten)
    space = make_space(config, outline.n_layers, dtype=outline.dtype_name)
    make_strategy(config, space.variables, np.random.default_rng(settings.seed))  # which says what it cannot do
    return Rehearsal(outline, space)


def make_merger(config: RunConfig, folder: Path, flags: Flags) -> Merger:
    """The parents of a run in memory, with what its folder keeps of them. Raises ModelError for bad parents."""
    from merge3_plugin.merging.merger import Merger

    return Merger(
        config.genome.models,
        config.genome.base_model,
        tokenizer_source=config.genome.tokenizer_source,
        dtype=config.merge3.dtype,
        device=config.merge3.devices()[0],
        random_seed=config.merge3.seed,
        trust_remote_code=flags.trust_remote_code,
        allow_crimes=flags.allow_crimes,
        lora_cache=folder / "lora_merge_cache",
    )


def load_tasks(config: RunConfig, flags: Flags) -> dict[str, Benchmark]:
    """The benchmark of each objective and of each held-out task, and what a person should know of them in the log.

    Raises Merge3Error children for tasks that cannot be searched on, or not as the config says.
    """
    everything = _benchmarks(config, flags)
    check_sampling(config, everything)
    benchmarks = {name: everything[name] for name in config.objectives()}
    for warning in check_test_sets(config, benchmarks, allowed=flags.allow_benchmark_tasks):
        log.warning(warning)
    for note in check_metrics(config, benchmarks):
        log.info(note)
    check_constraints(config, [name for name, benchmark in benchmarks.items() if not benchmark.per_item])
    return everything


def find_memory(
    config: RunConfig, rehearsal: Rehearsal, benchmarks: Mapping[str, Benchmark]
) -> tuple[Memory, dict[str, Workload]]:
    """The memory that a run needs and what is there, on the device that has least; and what each benchmark takes.

    Raises ConfigError without the devices.
    """
    from merge3_plugin.merging.devices import live_models_on

    sketch, batch_size = rehearsal.outline.sketch, config.merge3.eval.batch_size
    work = workloads(config, sketch, benchmarks)
    more, live_models = rehearsal.more_layers, live_models_on(config.merge3.devices())
    needed = [
        memory_needed(
            sketch, device, work.values(), batch_size=batch_size, more_layers=more, live_models=n,
            devices=len(live_models), served=vllm_memory(config, device),
        )
        for device, n in live_models.items()
    ]  # fmt: skip
    return min(needed, key=lambda memory: memory.left), work


def check_machine(
    config: RunConfig, rehearsal: Rehearsal, warm: int, benchmarks: Mapping[str, Benchmark], folder: Path, flags: Flags
) -> None:
    """Raise RunError where the machine has too little memory or disk for the run; log what will be slow.

    Raises ConfigError where the search's own budgets are too small, ``warm`` merges being scored first; logs where they
    nearly are.
    """
    from merge3_plugin.merging.disk import check_space

    sketch = rehearsal.outline.sketch
    memory, work = find_memory(config, rehearsal, benchmarks)
    for warning in check_budgets(config, rehearsal.space, warm, benchmarks, work):
        log.warning(warning)
    if note := check_memory(memory, sketch, work.values(), config.merge3.eval.batch_size):
        log.warning(note)
    disk = disk_needed(sketch, 0, final_model=flags.save_final_model, more_layers=rehearsal.more_layers)
    check_space(folder, sum(disk.values()))


@contextmanager
def opened(config: RunConfig, folder: Path, flags: Flags) -> Iterator[Setting]:
    """The setting of a run in its locked folder.

    Raises Merge3Error children for whatever is wrong with config, tasks, models or folder, cheap checks first.
    """
    with locked(folder):
        store = RunStore(folder)
        try:
            claim(store, config, folder)
            store.pin(FLAGS, asdict(flags))
            rehearsal = rehearse(config, flags)
            warm = warm_start(store, config, rehearsal.space, rehearsal.outline.family)
            benchmarks = load_tasks(config, flags)
            check_machine(config, rehearsal, len(warm), benchmarks, folder, flags)
            merger = make_merger(config, folder, flags)
            # Once more: the weights' dtype may not be the one that their config announced.
            space = make_space(config, merger.n_layers, dtype=merger.dtype_name)
            merger.prepare(space.decode(start(space.variables)))  # while requests are built and parents scored
            merger.check_space(folder, space.depth - merger.n_layers if isinstance(space, DisSpace) else 0)
            parents = {label: name for name, label in labels(config.genome.parents()).items()}
            pin_inputs(store, benchmarks, [merger.folders(name) for name in parents.values()])
            scorer = make_scorer(config, merger, benchmarks)
            workers = make_workers(config, merger, scorer, benchmarks)
            if HALVED in store.meta():
                scorer.halve()

            def finished(evaluation: Evaluation) -> None:
                if scorer.halved:
                    store.pin(HALVED, True)
                plugin_host().evaluation_finished(evaluation=evaluation)

            earlier = _earlier(config, merger, scorer, benchmarks)
            evaluator = Evaluator(store, workers, scorer, finished, earlier)
            searched = {name: benchmarks[name] for name in config.objectives()}
            unseen = {name: benchmarks[name] for name in config.unseen()}
            with closing(workers):
                yield Setting(config, folder, store, merger, scorer, evaluator, space, searched, parents, unseen, warm)
        except sqlite3.OperationalError as error:
            raise RunError(
                f"{folder}: expected room for the record, got: {error}; free some space, the same command goes on"
            ) from None
        finally:
            store.close()


def _earlier(config: RunConfig, merger: Merger, scorer: Scorer, benchmarks: Mapping[str, Benchmark]) -> Reuse | None:
    """What earlier runs know of the parents, where the config lets it be used."""
    if not config.merge3.reuse:
        return None
    source, batch_size = config.genome.tokenizer_source, config.merge3.eval.batch_size
    return Reuse(
        UserCache(user_folder()), merger, scorer, benchmarks, batch_size=batch_size, tokenizer_source=source,
        vllm=vllm_identity(config),
    )  # fmt: skip


def _benchmarks(config: RunConfig, flags: Flags) -> dict[str, Benchmark]:
    for path in flags.task_search_path:
        if not Path(path).is_dir():
            raise ConfigError(f"--task-search-path {path}: expected a folder of task YAML, got none there")
    tasks = {**config.objectives(), **config.unseen()}
    return load_benchmarks(
        {name: task.metric for name, task in tasks.items()},
        tasks={name: task.name for name, task in tasks.items()},
        include_paths=flags.task_search_path,
        num_fewshot=config.num_fewshot,
        data=config.merge3.data,
        id_field=config.merge3.id_field,
        language=config.merge3.language,
    )
