"""A whole run: what is merged, which tasks it is scored on, and the ``merge3:`` block; read and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError, model_validator

from merge3_plugin.config.base import Fraction, ModelName, ModelNames, Strict, complaint
from merge3_plugin.config.evaluation import EvalConfig
from merge3_plugin.config.search import ConstraintConfig, FidelityConfig, SearchConfig
from merge3_plugin.config.spaces import GenomeSpaceConfig, SpaceConfig
from merge3_plugin.errors import ConfigError, nearest

AnchorMethod = Literal[
    "auto",
    "random",
    "stratified",
    "kd",
    "irt-clusters",
    "correctness-clusters",
    "representation-clusters",
    "neyman",
    "mixed",
]


class GenomeConfig(Strict):
    """What is merged and which settings of the merge are searched; upstream's keys with upstream's meaning."""

    models: ModelNames = Field(
        min_length=1, description="folders, hub ids (org/model@revision), or patterns such as run/checkpoint-*"
    )
    merge_method: str | None = Field(None, description="needed by the space genome, unless that searches the method")
    base_model: ModelName | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False

    def parents(self) -> list[str]:
        """Every model that takes part: ``models``, then the base where it is not one of them."""
        extra = [self.base_model] if self.base_model and self.base_model not in self.models else []
        return [*self.models, *extra]


class TaskConfig(Strict):
    """One objective: an lm-eval task, its weight in the fitness, and the metric as ``metric,filter``."""

    name: str
    weight: FiniteFloat = 1.0
    metric: str = "acc,none"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class LogsConfig(Strict):
    """Calibrate from the answers of other models, kept by ``lm_eval --log_samples``."""

    logs: list[str] = Field(min_length=1)


def _space(value: Any) -> Any:
    """``space: weights`` is short for its kind alone; without a kind it is the genome's."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "genome", **value} if isinstance(value, Mapping) else value


class BoundsConfig(Strict):
    """Where a parameter is searched: anywhere from ``min`` to ``max``, or at ``min`` and whole ``step``s from there."""

    min: FiniteFloat
    max: FiniteFloat
    step: FiniteFloat | None = Field(None, gt=0)


def _interval(value: Any) -> Any:
    """``[low, high]`` is short for an interval without steps."""
    if isinstance(value, Mapping | BoundsConfig):
        return value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("expected [low, high], or {min: low, max: high, step: size}")
    return {"min": value[0], "max": value[1]}


def _devices(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected auto, cpu, cuda:1 or the like, or a list of them, got {value!r}")
    return value


class Merge3Config(Strict):
    """The ``merge3:`` block."""

    seed: int = Field(0, ge=0, lt=2**32, description="reaches everything that is drawn")
    anchors: int = Field(50, ge=1, description="anchors of each task")
    anchor_method: AnchorMethod = Field(
        "auto", description="how a run that calibrates by itself chooses its anchors; auto: by cross-validation"
    )
    calibration: Literal["auto"] | str | dict[str, str | LogsConfig] = Field(
        "auto", description="auto, a calibration file, or for each task a file or {logs: [...]}"
    )
    auto_merges: int = Field(6, ge=0, description="random merges scored on all search items when calibration is auto")
    recalibrate: int | None = Field(
        None,
        ge=1,
        description="after so many candidates, again and again, the best one is scored on all search items (as costly "
        "as a random merge), and all answers so far refine the calibration: estimates of good merges get nearer; "
        "unset: never",
    )
    estimator: str = "auto"
    held_out: Fraction = Field(1 / 3, description="share of the items that only the confirmation reads")
    confirm: int = Field(3, ge=1, description="best candidates that are scored on the held-out items")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Annotated[str | list[str], BeforeValidator(_devices)] = Field(
        "auto",
        description="auto, cpu or cuda:1; a list for a live model on each of its devices, several of one where it is "
        "named several times",
    )
    data: dict[str, str] = Field(default_factory=dict, description="task -> local data file")
    id_field: str | None = Field(None, description="field of a document that names the item")
    split: dict[str, str] = Field(default_factory=dict, description="task -> split its items come from")
    language: dict[str, str | None] = Field(
        default_factory=dict, description="task -> language (ISO 639 code) that a generated answer must be in to count"
    )
    bounds: dict[str, Annotated[BoundsConfig, BeforeValidator(_interval)]] = Field(
        default_factory=dict,
        description="method parameter -> [low, high] in which it is searched, or {min, max, step} where it has steps",
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="method parameters kept fixed")
    space: Annotated[SpaceConfig, BeforeValidator(_space)] = Field(
        default_factory=GenomeSpaceConfig, description="genome, weights, lfs, dis or prune, with the keys of each"
    )
    search: SearchConfig = Field(default_factory=SearchConfig)
    fidelity: FidelityConfig = Field(default_factory=FidelityConfig)
    constraints: list[ConstraintConfig] = Field(default_factory=list, description="floors under tasks")
    front: int = Field(8, ge=2, description="members of the front of several objectives that are confirmed")
    reference: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="task -> accuracy, a share, from which on the front's hypervolume counts; unset: 0, or 1 where the "
        "weight is negative",
    )
    baselines: bool = Field(False, description="score and confirm the simple merges that a search has to beat, too")
    held_out_tasks: list[TaskConfig] = Field(
        default_factory=list,
        description="tasks that nothing of the search reads, scored at the end: what it may have cost there",
    )
    reuse: bool = Field(
        True,
        description="take parents' answers from earlier runs that asked the very same, and keep them for later",
    )
    eval: EvalConfig = Field(default_factory=EvalConfig)

    def devices(self) -> list[str]:
        """The device of each live model."""
        return [self.device] if isinstance(self.device, str) else self.device

    @model_validator(mode="after")
    def _rungs(self) -> Merge3Config:
        fewest = self.fidelity.fewest
        if fewest is not None and fewest > self.anchors:
            raise ValueError(f"merge3.fidelity.fewest: expected at most the {self.anchors} anchors, got {fewest}")
        return self


class RunConfig(Strict):
    """One run of the search."""

    genome: GenomeConfig
    tasks: list[TaskConfig] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool | None = None
    fewshot_as_multiturn: bool | None = None
    merge3: Merge3Config = Field(default_factory=Merge3Config)

    @model_validator(mode="after")
    def _names(self) -> RunConfig:
        space = self.merge3.space
        if self.genome.merge_method is None and isinstance(space, GenomeSpaceConfig) and not space.methods:
            raise ValueError("genome.merge_method: expected a merge method, got none; or name another merge3.space")
        names = [task.name for task in self.tasks]
        asked = [(task.name, task.metric) for task in self.tasks]
        if len(set(asked)) != len(asked):
            raise ValueError(f"tasks: expected each task once under each metric, got {[', '.join(a) for a in asked]}")
        if not any(task.weight for task in self.tasks):
            raise ValueError("tasks: expected a weight other than 0, got none")
        settings, keys = self.merge3, list(self.objectives())
        calibrations = settings.calibration if isinstance(settings.calibration, Mapping) else {}
        held_out = [task.name for task in settings.held_out_tasks]
        if len({(task.name, task.metric) for task in settings.held_out_tasks}) < len(held_out):
            raise ValueError(f"merge3.held_out_tasks: expected each task once under each metric, got {held_out}")
        if weighted := [task.name for task in settings.held_out_tasks if task.weight != 1]:
            raise ValueError(f"merge3.held_out_tasks: nothing is chosen by {weighted[0]!r}; leave its weight out")
        if shared := set(held_out) & set(names):
            raise ValueError(f"merge3.held_out_tasks: {min(shared)!r} is searched on; leave it out of one of them")
        for constraint in settings.constraints:
            if constraint.task not in keys:
                raise ValueError(
                    f"merge3.constraints: {constraint.task!r} is not among the tasks{nearest(constraint.task, keys)}"
                )
        for block, mapping, known in (
            ("data", settings.data, [*names, *held_out]),
            ("split", settings.split, [*names, *held_out]),
            ("language", settings.language, [*names, *held_out]),
            ("calibration", calibrations, [*names, *keys]),
            ("reference", settings.reference, keys),
        ):
            for name in mapping:
                if name not in known:
                    raise ValueError(f"merge3.{block}: {name!r} is not among the tasks{nearest(name, known)}")
        if isinstance(settings.calibration, str) and settings.calibration != "auto" and len(names) > 1:
            raise ValueError("merge3.calibration: one file serves one task; write {task: file} for each of them")
        for name, source in calibrations.items():
            if isinstance(source, str) and source != "auto" and name not in keys:
                each = next(key for key, task in self.objectives().items() if task.name == name)
                raise ValueError(f"merge3.calibration: one file serves one metric; write {{{each!r}: file}} for each")
        return self

    def objectives(self) -> dict[str, TaskConfig]:
        """Each task by its name; one under several metrics is several objectives, named ``name:metric,filter``."""
        return _named(self.tasks)

    def unseen(self) -> dict[str, TaskConfig]:
        """The held-out tasks, named likewise."""
        return _named(self.merge3.held_out_tasks)

    def calibration_of(self, objective: str) -> str | LogsConfig:
        """``"auto"``, or what calibrates this objective: what is named for it, else for its task."""
        chosen = self.merge3.calibration
        if isinstance(chosen, str):
            return chosen
        return chosen.get(objective, chosen.get(self.objectives()[objective].name, "auto"))


def _named(tasks: Sequence[TaskConfig]) -> dict[str, TaskConfig]:
    counts = Counter(task.name for task in tasks)
    return {task.name if counts[task.name] == 1 else f"{task.name}:{task.metric}": task for task in tasks}


def parse_config(raw: Any, source: str = "config", flags: Mapping[str, Any] | None = None) -> RunConfig:
    """A checked config. ``flags`` maps dotted keys ("merge3.search.max_fevals") to values that win over the file's.

    Raises ConfigError, in one line, for the first thing that is wrong.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: expected a mapping with genome and tasks, got {type(raw).__name__}")
    tree = dict(raw)
    for dotted, value in (flags or {}).items():
        *parents, leaf = dotted.split(".")
        node = tree
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, Mapping):
                raise ConfigError(f"{source}: expected a mapping at {parent}, got {type(child).__name__}")
            node[parent] = dict(child or {})
            node = node[parent]
        node[leaf] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {complaint(error)}") from None


def load_config(path: str | Path, flags: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML config. Raises ConfigError when it is missing, not YAML, or wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable YAML file, got: {error}") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, got: {' '.join(str(error).split())}") from None
    return parse_config(raw, str(path), flags)
