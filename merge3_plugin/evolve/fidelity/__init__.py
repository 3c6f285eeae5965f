"""On which items a candidate is scored: nested rungs of one batch's anchors, and fresh anchors for each batch.

Anchors of a batch b > 0 are drawn as the calibration's were (``select_anchors(responses, items, n, method=...,
parents=..., rng=...)`` of the calibration, its ``anchors`` replaced), so estimates and intervals keep their meaning; in
a simulated world of 12 genes, 300 candidates on 20 anchors ended 9 points below a search on all items where the anchors
were fixed, 2 to 4 where each generation had its own; with soft scores 1.0 and 0.5. Candidates of different batches
answer different items: what is compared then are estimates with independent errors, and an incumbent is scored on the
items of the new batch as well, once, which makes its own estimate surer each time.
"""
