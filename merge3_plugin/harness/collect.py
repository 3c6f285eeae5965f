"""Full evaluations of models by lm-eval itself, kept as its sample logs: what a calibration is made from."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from merge3_plugin.errors import ModelError, RunError

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

    from merge3_plugin.harness.benchmark import Benchmark

log = logging.getLogger(__name__)

# Beside lm-eval's own keys in a results file: under which settings the logs were made.
RECORD = "merge3"


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are evaluated, under lm_eval's names and with its defaults but for a fixed batch size."""

    dtype: str = "auto"
    device: str | None = None
    batch_size: int = 8
    limit: float | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    trust_remote_code: bool = False


class AnchorYaml(NamedTuple):
    """What the YAML of one of our tasks says of how its logs are read; ``base`` is empty or its base's name."""

    metric: str | None = None
    base: tuple[str, ...] = ()
    language: str | None = None


def anchor_yaml(task: str) -> AnchorYaml:
    """Metric, base and language of one of our tasks, by its YAML alone; nothing for any other name.

    A base that the YAML asks in another way (but for the few-shot count, which logs tell) does not count: its logs are
    of other prompts.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    from merge3_plugin.harness.registration import tasks_folder

    found = next(iter(sorted(tasks_folder().rglob(f"{task}.yaml"))), None)
    config = load_yaml(found, resolve_func=False) if found else {}
    same = config.keys() <= {"task", "task_alias", "class", "base", "metric", "language", "num_fewshot", "metadata"}
    base = (config["base"],) if "base" in config and same else ()
    return AnchorYaml(config.get("metric"), base, config.get("language"))


def check_models(models: Sequence[str], settings: EvaluationSettings) -> dict[str, str]:
    """A fingerprint of each model (files with size and time, or the hub's commit), before hours are spent on the first.

    Raises ModelError for a model that is missing or has no readable configuration.
    """
    from transformers import AutoConfig

    fingerprints = {}
    for model in models:
        folder = Path(model)
        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"model {model!r}: expected a Hugging Face folder or name, got: {_line(error)}") from None
        if folder.is_dir():
            files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
            fingerprints[model] = _digest(files)
        else:
            fingerprints[model] = str(getattr(config, "_commit_hash", None))
    return fingerprints


def expected_record(benchmark: Benchmark, model: str, fingerprint: str, settings: EvaluationSettings) -> dict[str, Any]:
    """What the logs of this model on this benchmark under these settings say of themselves."""
    import lm_eval

    leaves = benchmark.items.leaves
    return {
        "task": benchmark.name,
        "leaves": list(leaves),
        "items": _digest([benchmark.item_ids, benchmark.item_hashes]),
        "tasks": _digest({name: leaf.dump_config() for name, leaf in leaves.items()}),
        "model": [model, fingerprint],
        "settings": {name: value for name, value in asdict(settings).items() if name != "device"},
        "lm_eval": lm_eval.__version__,
    }


def find_complete(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The sample logs of an earlier run with this record, if every line of them is there; else none."""
    for results in sorted(folder.glob("*/results_*.json"), reverse=True):
        try:
            kept = dict(json.loads(results.read_bytes())[RECORD])
            lines = dict(kept.pop("lines"))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # the run was killed while it wrote this file, or the file is not ours
        if kept != record:
            continue
        date = results.stem.removeprefix("results_")
        logs = {name: results.with_name(f"samples_{name}_{date}.jsonl") for name in lines}
        if all(_count(path) == lines[name] for name, path in logs.items()):
            return list(logs.values())
    return []


def collect_logs(benchmark: Benchmark, models: Sequence[str], folder: Path, settings: EvaluationSettings) -> list[Path]:
    """Sample logs of every model on all items of the benchmark, kept under ``folder``, one sub-folder a model.

    A model whose complete logs of the same items, settings and weights lie there is not run again, so a broken run goes
    on where it stopped. Progress is logged. Raises ModelError for a model that cannot be loaded, RunError where logs
    cannot be written.
    """
    fingerprints = check_models(models, settings)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: expected a folder for the logs, got: {error.strerror}; name another one") from None
    logs, seconds = [], []
    for number, model in enumerate(models, start=1):
        record = expected_record(benchmark, model, fingerprints[model], settings)
        found = find_complete(folder, record)
        where = f"model {number} of {len(models)}, {model}"
        if found:
            log.info("%s: its logs are complete in %s; not run again", where, found[0].parent)
        else:
            log.info("%s: %s items of %s", where, f"{len(benchmark.item_ids):,}", benchmark.name)
            started = time.monotonic()
            found = _evaluate(benchmark, model, folder, record, settings)
            seconds.append(time.monotonic() - started)
            left = (len(models) - number) * sum(seconds) / len(seconds)
            log.info("%s: %.0f s, about %.0f s to go", where, seconds[-1], left)
        logs += found
    return logs


def _evaluate(
    benchmark: Benchmark, model: str, folder: Path, record: Mapping[str, Any], settings: EvaluationSettings
) -> list[Path]:
    """Evaluate one model on all items with lm-eval, keep its results and samples, and give the sample logs."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    multiturn = settings.fewshot_as_multiturn  # lm_eval's own default: on with a chat template
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=load_model(model, settings),
        model_args=_arguments(model, settings),
        tasks=list(benchmark.items.leaves.values()),
        batch_size=settings.batch_size,
        device=settings.device,
        limit=settings.limit,
        bootstrap_iters=0,
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=settings.apply_chat_template if multiturn is None else multiturn,
        evaluation_tracker=tracker,
        task_manager=TaskManager(include_defaults=False),  # the tasks are built already
    )
    samples = results.pop("samples")
    results[RECORD] = {**record, "lines": {name: len(lines) for name, lines in samples.items()}}
    if list(samples) != [benchmark.name]:
        results["group_subtasks"] = {benchmark.name: list(samples)}
    tracker.save_results_aggregated(results=results, samples=samples)
    # lm-eval only warns when it cannot write, so what lies there is looked at.
    if hasattr(tracker, "date_id"):
        for name, lines in samples.items():
            tracker.save_results_samples(task_name=name, samples=lines)
    logs = find_complete(folder, record)
    if not logs:
        raise RunError(f"{folder}: expected room and permission to keep the logs of {model!r}, got neither; free space")
    return logs


def load_model(model: str, settings: EvaluationSettings) -> HFLM:
    """The model as lm-eval's ``hf`` loads it. Raises ModelError where it cannot be loaded."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from safetensors import SafetensorError

    try:
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return HFLM(**_arguments(model, settings), batch_size=settings.batch_size, device=device)
    # torch asserts that there is a GPU.
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AssertionError, SafetensorError) as error:
        raise ModelError(f"model {model!r}: expected a causal language model that loads, got: {_line(error)}") from None


def _arguments(model: str, settings: EvaluationSettings) -> dict[str, Any]:
    return {"pretrained": model, "dtype": settings.dtype, "trust_remote_code": settings.trust_remote_code}


def _count(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_text).encode()).hexdigest()[:32]


def _text(value: Any) -> str:
    """The same in every process, as a function's address is not."""
    return inspect.getsource(value) if inspect.isfunction(value) else str(value)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
