"""``merge3 anchors``: look into a calibration file, and make calibration files of published parameters."""

from __future__ import annotations

import json
from pathlib import Path

import click

from merge3_plugin.errors import ConfigError, DataError

# The ids of more anchors than this are listed only when asked for.
SHORT = 100


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def anchors() -> None:
    """Look into a calibration file, or import published parameters."""


@anchors.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--items", is_flag=True, help=f"List all anchors.  [only if there are at most {SHORT}]")
@click.option("as_json", "--json", is_flag=True, help="Everything but the answers, as JSON.")
def show(file: Path, items: bool, as_json: bool) -> None:
    """What a calibration holds, from what it was made, and which items it chose.

    \b
    merge3 anchors show arc_ja.safetensors
    """
    from merge3_plugin.artifact import load_calibration
    from merge3_plugin.report.calibration import as_dict, describe, describe_anchors, describe_origin

    calibration = load_calibration(file)
    if as_json:
        click.echo(json.dumps(as_dict(calibration), indent=2, ensure_ascii=False))
        return
    click.echo(describe(calibration))
    click.echo(describe_origin(calibration))
    click.echo(describe_anchors(calibration, len(calibration.anchors) if items else SHORT))


@anchors.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--benchmark", help="Only this benchmark of the file: lb, mmlu, helm_lite, alpaca.  [all]")
@click.option("--scenario", help="Only this scenario.  [all]")
@click.option(
    "--convention",
    default="tinybenchmarks",
    show_default=True,
    help="The logit that A and B are made for: sum(A theta - B) as in tinyBenchmarks' code, a.theta-b, or py-irt, "
    "sum(A (theta - B)).",
)
@click.option(
    "--item-ids",
    type=click.Path(path_type=Path),
    help="Text file with the ids of the scenario's items, one a line, in its order.  [0, 1, 2 ...]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File, or folder of one file a scenario.")
def import_(
    file: Path, benchmark: str | None, scenario: str | None, convention: str, item_ids: Path | None, out: Path
) -> None:
    """Make calibration files of tinyBenchmarks.pkl, whose anchors and item parameters were published.

    The pickle is read, not run: one that holds anything but numpy arrays and plain containers is refused. It has no
    texts, so an item is called by its position in the scenario, counted from 0, unless --item-ids names them. gp-irt
    gives tinyBenchmarks' own figures; intervals are wide, since the file tells no errors.

    \b
    merge3 anchors import tinyBenchmarks.pkl --out folder
    merge3 anchors import tinyBenchmarks.pkl --benchmark lb --scenario gsm8k --out gsm8k.safetensors
    """
    from merge3_plugin.artifact import save_calibration
    from merge3_plugin.extract.tinybenchmarks import read_tinybenchmarks
    from merge3_plugin.report.calibration import describe

    found = read_tinybenchmarks(
        file,
        benchmark=benchmark,
        scenario=scenario,
        convention=convention,
        item_ids=None if item_ids is None else _lines(item_ids),
    )
    if len(found) > 1 and not out.is_dir():
        names = ", ".join(sorted({name for _, name in found}))
        raise ConfigError(
            f"--out: expected an existing folder for {len(found)} scenarios, got {str(out)!r}; make it, or name one "
            f"--benchmark and --scenario of {names}"
        )
    for (of, name), calibration in found.items():
        path = out / f"{_file_name(f'{of}_{name}')}.safetensors" if out.is_dir() else out
        save_calibration(calibration, path)
        click.echo(f"{describe(calibration)}\nWrote {path}.\n")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"--item-ids: expected a text file, got {str(path)!r}: {error}") from None


def _file_name(text: str) -> str:
    """``text`` without what could lead out of a folder."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)[:150]
