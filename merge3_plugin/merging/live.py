"""A live model of a run: the transformers model whose weights, and whose depth, each recipe replaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from mergekit.options import MergeOptions

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.parents import Family, Parent
from merge3_plugin.merging.references import one_line
from merge3_plugin.merging.stack import Stack


class Live:
    """``model``, made like the parent ``donor``, and ``tensors``: its tensor for each of mergekit's names.

    ``vocabulary_size`` is that of the merged model, None for the donor's own. Raises ModelError where the donor is no
    causal language model, or mergekit does not merge all its tensors.
    """

    def __init__(
        self,
        family: Family,
        donor: Parent,
        options: MergeOptions,
        *,
        device: torch.device,
        vocabulary_size: int | None,
    ) -> None:
        self._family, self._donor = family, donor.name
        self.model = _loaded(donor, family.dtype, options, vocabulary_size).to(device)
        self._untie(family.weights())
        self.tensors = self._found(family.weights())
        self._stack: Stack | None = None

    def build(self, layers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Make the model one of these layers of the parents, in this order; its ``tensors``, to be written.

        Raises what `Stack.build` raises.
        """
        if self._stack is None:
            if list(layers) == list(range(len(self._family.layers))):
                return self.tensors
            state = self.model.state_dict()
            first = [_key(weight, state) for weight in self._family.layers[0]]
            self._stack = Stack(self.model, [key for key in first if key])
        if self._stack.build(layers):
            self.tensors = self._found(self._family.weights(layers))
        return self.tensors

    def size(self, more: int = 0) -> int:
        """The bytes of its tensors, with so many layers more, each as large as the parents' largest."""
        parent = self._family.parents[self._donor].tensors
        layers = [sum(_bytes(parent[weight.name]) for weight in layer) for layer in self._family.layers]
        return sum(map(_bytes, self.tensors.values())) + more * max(layers)

    def _untie(self, weights: Sequence[WeightInfo]) -> None:
        """Give the model an output layer of its own where a parent has one, for the merged model gets one then."""
        head, embeddings = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        if head is None or head.weight is not embeddings.weight:
            return
        names = {name for name, tensor in self.model.state_dict(keep_vars=True).items() if tensor is head.weight}
        if names <= {weight.name for weight in weights}:
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
            self.model.config.tie_word_embeddings = False

    def _found(self, weights: Sequence[WeightInfo]) -> dict[str, torch.Tensor]:
        state = self.model.state_dict()
        tensors = {}
        for weight in weights:
            key = _key(weight, state)
            if key is None:
                raise ModelError(f"model {self._donor!r}: expected tensor {weight.name} in the live model, got none")
            tensors[weight.name] = state[key]
        covered = {tensor.data_ptr() for tensor in tensors.values()}
        if lost := [name for name, tensor in state.items() if tensor.data_ptr() not in covered]:
            raise ModelError(
                f"model {self._donor!r}: mergekit does not merge its tensor {lost[0]}, which would be lost"
            )
        return tensors


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _key(weight: WeightInfo, state: dict[str, torch.Tensor]) -> str | None:
    return next((key for key in (weight.name, *(weight.aliases or ())) if key in state), None)


def _loaded(donor: Parent, dtype: torch.dtype, options: MergeOptions, vocabulary_size: int | None) -> Any:
    from transformers import AutoModelForCausalLM

    ref = donor.ref.merged(options.lora_merge_cache, options.trust_remote_code, options.lora_merge_dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_pretrained(
                ref.model.path, dtype=dtype, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
            if vocabulary_size is not None:
                model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
    except (OSError, ValueError, RuntimeError) as error:
        text = one_line(error)
        raise ModelError(f"model {donor.name!r}: expected a causal language model, got: {text}") from None
    return model.eval().requires_grad_(False)
