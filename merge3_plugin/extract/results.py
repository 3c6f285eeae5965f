"""What lm-eval's results file says of a run: checked as a whole, so that nothing later meets another shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from merge3_plugin.errors import DataError


class _Section(BaseModel):
    """Names the keys that are read; lm-eval writes many more, and other ones in every release."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskSettings(_Section):
    """A task's configuration as lm-eval ran it."""

    dataset_path: str | None = None
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] | None = None
    test_split: str | None = None
    validation_split: str | None = None
    generation_kwargs: dict[str, Any] | None = None
    target_delimiter: str = " "
    gen_prefix: str | None = None


class SampleCount(_Section):
    """Documents of a task before (``original``) and after ``--limit``."""

    original: int | None = None
    effective: int | None = None


class ModelSettings(_Section):
    model_revision: str | None = None


class RunResults(_Section):
    """One ``results_<date>.json``; sections are by task or group."""

    model_name: str | None = None
    config: ModelSettings = ModelSettings()
    configs: dict[str, TaskSettings] = {}
    group_subtasks: dict[str, list[str]] = {}
    n_samples: dict[str, SampleCount] = Field({}, alias="n-samples")
    n_shot: dict[str, Any] = Field({}, alias="n-shot")
    results: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    higher_is_better: dict[str, dict[str, Any]] = {}
    chat_template_sha: str | None = None
    system_instruction_sha: str | None = None
    fewshot_as_multiturn: bool | None = None


def read_results(path: Path) -> RunResults:
    """The results in a file. Raises DataError where it is unreadable or not lm-eval's."""
    try:
        return RunResults.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        got = f"in {where!r}: {first['msg'].lower()}, it is {type(first['input']).__name__}"
    except (OSError, ValueError, RecursionError) as error:
        got = str(error)
    raise DataError(f"{path}: expected lm_eval's results, got {got}; move the file away to go without") from None
