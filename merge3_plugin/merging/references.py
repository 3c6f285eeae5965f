"""The names of models, as mergekit reads them, and the folders they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from merge3_plugin.errors import ModelError

SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_HUB_FILES = (*SMALL_FILES, "*.safetensors")


def canonical(name: str) -> str:
    """The name as mergekit writes it. Raises ModelError for one that it cannot read."""
    try:
        return str(ModelReference.parse(name))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"model {name!r}: expected a folder or hub id, got: {one_line(error)}") from None


def find_model(name: str, options: MergeOptions, files: Sequence[str] = _HUB_FILES) -> ModelReference:
    """``name`` (a folder or a hub id, with mergekit's ``@revision`` and ``+lora``) as a reference to local folders.

    A hub id is taken from the cache, or those of its ``files`` are downloaded that are not there; a string that looks
    like a path never goes to the network.
    """
    reference = ModelReference.parse(name)
    if Path(name).exists() and reference.model.path != name:
        raise ModelError(f"model {name!r}: mergekit reads '@' and '+' as revision and LoRA; rename the folder")
    parts = {"model": _local_folder(reference.model.path, reference.model.revision, options, files)}
    if reference.lora:
        parts["lora"] = _local_folder(reference.lora.path, reference.lora.revision, options, files)
    return ModelReference(**{part: {"path": folder} for part, folder in parts.items()})


def _local_folder(name: str, revision: str | None, options: MergeOptions, files: Sequence[str]) -> str:
    import huggingface_hub

    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ModelError(f"model {name!r}: expected a folder with config.json and *.safetensors, got a file")
    near = path.parent if str(path.parent) != "." else None
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or (near and near.is_dir()):
        raise ModelError(f"model {name!r}: expected a folder, got nothing there; check the path")
    try:
        return huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=options.transformers_cache, allow_patterns=list(files)
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r}: expected a folder or a model on the hub, got neither ({type(error).__name__}); "
            "check the name and the network"
        ) from None


def one_line(error: BaseException) -> str:
    """What a library's error says, cut to fit into one line of ours."""
    return " ".join(str(error).split())[:200]
