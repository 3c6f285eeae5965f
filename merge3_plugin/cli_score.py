"""``merge3 score``: the accuracy of one model on a benchmark, by an adaptive test."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from merge3_plugin.cli_task import ManyValues, load_asked, read_metadata
from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.calibrate.adaptive import AdaptiveResult, Step
    from merge3_plugin.domain import Calibration
    from merge3_plugin.harness.benchmark import Benchmark


@click.command(cls=ManyValues, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", required=True, help="A Hugging Face folder or name.")
@click.option("--task", required=True, help="The task that was calibrated.")
@click.option("standard_error", "--se", type=float, help="Stop at this standard error, say 0.02: two points.")
@click.option("--budget", type=click.IntRange(1), help="Items to ask at most.  [all]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="File of `merge3 calibrate`.  [that of --metadata, else of ~/.cache/merge3]",
)
@click.option(
    "--record", type=click.Path(path_type=Path), help="File that keeps every answer; the same command goes on."
)
@click.option(
    "--parents", multiple=True, metavar="A B...", help="Models of the calibration that this one is merged from."
)
@click.option("--batch-items", type=click.IntRange(1), default=8, show_default=True, help="Items chosen at a time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything that is drawn.")
@click.option(
    "--batch-size", "--batch_size", type=click.IntRange(1), default=32, show_default=True, help="As in lm_eval."
)
@click.option("--device", help="cpu, cuda, cuda:1, mps ...  [where there is one, a GPU]")
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16, ...")
@click.option("--trust-remote-code", "--trust_remote_code", is_flag=True, help="Run code that comes with the model.")
@click.option("--id-field", help="As it was calibrated: field of a document that names the item.")
@click.option("--include-path", "--include_path", multiple=True, metavar="DIR...", help="Folders of task YAML.")
@click.option("--metadata", metavar="JSON", help="As in lm_eval; local data is named here.")
@click.option(
    "as_json", "--json", is_flag=True, help="The estimate, the items in order and the error after each batch."
)
def score(model: str, task: str, standard_error: float | None, budget: int | None, **options: Any) -> None:
    """Estimate one model's accuracy on a whole benchmark from as few items as the wanted precision allows.

    The items that tell most of this model are asked, a few at a time, beside a random sample that keeps the estimate
    honest; how many of each, and the error, come from tests simulated on the models of the calibration. It ends at
    --se or at --budget, whichever comes first. Prompts are those of the calibration (few-shot count, chat template).

    \b
    merge3 calibrate --task arc_easy --models A B C D E F --anchors 50 --out arc_easy.safetensors    # once
    merge3 score --task arc_easy --model MINE --se 0.02 --calibration arc_easy.safetensors --record mine.jsonl

    \b
    merge3 score --task merge3_arc_ja --model MINE --budget 100 --calibration arc_ja.safetensors \\
        --metadata '{"merge3": {"tasks": {"merge3_arc_ja": {"data": "ja.jsonl"}}}}'
    """
    from merge3_plugin.calibrate.adaptive import check_limits, run_adaptive
    from merge3_plugin.harness.answer_record import AnswerRecord
    from merge3_plugin.harness.calibrations import check_settings
    from merge3_plugin.harness.collect import EvaluationSettings, check_models, expected_record, load_model
    from merge3_plugin.harness.scoring import Scorer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    check_limits(standard_error, budget)
    calibration, benchmark = _prepare(task, options)
    parents = calibration.responses.models(options["parents"]) if options["parents"] else None
    template = bool(calibration.provenance.get("chat_template"))
    settings = EvaluationSettings(
        apply_chat_template=template,
        fewshot_as_multiturn=template,
        **{name: options[name] for name in ("dtype", "device", "batch_size", "trust_remote_code")},
    )
    identity = expected_record(benchmark, model, check_models([model], settings)[model], settings)
    identity["settings"].pop("batch_size")  # moves a score in its last bits, and must shrink where memory runs out
    asked_for = {"metric": benchmark.items.metric, "filter": benchmark.items.filter}
    record = AnswerRecord(options["record"], {**identity, **asked_for})
    loaded = load_model(model, settings)
    scorer = Scorer(
        {task: benchmark},
        loaded.model,
        loaded.tokenizer,
        batch_size=settings.batch_size,
        apply_chat_template=template,
        fewshot_as_multiturn=template,
    )
    check_settings(calibration, scorer.provenance(task))

    def ask(items: Sequence[str]) -> Mapping[str, float]:
        if missing := [item for item in items if item not in record.scores]:
            record.add(scorer.score(task, missing).right)
        return {item: record.scores[item] for item in items}

    with _progress(min(budget or calibration.n_items, calibration.n_items)) as bar:
        result = run_adaptive(
            calibration,
            ask,
            seed=options["seed"],
            standard_error=standard_error,
            budget=budget,
            batch=options["batch_items"],
            parents=parents,
            watch=lambda step: _show(bar, step),
        )
    click.echo(_as_json(result, model, task) if options["as_json"] else _text(result, standard_error))


def _prepare(task: str, options: Mapping[str, Any]) -> tuple[Calibration, Benchmark]:
    """The calibration, and the benchmark asked as it was there."""
    from merge3_plugin.artifact import load_calibration
    from merge3_plugin.harness.calibrations import calibration_path, check_items

    _, own = read_metadata(options["metadata"], task)
    path = calibration_path(task, options["calibration"] or own.get("calibration"))
    if path is None:
        raise ConfigError(
            f"--calibration: expected a calibration of {task}, got none; make one with "
            f"`merge3 calibrate --task {task} --models A B C --out FILE`, and name it"
        )
    calibration = load_calibration(path)
    then = calibration.provenance
    metric = f"{then['metric']},{then['filter']}" if then.get("metric") and then.get("filter") else None
    benchmark, _ = load_asked(task, metric, then.get("num_fewshot"), options)
    check_items(calibration, benchmark.items, path)
    return calibration, benchmark


def _progress(most: int) -> Any:
    from tqdm import tqdm

    bar = tqdm(total=most, desc="asked", unit="item", dynamic_ncols=True, disable=not sys.stderr.isatty())
    bar.set_postfix_str("testing the calibration's models in simulation")
    return bar


def _show(bar: Any, step: Step) -> None:
    bar.update(step.n_items - bar.n)
    bar.set_postfix_str(f"accuracy {step.accuracy:.3f}, standard error {step.standard_error:.4f}")


def _text(result: AdaptiveResult, wanted: float | None) -> str:
    from merge3_plugin.calibrate.adaptive import SPENT

    estimate = result.estimate
    low, high = estimate.interval
    lines = []
    if wanted is not None and result.stopped == SPENT:
        lines.append(
            f"The standard error {wanted:g} was not reached within the budget: it is {estimate.standard_error:.4f}; "
            "a greater --budget lowers it."
        )
    lines.append(
        f"accuracy {estimate.accuracy:.4f}, 95 % interval {low:.4f} to {high:.4f}, standard error "
        f"{estimate.standard_error:.4f}: {estimate.n_scored:,} of {estimate.n_items:,} items asked ({result.stopped})"
    )
    return "\n".join(lines)


def _as_json(result: AdaptiveResult, model: str, task: str) -> str:
    from dataclasses import asdict

    shown = {"model": model, "task": task, **asdict(result.estimate), "stopped": result.stopped}
    steps = [step._asdict() for step in result.steps]
    return json.dumps({**shown, "policy": result.policy._asdict(), "steps": steps, "order": result.order}, indent=2)
