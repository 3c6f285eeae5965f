"""Short names of models, for people and for the record."""

from __future__ import annotations

from collections.abc import Iterable


def labels(names: Iterable[str]) -> dict[str, str]:
    """The label of each name: the shortest end of its path that no other shares, with its hub revision.

    ``run/checkpoint-100`` is ``checkpoint-100``, or ``run/checkpoint-100`` beside another run's; ``org/model@step1000``
    is ``model@step1000``.
    """
    parts = {name: _parts(name) for name in names}
    return {
        name: _label(name, own, [other for other in parts.values() if other is not own]) for name, own in parts.items()
    }


def _label(name: str, own: list[str], others: list[list[str]]) -> str:
    for length in range(1, len(own) + 1):
        if all(other[-length:] != own[-length:] for other in others):
            return "/".join(own[-length:])
    return name


def _parts(name: str) -> list[str]:
    """The folders of a name; a revision, which may have slashes of its own, stays with the last."""
    path, at, revision = name.partition("@")
    *folders, last = path.rstrip("/").split("/")
    return [*folders, last + at + revision]
