"""Items as a model represents them: what MERGE3's third way to choose anchors clusters (arXiv 2502.10436)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import DataError
from merge3_plugin.harness.documents import Document
from merge3_plugin.harness.task_items import TaskItems

if TYPE_CHECKING:
    from merge3_plugin.harness.live_model import LiveModel
    from merge3_plugin.harness.scoring import Scorer

# Clusters are hardly others in more dimensions than these, and k-means takes as long as there are dimensions.
COMPONENTS = 64


def embed_items(scorer: Scorer, task: str) -> FloatArray:
    """Embeddings (n_items, d) of a task's items under the scorer's model as it is now, in the benchmark's order.

    An item's embedding is the mean over the tokens of its text, as it is asked without examples, of the model's last
    hidden state; d is at most ``COMPONENTS``, the leading principal components of these. Raises DataError for an
    unknown task, and for hidden states that are not finite.
    """
    items, model = scorer.live(task)
    texts = [_own_texts(items, document) for document in items.documents.values()]
    distinct = list(dict.fromkeys(text for of_item in texts for text in of_item))
    states = dict(zip(distinct, _mean_states(model, distinct), strict=True))
    return _components(np.array([np.mean([states[text] for text in of_item], axis=0) for of_item in texts]))


def _own_texts(items: TaskItems, document: Document) -> list[str]:
    """What is asked about one item before any answer: one text, or one for each choice where those differ."""
    leaf = items.leaf(document)
    context = leaf.fewshot_context(document, num_fewshot=0)
    requests = leaf.construct_requests(doc=document, ctx=context, metadata=(items.name, 0, 1))
    return [request.args[0] for request in (requests if isinstance(requests, list) else [requests])]


def _mean_states(model: LiveModel, texts: Sequence[str]) -> FloatArray:
    """Mean last hidden state of each text's last tokens, as many as the model takes, shape (len(texts), hidden)."""
    import torch

    tokens = [(model.tok_encode(text) or [model.prefix_token_id])[-model.max_length :] for text in texts]
    by_length = sorted(range(len(texts)), key=lambda place: -len(tokens[place]))
    means = np.empty((len(texts), model.config.get_text_config().hidden_size))
    for start in range(0, len(texts), int(model.batch_size)):
        places = by_length[start : start + int(model.batch_size)]
        rows = [torch.tensor(tokens[place]) for place in places]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        with torch.no_grad():
            # Without the head: logits of all tokens would take far more memory than the states.
            states = model.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)[0]
            shares = (mask / lengths[:, None]).to(states.device)
            means[places] = torch.einsum("nth,nt->nh", states.float(), shares).cpu().numpy()
    if not np.isfinite(means).all():
        raise DataError("model: expected finite hidden states, got NaN or infinity; its weights overflow this dtype")
    return means


def _components(vectors: FloatArray) -> FloatArray:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(min(COMPONENTS, *vectors.shape), random_state=0).fit_transform(vectors), dtype=np.float64)
