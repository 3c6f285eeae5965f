"""Tells lm-eval of merge3's tasks and model, and mergekit of plug-ins' merge methods, when these are imported.

``merge3_autoload.pth`` imports this whenever Python starts: so it is of the standard library alone, without
``merge3_plugin``, and every error becomes one warning. ``MERGE3_AUTOLOAD=0`` switches it off.
"""

import os
import sys

_failures = []


def _carefully(action, *arguments):
    """Do what merge3 adds to another tool, while installed: its failure is one warning, never that tool's failure."""
    try:
        return action(*arguments) if tasks_folder() else None
    except Exception as error:  # noqa: BLE001
        if not _failures:
            print(f"merge3: warning: no tasks, model or merge methods of its own here: {error!r}", file=sys.stderr)
        _failures.append(error)


def tasks_folder():
    """Where the task YAML lies: beside the package, in a wheel and in a clone; None once merge3 is uninstalled."""
    from importlib.util import find_spec

    spec = find_spec("merge3_plugin")
    folder = os.path.join(os.path.dirname(spec.origin), "..", "lm_eval_tasks") if spec and spec.origin else ""
    return os.path.normpath(folder) if os.path.isdir(folder) else None


def _with_our_tasks(include_path):
    folder = tasks_folder()
    paths = list(include_path) if isinstance(include_path, list | tuple) else [include_path] if include_path else []
    known = any(os.path.exists(path) and os.path.samefile(path, folder) for path in paths)
    return include_path if known else [folder, *paths]  # first: in lm-eval a later path, the user's, wins


def _remember(manager):
    from merge3_plugin.harness.registration import remember

    remember(manager)


def _patch_task_manager(module):
    original = module.TaskManager.__init__

    def __init__(self, verbosity=None, include_path=None, *args, **kwargs):
        original(self, verbosity, _carefully(_with_our_tasks, include_path) or include_path, *args, **kwargs)
        _carefully(_remember, self)

    __init__.__wrapped__ = original  # its signature, for whoever inspects it
    module.TaskManager.__init__ = __init__


def _register_merge_methods():
    from merge3_plugin.plugins import plugin_host

    plugin_host().merge_methods()


def _patch_merge_methods(module):
    def telling_first(look_up):
        def told(*args, **kwargs):
            if untold:
                _carefully(untold.pop())  # emptied before plug-ins run: they may look methods up too
            return look_up(*args, **kwargs)

        return told

    untold = [_register_merge_methods]
    module.get, module.registered_methods = telling_first(module.get), telling_first(module.registered_methods)


def _register_model(module):
    from lm_eval.api.registry import model_registry

    if "merge3-hf" not in model_registry:  # a later lm-eval may have read the entry point
        model_registry.register("merge3-hf", target="merge3_plugin.harness.packed_lm:PackedLM")


_PATCHES = {
    "lm_eval.tasks.manager": _patch_task_manager,
    "lm_eval.models": _register_model,
    "mergekit.merge_methods": _patch_merge_methods,
}


class _Finder:
    """Leaves the finding to the other finders, and patches a module of ``_PATCHES`` once it has run."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in _PATCHES:
            return None
        spec = next((s for f in sys.meta_path if f is not cls and (s := f.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                _carefully(_PATCHES[name], module)

            spec.loader.exec_module = exec_module
        return spec


if os.environ.get("MERGE3_AUTOLOAD") != "0":
    sys.meta_path.insert(0, _Finder)
