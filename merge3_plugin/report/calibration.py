"""What a calibration holds, from what it was made, and what it is worth: lines for the terminal, or plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.domain import Calibration
from merge3_plugin.estimate.base import CROSS_VALIDATION

if TYPE_CHECKING:
    from merge3_plugin.calibrate.study import Study


def describe(calibration: Calibration) -> str:
    """The task, and how many items, models and anchors."""
    origin, accuracy = calibration.provenance, calibration.responses.accuracy()
    how = [str(origin[key]) for key in ("metric", "filter") if origin.get(key)]
    how += [f"{origin['num_fewshot']}-shot"] if origin.get("num_fewshot") is not None else []
    how += ["chat template"] if origin.get("chat_template") else []
    how += [f"answers in {origin['language']}"] if origin.get("language") else []
    weights = calibration.responses.balance
    counted = "" if weights is None else f", {_groups(calibration)} sub-tasks counted by their weights"
    models = (
        "none" if not len(accuracy) else f"{len(accuracy)}, of accuracy {accuracy.min():.3f} to {accuracy.max():.3f}"
    )
    return "\n".join(
        [
            f"task     {origin.get('task', 'unknown')} ({', '.join(how) or 'metric unknown'})",
            f"items    {calibration.n_items:,}{counted}",
            f"models   {models}",
            f"anchors  {len(calibration.anchors)}, {_selection(calibration)}",
        ]
    )


def _groups(calibration: Calibration) -> int:
    return len(set(calibration.responses.item_groups or ()))


def _selection(calibration: Calibration) -> str:
    """How the anchors came about, and what may be claimed of them."""
    anchors, seed = calibration.anchors, calibration.provenance.get("seed")
    if len(anchors) == calibration.n_items:
        return "all items: nothing is left to estimate"
    by = anchors.method if seed is None else f"{anchors.method}, seed {seed}"
    if anchors.inclusion is None:
        return f"chosen by {by}: no estimator is unbiased by design"
    return f"drawn by {by}: weighted means are unbiased"


def describe_origin(calibration: Calibration) -> str:
    """The data set, the models and files behind it, and the errors that were cross-validated."""
    origin = calibration.provenance
    data = [str(origin[key]) for key in ("dataset_path", "dataset_name", "revision", "data") if origin.get(key)]
    split = f", split {origin['split']}" if origin.get("split") else ""
    lines = [f"data     {' '.join(data) or 'unknown'}{split}"]
    lines += [f"answers  {model}" for model in calibration.responses.model_ids]
    lines += [f"file     {file['name']} (sha256 {file['sha256'][:12]})" for file in origin.get("files", ())]
    if "gp_irt_weight" in origin:
        logits = f"{origin['convention']['file']} in the file, {origin['convention']['here']} here"
        lines.append(f"logits   {logits}; gp-irt: published weight {origin['gp_irt_weight']:.3g} of the answers")
    lines += _cross_validated(calibration)
    return "\n".join([*lines, f"version  merge3 {origin.get('version', 'unknown')}"])


def _cross_validated(calibration: Calibration) -> list[str]:
    """What was tried, and how far off it was on models left out."""
    if not calibration.errors:
        return []
    record = calibration.provenance.get(CROSS_VALIDATION, {})
    lines = [f"errors   {_points(calibration.errors)} (points, root mean square, on models left out)"]
    chosen = next(iter(record.get("auto", {}).values()), None)
    designs = {name: errors[chosen] for name, errors in record.get("designs", {}).items() if chosen in errors}
    if len(designs) > 1:
        lines.append(f"designs  {_points(designs)} (the same, of {chosen} on anchors of each design)")
    if chosen is not None:
        by = ", ".join(f"{name} ({known})" for known, name in record["auto"].items())
        lines.append(f"auto     {by}")
    return lines


def _points(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * errors[name]:.2f}" for name in sorted(errors, key=errors.__getitem__))


def describe_anchors(calibration: Calibration, at_most: int) -> str:
    """The first ``at_most`` anchors with weight, difficulty and, where they were drawn, inclusion probability."""
    anchors = as_dict(calibration)["anchors"]
    lines = [
        f"  {a['id']}  weight {a['weight']:.4f}  difficulty {a['difficulty']:+.2f}"
        + ("" if a["inclusion"] is None else f"  drawn with probability {a['inclusion']:.4f}")
        for a in anchors[:at_most]
    ]
    more = [f"  ... and {len(anchors) - at_most:,} more (--items)"] if len(anchors) > at_most else []
    return "\n".join(["", "anchors:", *lines, *more])


def describe_error(made: Study, n_anchors: int, *, asked: str, method: str) -> str:
    """The error on models left out of the study, beside that of a random sample of as many items.

    ``method`` is the design of the anchors, ``asked`` what was asked for: with ``"auto"``, the error is also told of
    leaving the choice of the design to the other models.
    """
    from merge3_plugin.calibrate import FEWEST_LEFT_OUT, eligible
    from merge3_plugin.calibrate.assessment import left_out

    if n_anchors >= made.responses.n_items:
        return "error    none: all items are anchors"
    n_models = len(eligible(made.responses, () if made.parents is None else made.parents.model_ids))
    found = left_out(made, n_anchors, method, with_intervals=True) if n_models >= FEWEST_LEFT_OUT else None
    if found is None:
        needed = f"{FEWEST_LEFT_OUT} that answered nearly all items"
        return f"error    unknown: to leave one model out takes {needed}, got {n_models}"
    rows = [(f"{n_anchors} anchors", found.error), (f"{n_anchors} random items", found.random_error)]
    anew = left_out(made, n_anchors, asked, with_intervals=True) if asked != method else None
    if anew is not None and f"{100 * anew.error:.2f}" != f"{100 * found.error:.2f}":
        rows.insert(1, ("design chosen anew", anew.error))
    lines = [f"  {what:<20}{100 * error:6.2f} points" for what, error in rows]
    about = "Error on a model that the calibration has not seen (mean absolute, each model left out in turn):"
    return "\n".join(["", about, *lines])


def how_to_use(task: str, out: Path) -> str:
    """Where the file is, and the lines that use it."""
    lines = ["", f"Wrote {out}. Use it in a search's config:", f"  merge3: {{calibration: {{{task}: {out}}}}}"]
    if task.startswith("merge3_"):
        metadata = json.dumps({"merge3": {"tasks": {task: {"calibration": str(out)}}}})
        command = f"lm_eval --model hf --model_args pretrained=MODEL --tasks {task} --metadata '{metadata}'"
        lines += ["or in lm-eval:", f"  {command}"]
    return "\n".join(lines)


def as_dict(calibration: Calibration) -> dict[str, Any]:
    """All but the single answers, as plain JSON."""
    items, anchors, accuracy = calibration.items, calibration.anchors, calibration.responses.accuracy().tolist()
    inclusion = [None] * len(anchors) if anchors.inclusion is None else anchors.inclusion.tolist()
    return {
        "provenance": dict(calibration.provenance),
        "n_items": calibration.n_items,
        "method": anchors.method,
        "errors": dict(calibration.errors),
        "accuracy": dict(zip(calibration.responses.model_ids, accuracy, strict=True)),
        "anchors": [
            {
                "id": item,
                "weight": float(weight),
                "inclusion": drawn,
                "difficulty": float(items.difficulty[place]),
                "discrimination": items.discrimination[place].tolist(),
            }
            for item, weight, drawn, place in zip(
                anchors.item_ids, anchors.weights, inclusion, calibration.anchor_positions(), strict=True
            )
        ],
    }
