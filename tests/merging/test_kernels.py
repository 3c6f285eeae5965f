"""The kernels against mergekit's methods, on tensors of many blocks and of lengths that no block divides."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge

from merge3_plugin.merging import MergeFailed, fused
from merge3_plugin.merging import blocks as blocks_module
from merge3_plugin.merging import uniform as uniform_module
from merge3_plugin.merging.arithmetic import arithmetic
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.constants import Constants
from merge3_plugin.merging.kernels import Inputs, linear, nuslerp, slerp
from merge3_plugin.merging.merger import Merger
from merge3_plugin.merging.thinning import sum_of_magnitudes
from merge3_plugin.merging.uniform import Uniform

BLOCK = 512
SHAPES = [(1,), (7,), (BLOCK,), (2000,), (37, 53), (3, 701)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GENERAL = {"weight": (0.5, -0.3, 0.7)}
THINNED = GENERAL | {"density": (0.6, 0.4, 0.013)}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("linear", 3, {"weight": (0.5, 0.3, 0.4), "normalize": True}),
    ("linear", 4, {"weight": (0.5, -0.3, 0.4, 0.2), "normalize": False}),
    ("slerp", 1, {"t": 0.3}),
    ("nuslerp", 2, {"weight": (0.6, 0.2)}),
    ("task_arithmetic", 3, GENERAL),
    ("task_arithmetic", 3, GENERAL | {"normalize": True, "lambda": 1.3}),
    ("ties", 3, THINNED),
    ("ties", 3, THINNED | {"normalize": False, "lambda": 0.7, "rescale": True}),
    ("ties", 3, GENERAL | {"density": (0.0, 1.0, 1e-9)}),
    ("dare_ties", 3, THINNED),
    ("dare_linear", 3, GENERAL | {"density": (1.0, 0.0, 0.5), "rescale": False}),
    ("breadcrumbs", 3, THINNED | {"gamma": (0.1, 0.2, 0.05)}),
    ("breadcrumbs_ties", 3, GENERAL | {"density": (0.9, 0.0, 0.2), "gamma": (0.3, 0.01, 0.0), "normalize": True}),
    ("della", 3, GENERAL | {"density": (0.6, 0.4, 0.3), "epsilon": (0.1, 0.2, 0.05), "lambda": 1.1}),
    ("della_linear", 3, GENERAL | {"density": (1.0, 0.0, 0.5), "epsilon": (0.1, 0.2, 0.05)}),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "_ELEMENTS", BLOCK)


def tensors(shape: tuple[int, ...], dtype: torch.dtype, n: int, seed: int = 1) -> list[torch.Tensor]:
    """A base and what was made of it by changes of a size that fine-tuning makes, or larger ones."""
    generator = torch.Generator().manual_seed(seed)
    base, *deltas = (torch.randn(shape, generator=generator) for _ in range(n))
    return [base.to(dtype), *((base + delta * 10.0**-place).to(dtype) for place, delta in enumerate(deltas))]


def spread(method: str, n: int, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters of a method: shared, and of each of ``n`` sources, the base (if any) being the first."""
    spec = merge_methods.get(method).spec
    own_names = {parameter.name for parameter in spec.input_parameters}
    shared = {p.name: given.get(p.name, p.default) for p in spec.shared_parameters}
    n_own = len(given.get("weight", ()))
    own: list[dict[str, Any]] = [{} for _ in range(n - n_own)]
    return shared, own + [{k: given[k][i] for k in own_names & set(given)} for i in range(n_own)]


def kernel(
    method: str, sources: list[torch.Tensor], base: int | None, given: Mapping[str, Any],
    in_one_pass: bool, uniform: Uniform | None = None,
) -> Any:  # fmt: skip
    """What the kernel makes; None where the method, with these parameters, is left to mergekit."""
    shared, own = spread(method, len(sources), given)
    flat, addresses = [source.view(-1) for source in sources], [source.data_ptr() for source in sources]
    known = Constants(), uniform or Uniform(2**20)
    inputs = Inputs(flat, addresses, sources[0].shape, base, shared, own, *known, in_one_pass)
    blocks = Blocks(torch.device("cpu"))
    kernels = {"linear": linear, "slerp": slerp, "nuslerp": nuslerp}
    return kernels[method](inputs, blocks) if method in kernels else arithmetic(general(method), inputs, blocks)


def by_kernel(
    method: str, sources: list[torch.Tensor], base: int | None, given: Mapping[str, Any],
    in_one_pass: bool = True, uniform: Uniform | None = None,
) -> Any:  # fmt: skip
    """What the kernel gives; None where it is None."""
    step = kernel(method, sources, base, given, in_one_pass, uniform)
    if isinstance(step, fused.OnePass):
        return in_passes([(step, sources[0])])[0]
    out = torch.full_like(sources[0], float("nan"))
    blocks, flat = Blocks(torch.device("cpu")), [tensor.view(-1) for tensor in (*sources, out)]
    if step is not None:
        blocks.map(lambda start, *parts: step(parts[:-1], parts[-1], start), *flat)
    return None if step is None else out


def in_passes(steps: list[tuple[fused.OnePass, torch.Tensor]]) -> list[torch.Tensor]:
    """What is merged together, each like the tensor beside it."""
    passes, outs = fused.Passes(), [torch.full_like(like, float("nan")) for _, like in steps]
    for (step, _), out in zip(steps, outs, strict=True):
        passes.add(step, out)
    passes.carry_out()
    assert passes.finite
    return outs


def general(method: str) -> GeneralizedTaskArithmeticMerge:
    found = merge_methods.get(method)
    assert isinstance(found, GeneralizedTaskArithmeticMerge)
    return found


def by_mergekit(method: str, sources: list[torch.Tensor], base: int | None, given: Mapping[str, Any]) -> torch.Tensor:
    shared, own = spread(method, len(sources), given)
    names = {parameter.name for parameter in merge_methods.get(method).spec.input_parameters} & set(given)
    parameters = shared | {name: {i: o[name] for i, o in enumerate(own) if name in o} for name in names}
    group = merge_methods.TensorGroup.from_tensors(sources, base_index=base)
    (merged,) = merge_methods.get(method)((group,), parameters=parameters)
    return merged


@pytest.fixture(params=["in one pass", "by operations"])
def in_one_pass(request: pytest.FixtureRequest) -> bool:
    """Merges by the loops of a CPU, or as on a GPU or without numba."""
    if request.param == "in one pass":
        pytest.importorskip("numba")
    return bool(request.param == "in one pass")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[2])}")
def test_every_bit_is_mergekits(case: tuple[str, int, dict[str, Any]], dtype: torch.dtype, in_one_pass: bool) -> None:
    method, n, given = case
    if in_one_pass and dtype == torch.float16:
        pytest.skip("fp16 is merged by operations")
    base = None if method in ("linear", "nuslerp") else 0
    fast = 0
    for shape in SHAPES:
        sources = tensors(shape, dtype, n + (base is not None))
        torch.manual_seed(5)
        got = by_kernel(method, sources, base, given, in_one_pass)
        if got is None:
            continue
        fast += 1
        after = torch.rand(1)
        torch.manual_seed(5)
        expected = by_mergekit(method, sources, base, given)
        assert torch.equal(after, torch.rand(1)), "another number of draws"
        if sources[0].numel() > BLOCK and given.get("rescale", method.startswith(("dare", "della"))):
            # The sum of a whole tensor has no order; at times its last bit differs, and so do the rescaled deltas.
            scale = (torch.finfo(dtype).eps if dtype != torch.float32 else 1e-6) * expected.abs().max().item()
            assert (got - expected).abs().max() <= scale
        else:
            assert torch.equal(got, expected), shape
    assert fast or (dtype == torch.float16 and method.startswith(("dare", "della")))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] in ("linear", "slerp", "ties", "dare_ties")], ids=str
)
def test_tensors_are_merged_together_and_shared_among_threads_and_nothing_changes(
    case: tuple[str, int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of five threads begin where no thinning turns and no chunk of a loop begins."""
    pytest.importorskip("numba")
    method, n, given = case
    base = None if method == "linear" else 0
    families = [tensors(shape, torch.bfloat16, n + (base is not None)) for shape in SHAPES]
    torch.manual_seed(5)
    steps = [(kernel(method, family, base, given, in_one_pass=True), family[0]) for family in families]
    alone = [in_passes([step])[0] for step in steps]
    shares: list[Any] = []
    shared_out = fused._shared_out
    monkeypatch.setattr(
        fused, "_shared_out", lambda sizes, **how: shares.append(shared_out(sizes, **how)) or shares[-1]
    )
    monkeypatch.setattr(fused, "_WORTH_A_THREAD", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert all(map(torch.equal, in_passes(steps), alone))
    first = steps[0][0].first is not None
    assert [len(of) for of in shares] == [5] * (1 + first)
    sizes = [sum(int(last - first) for _, first, last in spans) for spans in shares[-1]]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == sum(family[0].numel() for family in families)
    # What is found out of a whole tensor first is so by one thread.
    whole = sorted(tuple(map(int, span)) for spans in shares[0] for span in spans) if first else []
    assert whole == [(number, 0, family[0].numel()) for number, family in enumerate(families) if first]


def test_passes_tell_of_one_weight_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(fused, "_AT_ONCE", 3000)
    for dtype, place in ((torch.float32, 0), (torch.bfloat16, 2)):
        families = [tensors((2000,), dtype, 2) for _ in range(3)]
        families[place][1][1999] = float("inf")
        passes = fused.Passes()
        for family in families:
            passes.add(kernel("linear", family, None, {"weight": (0.5, 0.5), "normalize": True}, True), family[0])
        passes.carry_out()
        assert not passes.finite


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_by_how_much_a_delta_is_rescaled_does_not_hang_on_the_number_of_threads(dtype: torch.dtype) -> None:
    """In half precision torch rounds the sum of each thread: every few tensors that shows in the whole."""
    pairs = [tensors((300, 256), dtype, 2, seed) for seed in range(30)]
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = [sum_of_magnitudes(*pair).item() for pair in pairs]
            alone = [(one - other).abs().sum().item() for one, other in pairs]
            assert (found[threads] == alone) == (threads == 1), "mergekit's, in one thread"
    finally:
        torch.set_num_threads(before)
    assert found[1] == found[2]


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("no numba"), ImportError("numba needs an older numpy")], ids=repr
)
def test_without_a_numba_that_works_merges_go_by_torch(
    error: ImportError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mock: an installation is whole here."""

    class Broken:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "numba":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "numba" or "fused_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("merge3_plugin.merging.fused_loops", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    fused._loops.cache_clear()
    try:
        assert not fused.merges_here(torch.device("cpu"), 2**20)
    finally:
        fused._loops.cache_clear()
    said = [record.getMessage() for record in caplog.records]
    assert said == (
        []
        if isinstance(error, ModuleNotFoundError)
        else [f"merges go by torch, which takes longer: numba does not work here: {error}"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["dare_ties", "della"])
def test_draws_are_kept_and_the_same_for_other_densities(
    method: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources draw one after another: where one needs no draw, the next takes the numbers that it had before."""
    sources, uniform = tensors((37, 53), dtype, 4), Uniform(2**20)
    drawn: list[int] = []
    draw = torch.Tensor.uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self: drawn.append(self.numel()) or draw(self))
    for n_drawn, densities in (
        (3, (0.6, 0.4, 0.3)),
        (0, (0.5, 0.004, 0.97)),
        (0, (1.0, 0.4, 0.2)),
        (0, (0.3, 0.3, 0.3)),
    ):
        given = {"weight": (0.5, -0.3, 0.7), "density": densities, "rescale": False}
        given |= {"epsilon": (0.002, 0.002, 0.002)} if method == "della" else {}
        drawn.clear()
        torch.manual_seed(5)
        got = by_kernel(method, sources, 0, given, uniform=uniform)
        assert sum(drawn) == n_drawn * sources[0].numel()
        after = torch.rand(1)
        torch.manual_seed(5)
        assert torch.equal(got, by_mergekit(method, sources, 0, given))
        assert torch.equal(after, torch.rand(1))


def test_draws_are_kept_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    like, blocks = torch.empty(1000), Blocks(torch.device("cpu"))

    def kept(size: int) -> int:
        uniform = Uniform(size)
        torch.manual_seed(5)
        drawn = [uniform.next(like, blocks) for _ in range(3)]
        torch.manual_seed(5)
        again = [uniform.next(like, blocks) for _ in range(3)]
        assert all(map(torch.equal, drawn, again))
        return sum(one is other for one, other in zip(drawn, again, strict=True))

    assert [kept(size) for size in (0, 4000, 11999, 12000)] == [0, 1, 2, 3]
    monkeypatch.setattr(uniform_module, "can_spare", lambda n_bytes: n_bytes < 12000)
    assert [kept(size) for size in (11999, 12000)] == [2, 0]


@pytest.mark.parametrize("method", ["linear", "slerp", "dare_ties"])
def test_a_run_merges_in_one_pass_what_it_merges_by_operations(
    method: str, tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other numbers come again and again, and what depends on them is computed anew."""
    pytest.importorskip("numba")
    base, *parents = map(str, tiny_models[:3])

    def recipe(number: float) -> dict[str, Any]:
        values = {"t": number} if method == "slerp" else {"weight": number, "density": number}
        sources = [{"model": parent, "parameters": values} for parent in parents[: 1 if method == "slerp" else 2]]
        with_base = {} if method == "linear" else {"base_model": base}
        return {"merge_method": method, "models": sources, "dtype": "float32", "parameters": values, **with_base}

    found = []
    for smallest in (2**20, 0):
        monkeypatch.setattr(fused, "_SMALLEST", smallest)
        merger = Merger(parents, base, device="cpu")
        for number in (0.3, 0.6, 0.3):
            merger.merge(recipe(number))
            found.append({name: tensor.clone() for name, tensor in merger.model.state_dict().items()})
    for one, other in ((0, 3), (1, 4), (2, 5), (0, 2)):
        assert all(torch.equal(found[one][name], found[other][name]) for name in found[one])
    if method == "linear":
        with pytest.raises(MergeFailed, match="linear: expected finite weights, got NaN or infinity in model"):
            merger.merge(recipe(3e38) | {"parameters": {"normalize": False}})


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare_ties", "breadcrumbs"])
def test_what_a_merge_calls_can_be_compiled_before_it(
    method: str, monkeypatch: pytest.MonkeyPatch, tiny_models: list[Path]
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(fused, "_SMALLEST", 0)
    base, *parents = map(str, tiny_models[: 2 if method == "slerp" else 4])
    own = {} if method == "slerp" else {"weight": 0.5, "density": 0.5}
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16", "parameters": {"t": 0.3}}
    recipe["models"] = [{"model": parent, "parameters": own} for parent in parents]
    merger = Merger(parents, base, device="cpu", dtype="bfloat16")
    ahead: list[fused.Loop] = []
    compile_, loop = fused._compile, fused._loop
    monkeypatch.setattr(fused, "_compile", lambda names, *of: ahead.extend(names) or compile_(names, *of))
    merger.prepare(recipe if method == "linear" else recipe | {"base_model": base})
    fused._compiler().submit(lambda: None).result()
    compiled = {name: len(loop(name).signatures) for name in ahead}
    called: list[fused.Loop] = []
    monkeypatch.setattr(fused, "_loop", lambda name: called.append(name) or loop(name))
    merger.merge(recipe if method == "linear" else recipe | {"base_model": base})
    assert set(called) == set(ahead)
    assert {name: len(loop(name).signatures) for name in ahead} == compiled and all(compiled.values())
