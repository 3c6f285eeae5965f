"""What a run would do, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge3_plugin.report.table import aligned
from merge3_plugin.units import in_bytes, in_time

SHOWN = 20


def render_plan(plan: Mapping[str, Any], *, everything: bool = False) -> str:
    """A plan of `evolve.plan.make_plan` as text; of many genes the first alone, unless ``everything`` is asked for."""
    space, search = plan["space"], plan["search"]
    genes = space["variables"] if everything else space["variables"][:SHOWN]
    lines = [
        f"Parents: {', '.join(plan['parents'])} ({plan['layers']} layers, {plan['dtype']})",
        *(f"  {line}" for line in plan["checked"]),
        f"Space: {space['kind']}, {_counted(space['dimension'], 'gene')}",
        *(f"  {line}" for line in space["about"]),
        "",
        *_genes(genes),
    ]
    if hidden := space["dimension"] - len(genes):
        lines.append(f"... and {hidden} more; --all shows them")
    lines += [
        "",
        f"Scored first: {', '.join(_known(plan))}",
        f"Search: {search['optimizer']}{_options(search['options'])}, {_budget(search)}",
        _fidelity(plan["fidelity"]),
        "",
        *_items(plan),
        "",
        *_machine(plan["machine"]),
    ]
    notes = [*plan["warnings"], *filter(None, [plan["machine"]["memory"]["note"]])]
    if notes:
        lines += ["", *(f"Warning: {warning}." for warning in notes)]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def _genes(variables: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["gene", "kind", "from", "to", "start"]]
    notes = ["", ""]
    for variable in variables:
        bounds = [_number(variable[end], variable) for end in ("low", "high", "start")]
        if variable["choices"]:
            bounds = ["", "", variable["choices"][int(variable["start"])]]
        rows.append([variable["name"], variable["kind"], *bounds])
        said = [f"when {name} is {' or '.join(choices)}" for name, choices in (variable["when"] or {}).items()]
        if variable["choices"]:
            said.append(f"of {', '.join(variable['choices'])}")
        if variable["kind"] == "integer" and variable["unit"] != 1:
            said.append(f"in steps of {variable['unit']:g}")
        notes.append(", ".join(said))
    return [f"{line}  {note}" for line, note in zip(aligned(rows, left=2).splitlines(), notes, strict=True)]


def _known(plan: Mapping[str, Any]) -> list[str]:
    label_of = {f"parent:{name}": label for label, name in plan["parents"].items()}
    label_of |= {f"alone:{name}": f"{label} alone" for label, name in plan["parents"].items()}
    return [label_of.get(point, point) for point in plan["space"]["known_points"]]


def _number(value: float | None, variable: Mapping[str, Any]) -> str:
    return "-" if value is None else f"{variable['offset'] + value * variable['unit']:.4g}"


def _options(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}: {value}' for name, value in options.items())})" if options else ""


def _budget(search: Mapping[str, Any]) -> str:
    units = {"max_fevals": "candidates", "max_items": "items", "max_tokens": "tokens", "timeout": "seconds"}
    limits = [f"{search[key]:,} {unit}" for key, unit in units.items() if search[key] is not None]
    return "at most " + ", ".join(limits)


def _fidelity(fidelity: Mapping[str, Any]) -> str:
    if fidelity["strategy"] == "fixed":
        return "Fidelity: every candidate on all anchors"
    fewest = fidelity["fewest"] or "anchors / eta^2"
    return f"Fidelity: {fidelity['strategy']}, from {fewest} anchors on, eta {fidelity['eta']}"


def _items(plan: Mapping[str, Any]) -> list[str]:
    tasks: Sequence[Sequence[str]] = [
        [name, f"{task['items']:,}", *(["all", "-", "-"] if task["in_full"] else _parts(task))]
        for name, task in plan["tasks"].items()
    ]
    phases = [
        [name, f"{phase['models']:,}", f"{phase['items']:,}", f"{phase['evaluations']:,}"]
        for name, phase in plan["phases"].items()
    ]
    total = ["all", "", "", f"{plan['evaluations']:,}"]
    return [
        aligned([["task", "items", "anchors", "search", "held out"], *tasks], left=1),
        "",
        aligned([["phase", "models", "items each", "items in all"], *phases, total], left=1),
        "",
        "That is with every candidate on all its anchors. On all search items, the search alone would read "
        f"{plan['full_search_evaluations']:,}.",
    ]


def _machine(machine: Mapping[str, Any]) -> list[str]:
    memory, disk, time = machine["memory"], machine["disk"], machine["time"]
    parts = [f"parents in {memory['dtype']} {in_bytes(memory['copied'])}"] if memory["copied"] else []
    many = memory["live_models"] > 1
    live = f"{memory['live_models']} live models of" if many else "live model"
    parts.append(f"{live} {in_bytes(memory['live'])}")
    batch = f"a batch {'for each ' * many}about {in_bytes(memory['activations'])}"
    parts.append(f"vLLM {in_bytes(memory['served'])}" if memory["served"] else batch)
    what = f"{', '.join(parts)}, and {in_bytes(memory['spare'])} to merge with"
    host = f"{in_bytes(memory['on_host'])} beside the program itself, of {in_bytes(memory['available'])} that are free"
    lines = [f"Memory: {host}"]
    if memory["device_available"] is not None:
        of_device = f"{in_bytes(memory['on_device'])} of {in_bytes(memory['device_available'])} that are free"
        least = f", with least to spare of {memory['devices']} devices" * (memory["devices"] > 1)
        lines = [f"Memory of {memory['device']}{least}: {of_device}", f"Memory of the host: {host}"]
    lines.append(f"  {what}")
    if memory["streamed"]:
        upload = f"{time['upload_bytes_per_second'] / 1e9:,.1f} GB/s"
        lines.append(f"  {in_bytes(memory['streamed'])} of parents are copied there for every merge, at {upload}")
    if memory["mapped"]:
        lines.append(f"  {in_bytes(memory['mapped'])} of parents stay in their files, read through the page cache")
    least = time["scoring_seconds"] + time["merging_seconds"]
    rate, traffic = time["flops_per_second"] / 1e9, time["bytes_per_second"] / 1e9
    return [
        *lines,
        f"Disk: final_model {in_bytes(disk['final_model'])}, record {in_bytes(disk['record'])}",
        f"Time: at the least {in_time(least)}, for arithmetic and memory traffic alone; expect several times that",
        f"  scoring: {time['tokens']:,.0f} tokens, two operations for each weight, at {rate:,.0f} Gflop/s as just "
        f"measured on {memory['device']}: {in_time(time['scoring_seconds'])}",
        f"  merging: {time['merges']:,} models, every parent read and one model written, at {traffic:,.1f} GB/s: "
        f"{in_time(time['merging_seconds'])}",
    ]


def _parts(task: Mapping[str, Any]) -> list[str]:
    return [f"{task[part]:,}" for part in ("anchors", "search", "held_out")]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
