"""What spaces share whose merges are stacks of the parents' layers, of another depth than theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.config import GenomeConfig

What = TypeVar("What")


def check_models(genome: GenomeConfig) -> None:
    """Raise ConfigError for a model that is there twice, and for a vocabulary that would depend on the candidate."""
    if len(set(genome.models)) != len(genome.models):
        raise ConfigError(f"genome.models: expected each model once, got {', '.join(genome.models)}")
    if genome.tokenizer_source == "union":
        raise ConfigError(
            "genome.tokenizer_source: not every merge has layers of every model, so the union would change with the "
            "candidate; take base or a model"
        )


def inner_layers(n_layers: int, frozen_first: int, frozen_last: int) -> range:
    """The layers that are not frozen. Raises ConfigError where there is none."""
    if frozen_first + frozen_last >= n_layers:
        raise ConfigError(
            f"merge3.space: expected layers between the frozen ones, got {frozen_first} first and {frozen_last} last "
            f"of {n_layers} that are frozen; lower frozen_first or frozen_last"
        )
    return range(frozen_first, n_layers - frozen_last)


def slices(
    layers: Sequence[tuple[What, int]],
    n_layers: int,
    *,
    base: What,
    keeps_base: Callable[[What], bool],
    write: Callable[[What, list[int]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """The slices of a recipe: neighbours of one making, and of subsequent layers of the parents, in one of them.

    A layer is what it is made of, and which of the parents' layers it is; ``write`` makes a slice of that and a range.
    mergekit takes embeddings, final norm and output layer as the first and the last slice say. Where one of these does
    not keep the base's (``keeps_base``), a slice of ``base`` without a layer stands before it, or after it.
    """
    runs: list[tuple[What, int, int]] = []
    for what, index in layers:
        if runs and runs[-1][0] == what and runs[-1][2] == index:
            runs[-1] = (what, runs[-1][1], index + 1)
        else:
            runs.append((what, index, index + 1))
    if not keeps_base(runs[0][0]):
        runs.insert(0, (base, 0, 0))
    if not keeps_base(runs[-1][0]):
        runs.append((base, n_layers, n_layers))
    return [write(what, [first, end]) for what, first, end in runs]


def layers_of(slices: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Each layer of a recipe: its slice, and which of the parents' layers it is."""
    return [(slice_, index) for slice_ in slices for index in range(*slice_["sources"][0]["layer_range"])]


def recipe(
    method: str, slices: Sequence[dict[str, Any]], genome: GenomeConfig, base: str, dtype: str
) -> dict[str, Any]:
    """The recipe of these slices. ``base`` is the model whose config and tokenizer the merged model gets."""
    found: dict[str, Any] = {"merge_method": method, "slices": list(slices), "dtype": dtype, "base_model": base}
    if genome.tokenizer_source:
        found["tokenizer_source"] = genome.tokenizer_source
    return found
