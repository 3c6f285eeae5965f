"""What a run needs of the machine, from the sketch of its parents and a few items: memory, disk, time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.guard import chat_template
from merge3_plugin.evolve.workload import Workload, workload
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.machine import bytes_per_second, device_memory_available, flops_per_second, memory_available
from merge3_plugin.units import in_bytes

if TYPE_CHECKING:
    from merge3_plugin.merging.sketch import Sketch

# Of parents and live models, beside them: what a merge works with, and what no estimate knows of.
SPARE = 0.1
# On a CPU a merge by size, or by a method of mergekit's, takes its largest tensor so many times.
TENSORS = 4
# Of the record, for each answer; measured.
BYTES_AN_ANSWER = 70


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs on ``device``, and what is there.

    ``mapped`` parents are read from their files through the page cache: what of them does not fit beside the rest is
    read again for each merge, which is slow, and no failure. ``copied`` parents are in another dtype than their files
    and lie in host memory. ``live`` is a model that is merged into, ``activations`` those of one batch: each of
    ``live_models`` on the device takes as much. ``served`` is all that vLLM takes there where it reads the batches. The
    run uses so many ``devices``, of which this one has least to spare.
    """

    device: str
    models: int
    dtype: str
    mapped: int
    copied: int
    live: int
    activations: int
    available: int
    device_available: int | None
    live_models: int = 1
    devices: int = 1
    served: int = 0
    tensor: int = 0

    @property
    def spare(self) -> int:
        """What a merge works with: a share of it all, or several times the largest ``tensor``, where that is more."""
        share = int(SPARE * (self.mapped + self.copied + self.live_models * self.live))
        return share if self.device_available is not None else max(share, TENSORS * self.tensor)

    @property
    def on_host(self) -> int:
        """What must be resident in host memory."""
        if self.device_available is not None:
            return self.copied + self.spare
        return self.copied + self.live_models * (self.live + self.activations) + self.served + self.spare

    @property
    def on_device(self) -> int:
        """What must be on a GPU."""
        if self.device_available is None:
            return 0
        return self.live_models * (int((1 + SPARE) * self.live) + self.activations) + self.served

    @property
    def streamed(self) -> int:
        """What of the parents does not fit on a GPU beside the rest, and is copied there for every merge."""
        if self.device_available is None:
            return 0
        return max(0, self.mapped + self.copied - int((1 - SPARE) * (self.device_available - self.on_device)))

    @property
    def left(self) -> int:
        """What the device has beyond that; of the CPU, the host."""
        if self.device_available is None:
            return self.available - self.on_host
        return self.device_available - self.on_device

    @property
    def fits(self) -> bool:
        return self.on_host <= self.available and self.on_device <= (self.device_available or 0)

    @property
    def cached(self) -> bool:
        """Whether the mapped parents fit beside the rest."""
        return self.on_host + self.mapped <= self.available


def workloads(config: RunConfig, sketch: Sketch, benchmarks: Mapping[str, Benchmark]) -> dict[str, Workload]:
    """What a model reads for the items of each benchmark, asked as the config says."""
    template, _ = chat_template(config, sketch.chat_templates)
    multiturn = template if config.fewshot_as_multiturn is None else config.fewshot_as_multiturn
    return {
        name: workload(benchmark, sketch.tokenizer, apply_chat_template=template, multiturn=multiturn)
        for name, benchmark in benchmarks.items()
    }


def memory_needed(
    sketch: Sketch,
    device: str,
    work: Iterable[Workload],
    *,
    batch_size: int,
    more_layers: int = 0,
    live_models: int = 1,
    devices: int = 1,
    served: int = 0,
) -> Memory:
    """The memory of a run on this machine, on one of its devices; merged models may get ``more_layers``."""
    sizes = sketch.sizes.values()
    return Memory(
        device,
        len(sketch.sizes),
        sketch.dtype_name,
        sum(size.mapped for size in sizes),
        sum(size.copied for size in sizes),
        sketch.live + more_layers * sketch.layer,
        0 if served else _activations(sketch, work, batch_size, sketch.live // sketch.parameters),
        memory_available(),
        device_memory_available(device),
        live_models,
        devices,
        served,
        sketch.tensor,
    )


def _activations(sketch: Sketch, work: Iterable[Workload], batch_size: int, itemsize: int) -> int:
    """Bytes of one pass: a layer's intermediate results, the logits that are read, and the cache of a generation.

    Rather too little than too much, since it may stop a run: scoring that runs out of memory halves its batch.
    """
    from merge3_plugin.harness.live_model import TOKENS_A_PROMPT
    from merge3_plugin.harness.packed_lm import LOGITS

    config = sketch.config.get_text_config()
    width, heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    keys = (getattr(config, "num_key_value_heads", None) or heads) * (
        getattr(config, "head_dim", None) or width // heads
    )
    found = [0]
    for each in work:
        tokens = batch_size * each.most if each.generated else max(TOKENS_A_PROMPT * batch_size, each.most)
        cache = 2 * tokens * keys * config.num_hidden_layers * bool(each.generated)
        logits = min(LOGITS, 8 * tokens * config.vocab_size)
        found.append(itemsize * (tokens * (4 * width + 2 * inner) + cache) + logits)
    return max(found)


def check_memory(memory: Memory, sketch: Sketch, work: Collection[Workload], batch_size: int) -> str | None:
    """A note where the parents do not fit into the page cache beside the rest. Raises RunError for too little memory.

    What the error says would help has been reckoned with.
    """
    many = memory.live_models > 1
    live = f"{memory.live_models} live models of" if many else "the live model"
    batch = f"{'a batch for each' if many else 'a batch'} {in_bytes(memory.activations)}"
    passes = f"vLLM {in_bytes(memory.served)}" if memory.served else batch
    parts = f"{live} {in_bytes(memory.live)}, {passes}"
    if memory.on_device > (memory.device_available or 0):
        raise RunError(
            f"memory of {memory.device}: expected {in_bytes(memory.on_device)} free ({parts}, and {SPARE:.0%} more), "
            f"got {in_bytes(memory.device_available or 0)}; {_remedy(memory, sketch, work, batch_size)}"
        )
    if memory.on_host > memory.available:
        copies = f"{memory.models} parents in {memory.dtype} {in_bytes(memory.copied)}, " * bool(memory.copied)
        raise RunError(
            f"memory: expected {in_bytes(memory.on_host)} free ({copies}{parts}, and {in_bytes(memory.spare)} to merge "
            f"with), got {in_bytes(memory.available)}; {_remedy(memory, sketch, work, batch_size)}"
        )
    if memory.cached:
        return None
    return (
        f"memory: {in_bytes(memory.available)} are free, too little for {in_bytes(memory.mapped)} of parents in the "
        f"page cache beside {in_bytes(memory.on_host)} of the run; what does not fit is read again for every merge"
    )


def _remedy(memory: Memory, sketch: Sketch, work: Collection[Workload], batch_size: int) -> str:
    """What would fit, or that nothing does."""
    ways: list[tuple[str, Memory]] = []
    files = [size.files for size in sketch.sizes.values()]
    whole = sketch.live * len(files)
    itemsize = sketch.live // sketch.parameters
    for fewer in range(memory.live_models - 1, 0, -1):
        now = replace(memory, live_models=fewer)
        if now.fits or fewer == 1:
            ways.append(("one live model" if fewer == 1 else f"{fewer} live models", now))
            break
    if memory.served:
        ways.append(("half of eval.model_args.gpu_memory_utilization", replace(memory, served=memory.served // 2)))
    elif batch_size > 1:
        smaller = max(1, batch_size // 8)
        activations = _activations(sketch, work, smaller, itemsize)
        ways.append((f"eval.batch_size: {smaller}", replace(memory, activations=activations)))
    if memory.copied and not memory.mapped:
        activations = _activations(sketch, work, batch_size, max(files) // sketch.parameters)
        own = replace(memory, mapped=sum(files), copied=0, live=max(files), activations=activations)
        ways.append(("dtype: auto", own))
    if itemsize > 2:
        live, activations = memory.live * 2 // itemsize, _activations(sketch, work, batch_size, 2)
        half = replace(memory, mapped=0, copied=whole * 2 // itemsize, live=live, activations=activations)
        ways.append(("dtype: bfloat16", half))
    for models in range(memory.models - 1, 1, -1) if memory.copied else ():
        ways.append((f"{models} parents", replace(memory, copied=memory.copied * models // memory.models)))
    if memory.device_available is not None:
        ways.append(("device: cpu", replace(memory, device_available=None, served=0)))
    fitting = [f"{what} ({in_bytes(now.on_host + now.on_device)})" for what, now in ways if now.fits]
    return f"what would fit: {', or '.join(fitting[:3])}" if fitting else "take smaller models or free some memory"


def disk_needed(sketch: Sketch, evaluations: int, *, final_model: bool, more_layers: int = 0) -> dict[str, int]:
    """Bytes that a run writes into its folder."""
    from merge3_plugin.merging.disk import saved_size

    model = saved_size(sketch.live + more_layers * sketch.layer) if final_model else 0
    return {"final_model": model, "record": BYTES_AN_ANSWER * evaluations + 2**20}


def time_needed(
    sketch: Sketch, memory: Memory, work: Sequence[tuple[int, Workload]], *, evaluations: int, merges: int
) -> dict[str, float | None]:
    """The least time in seconds that arithmetic and memory traffic of a run take on this machine, measured just now.

    Arithmetic is two operations for each weight and token; a merge reads every parent and writes the live model once,
    and copies to a GPU what does not stay there. ``work`` are the tasks, each by how many items a model is asked of it.
    Several devices share it all; a run takes several times as long.
    """
    share = sum(items for items, _ in work)
    tokens = evaluations * sum(items * each.tokens for items, each in work) / max(1, share)
    device, streamed = memory.device, memory.streamed
    rate, traffic = flops_per_second(device, sketch.dtype_name), bytes_per_second(device)
    upload = bytes_per_second(device, source="cpu") if streamed else None
    merging = (len(sketch.sizes) + 1) * sketch.live / traffic + (streamed / upload if upload else 0.0)
    return {
        "tokens": tokens,
        "flops": 2.0 * sketch.parameters * tokens,
        "flops_per_second": rate,
        "scoring_seconds": 2.0 * sketch.parameters * tokens / rate / memory.devices,
        "merges": merges,
        "bytes_per_second": traffic,
        "upload_bytes_per_second": upload,
        "merging_seconds": merges * merging / memory.devices,
    }
