"""The plug-in host: which merge methods, estimators and search strategies there are, and who offers them."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from merge3_plugin import __version__, hookspecs
from merge3_plugin.errors import Merge3Error, PluginError, nearest

if TYPE_CHECKING:
    from mergekit.merge_methods import MergeMethod

log = logging.getLogger(__name__)

# What merge3 itself offers comes in through the same hooks; by name, because these modules lie above this one.
BUILTIN_MODULES = ("merge3_plugin.estimate.builtin", "merge3_plugin.evolve.optimizers.builtin")
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("merge3_"))


@dataclass(frozen=True)
class MethodEntry:
    """A merge method offered through a hook, the search ``bounds`` of its parameters, and the plug-in it is from."""

    method: MergeMethod
    bounds: Mapping[str, tuple[float, float]]
    plugin: str


@dataclass(frozen=True)
class OptimizerEntry:
    """A search strategy: what makes it, whether it takes several objectives, and the plug-in it is from."""

    factory: Callable[..., Any]
    several_objectives: bool
    plugin: str


@dataclass(frozen=True)
class LoadedPlugin:
    """A plug-in's name, where it came from (distribution and version, or module), and the hooks it implements."""

    name: str
    source: str
    hooks: tuple[str, ...]


class PluginHost:
    """The loaded plug-ins; each registering hook is asked once, when its answers are first needed."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._sources: dict[str, str] = {}
        self._estimators: dict[str, tuple[Any, str]] | None = None
        self._methods: dict[str, MethodEntry] | None = None
        self._optimizers: dict[str, OptimizerEntry] | None = None

    def add(self, plugin: object, name: str, source: str) -> None:
        """Load one plug-in: a module, or any object with hook implementations.

        Raises PluginError for a name already taken, a misspelt hook, an unknown argument, or no hook at all.
        """
        if name in self._sources:
            raise PluginError(
                f"plug-in {name!r}: expected it once, got it from {self._sources[name]} and {source}; uninstall one"
            )
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(
                f"plug-in {name!r} ({source}): expected hooks among {', '.join(HOOKS)}, got: {_one_line(error)}"
            ) from None
        if not self._manager.get_hookcallers(plugin):
            raise PluginError(
                f"plug-in {name!r} ({source}): expected a function marked @hookimpl, got none; "
                f"import it from merge3_plugin.hookspecs and mark one of {', '.join(HOOKS)}"
            )
        self._sources[name] = source

    def estimators(self) -> dict[str, Any]:
        """The estimators by name. Raises PluginError if two plug-ins offer the same name."""
        if self._estimators is None:
            offers: dict[str, tuple[Any, str]] = {}
            self._ask("merge3_register_estimators", partial(_offer_estimator, offers))
            self._estimators = offers
        return {name: estimator for name, (estimator, _) in self._estimators.items()}

    def merge_methods(self) -> dict[str, MethodEntry]:
        """The merge methods offered through hooks, by name; from then on mergekit's own registry has them too.

        mergekit's own methods are not listed. Raises PluginError if two plug-ins, or a plug-in and mergekit, offer
        the same name, and for bounds that do not fit the method.
        """
        if self._methods is None:
            # Set before the hooks run: a plug-in that looks up mergekit's methods meanwhile comes back here.
            self._methods = offers = dict[str, MethodEntry]()
            try:
                self._ask("merge3_register_merge_methods", partial(_offer_method, offers))
                _tell_mergekit(offers)
            except BaseException:
                self._methods = None
                raise
        return dict(self._methods)

    def optimizers(self) -> dict[str, OptimizerEntry]:
        """The search strategies by name. Raises PluginError if two plug-ins offer the same name."""
        if self._optimizers is None:
            offers: dict[str, OptimizerEntry] = {}
            self._ask("merge3_register_optimizers", partial(_offer_optimizer, offers))
            self._optimizers = offers
        return dict(self._optimizers)

    def estimator_plugins(self) -> dict[str, str]:
        """Which plug-in offers each estimator, by the estimator's name."""
        self.estimators()
        return {name: plugin for name, (_, plugin) in (self._estimators or {}).items()}

    def evaluation_finished(self, *, evaluation: Any) -> None:
        """Tell every observer; what one raises is logged as a warning, for a broken observer must not end a run."""
        for name, hook in self._callers("merge3_evaluation_finished"):
            try:
                hook(evaluation=evaluation)
            except Exception as error:  # noqa: BLE001
                log.warning("plug-in %r failed in merge3_evaluation_finished: %s", name, _one_line(error))

    def loaded(self) -> list[LoadedPlugin]:
        """The plug-ins in the order they were loaded, built-in ones first."""
        return [
            LoadedPlugin(name, source, tuple(hook for hook in HOOKS if name in dict(self._callers(hook))))
            for name, source in self._sources.items()
        ]

    def _callers(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """This hook of each plug-in that implements it, one by one, so that whatever it does has a name."""
        implementing = {impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        everyone = {name: self._manager.get_plugin(name) for name in self._sources}
        return [
            (name, self._manager.subset_hook_caller(hook, [p for other, p in everyone.items() if other != name]))
            for name in self._sources
            if name in implementing
        ]

    def _ask(self, hook: str, offer: Callable[..., None]) -> None:
        for name, call in self._callers(hook):
            try:
                call(register=partial(offer, name))
            except Merge3Error:
                raise
            except Exception as error:
                raise PluginError(
                    f"plug-in {name!r} ({self._sources[name]}) failed in {hook}: {_one_line(error)}"
                ) from error


def _offer_estimator(offers: dict[str, tuple[Any, str]], plugin: str, estimator: Any) -> None:
    name = getattr(estimator, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(
            f"plug-in {plugin!r}: expected an estimator with a name, got {type(estimator).__name__} of name {name!r}"
        )
    if name in offers:
        raise _doubled("estimator", name, offers[name][1], plugin)
    offers[name] = (estimator, plugin)


def _offer_optimizer(
    offers: dict[str, OptimizerEntry],
    plugin: str,
    name: str,
    factory: Callable[..., Any],
    *,
    several_objectives: bool = False,
) -> None:
    if not isinstance(name, str) or not name or not callable(factory):
        raise PluginError(
            f"plug-in {plugin!r}: expected an optimizer's name and what makes it, "
            f"got {name!r} and {type(factory).__name__}"
        )
    if name in offers:
        raise _doubled("optimizer", name, offers[name].plugin, plugin)
    offers[name] = OptimizerEntry(factory, several_objectives, plugin)


def _offer_method(
    offers: dict[str, MethodEntry],
    plugin: str,
    method: MergeMethod,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    from mergekit.merge_methods import MergeMethod

    if not isinstance(method, MergeMethod):
        raise PluginError(
            f"plug-in {plugin!r}: expected a method made with mergekit's merge_method, got {type(method).__name__}"
        )
    name = method.spec.name
    if name in offers:
        raise _doubled("merge method", name, offers[name].plugin, plugin)
    known = [parameter.name for parameter in method.spec.parameters]
    checked = {}
    for parameter, interval in (bounds or {}).items():
        if parameter not in known:
            raise PluginError(
                f"plug-in {plugin!r}: expected bounds for parameters of {name!r}, got {parameter!r}"
                + nearest(parameter, known)
            )
        low, high = (float(end) for end in interval)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise PluginError(
                f"plug-in {plugin!r}: expected finite bounds low < high for {parameter!r} of {name!r}, "
                f"got {low}, {high}"
            )
        checked[parameter] = (low, high)
    offers[name] = MethodEntry(method, checked, plugin)


def _tell_mergekit(offers: Mapping[str, MethodEntry]) -> None:
    if not offers:
        return
    from mergekit.merge_methods import registry

    there = {method.spec.name: method for method in registry.registered_methods()}
    for name, entry in offers.items():
        if name not in there:
            registry.register(entry.method)
        elif there[name] is not entry.method:
            raise _doubled("merge method", name, "mergekit", entry.plugin)


def _doubled(what: str, name: str, first: str, second: str) -> PluginError:
    return PluginError(
        f"{what} {name!r}: expected one plug-in to offer it, got {first!r} and {second!r}; rename it or uninstall one"
    )


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def make_host(extra_plugins: Iterable[object] = (), *, builtins: bool = True, entry_points: bool = True) -> PluginHost:
    """A host with the built-in plug-ins, the installed ones, and ``extra_plugins`` (modules or objects), in that order.

    An installed plug-in that cannot be imported is skipped with a warning that names it. Raises PluginError for one
    that can be imported but is wrong.
    """
    host = PluginHost()
    for module in BUILTIN_MODULES if builtins else ():
        host.add(importlib.import_module(module), module, f"merge3-plugin {__version__}")
    for entry in metadata.entry_points(group=hookspecs.PROJECT) if entry_points else ():
        _add_installed(host, entry)
    for plugin in extra_plugins:
        name = getattr(plugin, "__name__", type(plugin).__name__)
        host.add(plugin, name, name)
    return host


def _add_installed(host: PluginHost, entry: metadata.EntryPoint) -> None:
    source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    try:
        plugin = entry.load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything when it is imported
        log.warning("plug-in %r (%s) cannot be imported and is skipped: %s", entry.name, source, _one_line(error))
        return
    host.add(plugin, entry.name, source)


@cache
def plugin_host() -> PluginHost:
    """The process's host: built-in and installed plug-ins, loaded at the first call. Raises PluginError."""
    return make_host()
