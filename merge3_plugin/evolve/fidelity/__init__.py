"""On how many of which items a candidate is scored, and which candidates are worth more.

Trials of one batch (a generation, as a rule) answer the same anchors, the next batch its own, drawn as the
calibration's were (`ladder`): estimates and intervals keep their meaning. In a simulated world of 12 genes, 300
candidates on 20 anchors ended 9 points below a search on all items where the anchors were fixed, 2 to 4 where each
generation had its own; with soft scores 1.0 and 0.5. Candidates of different batches answer different items: what is
compared then are estimates with independent errors, and the incumbent is scored on the items of each new batch as well,
once, which makes its own estimate surer each time; where it falls, who follows it is, so that none stays the best by
luck. With 240 candidates in generations of 12 (the quickstart) that is a seventh of the search's items.

Within a batch a strategy may score candidates on fewer items first (`racing`, `brackets`).
"""
