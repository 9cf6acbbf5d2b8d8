"""Label PNGs with a table: the smallest dataset format, and the rules of every conversion."""

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.datasets import convert_dataset, open_dataset, plan

CELL = LabelTable.classes(["cell"])


def objects(*regions: tuple[slice, slice]) -> Sample:
    """Return a sample with an object a box, each on its own mask."""
    masks = []
    for number, box in enumerate(regions, start=1):
        ids = np.zeros((8, 9), np.uint8)
        ids[box] = number
        row = Label(number, f"cell {number}", category="cell", is_thing=True)
        masks.append(Mask(ids, Geometry.pixels((8, 9)), LabelTable([row])))
    return Sample(Item("a"), tuple(masks))


def dataset_of(sample: Sample, root) -> Dataset:
    return Dataset("d", "made", root, CELL, (sample.item,), lambda item, job: sample, "objects")


def test_what_is_written_opens_as_it_was(tmp_path):
    made = dataset_of(objects(np.s_[0:3, 0:3], np.s_[4:8, 4:9]), tmp_path)
    receipt = convert_dataset(made, tmp_path / "out", "indexed")
    back = open_dataset(tmp_path / "out")
    sample = back.read(back.items[0])
    assert receipt.verdict == "PASS"
    assert receipt.losses == ()
    assert sorted(r.category for r in sample.labels.values()) == ["cell", "cell"]
    assert np.array_equal(sample.masks[0].data, made.read(made.items[0]).settled()[0].data)


def test_losses_are_known_before_anything_is_written(tmp_path):
    made = dataset_of(objects(np.s_[0:6, 0:6], np.s_[4:8, 4:9]), tmp_path)
    planned = plan(made, "indexed")
    assert planned.losses == ("1 object loses pixels to others that lie over it",)
    with pytest.raises(InputError, match="without loss"):
        convert_dataset(made, tmp_path / "out", "indexed", lossless=True)
    assert not (tmp_path / "out").exists()


def test_what_is_no_dataset_of_ours_is_never_replaced(tmp_path):
    made = dataset_of(objects(np.s_[0:3, 0:3]), tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="something else"):
        convert_dataset(made, tmp_path / "out", "indexed", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_damaged_write_is_not_put_in_place(tmp_path, monkeypatch):
    from maskloop.core.errors import VerificationError
    from maskloop.formats import picture

    made = dataset_of(objects(np.s_[0:3, 0:3]), tmp_path)
    convert_dataset(made, tmp_path / "out", "indexed")
    before = (tmp_path / "out" / "masks" / "a.png").read_bytes()
    write = picture.write_mask

    def shifted(mask, to):
        write(Mask(np.roll(mask.data, 1, 1), mask.geometry, mask.labels), to)

    monkeypatch.setattr(picture, "write_mask", shifted)
    with pytest.raises(VerificationError, match="read back"):
        convert_dataset(made, tmp_path / "out", "indexed", overwrite=True)
    assert (tmp_path / "out" / "masks" / "a.png").read_bytes() == before
    assert not list(tmp_path.glob(".maskloop-*"))
