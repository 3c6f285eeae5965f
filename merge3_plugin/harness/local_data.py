"""Any lm-eval task on local files of the same fields, so that machines without a network can run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def local_task(path: str | Path, *, leaf_of_group: bool = False) -> type[ConfigurableTask]:
    """The class of a task whose documents come from ``path``; lm-eval takes it as a task's ``class``.

    A file holds the documents that are scored, and serves few-shot examples too (never the asked document itself). A
    folder holds one file for each split, named after it. For a leaf of a group, both are looked for under the leaf's
    name in ``path``. Building it raises DataError for missing or unreadable files.
    """
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):
        def __init__(self, config: Mapping[str, Any]) -> None:
            fields = {key: value for key, value in config.items() if key != "class"}
            place = _leaf_path(Path(path), fields["task"]) if leaf_of_group else Path(path)
            self._files = _files(place, fields)
            super().__init__(config={**fields, **_splits(self._files, fields, single=place.is_file())})

        def download(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {split: read_documents(file) for split, file in self._files.items()}

    return LocalTask


def read_documents(path: Path) -> Dataset:
    """The documents of a .jsonl, .json, .csv or .parquet file, held in memory. Raises DataError."""
    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset

    try:
        dataset = Dataset(_READERS[path.suffix](path))
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected documents of equal fields in {path.suffix}, got: {reason}") from None
    if not len(dataset):
        raise DataError(f"{path}: expected documents, got an empty file")
    return dataset


def _json(path: Path) -> Any:
    import pyarrow

    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(r) for r in text.split("\n") if r.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line that is no JSON object")
    fields = dict.fromkeys(field for row in rows for field in row)
    return pyarrow.table({field: [row.get(field) for row in rows] for field in fields})


def _csv(path: Path) -> Any:
    import pyarrow.csv  # type: ignore[import-untyped]

    return pyarrow.csv.read_csv(path)


def _parquet(path: Path) -> Any:
    import pyarrow.parquet  # type: ignore[import-untyped]

    return pyarrow.parquet.read_table(path)


_READERS: dict[str, Callable[[Path], Any]] = {".jsonl": _json, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def _leaf_path(folder: Path, leaf: str) -> Path:
    places = [folder / leaf, *(folder / f"{leaf}{suffix}" for suffix in _READERS)]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise DataError(f"{folder}: expected {leaf}.jsonl or a folder {leaf}/ for this task of the group, got neither")
    return found


def _files(place: Path, fields: Mapping[str, Any]) -> dict[str, Path]:
    scored = fields.get("test_split") or fields.get("validation_split") or "test"
    if place.is_file():
        files = {scored: place}
    elif place.is_dir():
        files = {file.stem: file for file in _data_files(place)}
        if scored not in files:
            raise DataError(f"{place}: expected a file of split {scored!r}, got {sorted(files) or 'no data file'}")
    else:
        siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"{place}: expected a data file or folder, got nothing there{nearest(place.name, siblings)}")
    for file in files.values():
        if file.suffix not in _READERS:
            raise DataError(f"{file}: expected one of {', '.join(_READERS)}, got {file.suffix or 'no suffix'!r}")
    return files


def _data_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix in _READERS)


def _splits(files: Mapping[str, Path], fields: Mapping[str, Any], *, single: bool) -> dict[str, Any]:
    """The task's split settings, less the splits that have no file."""
    kept = {key: fields.get(key) if fields.get(key) in files else None for key in SPLITS}
    if not (kept["test_split"] or kept["validation_split"]):
        kept["test_split"] = "test"
    examples = fields.get("fewshot_config")
    if isinstance(examples, Mapping) and examples.get("split") not in files:
        examples = {key: value for key, value in examples.items() if key != "split"}
        kept["fewshot_config"] = examples
    if single and not (isinstance(examples, Mapping) and "samples" in examples):
        # Named as the split of the asked document, so that lm-eval leaves that document out of its own examples.
        kept["fewshot_split"] = kept["test_split"]
    return kept
