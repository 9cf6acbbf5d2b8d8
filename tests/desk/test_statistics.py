"""Statistics: counted by hand, by SciPy, and by pycocotools; plots that show them."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import ndimage

from maskloop.cli import run
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.datasets import convert_dataset
from maskloop.desk.plots import write_plots
from maskloop.desk.statistics import statistics

SCHEME = LabelTable(
    [Label(1, "cell", "#ff8800", is_thing=True), Label(2, "<dust>"), Label(3, "never")]
)


def sample(item: Item, *objects: tuple[str, slice, slice]) -> Sample:
    """Return a sample of 20 x 30 pixels with a box an object, each on its own mask."""
    masks = []
    for number, (name, *box) in enumerate(objects, start=1):
        ids = np.zeros((20, 30), np.uint8)
        ids[tuple(box)] = number
        row = Label(number, f"{name} {number}", category=name.strip("!"), ignore="!" in name)
        masks.append(Mask(ids, Geometry.pixels((20, 30)), LabelTable([row])))
    empty = Mask(np.zeros((20, 30), np.uint8), Geometry.pixels((20, 30)), LabelTable())
    return Sample(item, tuple(masks) or (empty,))


def boxes() -> Dataset:
    drawn = {
        "a": [("cell", np.s_[0:4], np.s_[0:5]), ("cell", np.s_[2:6], np.s_[3:8])],  # overlap
        "b": [("cell", np.s_[0:1], np.s_[0:1]), ("<dust>", np.s_[9:19], np.s_[9:29])],
        "c": [("cell!", np.s_[0:9], np.s_[0:9])],
        "d": [],
    }
    groups = {"a": "p1", "b": "p1", "c": "p2", "d": ""}
    items = [Item(n, group=groups[n], split="train" if n in "ac" else "test", ref=n) for n in drawn]
    items.append(Item("e", split="test", has_mask=False))

    def read(item: Item, job: Job) -> Sample:
        return sample(item, *drawn[item.ref])

    return Dataset("boxes", "made", Path(), SCHEME, tuple(items), read, "objects")


def test_counts_by_hand():
    found = statistics(boxes())
    told = found.to_json()
    assert (told["items"], told["with_masks"], told["empty"], told["objects"]) == (5, 4, 2, 4)
    assert (told["ignored"], told["voxels"], told["unit"]) == (1, 4 * 600, "px")
    cell, dust, never = told["classes"]
    assert (cell["class"], cell["items"], cell["objects"], cell["voxels"]) == ("cell", 2, 3, 41)
    assert cell["share"] == pytest.approx(41 / 2400)
    assert cell["per_item"]["median"] == 1.5
    assert [cell["size"][k] for k in ("min", "median", "max")] == [1, 20, 20]
    assert cell["size"]["mean"] == pytest.approx(41 / 3)
    assert (cell["small"], cell["medium"], cell["large"], cell["ignored"]) == (3, 0, 0, 1)
    assert (dust["items"], dust["voxels"], never["objects"]) == (1, 200, 0)
    assert never["size"]["median"] is None
    assert told["splits"] == [
        {"split": "test", "items": 3, "groups": 1, "objects": 2,
         "classes": {"cell": 1, "<dust>": 1, "never": 0}},
        {"split": "train", "items": 2, "groups": 2, "objects": 2,
         "classes": {"cell": 2, "<dust>": 0, "never": 0}},
    ]  # fmt: skip
    assert told["groups"][0] == {
        "group": "p1", "splits": ["test", "train"], "items": 2, "objects": 4,
    }  # fmt: skip
    assert any("'p1' lies in test, train" in note for note in told["notes"])
    json.dumps(told, allow_nan=False)


def test_pieces_are_counted_as_scipy_counts_them():
    rng = np.random.default_rng(0)
    ids = (rng.random((40, 50)) < 0.2).astype(np.uint8)
    mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable.classes(["speck"]))
    made = Dataset(
        "specks", "made", Path(), mask.labels, (Item("a"),), lambda i, job: Sample(i, (mask,))
    )
    (row,) = statistics(made, by="pieces").rows()
    theirs, count = ndimage.label(ids, np.ones((3, 3)))
    areas = np.bincount(theirs.ravel())[1:]
    assert row["objects"] == count
    assert (row["size"]["min"], row["size"]["max"]) == (areas.min(), areas.max())
    assert row["size"]["median"] == np.median(areas)
    assert row["voxels"] == ids.sum()
    assert statistics(made).rows()[0]["objects"] == 1


def test_volumes_are_measured_in_cubic_millimetres():
    ids = np.zeros((4, 5, 6), np.uint8)
    ids[1:3, 1:3, 1:3] = 1
    mask = Mask(ids, Geometry.regular(ids.shape, (3.0, 0.5, 0.8)), LabelTable.classes(["liver"]))
    made = Dataset(
        "livers", "made", Path(), mask.labels, (Item("a"),), lambda i, job: Sample(i, (mask,))
    )
    found = statistics(made)
    assert found.unit == "mm3"
    assert found.rows()[0]["size"]["median"] == pytest.approx(8 * 3.0 * 0.5 * 0.8)
    assert found.rows()[0]["small"] is None


def test_a_dataset_without_masks_is_an_error():
    items = tuple(replace(item, has_mask=False) for item in boxes().items)
    with pytest.raises(InputError, match="at least one item with a mask"):
        statistics(replace(boxes(), items=items))


def test_plots_are_drawings_with_every_class_in_them(tmp_path):
    made = write_plots(statistics(boxes()), tmp_path / "plots")
    names = {path.stem for path in made}
    assert names == {"classes", "pixels", "sizes", "counts", "splits"}
    for path in made:
        words = "".join(ElementTree.parse(path).getroot().itertext())
        if path.stem != "counts":
            assert "<dust>" in words
    bars = ElementTree.parse(tmp_path / "plots" / "classes.svg").getroot()
    widths = [float(r.get("width", 0)) for r in bars.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)
    assert widths[2] == 0


def test_the_command_writes_its_table(tmp_path, capsys):
    convert_dataset(boxes(), tmp_path / "set", "indexed")
    table, rows, plots = tmp_path / "classes.csv", tmp_path / "objects.csv", tmp_path / "plots"
    words = ["stats", str(tmp_path / "set"), "--csv", str(table), "--objects", str(rows)]
    assert run([*words, "--plots", str(plots)]) == 0
    shown = capsys.readouterr().out
    assert "4 items" in shown
    assert "<dust>" in shown
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert {(line["split"], line["class"]) for line in lines} >= {("all", "cell"), ("test", "cell")}
    assert len(list(csv.DictReader(rows.read_text().splitlines()))) == 5
    assert (plots / "sizes.svg").is_file()


def test_the_split_command_writes_names(tmp_path, capsys):
    made = replace(boxes(), items=tuple(replace(i, split="") for i in boxes().items[:4]))
    convert_dataset(made, tmp_path / "set", "indexed")
    out = tmp_path / "splits.json"
    words = ["split", str(tmp_path / "set"), "--shares", "train=0.5,val=0.5", "-o", str(out)]
    assert run(words) == 0
    assert {len(names) for names in json.loads(out.read_text()).values()} == {2}
    assert run(["split", str(tmp_path / "set"), "--folds", "2", "--json"]) == 0
    folds = json.loads(capsys.readouterr().out.split("written: ")[-1].split("\n", 1)[1])
    assert sorted(folds[0]["val"] + folds[1]["val"]) == ["a", "b", "c", "d"]
    assert run(["split", str(tmp_path / "set")]) == 2
    assert run(["split", str(tmp_path / "set"), "--folds", "9"]) == 2
    assert "at least 9 groups" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_real_photographs_are_counted_as_pycocotools_counts_them(shared_data, tmp_path):
    from pycocotools.coco import COCO

    archive = next((shared_data / "images2d").rglob("*tiny_coco*.zip"), None)
    if archive is None:
        pytest.skip("tiny COCO is not there")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path)
    path = next(p for p in tmp_path.rglob("*.json") if "instances" in p.name)
    theirs = COCO(str(path))
    found = statistics(path, format="coco")
    for row in found.rows():
        (category,) = theirs.getCatIds(catNms=[row["class"]])
        plain = theirs.loadAnns(theirs.getAnnIds(catIds=[category], iscrowd=False))
        areas = [int(theirs.annToMask(one).sum()) for one in plain]
        assert row["objects"] == sum(area > 0 for area in areas)
        assert row["voxels"] == sum(areas)
        assert row["items"] == len({one["image_id"] for one in plain})
