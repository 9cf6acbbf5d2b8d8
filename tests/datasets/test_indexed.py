"""Label PNGs with a table: the smallest dataset format, and the rules of every conversion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.datasets import Options, convert_dataset, open_dataset, plan

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


def test_what_people_changed_since_is_never_replaced(tmp_path):
    made = dataset_of(objects(np.s_[0:3, 0:3]), tmp_path)
    out = tmp_path / "out"
    convert_dataset(made, out, "indexed")
    convert_dataset(made, out, "indexed", overwrite=True)
    (out / "labels.cache").write_text("of a trainer")
    convert_dataset(made, out, "indexed", overwrite=True)
    mask = (out / "masks" / "a.png").read_bytes()
    (out / "masks" / "a.png").write_bytes(mask + b"by hand")
    with pytest.raises(StorageError, match=r"1 file\(s\) added or changed since"):
        convert_dataset(made, out, "indexed", overwrite=True)
    assert (out / "masks" / "a.png").read_bytes() == mask + b"by hand"
    (out / "masks" / "a.png").write_bytes(mask)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt"):
        convert_dataset(made, out, "indexed", overwrite=True)


def test_a_dataset_is_never_written_over_itself(tmp_path):
    made = dataset_of(objects(np.s_[0:3, 0:3]), tmp_path)
    convert_dataset(made, tmp_path / "out", "indexed")
    for source in (tmp_path / "out", tmp_path / "out" / "classes.json"):
        again = replace(open_dataset(tmp_path / "out"), root=source)
        with pytest.raises(StorageError, match="is or holds it"):
            convert_dataset(again, tmp_path / "out", "indexed", overwrite=True)


def test_pictures_that_are_missing_or_of_another_size_are_told(tmp_path):
    made = dataset_of(objects(np.s_[0:3, 0:3]), tmp_path)
    sample = made.read(made.items[0])
    height, width = sample.masks[0].data.shape
    Picture.fromarray(np.zeros((height, width + 7), np.uint8)).save(tmp_path / "odd.png")

    def planned(image, **told):
        item = replace(sample.item, image=image)
        read = replace(sample, item=item)
        return plan(replace(made, items=(item,), reader=lambda i, j: read), "indexed", **told)

    odd = planned(tmp_path / "odd.png")
    assert f"({width + 7} x {height}, its mask {width} x {height})" in odd.notes[0]
    assert "1 item(s) have no picture at hand" in planned(tmp_path / "gone.png").notes[0]
    assert planned(tmp_path / "gone.png", options=Options(images="none")).notes == ()


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
