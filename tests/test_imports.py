"""The layers of the design, and what may be imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import merge3_plugin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "merge3_plugin"

# A unit (a module, or a folder with all in it) may import itself and units of the lines below its own.
LAYERS = [
    {"__init__"},  # exports lazily
    {"cli"},
    {"api", "testing"},
    {"report", "evolve"},
    {"calibrate", "harness", "merging"},
    {"extract", "estimate"},
    {"artifact", "irt", "plugins", "config"},
    {"domain"},
    {"errors", "generators", "machine"},
]
LEVEL = {unit: len(LAYERS) - depth for depth, layer in enumerate(LAYERS) for unit in layer}
ONE_UNIT = {"hookspecs": "plugins", "checks": "domain", "units": "domain"}
HEAVY = {"torch", "transformers", "peft", "mergekit", "lm_eval", "datasets", "scipy", "sklearn", "cma", "ray"}
HEAVY |= {"pymoo", "optuna", "vllm"}


def unit_of(module: str) -> str:
    """``merge3_plugin.extract.fit`` -> ``extract``; the commands (cli, cli_evolve, ...) are one unit."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return "cli" if name.startswith("cli_") else ONE_UNIT.get(name, name)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "the package imports itself by its full name"
            # `from merge3_plugin import irt` imports a module, `from merge3_plugin.irt import fit` a name of one.
            yield from (
                [f"merge3_plugin.{a.name}" for a in node.names] if node.module == "merge3_plugin" else [node.module]
            )


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not in a function, not under ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def ours(targets: Iterator[str]) -> set[str]:
    return {t for t in targets if t.split(".")[0] == "merge3_plugin" and "__" not in t}


def test_imports_go_down_only() -> None:
    up = []
    for name, tree in modules():
        mine = unit_of(name)
        assert mine in LEVEL, f"{name}: give the unit {mine!r} its place among the layers"
        for target in ours(imported(ast.walk(tree))):
            theirs = unit_of(target)
            if theirs != mine and LEVEL[theirs] >= LEVEL[mine]:
                up.append(f"{name} -> {target}")
    assert not up


def test_what_a_command_imports_at_once_is_light() -> None:
    trees = dict(modules())
    waiting = [name for name in trees if unit_of(name) in {"cli", "api", "plugins", "config", "testing"}]
    assert {"merge3_plugin.cli", "merge3_plugin.api"} <= set(waiting)
    heavy, seen = [], set(waiting)
    while waiting:
        name = waiting.pop()
        targets = set(imported(at_import(trees[name])))
        heavy += [f"{name} -> {target}" for target in targets if target.split(".")[0] in HEAVY]
        reached = (ours(iter(targets)) & set(trees)) - seen
        seen |= reached
        waiting.extend(reached)
    assert not heavy


def test_no_export_hides_a_subpackage() -> None:
    inside = {path.stem for path in PACKAGE.iterdir()}
    assert len(inside) > 10
    assert not inside & set(merge3_plugin.__all__)


def names_after(statement: str) -> set[str]:
    """The top-level modules in ``sys.modules`` once ``statement`` has run in a Python of its own."""
    code = f"import sys\n{statement}\nprint('\\nmodules', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\nmodules ")[2].split())


@pytest.mark.parametrize("module", ["cli", "api", "plugins", "config", "testing"])
def test_importing_stays_light(module: str) -> None:
    assert not names_after(f"import merge3_plugin.{module}") & HEAVY


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("main", ["--help"]),
        ("evolve_main", ["--help"]),
        ("main", ["evolve", "--help"]),
        ("main", ["calibrate", "--help"]),
        ("main", ["runs", "--help"]),
        ("main", ["plan", "--help"]),
        ("main", ["--version"]),
    ],
)
def test_help_imports_nothing_heavy(entry: str, arguments: list[str]) -> None:
    statement = (
        f"from merge3_plugin.cli import {entry}\nsys.argv[1:] = {arguments}\n"
        f"try:\n    {entry}()\nexcept SystemExit as end:\n    assert end.code == 0, end.code"
    )
    assert not names_after(statement) & HEAVY
