"""What is checked before anything big loads: test sets, chat templates, the run folder, what the parents are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import ConfigError, RunError, nearest
from merge3_plugin.harness.benchmark import Benchmark

EVIL_FLAG = "--i-understand-the-depths-of-the-evils-i-am-unleashing"

# How the names of lm-eval's copies of public benchmarks begin, without merge3_ and tiny.
BENCHMARK_PREFIXES = (
    "agieval", "ai2_arc", "arc_", "bigbench", "gsm8k", "gsm_plus", "hellaswag", "hendrycks", "leaderboard",
    "mgsm", "mmlu", "openbookqa", "piqa", "truthfulqa", "winogrande",
)  # fmt: skip
# Not validation: several benchmarks keep their test labels secret, so that everyone reports validation.
SEARCHABLE_SPLITS = ("train", "training", "dev")


def check_test_sets(config: RunConfig, benchmarks: Mapping[str, Benchmark], *, allowed: bool) -> list[str]:
    """Warnings for tasks whose items are a public benchmark's test items; ConfigError unless ``allowed``."""
    warnings = []
    for name, benchmark in {benchmark.task: benchmark for benchmark in benchmarks.values()}.items():
        source = benchmark.provenance.get("source_benchmark")
        bare = name.lower().removeprefix("merge3_").removeprefix("tiny")
        public = source or f"{bare}_".startswith(BENCHMARK_PREFIXES)
        split = config.merge3.split.get(name) or benchmark.provenance.get("split") or "unknown"
        if not public or name.endswith("_train") or split.split("[")[0] in SEARCHABLE_SPLITS:
            continue
        message = (
            f"task {name}: its items are the {split} split of {source or 'a public benchmark'}; "
            "a model that was searched on them has no honest score there"
        )
        if not allowed:
            raise ConfigError(f"{message}; say so if they are not (merge3.split.{name}: train), or pass {EVIL_FLAG}")
        warnings.append(message)
    return warnings


def check_sampling(config: RunConfig, benchmarks: Mapping[str, Benchmark]) -> None:
    """Raise ConfigError for answers that are sampled where several live models would share torch's generator for it."""
    if len(config.merge3.devices()) == 1:
        return
    for name, benchmark in benchmarks.items():
        for leaf in benchmark.items.leaves.values():
            asked = {**(getattr(leaf.config, "generation_kwargs", None) or {}), **(config.merge3.eval.gen_kwargs or {})}
            sampled = asked.get("do_sample", bool(asked.get("temperature")))
            if benchmark.items.output_type == "generate_until" and sampled:
                raise ConfigError(
                    f"task {name}: expected greedy answers where there are several live models, got sampled ones; "
                    "set merge3.eval.gen_kwargs: {do_sample: false}, or name one device"
                )


def check_metrics(config: RunConfig, benchmarks: Mapping[str, Benchmark]) -> list[str]:
    """A line on each task that is evaluated in full.

    ConfigError for a weight that rewards what is worse, and for the calibration of what is not estimated.
    """
    calibrations = config.merge3.calibration if isinstance(config.merge3.calibration, Mapping) else {}
    notes = []
    for name, benchmark in benchmarks.items():
        weight, metric = config.objectives()[name].weight, benchmark.items.metric
        if weight > 0 and benchmark.items.higher_is_better is False:
            raise ConfigError(
                f"task {name}: expected a negative weight for {metric}, of which lower is better, got {weight:g}; "
                f"write weight: {-weight:g}"
            )
        if not benchmark.per_item:
            if name in calibrations:
                raise ConfigError(
                    f"merge3.calibration.{name}: expected a task that is estimated, got {metric}, which only all "
                    "items together have; leave its calibration out"
                )
            notes.append(
                f"task {name}: {metric} is no score of single items, so it is not estimated: every candidate is "
                f"evaluated on all {len(benchmark.item_ids):,} documents"
            )
    return notes


def check_filters(config: RunConfig, tensors: Sequence[str] | None) -> None:
    """Raise ConfigError for a filter of the genome or the space that no tensor would follow.

    ``tensors`` are the names of the models' (None: unknown). As in mergekit, a tensor follows the first filter that is
    part of its name.
    """
    if tensors is None:
        return
    _check_filters("genome.filters", config.genome.filters or [], tensors)
    _check_filters("merge3.space.filters", getattr(config.merge3.space, "filters", []), tensors)


def _check_filters(where: str, filters: Sequence[str], tensors: Sequence[str]) -> None:
    rest = list(tensors)
    for name in filters:
        if not any(name in tensor for tensor in tensors):
            parts = {part for tensor in tensors for part in tensor.split(".") if not part.isdigit()}
            raise ConfigError(
                f"{where}: expected a part of tensor names, got {name!r}, which no tensor has{nearest(name, parts)}"
            )
        if not any(name in tensor for tensor in rest):
            raise ConfigError(
                f"{where}: expected tensors left for {name!r}, got none: those before it take them all; "
                "write narrow filters before wide ones"
            )
        rest = [tensor for tensor in rest if name not in tensor]


def check_scales(config: RunConfig, unscalable: str | None) -> None:
    """Raise ConfigError where residual scales are searched, which the parents cannot have for this reason."""
    if unscalable is not None and getattr(config.merge3.space, "scales", None) is not None:
        raise ConfigError(
            "merge3.space.scales: expected an architecture whose weights can take a scale of the residual stream, "
            f"got one where {unscalable}; write scales: null"
        )


def depth_note(config: RunConfig, by_layer: Sequence[str]) -> str | None:
    """What mergekit does with merges of another depth, of models whose config has these lists by layer."""
    if not by_layer or config.merge3.space.kind not in ("dis", "prune"):
        return None
    return (
        f"merge3.space: mergekit-yaml leaves {' and '.join(by_layer)} as long as the parents', so it writes the "
        "weights of a recipe of another depth and then stops; final_model has the config that belongs to them"
    )


def chat_template(config: RunConfig, templates: Mapping[str, str | None]) -> tuple[bool, str | None]:
    """Whether prompts go through the chat template, and a line that says why where the config does not.

    ``templates`` maps each parent to its template. Unsaid, it is on when every parent has the same one.
    """
    if config.apply_chat_template is not None:
        return config.apply_chat_template, None
    distinct = set(templates.values())
    if None in distinct:
        bare = next(name for name, template in templates.items() if template is None)
        return False, f"chat template: off, since {bare} has none (apply_chat_template: true overrides)"
    if len(distinct) > 1:
        return False, "chat template: off, since the parents' templates differ (apply_chat_template: true overrides)"
    return True, "chat template: on, since every parent has the same one (apply_chat_template: false overrides)"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder, made if need be. Raises RunError when it is a file, not writable, or in use."""
    from filelock import FileLock, Timeout

    if folder.exists() and not folder.is_dir():
        raise RunError(f"--storage-path {folder}: expected a folder, got a file; name another")
    lock = FileLock(folder / "run.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{folder}: expected a free run folder, another run is using it; wait or name another") from None
    except OSError as error:
        raise RunError(f"{folder}: expected a writable folder, got: {error.strerror}; name another") from None
    try:
        yield
    finally:
        lock.release()


def fingerprint(folder: Path) -> dict[str, Any]:
    """What identifies a model's files without reading them whole: name, size, and a hash of head and tail."""
    files = sorted(p for p in folder.glob("*") if p.suffix in (".json", ".safetensors", ".jinja"))
    found = {}
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as stream:
            digest = hashlib.sha256(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
        found[path.name] = [size, digest.hexdigest()[:16]]
    return found
