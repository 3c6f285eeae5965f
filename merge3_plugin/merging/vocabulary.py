"""One vocabulary for all parents: the check that they share it, or mergekit's own step that gives them one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from mergekit.common import ImmutableMap, ModelReference
from mergekit.io.tasks import GatherTensors
from mergekit.options import MergeOptions
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary
from transformers import AutoTokenizer

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.parents import Family, Parent
from merge3_plugin.merging.references import find_model, one_line


def load_tokenizers(family: Family, options: MergeOptions) -> dict[str, Any]:
    """The tokenizer of each parent that has one, by the parent's name. Raises ModelError if none has."""
    tokenizers = {}
    for name, parent in family.parents.items():
        try:
            tokenizers[name] = AutoTokenizer.from_pretrained(
                parent.ref.model.path, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
        except (OSError, ValueError):
            continue  # mergekit, too, takes a parent without a tokenizer to have the others'
    if not tokenizers:
        raise ModelError(f"models: expected a tokenizer in at least one of {', '.join(family.parents)}, got none")
    return tokenizers


def check_vocabularies(family: Family, tokenizers: Mapping[str, Any]) -> None:
    """Raise ModelError unless every parent has the same tokens under the same ids, and embeddings of one size."""
    remedy = "set tokenizer_source (base, union or a model) to give them one"
    first, *others = family.parents.values()
    for weight in family.weights():
        for parent in others if weight.vocabulary_axis is not None else ():
            got = parent.tensors[weight.name].shape[weight.vocabulary_axis]
            want = first.tensors[weight.name].shape[weight.vocabulary_axis]
            if got != want:
                raise ModelError(
                    f"model {parent.name!r}: expected a vocabulary of {want} as in {first.name!r}, got {got}; {remedy}"
                )
    (known, tokenizer), *rest = tokenizers.items()
    vocabulary = tokenizer.get_vocab()
    for name, other in rest:
        if differing := sorted(set(vocabulary.items()) ^ set(other.get_vocab().items())):
            token = differing[0][0]
            raise ModelError(
                f"model {name!r}: expected the vocabulary of {known!r}, got another id for token {token!r}; {remedy}"
            )


class Vocabulary:
    """The vocabulary that ``tokenizer_source`` asks for, and the parents' embeddings in it."""

    def __init__(self, family: Family, base: str | None, source: str, options: MergeOptions) -> None:
        self._parents = family.parents
        refs = {name: parent.ref for name, parent in family.parents.items()}
        self._task = BuildTokenizer(
            base_model=refs[base] if base else None,
            referenced_models=tuple(refs.values()),
            tokenizer_source=source if source in ("base", "union") else refs.get(source) or find_model(source, options),
            add_tokens=(),
            trust_remote_code=options.trust_remote_code,
        )
        try:
            self._info = self._task.execute()
        except (OSError, RuntimeError, ValueError) as error:
            text = one_line(error)
            raise ModelError(f"tokenizer_source {source!r}: mergekit cannot build the vocabulary: {text}") from None
        self.tokenizer: Any = self._info.tokenizer
        self._cache: dict[tuple[str, tuple[str, ...], str | None], dict[str, torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.tokenizer.get_vocab())

    def embed(self, weight: WeightInfo, names: Sequence[str], base: str | None) -> dict[str, torch.Tensor]:
        """The tensors ``weight`` of the parents ``names`` in this vocabulary; computed once for each combination.

        A token that some of them lack is filled from the base, or from those that have it, so the result depends on
        who takes part (mergekit's PermutedVocabulary).
        """
        key = (weight.name, tuple(names), base)
        if key not in self._cache:
            parents = [self._parents[name] for name in names]
            permuted = self._permute(weight, parents, self._parents[base].ref if base else None)
            self._cache[key] = {parent.name: permuted[parent.ref] for parent in parents}
        return self._cache[key]

    def _permute(self, weight: WeightInfo, parents: Sequence[Parent], base: ModelReference | None) -> Any:
        task = PermutedVocabulary(
            gather_tensors=GatherTensors(weight_info=ImmutableMap({parent.ref: weight for parent in parents})),
            tokenizer_task=self._task,
            tokens=None,
            pad_to_multiple_of=None,
            base_model=base,
            vocabulary_axis=weight.vocabulary_axis,
        )
        return task.execute(self._info, {parent.ref: parent.tensors[weight.name] for parent in parents})
