"""The plug-in host, with real plug-ins: objects and modules with hook implementations, and mergekit's own registry."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from merge3_plugin import hookspecs
from merge3_plugin.errors import PluginError
from merge3_plugin.hookspecs import hookimpl
from merge3_plugin.plugins import HOOKS, OptimizerEntry, PluginHost, make_host

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _mergekit_as_before() -> Iterator[None]:
    """What a test registers with mergekit is gone after it."""
    yield
    if "mergekit.merge_methods" in sys.modules:
        from mergekit.merge_methods import registry

        for name in [name for name in registry._METHODS if name.startswith("test_")]:
            del registry._METHODS[name]


class Guess:
    needs_parents = False

    def __init__(self, name: Any = "guess") -> None:
        self.name = name


def offering_estimators(*estimators: Any, name: str = "offering") -> ModuleType:
    plugin = ModuleType(name)

    @hookimpl
    def merge3_register_estimators(register: hookspecs.RegisterEstimator) -> None:
        for estimator in estimators:
            register(estimator)

    plugin.merge3_register_estimators = merge3_register_estimators
    return plugin


def offering_method(method: Any, bounds: Any = None, *, name: str = "merges") -> ModuleType:
    plugin = ModuleType(name)

    @hookimpl
    def merge3_register_merge_methods(register: hookspecs.RegisterMergeMethod) -> None:
        register(method, bounds=bounds)

    plugin.merge3_register_merge_methods = merge3_register_merge_methods
    return plugin


def midpoint(name: str) -> Any:
    import torch
    from mergekit.merge_methods import TensorGroup, merge_method

    def midpoint(group, stretch=1.0):  # type: ignore[no-untyped-def]
        return stretch * torch.stack(group.tensors).mean(dim=0)

    midpoint.__annotations__ = {"group": TensorGroup, "stretch": float, "return": torch.Tensor}
    return merge_method(midpoint, name=name)


def host_with(*extra: object) -> PluginHost:
    return make_host(extra, entry_points=False)


# Estimators


def test_hook_register_estimators_puts_them_beside_our_own() -> None:
    guess = Guess()
    host = host_with(offering_estimators(guess))
    assert host.estimators()["guess"] is guess
    assert {"mean", "weighted", "p-irt", "gp-irt", "mp-irt", "gmp-irt"} < set(host.estimators())
    assert host.estimator_plugins()["guess"] == "offering"
    assert host.estimator_plugins()["mean"] == "merge3_plugin.estimate.builtin"


def test_estimators_are_asked_for_once_and_only_when_needed() -> None:
    asked = []

    class Counting:
        @hookimpl
        def merge3_register_estimators(self, register: hookspecs.RegisterEstimator) -> None:
            asked.append(1)

    host = host_with(Counting())
    assert asked == []
    host.estimators()
    host.estimators()
    assert asked == [1]


def test_two_estimators_of_one_name_are_an_error_that_names_both_plugins() -> None:
    host = host_with(offering_estimators(Guess(), name="one"), offering_estimators(Guess(), name="two"))
    with pytest.raises(PluginError, match=r"'guess'.*'one' and 'two'"):
        host.estimators()


def test_our_own_estimator_cannot_be_replaced_in_silence() -> None:
    with pytest.raises(PluginError, match=r"'mean'.*'merge3_plugin.estimate.builtin' and 'sly'"):
        host_with(offering_estimators(Guess("mean"), name="sly")).estimators()


@pytest.mark.parametrize("name", [None, "", 3])
def test_an_estimator_needs_a_name(name: Any) -> None:
    with pytest.raises(PluginError, match="'offering': expected an estimator with a name, got Guess"):
        host_with(offering_estimators(Guess(name))).estimators()


# Optimizers


def offering_optimizer(name: Any, factory: Any = lambda *made_with: made_with, **about: Any) -> ModuleType:
    plugin = ModuleType("searching")

    @hookimpl
    def merge3_register_optimizers(register: hookspecs.RegisterOptimizer) -> None:
        register(name, factory, **about)

    plugin.merge3_register_optimizers = merge3_register_optimizers
    return plugin


def test_hook_register_optimizers_puts_them_beside_our_own() -> None:
    offered = host_with(offering_optimizer("guessing", tuple, several_objectives=True)).optimizers()
    assert offered["guessing"] == OptimizerEntry(tuple, True, "searching")
    assert {"cma-es", "ga", "de", "nsga2", "nsga3", "tpe", "gp", "random"} < set(offered)
    assert [name for name, entry in offered.items() if entry.several_objectives] == ["nsga2", "nsga3", "guessing"]


@pytest.mark.parametrize(("name", "factory"), [("", tuple), (None, tuple), ("guessing", "module:attribute")])
def test_an_optimizer_needs_a_name_and_a_factory(name: Any, factory: Any) -> None:
    with pytest.raises(PluginError, match="'searching': expected an optimizer's name and what makes it"):
        host_with(offering_optimizer(name, factory)).optimizers()


def test_our_own_optimizer_cannot_be_replaced_in_silence() -> None:
    with pytest.raises(PluginError, match=r"'cma-es'.*'merge3_plugin.evolve.optimizers.builtin' and 'searching'"):
        host_with(offering_optimizer("cma-es")).optimizers()


# Merge methods


def test_hook_register_merge_methods_reaches_mergekits_registry_too() -> None:
    import torch
    from mergekit.merge_methods import merge_tensors

    host = host_with(offering_method(midpoint("test_midpoint"), {"stretch": (0, 2)}))
    entry = host.merge_methods()["test_midpoint"]
    assert (entry.bounds, entry.plugin) == ({"stretch": (0.0, 2.0)}, "merges")
    merged = merge_tensors([torch.zeros(2), torch.ones(2)], "test_midpoint", parameters={"stretch": 3.0})
    assert merged.tolist() == [1.5, 1.5]


def test_two_merge_methods_of_one_name_are_an_error_that_names_both_plugins() -> None:
    first, second = midpoint("test_midpoint"), midpoint("test_midpoint")
    host = host_with(offering_method(first, name="one"), offering_method(second, name="two"))
    with pytest.raises(PluginError, match=r"'test_midpoint'.*'one' and 'two'"):
        host.merge_methods()
    with pytest.raises(PluginError):  # and not an empty answer the second time
        host.merge_methods()


def test_a_merge_method_of_mergekits_own_name_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'ties'.*'mergekit' and 'merges'"):
        host_with(offering_method(midpoint("ties"))).merge_methods()


def test_a_second_host_may_offer_the_method_again() -> None:
    plugin = offering_method(midpoint("test_midpoint"))
    assert "test_midpoint" in host_with(plugin).merge_methods()
    assert "test_midpoint" in host_with(plugin).merge_methods()


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"strech": (0, 1)}, "got 'strech'; did you mean 'stretch'"),
        ({"stretch": (1, 0)}, "finite bounds low < high"),
        ({"stretch": (0, float("inf"))}, "finite bounds low < high"),
    ],
)
def test_bounds_that_do_not_fit_the_method_are_an_error(bounds: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        host_with(offering_method(midpoint("test_midpoint"), bounds)).merge_methods()


def test_a_bare_function_is_no_merge_method() -> None:
    with pytest.raises(PluginError, match="made with mergekit's merge_method, got function"):
        host_with(offering_method(lambda group: group)).merge_methods()


# Observers


def test_hook_evaluation_finished_is_heard_and_a_broken_observer_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    class Broken:
        @hookimpl
        def merge3_evaluation_finished(self, evaluation: Any) -> None:
            raise RuntimeError("disk\nfull")

    class Listening:
        @hookimpl
        def merge3_evaluation_finished(self, evaluation: Any) -> None:
            heard.append(evaluation)

    host = host_with(Listening(), Broken())
    with caplog.at_level(logging.WARNING):
        host.evaluation_finished(evaluation="first")
        host.evaluation_finished(evaluation="second")
    assert heard == ["first", "second"]
    assert caplog.messages[0] == "plug-in 'Broken' failed in merge3_evaluation_finished: RuntimeError: disk full"


# What is wrong with a plug-in


def named(**implementations: Callable[..., None]) -> ModuleType:
    plugin = ModuleType("wrong")
    for name, function in implementations.items():
        setattr(plugin, name, hookimpl(function))
    return plugin


def test_a_misspelt_hook_is_an_error_that_names_it() -> None:
    with pytest.raises(PluginError, match=r"'wrong'.*unknown hook 'merge3_register_estimator'") as raised:
        host_with(named(merge3_register_estimator=lambda register: None))
    assert "\n" not in str(raised.value)
    assert all(hook in str(raised.value) for hook in HOOKS)


def test_an_argument_that_the_hook_lacks_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'wrong'.*'candidate'"):
        host_with(named(merge3_evaluation_finished=lambda evaluation, candidate: None))


def test_a_plugin_without_hooks_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'wrong'.*marked @hookimpl, got none"):
        host_with(named())


def test_a_hook_that_raises_is_an_error_that_names_the_plugin() -> None:
    def merge3_register_estimators(register: Any) -> None:
        register(nonsense=1)

    with pytest.raises(PluginError, match=r"'wrong'.*failed in merge3_register_estimators: TypeError"):
        host_with(named(merge3_register_estimators=merge3_register_estimators)).estimators()


# Installed plug-ins


def install(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with one module, as pip leaves it on the path."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[merge3]\n{name} = {name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


GOOD = """
from merge3_plugin.hookspecs import hookimpl

@hookimpl
def merge3_evaluation_finished(evaluation):
    pass
"""


def test_a_plugin_that_cannot_be_imported_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "sound_plugin", GOOD, monkeypatch)
    install(tmp_path, "torn_plugin", "import a_module_that_is_not_there", monkeypatch)
    host = make_host()
    about = {plugin.name: plugin for plugin in host.loaded()}
    assert about["sound_plugin"].source == "sound_plugin 1.0"
    assert about["sound_plugin"].hooks == ("merge3_evaluation_finished",)
    assert "torn_plugin" not in about
    assert [m for m in caplog.messages if "'torn_plugin' (torn_plugin 1.0) cannot be imported and is skipped" in m]
    assert "mean" in host.estimators()


def test_an_installed_plugin_with_a_misspelt_hook_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "misspelt_plugin", GOOD.replace("evaluation_finished", "evaluation_done"), monkeypatch)
    with pytest.raises(PluginError, match=r"'misspelt_plugin' \(misspelt_plugin 1.0\).*merge3_evaluation_done"):
        make_host()


def test_two_installed_plugins_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "twin", GOOD, monkeypatch)
    install(tmp_path, "other", GOOD, monkeypatch)
    (tmp_path / "other-1.0.dist-info" / "entry_points.txt").write_text("[merge3]\ntwin = other\n", encoding="utf-8")
    assert len(metadata.entry_points(group="merge3", name="twin")) == 2
    with pytest.raises(PluginError, match="'twin': expected it once, got it from"):
        make_host()


# Every hook, also the next one


def test_there_are_hooks_to_walk() -> None:
    assert len(HOOKS) >= 3


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_tested_and_documented(hook: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paragraphs = [p for p in readme.split("\n\n") if hook in p and len(p.split()) > 20]
    assert paragraphs, f"README.md: write a paragraph on {hook}"
    assert inspect.getdoc(getattr(hookspecs, hook))
    assert any(name.startswith(hook.replace("merge3_", "test_hook_")) for name in globals()), f"test {hook} here"
