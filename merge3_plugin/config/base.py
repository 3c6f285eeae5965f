"""What every block of the config shares."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from merge3_plugin.errors import nearest


class Strict(BaseModel):
    """Frozen, and an unknown key is an error that names the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return value


def complaint(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line: where, what was expected, what came."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    said = isinstance(first["input"], Mapping) or ", got " in message
    got = "" if said else f", got {first['input']!r}"
    return f"{where + ': ' if where else ''}{message}{got}"


def _reference(value: Any) -> Any:
    """mergekit's mapping form of a model, as its string form ``path@revision+lora``."""
    if not isinstance(value, Mapping):
        return value
    model, lora = value.get("model", value), value.get("lora")
    if isinstance(model, Mapping):
        if not isinstance(model.get("path"), str):
            raise ValueError("expected a model as a name, or as a mapping with its path (and revision, lora)")
        model = model["path"] + (f"@{model['revision']}" if model.get("revision") else "")
    return f"{model}+{_reference(lora)}" if lora else model


def _expanded(names: list[str]) -> list[str]:
    """The models, each pattern replaced by the folders of models that it matches, in the order of their numbers."""
    return [name for given in names for name in (_matches(given) if any(sign in given for sign in "*?") else [given])]


def _matches(pattern: str) -> list[str]:
    base, plus, folders = pattern.rpartition("+")
    found = [
        folder
        for folder in glob.glob(str(Path(folders).expanduser()))
        if any((Path(folder) / name).is_file() for name in ("config.json", "adapter_config.json"))
    ]
    if not found:
        raise ValueError(f"expected folders of models at {folders}, got none; check the path")
    return [f"{base}{plus}{folder}" for folder in sorted(found, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """An order in which checkpoint-200 comes before checkpoint-1000."""
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"(\d+)", name))]


ModelName = Annotated[str, BeforeValidator(_reference)]
# A pattern such as run/checkpoint-* stands for every checkpoint there.
ModelNames = Annotated[list[ModelName], AfterValidator(_expanded)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
