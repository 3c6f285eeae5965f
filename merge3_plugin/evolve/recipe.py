"""A recipe: a plain mapping that mergekit accepts, with an identity and a file.

It is a config of ``mergekit-yaml``, or, since such a config has one method for all layers, several for
``mergekit-multi``: ``{"merges": {name: config}, "select": config}``, where the slices of ``select`` name the merges of
which they take layers (see `merging.documents`).
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from merge3_plugin.errors import ConfigError
from merge3_plugin.merging import MERGES, SELECT

_MODEL_KEYS = ("model", "base_model", "tokenizer_source")
# As a tokenizer_source these are no models.
_SOURCE_WORDS = ("base", "union")


def candidate_id(recipe: Mapping[str, Any], parents: Sequence[str] = ()) -> str:
    """The identity of a candidate: 16 hex digits of the SHA-256 of its recipe in canonical JSON.

    ``parents`` stand in it by position, so that it does not depend on where they lie.
    """
    names = {name: f"parent {position}" for position, name in enumerate(parents)}
    canonical = json.dumps(renamed(recipe, names), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_yaml(
    recipe: Mapping[str, Any],
    *,
    random_seed: int,
    flags: Sequence[str] = (),
    recipe_file: str = "best_config.yaml",
    model_folder: str = "final_model",
) -> str:
    """The recipe as YAML, in a document or several, after a comment: the command that gives the run's model from it.

    ``flags`` are those that the command needs besides the seed (``Merger.flags``). Models in local folders are
    written with absolute paths, so that the command works from anywhere.
    """
    if MERGES in recipe:
        documents = [{"name": name, **merge} for name, merge in recipe[MERGES].items()] + [recipe[SELECT]]
        # Not lazy, or it would take what lies there of an earlier recipe. With ./ before them, mergekit does not take
        # the merges' folders for names on the hub, which it would ask.
        folders = ["--out-path", model_folder, "--intermediate-dir", f"./{model_folder}-parts", "--no-lazy"]
        command = ["mergekit-multi", recipe_file, *folders]
    else:
        documents = [recipe]
        command = ["mergekit-yaml", recipe_file, model_folder]
    command += ["--random-seed", str(random_seed), *flags]
    models = models_of(recipe)
    local = {name: str(Path(name).expanduser().absolute()) for name in models if _is_folder(name)}
    text = yaml.safe_dump_all(
        [renamed(document, local) for document in documents],
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=10_000,
    )
    return f"# {shlex.join(command)}\n{text}"


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a file for ``mergekit-yaml`` or ``mergekit-multi``. Raises ConfigError for a file that is none."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a recipe in YAML, got: {' '.join(str(error).split())}") from None
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise ConfigError(f"{path}: expected a recipe of mergekit, a mapping with merge_method, got none")
    *named, last = documents
    if not named:
        return dict(last)
    if "name" in last or not all("name" in document for document in named):
        raise ConfigError(f"{path}: expected documents with a name each and last one without, got others")
    merges = {document["name"]: {k: v for k, v in document.items() if k != "name"} for document in named}
    return {MERGES: merges, SELECT: last}


def renamed(node: Any, names: Mapping[str, str], key: str = "") -> Any:
    """The recipe with these models under their new names."""
    if isinstance(node, Mapping):
        return {k: renamed(value, names, k) for k, value in node.items()}
    if isinstance(node, list | tuple):
        return [renamed(value, names) for value in node]
    return names.get(node, node) if _names_model(key, node) else node


def models_of(recipe: Mapping[str, Any]) -> set[str]:
    """The names of the models that a recipe is made of."""
    return _models(recipe) - set(recipe.get(MERGES, ()))


def _models(node: Any, key: str = "") -> set[str]:
    if isinstance(node, Mapping):
        return set().union(*(_models(value, k) for k, value in node.items()))
    if isinstance(node, list | tuple):
        return set().union(*(_models(value) for value in node))
    return {node} if _names_model(key, node) else set()


def _names_model(key: str, node: Any) -> bool:
    words = _SOURCE_WORDS if key == "tokenizer_source" else ()
    return key in _MODEL_KEYS and isinstance(node, str) and node not in words


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()
