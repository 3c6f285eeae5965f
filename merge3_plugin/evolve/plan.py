"""What a run would do: its space, its strategy and what it would read, without a weight in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.artifact import load_calibration
from merge3_plugin.config import RunConfig
from merge3_plugin.domain import Calibration
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.baselines import SCALES
from merge3_plugin.evolve.budgets import check_budgets
from merge3_plugin.evolve.calibration import AUTO, task_population
from merge3_plugin.evolve.candidates import UNIFORM
from merge3_plugin.evolve.guard import chat_template
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.objectives import several_objectives
from merge3_plugin.evolve.optimizers.overhead import overhead
from merge3_plugin.evolve.preflight import Memory, check_memory, disk_needed, time_needed
from merge3_plugin.evolve.setup import Flags, Rehearsal, find_memory, load_tasks, rehearse
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.spaces.variables import Kind, described, start
from merge3_plugin.evolve.warm_start import warm_vectors
from merge3_plugin.evolve.workload import Workload
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.calibrations import check_items

if TYPE_CHECKING:
    from merge3_plugin.merging.sketch import Sketch

# What a strategy takes for itself goes unnoticed below this share of the time of its candidates.
UNNOTICED = 0.1
# TPE's and a Gaussian process's own time grows with the genes, and so does what they need to see of each.
MODEL_BASED, FEW_GENES = ("tpe", "gp"), 50
# A covariance matrix of so many genes has more entries than any search of models has candidates.
FULL_COVARIANCE = 100
# Candidates for each gene below which no strategy comes near an optimum; for CMA-ES on smooth targets it is some 30.
CANDIDATES_A_GENE = 10
# Uniform soup, merge-best, greedy soup, task arithmetic; random search has as many finalists as the search.
BASELINES_OF_ONE = 4


@dataclass(frozen=True)
class TaskPlan:
    """A task's documents; how many the search may read, and how many are held out; on how many anchors.

    A task that is evaluated ``in_full`` has no such parts: every candidate reads all of it.
    """

    items: int
    search: int = 0
    held_out: int = 0
    anchors: int = 0
    in_full: bool = False


@dataclass(frozen=True)
class Phase:
    """So many models, each scored on so many items, summed over the tasks; never on more than ``limit`` in all."""

    models: int
    items: int
    limit: int | None = None

    @property
    def evaluations(self) -> int:
        return min(self.models * self.items, self.limit or self.models * self.items)


def make_plan(config: RunConfig, flags: Flags) -> dict[str, Any]:
    """The plan of a run as plain JSON. Raises the Merge3Error children that the run itself would begin with."""
    rehearsal = rehearse(config, flags)
    space, settings = rehearsal.space, config.merge3
    benchmarks = load_tasks(config, flags)
    tasks = plan_tasks(config, benchmarks)
    known = space.known_points()
    warm = warm_vectors(config, space, rehearsal.outline.family)
    unseen = sum(min(config.limit or math.inf, len(benchmarks[name].item_ids)) for name in config.unseen())
    phases = plan_phases(config, tasks, len(space.variables), UNIFORM in known, int(unseen))
    recipe = space.decode(start(space.variables))
    total = sum(phase.evaluations for phase in phases.values())
    memory, work = find_memory(config, rehearsal, benchmarks)
    short = check_budgets(config, space, len(warm), benchmarks, work)
    machine = plan_machine(config, rehearsal, memory, work, tasks, phases)
    return {
        "parents": {label: name for name, label in labels(config.genome.parents()).items()},
        "layers": rehearsal.outline.n_layers,
        "dtype": rehearsal.outline.dtype_name,
        "checked": checked(config, rehearsal.outline.sketch),
        "space": {
            "kind": settings.space.kind,
            "about": space.describe(),
            "dimension": len(space.variables),
            "variables": [described(variable) for variable in space.variables],
            "known_points": [*known, *warm],
        },
        "search": settings.search.model_dump(mode="json"),
        "fidelity": settings.fidelity.model_dump(mode="json"),
        "tasks": {name: asdict(task) for name, task in tasks.items()},
        "phases": {
            name: {"models": phase.models, "items": phase.items, "evaluations": phase.evaluations}
            for name, phase in phases.items()
            if phase.evaluations
        },
        "evaluations": total,
        "full_search_evaluations": settings.search.max_fevals * sum(task.search for task in tasks.values()),
        "machine": machine,
        "warnings": [*warnings(config, space, candidate_seconds(machine["time"], phases)), *short],
        "recipe": recipe,
    }


def checked(config: RunConfig, sketch: Sketch) -> list[str]:
    """What of the parents was found to fit each other, and what merging makes of the rest, a line each."""
    away, whole = set(sketch.away), len(sketch.sizes)
    found = (
        [f"{whole - len(away)} parents: one architecture, depth and shape of every weight"] if len(away) < whole else []
    )
    if away:
        found.append(f"not here yet, so known by their configs alone: {', '.join(sorted(away))}")
    if config.genome.tokenizer_source:
        found.append(f"vocabulary: one for all is built from tokenizer_source {config.genome.tokenizer_source}")
    elif len(away) < whole:
        found.append(f"vocabulary: the same {len(sketch.tokenizer):,} tokens under the same ids")
    if not away:
        template, reason = chat_template(config, sketch.chat_templates)
        found.append(reason or f"chat template: {'on' if template else 'off'}, as the config says")
        tied = [name for name in sketch.sizes if name not in sketch.own_head]
        if tied and sketch.own_head:
            found.append(f"output layer: tied in {', '.join(tied)} alone, so a merge has one of its own")
        else:
            found.append(f"output layer: {'tied to the embeddings' if tied else 'of its own'} in every parent")
    return found


def plan_machine(
    config: RunConfig,
    rehearsal: Rehearsal,
    memory: Memory,
    work: Mapping[str, Workload],
    tasks: Mapping[str, TaskPlan],
    phases: Mapping[str, Phase],
) -> dict[str, Any]:
    """Memory, disk and time of the run on this machine, as plain JSON; ``too_little`` says what it would stop with."""
    sketch = rehearsal.outline.sketch
    evaluations = sum(phase.evaluations for phase in phases.values())
    try:
        note, too_little = check_memory(memory, sketch, work.values(), config.merge3.eval.batch_size), None
    except RunError as error:
        note, too_little = None, str(error)
    asked = [(task.anchors or task.items, work[name]) for name, task in tasks.items()]
    merges = sum(phase.models for phase in phases.values() if phase.evaluations)
    return {
        "memory": asdict(memory)
        | {
            "spare": memory.spare,
            "on_host": memory.on_host,
            "on_device": memory.on_device,
            "streamed": memory.streamed,
            "note": note,
        },
        "too_little": too_little,
        "disk": disk_needed(sketch, evaluations, final_model=True, more_layers=rehearsal.more_layers),
        "time": time_needed(sketch, memory, asked, evaluations=evaluations, merges=merges),
    }


def plan_tasks(config: RunConfig, benchmarks: Mapping[str, Benchmark]) -> dict[str, TaskPlan]:
    """Each objective's items. Raises DataError where they do not suffice, or a calibration is of others."""
    by_item = {name: benchmarks[name] for name in config.objectives() if benchmarks[name].per_item}
    given: dict[str, Calibration] = {}
    for name, benchmark in by_item.items():
        source = config.calibration_of(name)
        if isinstance(source, str) and source != AUTO:
            given[name] = load_calibration(Path(source))
            check_items(given[name], benchmark.items, Path(source))
    found = {}
    for name in config.objectives():
        if name not in by_item:
            found[name] = TaskPlan(len(benchmarks[name].item_ids), in_full=True)
            continue
        population = task_population(config, by_item, name, given)
        anchors = len(given[name].anchors) if name in given else min(config.merge3.anchors, len(population.search))
        found[name] = TaskPlan(len(by_item[name].item_ids), len(population.search), len(population.held_out), anchors)
    return found


def plan_phases(
    config: RunConfig, tasks: Mapping[str, TaskPlan], genes: int, uniform: bool, unseen: int
) -> dict[str, Phase]:
    """What each phase reads when every candidate is scored on all anchors, and ``unseen`` items of held-out tasks.

    With fresh anchors the incumbent, too, is scored on those of each generation.
    """
    settings, search, parents = config.merge3, config.merge3.search, len(config.genome.parents())
    own = [task for name, task in tasks.items() if config.calibration_of(name) == AUTO]
    anchors = sum(task.items if task.in_full else task.anchors for task in tasks.values())
    in_full = sum(task.search for task in tasks.values())
    held_out = sum(task.held_out for task in tasks.values())
    finalists = parents + uniform + settings.confirm + 2  # and the surrogate's peak, and the search's mean
    front = settings.front if several_objectives(config) else 0
    simple = (parents + len(SCALES) * bool(config.genome.base_model)) * settings.baselines
    fresh = search.optimizer == "cma-es" and settings.fidelity.fresh
    generations = search.max_fevals // (search.popsize or 4 + int(3 * math.log(max(genes, 1)))) if fresh else 0
    return {
        "parents": Phase(parents, sum(task.items for task in tasks.values())),
        "calibration": Phase(settings.auto_merges if own else 0, sum(task.search for task in own)),
        "search": Phase(search.max_fevals, anchors, search.max_items),
        "incumbents": Phase(generations, sum(task.anchors for task in tasks.values())),
        "surrogate and mean": Phase(2, anchors),
        "recalibration": Phase(search.max_fevals // settings.recalibrate if settings.recalibrate else 0, in_full),
        "confirmation": Phase(finalists + front, held_out),
        "baselines": Phase(simple + search.max_fevals * settings.baselines, anchors),
        "baselines confirmed": Phase((BASELINES_OF_ONE + settings.confirm) * settings.baselines, held_out),
        "held-out tasks": Phase(finalists + (BASELINES_OF_ONE + 1) * settings.baselines, unseen),
    }


def candidate_seconds(time: Mapping[str, Any], phases: Mapping[str, Phase]) -> float:
    """The least seconds that merging and scoring a candidate of the search take, of the whole run's ``time``."""
    share = phases["search"].items / sum(phase.evaluations for phase in phases.values())
    return share * time["scoring_seconds"] + time["merging_seconds"] / time["merges"]


def warnings(config: RunConfig, space: Space, candidate: float) -> list[str]:
    """What will work, but not well, a line each; a ``candidate`` takes so many seconds at least."""
    search, genes = config.merge3.search, len(space.variables)
    found = []
    if (own := overhead(search.optimizer, genes)) > UNNOTICED * candidate:
        found.append(
            f"search.optimizer: {search.optimizer} over {genes} genes takes some {1000 * own:.0f} ms a candidate for "
            f"itself, more than {UNNOTICED:.0%} of the {1000 * candidate:,.1f} ms that merging and scoring one take at "
            "least; cma-es, ga and de take next to none"
        )
    if search.optimizer in MODEL_BASED and genes > FEW_GENES:
        found.append(
            f"search.optimizer: {search.optimizer} is for up to {FEW_GENES} genes, got {genes}: what it takes for "
            "itself grows with them; use cma-es, ga or de"
        )
    if search.optimizer == "cma-es" and search.options.get("covariance") == "full" and genes > FULL_COVARIANCE:
        found.append(
            f"search.options: a full covariance of {genes} genes is not learned in {search.max_fevals} candidates; "
            "write covariance: separable"
        )
    if search.max_fevals < CANDIDATES_A_GENE * genes and search.optimizer not in ("random", "grid"):
        real = all(variable.kind is Kind.REAL for variable in space.variables)
        other = ", and so may optimizer: gp" if real and genes <= FEW_GENES and search.optimizer != "gp" else ""
        found.append(
            f"search.max_fevals: {search.max_fevals} candidates for {genes} genes; below {CANDIDATES_A_GENE} a gene a "
            f"search goes part of the way only: fewer genes may get further{other}"
        )
    return found
