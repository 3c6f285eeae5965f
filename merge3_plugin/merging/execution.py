"""One tensor of a merge: mergekit's method on the parents' tensors, called as mergekit's executor calls it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mergekit import merge_methods
from mergekit.architecture import WeightInfo
from mergekit.common import dtype_from_name
from mergekit.merge_methods.buffers import copy_non_floating_buffer
from mergekit.parameter_resolver import resolve_parameters

from merge3_plugin.merging import MergeFailed
from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.plan import Job
from merge3_plugin.merging.references import one_line
from merge3_plugin.merging.vocabulary import Vocabulary


class Execution:
    """Merges of this family's tensors on ``device``, in the ``vocabulary`` of the run (None: the parents' own)."""

    def __init__(self, family: Family, vocabulary: Vocabulary | None, device: torch.device) -> None:
        self._family, self._vocabulary, self._device = family, vocabulary, device

    def merged(self, job: Job) -> torch.Tensor:
        """The tensor of a job, in the dtype in which mergekit writes it.

        Raises MergeFailed for NaN or infinite weights, or when the method gives up.
        """
        name, config = job.output.name, job.settings.config
        try:
            merged = self._merged(job)
        except (ValueError, ArithmeticError) as error:
            raise MergeFailed(f"{config.merge_method}: {name}: {one_line(error)}") from error
        if merged.is_floating_point() and not torch.isfinite(merged).all():
            raise MergeFailed(f"{config.merge_method}: expected finite weights, got NaN or infinity in {name}")
        out_dtype = dtype_from_name(job.output.force_dtype or config.out_dtype)
        return merged.to(out_dtype) if out_dtype else merged

    def tensor(self, weight: WeightInfo, name: str, together: Sequence[str], base: str | None) -> torch.Tensor:
        """``weight`` of the parent ``name``, in the run's vocabulary, when the parents ``together`` are merged."""
        if self._vocabulary is None or weight.vocabulary_axis is None:
            return self._family.parents[name].tensors[weight.name]
        return self._vocabulary.embed(weight, together, base)[name]

    def _merged(self, job: Job) -> torch.Tensor:
        models, base = list(job.inputs), job.settings.base_model
        tensors = self._inputs(job)
        buffer = copy_non_floating_buffer(tensors, job.output.name)
        if buffer is not None:
            return buffer
        shared, per_input = resolve_parameters(
            job.method.spec,
            tensor_name=job.output.name,
            inputs={model: weight.name for model, weight in job.inputs.items()},
            sources=job.settings.parameter_sources,
            base_model=base,
            t=job.settings.t,
        )
        for parameter in job.method.spec.input_parameters:
            named = {model: values[parameter.name] for model, values in per_input.items() if parameter.name in values}
            shared[parameter.name] = named
        # What merge_tensors does, and the vocabulary axis, which it drops and mergekit-yaml hands to the method.
        group = merge_methods.TensorGroup.from_tensors(
            tensors,
            ids=models,
            base_index=models.index(base) if base in models else None,
            name=job.output.name,
            vocabulary_axis=job.output.vocabulary_axis,
        )
        (merged,) = job.method((group,), parameters=shared)
        return merged

    def _inputs(self, job: Job) -> list[torch.Tensor]:
        dtype = dtype_from_name(job.settings.config.dtype)
        base = self._family.parent(job.settings.base_model).name if job.settings.base_model else None
        names = [self._family.parent(model).name for model in job.inputs]
        tensors = []
        for name, weight in zip(names, job.inputs.values(), strict=True):
            tensor = self.tensor(weight, name, names, base)
            if dtype and tensor.is_floating_point() and not weight.force_dtype:
                tensor = tensor.to(dtype)
            tensors.append(tensor.to(self._device))
        return tensors


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global generator as ``mergekit-yaml --random-seed`` does, and put them back afterwards."""
    state, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed also queues seeds for devices that are not there, at a millisecond each time.
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)
