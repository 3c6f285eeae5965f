"""One tensor of a merge: block by block where we have a kernel for its method, else by mergekit's own method."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from mergekit import merge_methods
from mergekit.architecture import WeightInfo
from mergekit.common import dtype_from_name
from mergekit.merge_methods.buffers import copy_non_floating_buffer
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge

from merge3_plugin.generators import TORCH_IN_USE, GlobalGenerators
from merge3_plugin.merging import MergeFailed
from merge3_plugin.merging.arithmetic import arithmetic
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.constants import Constants
from merge3_plugin.merging.fused import OnePass
from merge3_plugin.merging.kernels import Inputs, Step, linear, nuslerp, slerp
from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.plan import Job
from merge3_plugin.merging.references import one_line
from merge3_plugin.merging.residence import Residence
from merge3_plugin.merging.uniform import Uniform
from merge3_plugin.merging.vocabulary import Vocabulary

_KERNELS = {"linear": linear, "slerp": slerp, "nuslerp": nuslerp}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Execution:
    """Merges of this family's tensors on ``device``, in the ``vocabulary`` of the run (None: the parents' own).

    The draws of each merge begin with ``seed``. Several live models may share it, in a thread each.
    """

    def __init__(self, family: Family, vocabulary: Vocabulary | None, device: torch.device, seed: int) -> None:
        self._family, self._vocabulary = family, vocabulary
        self._device, self._seed, self._turn = device, seed, threading.Lock()
        self._globals = GlobalGenerators(seed)
        self._blocks, self._constants, self._residence = Blocks(device), Constants(), Residence(device)
        self._uniform = Uniform(sum(tensor.nbytes for of in family.parents.values() for tensor in of.tensors.values()))

    def run(self, jobs: Sequence[Job], build: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Write the tensors of all jobs, in their order, into those of the same name of the model that is built first.

        Raises MergeFailed for NaN or infinite weights, or when a method gives up, and what ``build`` raises.
        """
        sums: dict[torch.dtype, list[torch.Tensor]] = {}
        with self.turn(), torch.no_grad():
            with seeded(self._seed, self._device):
                self._globals = GlobalGenerators(self._seed)
                live = build()
                for job in jobs:
                    out = live[job.output.name]
                    sums.setdefault(out.dtype, []).extend(self.write(job, out))
            # Here, with a GPU still at work, another may begin.
            self._check(jobs, live, sums)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One thread at a time: the buffers are the same for all, and so are the parents' tensors on a GPU.

        There each thread has a stream of its own, in which all is done once the next thread comes.
        """
        with self._turn:
            try:
                yield
            finally:
                if self._device.type == "cuda":
                    torch.cuda.current_stream(self._device).synchronize()

    def _check(
        self, jobs: Sequence[Job], live: Mapping[str, torch.Tensor], sums: Mapping[torch.dtype, list[torch.Tensor]]
    ) -> None:
        # A sum tells at little cost whether all its terms are finite; it may overflow, too. One look at the sums of all
        # tensors synchronises a GPU once.
        if all(torch.isfinite(torch.stack(of)).all() for of in sums.values() if of):
            return
        for job in jobs:
            if not torch.isfinite(live[job.output.name]).all():
                method, name = job.settings.config.merge_method, job.output.name
                raise MergeFailed(f"{method}: expected finite weights, got NaN or infinity in {name}")

    def write(self, job: Job, out: torch.Tensor) -> list[torch.Tensor]:
        """Write the tensor of one job into ``out``; sums of its parts, not all finite where a weight of it is not."""
        try:
            tensors = self._sources(job)
            inputs = self._inputs(job, tensors, out)
            step = None if inputs is None else self._step(job, inputs)
            if inputs is None or step is None:
                out.copy_(self._by_mergekit(job, tensors))
                return [out.sum(dtype=out.dtype)]
        except (ValueError, ArithmeticError) as error:
            method, name = job.settings.config.merge_method, job.output.name
            raise MergeFailed(f"{method}: {name}: {one_line(error)}") from error

        if isinstance(step, OnePass):
            return [] if step(inputs.tensors, out.view(-1), 0) else [out.new_tensor(math.nan)]

        def merged(start: int, *blocks: torch.Tensor) -> torch.Tensor:
            *sources, block = blocks
            step(sources, block, start)
            return block.sum()

        return self._blocks.map(merged, *inputs.tensors, out.view(-1))

    def tensor(self, weight: WeightInfo, name: str, together: Sequence[str], base: str | None) -> torch.Tensor:
        """``weight`` of the parent ``name``, in the run's vocabulary, when the parents ``together`` are merged."""
        if self._vocabulary is None or weight.vocabulary_axis is None:
            return self._family.parents[name].tensors[weight.name]
        return self._vocabulary.embed(weight, together, base)[name]

    def _sources(self, job: Job) -> list[torch.Tensor]:
        names, base = job.settings.names, job.settings.base_name
        return [self.tensor(weight, name, names, base) for name, weight in zip(names, job.inputs, strict=True)]

    def _inputs(self, job: Job, tensors: Sequence[torch.Tensor], out: torch.Tensor) -> Inputs | None:
        """What a kernel gets; None where a conversion, a buffer, or weights that are not finite are in its way."""
        first = tensors[0]
        dtypes = {out.dtype, *(tensor.dtype for tensor in tensors)}
        config = job.settings.config
        dtypes |= {dtype_from_name(name) for name in (config.dtype, job.output.force_dtype or config.out_dtype) if name}
        if len(dtypes) > 1 or first.dtype not in _DTYPES or any(tensor.shape != out.shape for tensor in tensors):
            return None
        if not first.numel() or not all(tensor.is_contiguous() for tensor in (*tensors, out)):
            return None
        addresses = [tensor.data_ptr() for tensor in tensors]
        flat = [self._residence.on_device(tensor).view(-1) for tensor in tensors]
        for one, address in zip(flat, addresses, strict=True):
            if not self._constants.of(self._is_finite, (one,), (address,)):
                return None
        settings = job.settings
        return Inputs(
            flat, addresses, first.shape, settings.base, job.shared, job.own, self._constants, self._uniform
        )  # fmt: skip

    def _step(self, job: Job, inputs: Inputs) -> Step | OnePass | None:
        """The kernel for a job; None where there is none for its method, or for these parameters of it."""
        method = job.settings.method
        if isinstance(method, GeneralizedTaskArithmeticMerge):
            return arithmetic(method, inputs, self._blocks)
        kernel = _KERNELS.get(method.spec.name)
        return None if kernel is None else kernel(inputs, self._blocks)

    def _is_finite(self, tensor: torch.Tensor) -> bool:
        sums = torch.stack(self._blocks.map(lambda _, block: block.sum(), tensor))
        return bool(torch.isfinite(sums).all()) or bool(torch.isfinite(tensor).all())

    def _by_mergekit(self, job: Job, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        settings = job.settings
        dtype = dtype_from_name(settings.config.dtype)
        converted = []
        for tensor, weight in zip(tensors, job.inputs, strict=True):
            tensor = self._residence.on_device(tensor)
            if dtype and tensor.is_floating_point() and not weight.force_dtype:
                tensor = tensor.to(dtype)
            converted.append(tensor)
        buffer = copy_non_floating_buffer(converted, job.output.name)
        if buffer is not None:
            return buffer
        parameters = dict(job.shared)
        for parameter in settings.method.spec.input_parameters:
            parameters[parameter.name] = {
                model: own[parameter.name]
                for model, own in zip(settings.models, job.own, strict=True)
                if parameter.name in own
            }
        # What merge_tensors does, and the vocabulary axis, which it drops and mergekit-yaml hands to the method.
        group = merge_methods.TensorGroup.from_tensors(
            converted,
            ids=settings.models,
            base_index=settings.base,
            name=job.output.name,
            vocabulary_axis=job.output.vocabulary_axis,
        )
        with self._globals.in_use():
            (merged,) = settings.method((group,), parameters=parameters)
        out_dtype = dtype_from_name(job.output.force_dtype or settings.config.out_dtype)
        return merged.to(out_dtype) if out_dtype else merged


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators as ``mergekit-yaml --random-seed`` does, and put them back afterwards.

    One thread at a time.
    """
    devices = [device] if device.type != "cpu" else []
    with TORCH_IN_USE, torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        # torch.manual_seed also queues seeds for devices that are not there, at a millisecond each time.
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)
        yield
