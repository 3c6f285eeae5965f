"""Small worlds and calibrations that the tests of the estimators share."""

from dataclasses import replace

import numpy as np

from merge3_plugin.domain import AnchorSet, Calibration, ResponseMatrix
from merge3_plugin.estimate.base import Evidence
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.irt import sigmoid


def row(responses, model):
    return dict(zip(responses.item_ids, responses.values[responses.model_ids.index(model)], strict=True))


def on_anchors(calibration, answers):
    return {item: answers[item] for item in calibration.anchors.item_ids}


def quick_calibration(responses, n, *, method="kd", seed=0, parents=None, dimensions=(2, 1, 3)):
    """A calibration without cross-validation: its items, ``n`` anchors, and fits in the other dimensions."""
    fits = [fit_items(responses, d)[0] for d in dimensions]
    anchors = select_anchors(responses, fits[0], n, method=method, rng=np.random.default_rng(seed), parents=parents)
    return Calibration(responses.item_ids, fits[0], anchors, responses, alternatives=tuple(fits[1:]))


def with_anchors(calibration, item_ids):
    """The calibration with these anchors instead, equally weighted and not drawn."""
    return replace(calibration, anchors=AnchorSet(tuple(item_ids), np.full(len(item_ids), 1 / len(item_ids)), "chosen"))


def soft_family(n_items, *, rng, n_merges=24, spread=0.6, n_unrelated=0):
    """Parents ``p0`` to ``p2``, merges and unrelated models that are right where a logit of theirs is positive.

    The logit is that of a 2PL plus what the model knows of the single item; its sigmoid is the soft score.
    """
    loadings = np.column_stack([rng.lognormal(0.0, 0.3, n_items), rng.normal(0.0, 0.6, n_items)])
    n_roots = 3 + n_unrelated
    roots = rng.normal(size=(n_roots, 2)) @ loadings.T + rng.normal(size=(n_roots, n_items))
    shares = rng.dirichlet(np.ones(3), n_merges)
    merges = shares @ roots[:3] + spread * rng.normal(size=(n_merges, n_items))
    logits = np.vstack([roots, merges]) - rng.normal(0.0, 1.0, n_items)
    ids = ["p0", "p1", "p2", *(f"u{k}" for k in range(n_unrelated)), *(f"m{k}" for k in range(n_merges))]
    return ResponseMatrix(logits > 0, ids, [f"q{j}" for j in range(n_items)], soft=sigmoid(logits))


def evidence_of(calibration, values, *, parents=None, soft=None):
    """What the answers ``values`` (n_items,) say on the anchors."""
    places = np.sort(calibration.anchor_positions())
    return Evidence(calibration, places, values[places], parents, None if soft is None else soft[places])
