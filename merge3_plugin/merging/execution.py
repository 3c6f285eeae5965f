"""One tensor of a merge: block by block where we have a kernel for its method, else by mergekit's own method."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from mergekit import merge_methods
from mergekit.architecture import WeightInfo
from mergekit.common import dtype_from_name
from mergekit.merge_methods.buffers import copy_non_floating_buffer
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge

from merge3_plugin.generators import TORCH_IN_USE, GlobalGenerators
from merge3_plugin.merging import MergeFailed, fused
from merge3_plugin.merging.arithmetic import arithmetic, loops_of
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.constants import Constants
from merge3_plugin.merging.fused import OnePass, Passes
from merge3_plugin.merging.kernels import Inputs, Step, linear, nuslerp, slerp
from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.plan import Job
from merge3_plugin.merging.references import one_line
from merge3_plugin.merging.residence import Residence
from merge3_plugin.merging.uniform import Uniform
from merge3_plugin.merging.vocabulary import Vocabulary

_KERNELS = {"linear": linear, "slerp": slerp, "nuslerp": nuslerp}
_LOOPS: dict[str, list[fused.Loop]] = {"linear": [("linear",)], "slerp": [("chord",)]}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# How many tensors are remembered with their sources, which differ from recipe to recipe where layers are moved.
_SETTLED = 10_000


@dataclass(frozen=True, eq=False)
class _Sources:
    """The tensors that are merged to one, as the parents have them; flat where a kernel may take them, else None."""

    tensors: Sequence[torch.Tensor]
    flat: Sequence[torch.Tensor] | None
    addresses: Sequence[int]


class Execution:
    """Merges of this family's tensors on ``device``, in the ``vocabulary`` of the run (None: the parents' own).

    The draws of each merge begin with ``seed``. Several live models may share it, in a thread each.
    """

    def __init__(self, family: Family, vocabulary: Vocabulary | None, device: torch.device, seed: int) -> None:
        self._family, self._vocabulary = family, vocabulary
        self._device, self._seed, self._turn = device, seed, threading.Lock()
        self._globals = GlobalGenerators(seed)
        self._settled: dict[Hashable, _Sources] = {}
        self._blocks, self._constants, self._residence = Blocks(device), Constants(), Residence(device)
        fused.import_ahead(device, self._largest)  # while the live model is built
        self._uniform = Uniform(sum(tensor.nbytes for of in family.parents.values() for tensor in of.tensors.values()))

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Begin with what the first merge by the methods of these jobs would wait for."""
        methods = {(job.settings.method.spec.name, len(job.inputs)): job.settings.method for job in jobs}
        loops = []
        for (name, n_sources), method in methods.items():
            of_kind = isinstance(method, GeneralizedTaskArithmeticMerge)
            loops.append((loops_of(method) if of_kind else _LOOPS.get(name, []), n_sources))
        fused.compile_ahead(self._device, self._largest, self._family.dtype, loops)

    def run(self, jobs: Sequence[Job], build: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Write the tensors of all jobs, in their order, into those of the same name of the model that is built first.

        Raises MergeFailed for NaN or infinite weights, or when a method gives up, and what ``build`` raises.
        """
        sums: dict[torch.dtype, list[torch.Tensor]] = {}
        passes = Passes()
        with self.turn(), torch.no_grad():
            with seeded(self._seed, self._device):
                self._globals.restart()
                live = build()
                for job in jobs:
                    out = live[job.output.name]
                    sums.setdefault(out.dtype, []).extend(self.write(job, out, passes))
            # Here, with a GPU still at work, another may begin.
            passes.carry_out()
            if not (passes.finite and _all_finite(sums)):
                _check(jobs, live)

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

    def write(self, job: Job, out: torch.Tensor, passes: Passes) -> list[torch.Tensor]:
        """Write the tensor of one job into ``out``, or add it to ``passes``.

        Returns sums of its parts, not all finite where a weight of it is not; none where passes tell.
        """
        try:
            sources = self._sources(job, out)
            inputs = self._inputs(job, sources)
            step = None if inputs is None else self._step(job, inputs)
            if inputs is None or step is None:
                out.copy_(self._by_mergekit(job, sources.tensors))
                return [out.sum(dtype=out.dtype)]
        except (ValueError, ArithmeticError) as error:
            method, name = job.settings.config.merge_method, job.output.name
            raise MergeFailed(f"{method}: {name}: {one_line(error)}") from error

        if isinstance(step, OnePass):
            passes.add(step, out)
            return []

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

    def _sources(self, job: Job, out: torch.Tensor) -> _Sources:
        settings, inputs = job.settings, tuple([weight.name for weight in job.inputs])
        dtypes = settings.config.dtype, job.output.force_dtype or settings.config.out_dtype
        key = job.output.name, inputs, settings.names, settings.base_name, dtypes, out.dtype
        if key not in self._settled:
            if len(self._settled) > _SETTLED:
                self._settled.clear()
            self._settled[key] = self._settle(job, out, [dtype_from_name(name) for name in dtypes if name])
        return self._settled[key]

    def _settle(self, job: Job, out: torch.Tensor, dtypes: Sequence[torch.dtype]) -> _Sources:
        """Sources of a job; not flat where a conversion, a buffer, or weights that are not finite are in the way."""
        names, base = job.settings.names, job.settings.base_name
        tensors = [self.tensor(weight, name, names, base) for name, weight in zip(names, job.inputs, strict=True)]
        first, addresses = tensors[0], [tensor.data_ptr() for tensor in tensors]
        everything = [*tensors, out]
        if {first.dtype} != {*dtypes, *(tensor.dtype for tensor in everything)} or first.dtype not in _DTYPES:
            return _Sources(tensors, None, addresses)
        if not first.numel() or any(one.shape != first.shape or not one.is_contiguous() for one in everything):
            return _Sources(tensors, None, addresses)
        flat = [tensor.view(-1) for tensor in tensors]
        for one, address in zip(flat, addresses, strict=True):
            if not self._constants.of(self._is_finite, [one], [address]):
                return _Sources(tensors, None, addresses)
        return _Sources(tensors, flat, addresses)

    def _inputs(self, job: Job, sources: _Sources) -> Inputs | None:
        """What a kernel gets; None where none may take it."""
        if sources.flat is None:
            return None
        return Inputs(
            [self._residence.on_device(tensor) for tensor in sources.flat],
            sources.addresses,
            sources.tensors[0].shape,
            job.settings.base,
            job.shared,
            job.own,
            self._constants,
            self._uniform,
            self._in_one_pass and fused.takes(sources.flat[0].dtype),
        )

    @cached_property
    def _largest(self) -> int:
        return max(tensor.numel() for of in self._family.parents.values() for tensor in of.tensors.values())

    @cached_property
    def _in_one_pass(self) -> bool:
        return fused.merges_here(self._device, self._largest)

    def _step(self, job: Job, inputs: Inputs) -> Step | OnePass | None:
        """The kernel for a job; None where there is none for its method, or for these parameters of it."""
        method = job.settings.method
        if isinstance(method, GeneralizedTaskArithmeticMerge):
            return arithmetic(method, inputs, self._blocks)
        kernel = _KERNELS.get(method.spec.name)
        return None if kernel is None else kernel(inputs, self._blocks)

    def _is_finite(self, tensor: torch.Tensor) -> bool:
        tensor = self._residence.on_device(tensor)
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


def _all_finite(sums: Mapping[torch.dtype, list[torch.Tensor]]) -> bool:
    # A sum tells at little cost whether all its terms are finite; it may overflow, too. One look at the sums of all
    # tensors synchronises a GPU once.
    return all(torch.isfinite(torch.stack(of)).all() for of in sums.values() if of)


def _check(jobs: Sequence[Job], live: Mapping[str, torch.Tensor]) -> None:
    for job in jobs:
        if not torch.isfinite(live[job.output.name]).all():
            method, name = job.settings.config.merge_method, job.output.name
            raise MergeFailed(f"{method}: expected finite weights, got NaN or infinity in {name}")


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
