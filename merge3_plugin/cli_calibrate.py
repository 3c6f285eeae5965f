"""``merge3 calibrate``: make a calibration file."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from merge3_plugin.cli_task import ManyValues, load_asked, read_metadata
from merge3_plugin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from merge3_plugin.domain import Calibration, FloatArray, ResponseMatrix
    from merge3_plugin.extract.responses import Responses
    from merge3_plugin.harness.benchmark import Benchmark
    from merge3_plugin.harness.collect import EvaluationSettings

log = logging.getLogger(__name__)

BY_REPRESENTATION = "representation-clusters"


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
@click.option(
    "--anchor-method",
    default="auto",
    show_default=True,
    help="random, stratified, kd, mixed, irt-clusters, correctness-clusters, neyman (by --parents), "
    "representation-clusters (of the items as the first of --models reads them), or auto, by cross-validation.",
)
@click.option("--parents", multiple=True, metavar="A B...", help="Those of the models that candidates are merged from.")
@click.option("--report", type=click.Path(path_type=Path), help="A .html or .md file: how far it can be trusted.")
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
@click.option(
    "--metadata", metavar="JSON", help="As in lm_eval; local data, and the language of answers, are named here."
)
def calibrate(task: str, sources: tuple[str, ...], models: tuple[str, ...], out: Path, **options: Any) -> None:
    """Choose the items that stand for a whole benchmark, from the answers of several models to all of it.

    Give logs that you have, or models to run now (their logs are kept; the same command goes on after a break): two or
    more models of different strength, five for errors that are measured, a dozen for a good estimate. What is printed,
    and at length in --report, says how far off an estimate from these anchors is for a model that the calibration has
    not seen, beside that of as many items drawn at random, and what more models or anchors would buy.

    \b
    lm_eval --model hf --model_args pretrained=A --tasks arc_easy --log_samples --output_path logs   # and B, C ...
    merge3 calibrate --task arc_easy --from logs --anchors 50 --out arc_easy.safetensors

    \b
    merge3 calibrate --task merge3_arc_ja --models A B C --anchors 50 --out arc_ja.safetensors \\
        --metadata '{"merge3": {"tasks": {"merge3_arc_ja": {"data": "ja.jsonl"}}}}'
    """
    from merge3_plugin.artifact import save_calibration
    from merge3_plugin.calibrate import items_for, study
    from merge3_plugin.extract.checks import odd_models
    from merge3_plugin.report.calibration import describe, how_to_use

    _check_sources(sources, models, options)
    _check_out(out)
    responses, embeddings = (_read(task, sources, options), None) if sources else _evaluate(task, models, out, options)
    notes = [*responses.notes, *odd_models(responses.matrix)]
    for note in notes:
        log.warning("%s", note)
    parents = responses.matrix.models(options["parents"]) if options["parents"] else None
    how = {
        "seed": options["seed"],
        "parents": parents,
        "embeddings": embeddings,
        "max_items": items_for(options["n_anchors"]),
    }
    made = study(responses.matrix, **how).calibration(options["n_anchors"], options["anchor_method"])
    made = replace(made, item_hashes=responses.item_hashes, provenance={**responses.provenance, **made.provenance})
    save_calibration(made, out)
    click.echo(describe(made))
    _assess(responses.matrix, made, notes, options, how)
    click.echo(how_to_use(task, out))


def _assess(
    responses: ResponseMatrix,
    made: Calibration,
    notes: Sequence[str],
    options: Mapping[str, Any],
    how: Mapping[str, Any],
) -> None:
    """Say how far off estimates are, and what would make them better; at length in the report, if one is asked for."""
    from merge3_plugin.calibrate import MOST_FITS, study
    from merge3_plugin.calibrate.assessment import assess
    from merge3_plugin.calibrate.forecast import forecast
    from merge3_plugin.extract.odd_items import odd_items
    from merge3_plugin.report.calibration import describe_error
    from merge3_plugin.report.calibration_report import write_report

    log.info("leaving one model out, to see the error of such a calibration")
    left_out = study(responses, **how, max_folds=MOST_FITS)
    n_anchors, method = len(made.anchors), made.anchors.method
    click.echo(describe_error(left_out, n_anchors, asked=options["anchor_method"], method=method))
    log.info("calibrating on fewer models, to see what more would buy")
    outlook = forecast(left_out, n_anchors, method)
    click.echo("\n" + textwrap.fill(outlook.verdict, 100))
    if options["report"] is not None:
        assessment = assess(left_out, n_anchors, method)
        write_report(options["report"], made, assessment, outlook, odd_items(responses), notes)
        click.echo(f"\nWrote {options['report']}, the report.")


def _check_sources(sources: tuple[str, ...], models: tuple[str, ...], options: Mapping[str, Any]) -> None:
    """Before anything is read or run: do the options fit together?"""
    from merge3_plugin.extract.anchors import METHODS
    from merge3_plugin.report.calibration_report import check_report_path

    if bool(sources) == bool(models):
        got = "both" if sources else "neither"
        raise ConfigError(f"calibrate: expected either --from LOGS or --models A B C, got {got}")
    method = options["anchor_method"]
    if method not in (*METHODS, "auto"):
        raise ConfigError(f"--anchor-method: expected a known one, got {method!r}{nearest(method, [*METHODS, 'auto'])}")
    if method == "neyman" and not options["parents"]:
        raise ConfigError("--anchor-method neyman: expected --parents, by whose answers it draws, got none; name them")
    if sources and method == BY_REPRESENTATION:
        raise ConfigError(
            f"--anchor-method {BY_REPRESENTATION}: expected --models, the first of which reads the items, got --from"
        )
    if options["report"] is not None:
        check_report_path(options["report"])


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
    known, (_, own) = anchor_yaml(task), read_metadata(options["metadata"], task)
    if known.metric is not None and metric is None and filter_name is None:
        metric, _, filter_name = known.metric.partition(",")
    responses = read_responses(
        sources,
        task,
        metric=metric,
        filter_name=filter_name,
        id_field=options["id_field"] or own.get("id_field"),
        base=known.base,
        language=own.get("language", known.language),
    )
    if metric is None or responses.provenance.get("metric") is not None:
        return responses
    # An .npz does not say what its scores are of; who names the metric is held to it when the calibration is used.
    return replace(responses, provenance={**responses.provenance, "metric": metric, "filter": filter_name or "none"})


def _evaluate(
    task: str, models: tuple[str, ...], out: Path, options: Mapping[str, Any]
) -> tuple[Responses, FloatArray | None]:
    """The models' answers and, if anchors are chosen by them, embeddings of the items that are there."""
    from merge3_plugin.extract.responses import read_responses
    from merge3_plugin.harness.collect import EvaluationSettings, collect_logs

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    metric = options["metric"] and f"{options['metric']},{options['filter_name'] or 'none'}"
    benchmark, own = load_asked(task, metric, options["num_fewshot"], options)
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
        language=benchmark.items.language,
        balance=benchmark.balance_among,
    )
    responses = replace(responses, provenance={**benchmark.provenance, **responses.provenance})
    if options["anchor_method"] != BY_REPRESENTATION:
        return responses, None
    return responses, _embeddings(benchmark, models[0], settings, responses.matrix.item_ids)


def _embeddings(benchmark: Benchmark, model: str, settings: EvaluationSettings, item_ids: Sequence[str]) -> FloatArray:
    from merge3_plugin.harness.collect import load_model
    from merge3_plugin.harness.embeddings import embed_items
    from merge3_plugin.harness.scoring import Scorer

    log.info("%s reads the items, to tell which are alike", model)
    loaded = load_model(model, settings)
    scorer = Scorer({benchmark.name: benchmark}, loaded.model, loaded.tokenizer, batch_size=settings.batch_size)
    place = {item: k for k, item in enumerate(benchmark.item_ids)}
    return embed_items(scorer, benchmark.name)[[place[item] for item in item_ids]]
