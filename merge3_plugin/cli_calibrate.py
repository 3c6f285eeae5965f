"""``merge3 calibrate``: make a calibration file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.extract.responses import Responses

log = logging.getLogger(__name__)


class ManyValues(click.Command):
    """A command whose ``multiple`` options take several values after one flag, as in ``--models A B C``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        many = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        spread: list[str] = []
        flag = None
        for argument, following in zip(args, [*args[1:], "-"], strict=True):
            if argument.startswith("-"):
                flag = argument if argument in many and not following.startswith("-") else None
                spread += [argument] if flag is None else []
            else:
                spread += [argument] if flag is None else [flag, argument]
        return super().parse_args(ctx, spread)


@click.command(cls=ManyValues, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--task", required=True, help="A task or group of lm-eval, or one of ours (merge3_...).")
@click.option(
    "sources",
    "--from",
    multiple=True,
    metavar="LOGS...",
    help="Logs that `lm_eval --log_samples --output_path LOGS` kept, folders or files; or one .npz of responses.",
)
@click.option("--models", multiple=True, metavar="A B C...", help="Models to run on the full task with lm_eval first.")
@click.option("n_anchors", "--anchors", type=click.IntRange(1), default=50, show_default=True, help="Items to choose.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The calibration file to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything that is drawn.")
@click.option("--metric", help="Metric of one item.  [the task's own, else acc, else the only one]")
@click.option("filter_name", "--filter", help="Filter of the metric.  [the task's own, else none, else the only one]")
@click.option("--id-field", help="Field of a document that names the item.  [id, _id, question_id, else its content]")
@click.option("--anchor-method", default="auto", show_default=True, help="random, stratified, kd, or auto.")
@click.option(
    "--logs", type=click.Path(path_type=Path), help="With --models: folder for the logs.  [OUT less suffix, -logs]"
)
@click.option("--num-fewshot", "--num_fewshot", type=click.IntRange(0), help="With --models, as in lm_eval: examples.")
@click.option(
    "--batch-size", "--batch_size", type=click.IntRange(1), default=8, show_default=True, help="With --models."
)
@click.option("--device", help="With --models: cpu, cuda, cuda:1, mps ...  [where there is one, a GPU]")
@click.option("--dtype", default="auto", show_default=True, help="With --models: float32, bfloat16, ...")
@click.option("--limit", type=float, help="With --models: the first N items only; the others count as not asked.")
@click.option("--apply-chat-template", "--apply_chat_template", is_flag=True, help="With --models, as in lm_eval.")
@click.option("--fewshot-as-multiturn", "--fewshot_as_multiturn", type=bool, help="With --models, as in lm_eval.")
@click.option(
    "--trust-remote-code", "--trust_remote_code", is_flag=True, help="With --models: run code that comes with them."
)
@click.option(
    "--include-path", "--include_path", multiple=True, metavar="DIR...", help="With --models: folders of task YAML."
)
@click.option("--metadata", metavar="JSON", help="With --models, as in lm_eval; local data is named here.")
def calibrate(task: str, sources: tuple[str, ...], models: tuple[str, ...], out: Path, **options: Any) -> None:
    """Choose the items that stand for a whole benchmark, from the answers of several models to all of it.

    Give logs that you have, or models to run now (their logs are kept; the same command goes on after a break): three
    or more models of different strength; the more, the better. The printed error says how far off an estimate from
    these anchors is for a model that the calibration has not seen, beside that of as many items drawn at random.

    \b
    lm_eval --model hf --model_args pretrained=A --tasks arc_easy --log_samples --output_path logs   # and B, C ...
    merge3 calibrate --task arc_easy --from logs --anchors 50 --out arc_easy.safetensors

    \b
    merge3 calibrate --task merge3_arc_ja --models A B C --anchors 50 --out arc_ja.safetensors \\
        --metadata '{"merge3": {"tasks": {"merge3_arc_ja": {"data": "ja.jsonl"}}}}'
    """
    from merge3_plugin import api
    from merge3_plugin.artifact import save_calibration
    from merge3_plugin.report.calibration import describe, describe_error, how_to_use

    if bool(sources) == bool(models):
        got = "both" if sources else "neither"
        raise ConfigError(f"calibrate: expected either --from LOGS or --models A B C, got {got}")
    _check_out(out)
    responses = _read(task, sources, options) if sources else _evaluate(task, models, out, options)
    for note in responses.notes:
        log.warning("%s", note)
    how = {"seed": options["seed"], "anchors": options["anchor_method"]}
    made = api.calibrate(responses.matrix, options["n_anchors"], **how)
    made = replace(made, item_hashes=responses.item_hashes, provenance={**responses.provenance, **made.provenance})
    save_calibration(made, out)
    click.echo(describe(made))
    log.info("leaving one model out, to see the error of such a calibration")
    click.echo(describe_error(responses.matrix, options["n_anchors"], **how))
    click.echo(how_to_use(task, out))


def _check_out(out: Path) -> None:
    """Before hours of evaluation: can the file be written?"""
    folder = out.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"--out: expected an existing folder, got {str(folder)!r}; make it first")
    if out.is_dir():
        raise ConfigError(f"--out: expected a file to write, got the folder {str(out)!r}; add a file name")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out: expected a folder that can be written, got {str(folder)!r}; name another one")


def _read(task: str, sources: tuple[str, ...], options: Mapping[str, Any]) -> Responses:
    from merge3_plugin.extract.responses import read_responses
    from merge3_plugin.harness.collect import anchor_yaml

    metric, filter_name = options["metric"], options["filter_name"]
    own_metric, base = anchor_yaml(task)
    if own_metric is not None and metric is None and filter_name is None:
        metric, _, filter_name = own_metric.partition(",")
    return read_responses(
        sources, task, metric=metric, filter_name=filter_name, id_field=options["id_field"], base=base
    )


def _evaluate(task: str, models: tuple[str, ...], out: Path, options: Mapping[str, Any]) -> Responses:
    from merge3_plugin.extract.responses import read_responses
    from merge3_plugin.harness.benchmark import load_benchmarks
    from merge3_plugin.harness.collect import EvaluationSettings, collect_logs

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    metric = options["metric"] and f"{options['metric']},{options['filter_name'] or 'none'}"
    metadata, own = _metadata(options["metadata"], task)
    benchmark = load_benchmarks(
        {task: metric},
        include_paths=options["include_path"],
        num_fewshot=options["num_fewshot"],
        data={task: own["data"]} if "data" in own else None,
        id_field=options["id_field"] or own.get("id_field"),
        metadata=metadata,
    )[task]
    names = (
        "dtype",
        "device",
        "batch_size",
        "limit",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "trust_remote_code",
    )
    settings = EvaluationSettings(**{name: options[name] for name in names})
    folder = options["logs"] or out.with_name(f"{out.stem}-logs")
    logs = collect_logs(benchmark, list(dict.fromkeys(models)), folder, settings)
    responses = read_responses(
        logs,
        task,
        metric=benchmark.items.metric,
        filter_name=benchmark.items.filter,
        id_field=options["id_field"] or own.get("id_field"),
        base=list(benchmark.items.leaves),
        balance=benchmark.balance_of,
    )
    return replace(responses, provenance={**benchmark.provenance, **responses.provenance})


def _metadata(text: str | None, task: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """lm_eval's ``--metadata``, and what it says of this task under our key."""
    from merge3_plugin.harness.settings import check_task_names, tasks_of_run

    try:
        metadata = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f"--metadata: expected JSON, got: {error}") from None
    if not isinstance(metadata, dict):
        raise ConfigError(f"--metadata: expected a JSON object, got {text!r}")
    tasks = tasks_of_run({"metadata": metadata})
    check_task_names(tasks, [task])
    return metadata, tasks.get(task, {})
