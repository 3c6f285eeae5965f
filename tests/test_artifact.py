"""The calibration file: exact round trips, and a clear refusal of every file that is not whole."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.artifact import SCHEMA, dataset_fingerprint, load_calibration, save_calibration
from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError


def make(values: np.ndarray | None = None, **changes) -> Calibration:
    rng = np.random.default_rng(0)
    if values is None:
        values = np.array([[1, 0, 1, np.nan, 0], [0, 0, 1, 1, np.nan]])
    ids = tuple(f"問{j}" for j in range(values.shape[1]))
    calibration = Calibration(
        item_ids=ids,
        items=ItemParameters(rng.normal(size=(len(ids), 2)), rng.normal(size=len(ids))),
        anchors=AnchorSet((ids[3], ids[1]), [0.3, 0.7], "kd"),
        responses=ResponseMatrix(values, [f"model/{m}" for m in range(len(values))], ids, ["x"] * len(ids)),
        item_hashes=tuple(f"{j:032x}" for j in range(len(ids))),
        errors={"mean": 0.1, "gmp-irt": 1 / 3},
        provenance={"task": "arc_ja", "metric": "acc", "num_fewshot": 0, "models": ["a", "b"], "chat_template": None},
    )
    return replace(calibration, **changes)


def same(a: Calibration, b: Calibration) -> bool:
    def arrays(c: Calibration) -> list[bytes | None]:
        kept = [c.anchors.weights, c.anchors.inclusion, c.responses.values, c.responses.soft, c.responses.balance]
        fits = [array for fit in (c.items, *c.alternatives) for array in (fit.discrimination, fit.difficulty)]
        return [None if array is None else array.tobytes() for array in [*kept, *fits]]

    return arrays(a) == arrays(b) and all(
        get(a) == get(b)
        for get in (
            lambda c: c.item_ids,
            lambda c: c.item_hashes,
            lambda c: (c.anchors.item_ids, c.anchors.method),
            lambda c: (c.responses.model_ids, c.responses.item_groups),
            lambda c: (dict(c.errors), dict(c.provenance)),
        )
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_calibration(make(), tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


GRADED = np.array([[0.1, 1 / 3, np.nan, 1.0, 0.0]])


@pytest.mark.parametrize(
    "calibration",
    [
        make(),
        make(GRADED),
        make(item_hashes=None, errors={}, provenance={}),
        make(responses=ResponseMatrix([[1, 0, 1, 1, 0]], ["m"], make().item_ids)),
        make(
            responses=ResponseMatrix(
                [[1, 0, 1, 1, 0]],
                ["m"],
                make().item_ids,
                soft=[[0.9, 1 / 3, np.nan, 1.0, 0.0]],
                balance=[1, 2, 1, 0.5, 1 / 3],
            ),
            anchors=AnchorSet(("問3", "問1"), [0.3, 0.7], "neyman", [0.2, 1.0]),
            alternatives=(ItemParameters(np.ones((5, 1)), np.arange(5)), ItemParameters(np.ones((5, 3)), np.zeros(5))),
        ),
    ],
    ids=["binary", "graded", "bare", "no groups", "soft scores, balance, inclusion, alternatives"],
)
def test_round_trip_is_exact(tmp_path, calibration):
    save_calibration(calibration, tmp_path / "c.safetensors")
    assert same(load_calibration(tmp_path / "c.safetensors"), calibration)


def test_equal_calibrations_give_equal_bytes(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_calibration(make(), first)
    save_calibration(load_calibration(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_binary_answers_take_a_byte_each(tmp_path):
    answers = np.random.default_rng(0).integers(0, 2, (20, 500)).astype(float)
    save_calibration(make(answers), tmp_path / "binary.safetensors")
    answers[0, 0] = 0.5
    save_calibration(make(answers), tmp_path / "graded.safetensors")
    sizes = [(tmp_path / f"{kind}.safetensors").stat().st_size for kind in ("graded", "binary")]
    assert sizes[0] - sizes[1] == pytest.approx(7 * 20 * 500, abs=50)


def test_header_can_be_read_without_this_package(saved):
    content = saved.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["merge3_calibration"])
    assert (header["schema"], header["task"], header["metric"]) == (SCHEMA, "arc_ja", "acc")
    assert header["logit_convention"] == "a.theta - b"
    assert header["anchor_ids"] == ["問3", "問1"]
    assert header["dataset_fingerprint"] == dataset_fingerprint(make())


def test_fingerprint_names_the_items_whatever_their_order():
    whole = make(errors={}, provenance={})
    order = [4, 2, 0, 1, 3]
    shuffled = replace(
        whole,
        item_ids=tuple(whole.item_ids[j] for j in order),
        item_hashes=tuple(whole.item_hashes[j] for j in order),
        responses=whole.responses.items([whole.item_ids[j] for j in order]),
        items=whole.items.take(order),
    )
    assert dataset_fingerprint(shuffled) == dataset_fingerprint(whole)
    changed = replace(whole, item_hashes=("0" * 31 + "f", *whole.item_hashes[1:]))
    assert dataset_fingerprint(changed) != dataset_fingerprint(whole)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_calibration(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_flipped_byte_is_noticed_wherever_it_is(saved):
    whole, content = load_calibration(saved), saved.read_bytes()
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x15
        saved.write_bytes(damaged)
        refused(saved)
    saved.write_bytes(content)
    assert same(load_calibration(saved), whole)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    assert "damaged or foreign" in refused(saved)


def test_model_weights_are_not_a_calibration(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"lm_head.weight": torch.zeros(4, 4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    assert "merge3 calibrate" in refused(tmp_path / "model.safetensors")


def test_text_file_missing_file_and_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("anchors: 50\n" * 20)
    assert "damaged or foreign" in refused(tmp_path / "notes.txt")
    assert "got nothing" in refused(tmp_path / "missing.safetensors")
    assert "got a folder" in refused(tmp_path)


def rewrite(path: Path, **changes) -> None:
    """Change header fields, in the file as it stands."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["merge3_calibration"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, path, metadata={"merge3_calibration": json.dumps(header | changes)})


def test_newer_schema_says_upgrade(saved):
    rewrite(saved, schema=SCHEMA + 1)
    assert f"expected schema {SCHEMA} or older, got {SCHEMA + 1}; upgrade" in refused(saved)


def test_other_logit_convention_is_refused(saved, monkeypatch):
    from merge3_plugin import artifact

    with monkeypatch.context() as other:
        other.setattr(artifact, "LOGIT_CONVENTION", "a.(theta - b)")
        save_calibration(make(), saved)
    assert "logit convention 'a.theta - b', got 'a.(theta - b)'" in refused(saved)


def test_edited_header_is_refused(saved):
    rewrite(saved, anchor_ids=["問0", "問1"])
    assert "sha256" in refused(saved)


def test_saving_replaces_the_whole_file_and_leaves_no_other(saved):
    save_calibration(make(GRADED), saved)
    assert same(load_calibration(saved), make(GRADED))
    assert os.listdir(saved.parent) == [saved.name]


def test_saving_into_a_missing_folder_names_it(tmp_path):
    with pytest.raises(DataError, match=r"expected the folder .*nowhere to exist"):
        save_calibration(make(), tmp_path / "nowhere" / "c.safetensors")
    with pytest.raises(DataError, match="got the folder"):
        save_calibration(make(), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_saving_into_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Permission denied"):
        save_calibration(make(), tmp_path / "c.safetensors")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    os.symlink("/dev/full", saved.with_name(f".{saved.name}.{os.getpid()}.partial"))
    with pytest.raises(DataError, match="No space left"):
        save_calibration(make(GRADED), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("provenance", [{"x": float("nan")}, {"x": {1, 2}}, {"x": np.int64(3)}])
def test_provenance_must_be_plain_json(tmp_path, provenance):
    with pytest.raises(DataError, match="plain JSON"):
        save_calibration(make(provenance=provenance), tmp_path / "c.safetensors")
    assert not os.listdir(tmp_path)
