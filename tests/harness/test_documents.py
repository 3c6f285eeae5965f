"""What a task derives from a document, it derives once; and it derives the same."""

import pytest

from merge3_plugin.harness.benchmark import load_benchmarks


@pytest.fixture
def items(tasks_folder):
    return load_benchmarks({"plain_choice": "acc,none"}, include_paths=[tasks_folder])["plain_choice"].items


def test_templates_are_compiled_once_for_each_document(items, monkeypatch):
    from lm_eval import utils

    rendered = []
    real = utils.apply_template
    monkeypatch.setattr("lm_eval.api.task.utils.apply_template", lambda *a: rendered.append(a) or real(*a))
    documents = list(items.documents.values())
    leaf = items.leaf(documents[0])
    first = [(leaf.doc_to_text(d), leaf.doc_to_target(d), leaf.doc_to_choice(d)) for d in documents]
    count = len(rendered)
    assert [(leaf.doc_to_text(d), leaf.doc_to_target(d), leaf.doc_to_choice(d)) for d in documents] == first
    assert len(rendered) == count
    # A plain document, such as an example, is not known by an id; and another template is another text.
    plain = dict(documents[0])
    assert leaf.doc_to_text(plain) == first[0][0] and leaf.doc_to_text(plain) == first[0][0]
    assert len(rendered) == count + 2
    assert leaf.doc_to_text(documents[0], doc_to_text="{{prompt}}") == documents[0]["prompt"]


def test_documents_of_equal_content_are_told_apart_by_their_ids(items):
    a, b = list(items.documents.values())[:2]
    leaf = items.leaf(a)
    assert leaf.doc_to_choice(a) == a["choices"] and leaf.doc_to_choice(b) == b["choices"] != a["choices"]


def test_a_template_is_compiled_once_for_all_documents(items, monkeypatch):
    from lm_eval.utils import env

    compiled = []
    real = env.compile
    monkeypatch.setattr(env, "compile", lambda source, *a, **k: compiled.append(source) or real(source, *a, **k))
    leaf = items.leaf(next(iter(items.documents.values())))
    texts = [leaf.doc_to_text(document, doc_to_text="Q: {{prompt}}") for document in items.documents.values()]
    assert texts == [f"Q: {document['prompt']}" for document in items.documents.values()]
    assert compiled == ["Q: {{prompt}}"]
