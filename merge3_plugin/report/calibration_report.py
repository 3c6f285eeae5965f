"""The report on a calibration: how far its estimates can be trusted, and what would make them better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from merge3_plugin.calibrate.assessment import Assessment, AtSize, Bin
from merge3_plugin.calibrate.forecast import Forecast
from merge3_plugin.domain import Calibration
from merge3_plugin.errors import ConfigError
from merge3_plugin.estimate.base import CROSS_VALIDATION
from merge3_plugin.extract.odd_items import OddItems
from merge3_plugin.report.calibration import describe, describe_origin
from merge3_plugin.report.page import Block, Bullets, Figure, Heading, Table, Text, to_html, to_markdown
from merge3_plugin.report.svg import Chart

# Odd items and models are named up to so many.
SHORT = 20

_WRITERS = {".html": to_html, ".htm": to_html, ".md": to_markdown}


def check_report_path(path: Path) -> None:
    """ConfigError unless a report can be written there."""
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(f"--report: expected a file that ends in .html or .md, got {str(path)!r}; name it so")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ConfigError(f"--report: expected a file in an existing folder, got {str(path)!r}; make the folder first")


def write_report(
    path: Path,
    calibration: Calibration,
    assessment: Assessment,
    forecast: Forecast,
    items: OddItems,
    notes: Sequence[str],
) -> None:
    """Write the report as one file, HTML or Markdown by its suffix; ``notes`` are what is odd about the models."""
    blocks = [
        *_summary(calibration, forecast),
        *_errors(assessment, _tried(calibration)),
        *_reliability(assessment.at(len(calibration.anchors))),
        *_probabilities(assessment.bins),
        *_choices(calibration),
        *_forecast(forecast),
        *_items(items),
        *_models(calibration, notes),
        *_provenance(calibration),
    ]
    title = f"Calibration of {calibration.provenance.get('task', 'a benchmark')}"
    check_report_path(path)
    path.write_text(_WRITERS[path.suffix.lower()](title, blocks), encoding="utf-8")


def _summary(calibration: Calibration, forecast: Forecast) -> Iterator[Block]:
    yield Text(forecast.verdict)
    yield Bullets(describe(calibration).splitlines())


def _tried(calibration: Calibration) -> tuple[str, ...]:
    """The designs of anchors that the calibration's own was chosen from; none where it was asked for."""
    designs = tuple(calibration.provenance.get(CROSS_VALIDATION, {}).get("designs", ()))
    return designs if len(designs) > 1 else ()


def _errors(assessment: Assessment, tried: Sequence[str]) -> Iterator[Block]:
    yield Heading("Error by number of anchors")
    sizes = assessment.sizes
    if not sizes:
        yield Text("Unknown: with fewer than three models that answered nearly all items, none can be left out.")
        return
    yield Text(
        f"Each of {len(sizes[0].model_ids)} models was left out in turn (with another one, if there are six or more) "
        "and estimated by a calibration that had not seen it, anchors and all. Errors are mean absolute ones in points "
        "of accuracy, [95 % interval of their mean over models]. A random sample of as many items errs by the second "
        "column. Coverage is the share of the 95 % intervals that hold the true accuracy; width compares them to the "
        "interval of a random sample; Kendall's tau says how far the estimates put the models in their true order."
    )
    if tried:
        yield Text(
            f"The design of the anchors was chosen from {', '.join(tried)} by the errors on all models, these among "
            "them, so that the errors below are a little too low; `merge3 calibrate` also prints the error with the "
            "design chosen anew for each, where it differs."
        )
    yield Table(
        ("anchors", "error", "random sample", "ratio", "coverage", "width", "Kendall's tau"),
        [
            (
                str(size.n_anchors),
                f"{100 * size.error:.2f} {_interval(size.error_interval)}",
                f"{100 * size.random_error:.2f}",
                _number(size.ratio),
                f"{100 * size.coverage:.0f} %",
                f"{size.width:.2f}",
                _number(size.tau),
            )
            for size in sizes
        ],
    )
    if len(sizes) > 1:
        yield Figure(_error_chart(sizes), "Error on models left out, against the number of anchors.")


def _error_chart(sizes: Sequence[AtSize]) -> str:
    anchors = [float(size.n_anchors) for size in sizes]
    highest = 100 * max(max(size.error, size.random_error) for size in sizes)
    chart = Chart(
        "Error by number of anchors",
        "anchors",
        "mean absolute error, points",
        (min(anchors), max(anchors)),
        (0.0, 1.1 * highest or 1.0),
        log_x=True,
        x_ticks=anchors,
    )
    ours = [(n, 100 * size.error) for n, size in zip(anchors, sizes, strict=True)]
    intervals = [(100 * low, min(100 * high, 2 * highest)) for low, high in (s.error_interval for s in sizes)]
    chart.line(
        [(n, 100 * size.random_error) for n, size in zip(anchors, sizes, strict=True)], 1, "random sample", dashed=True
    )
    chart.line(ours, 0, "this calibration")
    chart.points(ours, 0, intervals=intervals)
    return chart.svg()


def _reliability(size: AtSize | None) -> Iterator[Block]:
    if size is None:
        return
    yield Heading(f"Estimated against true accuracy, {size.n_anchors} anchors")
    # One draw of anchors, as a user has one.
    models = sorted(
        (truth, model, draws[0])
        for truth, model, draws in zip(size.accuracies.tolist(), size.model_ids, size.estimates, strict=True)
        if draws
    )
    chart = Chart("Reliability", "true accuracy, %", "estimate, %", (0.0, 100.0), (0.0, 100.0))
    chart.diagonal()
    chart.points(
        [(100 * truth, 100 * e.accuracy) for truth, _, e in models],
        0,
        intervals=[(100 * e.interval[0], 100 * e.interval[1]) for _, _, e in models],
    )
    yield Figure(chart.svg(), "Each left-out model, with its 95 % interval; on the line, estimates are exact.")
    rows = [
        (
            model,
            f"{100 * truth:.1f}",
            f"{100 * e.accuracy:.1f} {_interval(e.interval, 1)}",
            f"{100 * (e.accuracy - truth):+.1f}",
            "yes" if e.interval[0] <= truth <= e.interval[1] else "no",
        )
        for truth, model, e in models
    ]
    yield Table(("model", "true, %", "estimate, %", "off by", "covered"), rows)


def _probabilities(bins: Sequence[Bin]) -> Iterator[Block]:
    if not bins:
        return
    yield Heading("Probabilities of item response theory")
    yield Text(
        "Of each left-out model some random answers were shown; from these the probability that each other answer is "
        "right was predicted. In ten equal parts of these answers, by predicted probability:"
    )
    chart = Chart("IRT calibration", "predicted, %", "right, %", (0.0, 100.0), (0.0, 100.0))
    chart.diagonal()
    points = [(100 * one.predicted, 100 * one.observed) for one in bins]
    chart.line(points, 2)
    chart.points(points, 2)
    yield Table(
        ("predicted, %", "right, %", "answers"),
        [(f"{100 * b.predicted:.1f}", f"{100 * b.observed:.1f}", f"{b.n_answers:,}") for b in bins],
    )
    yield Figure(chart.svg(), "Predicted probability against the share that was right.")


def _choices(calibration: Calibration) -> Iterator[Block]:
    record = calibration.provenance.get(CROSS_VALIDATION, {})
    if not calibration.errors:
        return
    yield Heading("What cross-validation chose from")
    chosen = ", ".join(dict.fromkeys(record.get("auto", {}).values())) or "unknown"
    yield Text(
        f"Anchors: {calibration.anchors.method}. Estimator: {chosen}. The robust default of each is kept unless "
        "another one errs less by more than the noise over folds. Root mean squared errors, in points:"
    )
    tried = {calibration.anchors.method: calibration.errors} | record.get("designs", {})
    rows = [
        (name, *(f"{100 * errors[name]:.2f}" if name in errors else "-" for errors in tried.values()))
        for name in sorted(calibration.errors, key=calibration.errors.__getitem__)
    ]
    yield Table(("estimator", *tried), rows)


def _forecast(forecast: Forecast) -> Iterator[Block]:
    yield Heading("What more models or anchors would buy")
    basis = (
        "Learned from calibrations on half, three quarters and nearly all of the models, and from other benchmarks"
        if forecast.measured
        else "Learned from other benchmarks, since there are too few models to measure it"
    )
    yield Text(f"{basis}. Expected mean absolute error in points [95 % interval]:")
    rows = [
        (
            f"{models:,} (now)" if models == forecast.n_models else f"{models:,}",
            *(_prediction(forecast, models, anchors) for anchors in forecast.anchors),
        )
        for models in forecast.models
    ]
    samples = [f"{100 * forecast.random[anchors]:.1f}" for anchors in forecast.anchors]
    yield Table(
        ("models", *(f"{anchors:,} anchors" for anchors in forecast.anchors)), [*rows, ("a random sample", *samples)]
    )


def _prediction(forecast: Forecast, models: int, anchors: int) -> str:
    found = forecast.at(models, anchors)
    return f"{100 * found.error:.1f} {_interval(found.interval, 1)}"


def _items(items: OddItems) -> Iterator[Block]:
    yield Heading("Items that behave oddly")
    constant = len(items.all_right) + len(items.all_wrong)
    yield Bullets(
        [
            f"answered alike by all models: {constant:,} of {items.n_items:,} ({len(items.all_right):,} all right, "
            f"{len(items.all_wrong):,} all wrong); they tell nothing of these models, and stay in the accuracy",
            f"negative discrimination: {items.n_negative:,}, of which {len(items.negative):,} beyond chance"
            + ("; check the keys of those" if items.negative else ""),
        ]
    )
    if items.negative:
        yield Table(
            ("item", "right, %", "correlation"),
            [(i.item_id, f"{100 * i.accuracy:.0f}", f"{i.correlation:+.2f}") for i in items.negative[:SHORT]],
        )
        if len(items.negative) > SHORT:
            yield Text(f"... and {len(items.negative) - SHORT:,} more")


def _models(calibration: Calibration, notes: Sequence[str]) -> Iterator[Block]:
    yield Heading("Models")
    if notes:
        yield Bullets(notes)
    responses = calibration.responses
    ranked = sorted(zip(responses.accuracy().tolist(), responses.model_ids, strict=True), reverse=True)
    yield Table(("model", "accuracy, %"), [(model, f"{100 * accuracy:.1f}") for accuracy, model in ranked])


def _provenance(calibration: Calibration) -> Iterator[Block]:
    yield Heading("Where it comes from")
    lines = describe_origin(calibration).splitlines()
    yield Bullets([line for line in lines if not line.startswith(("answers", "errors"))])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _interval(interval: tuple[float, float], digits: int = 2) -> str:
    return f"[{100 * interval[0]:.{digits}f}, {100 * interval[1]:.{digits}f}]"
