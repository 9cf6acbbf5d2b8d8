"""A dataset as corrected: cases in the place of its own masks, in one scheme, whatever it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import GeometryError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.cases import open_case
from maskloop.desk.datasets import convert_dataset, open_dataset
from maskloop.desk.images import list_images
from maskloop.desk.items import (
    class_row,
    corrected,
    count_items,
    free_id,
    nameless,
    open_item,
    open_list,
)
from maskloop.desk.worklist import Facts, Worklist

SHAPE = (12, 14)


def pictures(folder: Path, *names: str) -> list[Path]:
    paths = []
    for at, name in enumerate(names):
        path = folder / f"{name}.png"
        Picture.fromarray(np.full(SHAPE, 40 * at, np.uint8)).save(path)
        paths.append(path)
    return paths


def masks(folder: Path, *names: str, value: int = 1) -> None:
    for name in names:
        ids = np.zeros(SHAPE, np.uint8)
        ids[2:5, 2:6] = value
        Picture.fromarray(ids).save(folder / f"{name}_mask.png")


def test_pairs_stay_pairs_once_some_have_cases(tmp_path: Path) -> None:
    first, _ = pictures(tmp_path, "a", "b")
    masks(tmp_path, "a", "b")
    before = open_list(tmp_path)
    opened = open_item(before, before.items[0])
    with open_case(opened.image, mask=opened.masks[0], author="anna") as case:
        case.paint((9, 9), radius_mm=0, label=1)
    assert first.with_name("a.maskloop").is_dir()
    again = open_list(tmp_path)
    assert again.format == before.format == "pairs"
    assert open_item(again, again.items[0]).has_case
    assert not open_item(again, again.items[1]).has_case
    whole = corrected(again)
    areas = [int(np.count_nonzero(whole.read(one).masks[0].data)) for one in whole.items]
    assert areas == [13, 12]
    assert count_items(again, again.items)["a"].count == 1


def test_images_keep_their_marks_when_they_become_cases(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "a", "b")
    before = open_list(tmp_path)
    assert before.format == "images"
    Worklist.beside(tmp_path).mark([before.items[1]], status="flagged")
    with open_case(paths[0]) as case:
        case.paint((5, 5), radius_mm=2, label="cell")
    after = open_list(tmp_path)
    assert after.format == "cases"
    kept = Worklist.beside(tmp_path)
    assert [kept.of(item).status for item in after.items] == ["in work", "flagged"]


def test_classes_that_people_add_get_one_number_in_all_cases(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "a", "b", "c")
    names = ("liver", "tumour", "liver")
    for path, name in zip(paths, names, strict=True):
        with open_case(path) as case:  # each begins at id 1
            case.paint((5, 5), radius_mm=2, label=name)
    listed = open_list(tmp_path)
    whole = corrected(listed)
    assert set(whole.scheme.names.values()) == {"liver", "tumour"}
    receipt = convert_dataset(whole, tmp_path / "out", "indexed")
    assert receipt.verdict == "PASS"
    back = open_dataset(tmp_path / "out")
    found = [back.read(item).masks[0] for item in back.items]
    assert [[m.labels[i].name for i in m.ids()] for m in found] == [[n] for n in names]


def test_the_scheme_of_the_dataset_is_the_table_of_a_new_case(tmp_path: Path) -> None:
    (path,) = pictures(tmp_path, "a")
    item = Item("a", path)
    scheme = LabelTable([Label(3, "sky", "#112233"), Label(7, "road"), Label(9, "car")])
    ids = np.zeros(SHAPE, np.uint8)
    ids[0] = 3
    mask = Mask(ids, Geometry.pixels(SHAPE), LabelTable([scheme[3]]))
    made = Dataset(
        "d", "made", tmp_path, scheme, (item,), lambda i, job: Sample(i, (mask,)), "classes"
    )
    opened = open_item(made, item)
    assert opened.masks[0].labels == scheme
    assert opened.facts == Facts(frozenset({"sky"}), 1)


def test_stuff_is_painted_with_and_things_get_numbers(tmp_path: Path) -> None:
    (path,) = pictures(tmp_path, "a")
    item = Item("a", path)
    scheme = LabelTable([Label(1, "cell", is_thing=True), Label(2, "ground")])
    ids = np.zeros(SHAPE, np.uint8)
    ids[0] = 2
    row = Label(2, "cell 2", category="cell", is_thing=True)
    mask = Mask(ids, Geometry.pixels(SHAPE), LabelTable([row]))
    made = Dataset(
        "d", "made", tmp_path, scheme, (item,), lambda i, job: Sample(i, (mask,)), "panoptic"
    )
    table = open_item(made, item).masks[0].labels
    assert {(r.name, r.category) for r in table.values()} == {("cell 2", "cell"), ("ground", None)}
    fresh = class_row(free_id([table]), scheme[1])
    assert fresh.id not in table
    assert (fresh.category, fresh.is_thing) == ("cell", True)


def test_a_mask_of_another_size_is_refused_in_words(tmp_path: Path) -> None:
    (path,) = pictures(tmp_path, "a")
    item = Item("a", path)
    mask = Mask(np.zeros((3, 4), np.uint8), Geometry.pixels((3, 4)), LabelTable())
    made = Dataset("d", "made", tmp_path, LabelTable(), (item,), lambda i, job: Sample(i, (mask,)))
    with pytest.raises(GeometryError, match=r"\(12, 14\)"):
        open_item(made, item)


def test_a_folder_of_dicom_series_is_a_list_of_series(shared_data: Path, tmp_path: Path) -> None:
    import zipfile

    for name in ("one", "two"):
        with zipfile.ZipFile(
            shared_data / "ct_liver" / "totalseg_examples" / "example_ct_dicom.zip"
        ) as packed:
            packed.extractall(tmp_path / "study" / name)
    listed = open_list(tmp_path)
    assert len(listed.items) == 2
    assert {item.group for item in listed.items} == {"study"}
    opened = open_item(listed, listed.items[1])
    assert opened.image is not None
    assert opened.masks[0].data.shape == opened.image.data.shape == (20, 512, 512)


def test_a_folder_called_after_a_patient_names_nothing_that_is_written(tmp_path: Path) -> None:
    for patient in ("DOE_JOHN", "ROE_JANE"):
        (tmp_path / patient).mkdir()
        (path,) = pictures(tmp_path / patient, "scan")
        with open_case(path) as case:
            case.paint((5, 5), radius_mm=2, label="cell")
    listed = list_images(tmp_path)
    assert [item.name for item in listed.items] == ["DOE_JOHN/scan", "ROE_JANE/scan"]
    whole = nameless(corrected(listed))
    assert [item.name for item in whole.items] == ["group-001/scan", "group-002/scan"]
    convert_dataset(whole, tmp_path / "out", "coco")
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    told = "".join(str(p.relative_to(tmp_path)) for p in written)
    told += "".join(p.read_text() for p in written if p.suffix == ".json")
    assert "group-001" in told
    for word in ("DOE", "JOHN", "ROE", "JANE"):
        assert word not in told
