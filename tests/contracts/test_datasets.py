"""What every dataset format owes: it opens what it writes, and tells what it cannot hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop import datasets
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import Options, difference
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from tests.formats.ct_series import write_series

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, DEPTH = (40, 48), 5
SCHEME = LabelTable(
    [
        Label(1, "cell", is_thing=True),
        Label(3, "dead cell", colour="#123456", is_thing=True),
        Label(7, "sky"),
    ]
)
WRITERS = [name for name in datasets.DATASETS if datasets.get(name).write is not None]
KINDS = ("classes", "objects", "overlaps", "panoptic", "none")


def row(number: int, name: str) -> Label:
    return Label(number, f"{name} {number}", category=name, is_thing=True)


def flat_masks(kind: str, grid: Geometry) -> tuple[Mask, ...]:
    """Return masks with holes, parts, single pixels and corners that touch."""
    shape = grid.shape
    ids = np.zeros(shape, np.uint8)
    ids[..., 2:12, 3:15] = 1
    ids[..., 5:8, 6:9] = 0  # a hole
    ids[..., 6, 7] = 3  # an island in the hole
    ids[..., 20:30, 5:9] = 3
    ids[..., 33:36, 30:40] = 3  # a second part
    ids[..., 15, 28] = 7
    ids[..., 16, 29] = 7  # touches by a corner only
    ids[..., -1, -1] = 7
    if kind == "none":
        return (Mask(np.zeros(shape, np.uint8), grid, SCHEME),)
    if kind == "classes":
        return (Mask(ids, grid, SCHEME),)
    if kind == "panoptic":
        table = LabelTable([row(1, "cell"), row(3, "dead cell"), SCHEME[7]])
        return (Mask(ids, grid, table),)
    table = LabelTable([row(1, "cell"), row(3, "dead cell"), row(7, "cell")])
    first = Mask(ids, grid, table)
    if kind == "objects":
        return (first,)
    above = np.zeros(shape, np.uint8)
    above[..., 8:24, 10:20] = 12
    return (first, Mask(above, grid, LabelTable([row(12, "dead cell")])))


def grid_of(shape: tuple[int, ...]) -> Geometry:
    if len(shape) == 2:
        return Geometry.pixels(shape)
    affine = np.array([[0, 0, -0.7, 90], [0, 0.6, 0, -4.5], [2.5, 0.1, 0, 31], [0, 0, 0, 1]])
    return Geometry(shape, affine)


def made(folder: Path, kind: str, dims: int, *, as_series: bool = False) -> Dataset:
    """Return a dataset of two items, with their pixels on disk."""
    shape = SHAPE if dims == 2 else (DEPTH, *SHAPE)
    folder.mkdir(parents=True, exist_ok=True)
    samples: dict[str, Sample] = {}
    for number, what in enumerate((kind, "none")):
        if as_series:
            series = write_series(folder / f"series{number}")
            item = Item(f"case.{number}", series.source, series.geometry.shape, group=f"p{number}")
            samples[item.name] = Sample(item, flat_masks(what, series.geometry))
            continue
        masks = flat_masks(what, grid_of(shape))
        pixels = np.arange(np.prod(shape)).reshape(shape) % 251
        if dims == 2:
            path = folder / f"picture.{number}.png"
            Picture.fromarray(pixels.astype(np.uint8)).save(path)
        else:
            path = folder / f"volume.{number}.nii.gz"
            affine = masks[0].geometry.affine
            data = np.asarray(pixels, np.int16).transpose(2, 1, 0)
            nibabel.Nifti1Image(data, affine_xyz(affine)).to_filename(path)
        item = Item(f"sub/case.{number}", path, shape, group=f"p{number}", split="train")
        samples[item.name] = Sample(item, masks)
    items = tuple(sample.item for sample in samples.values())
    holding = {"overlaps": "objects", "none": "objects"}.get(kind, kind)
    return Dataset("made", "made", folder, SCHEME, items, lambda i, job: samples[i.name], holding)


def affine_xyz(affine: np.ndarray) -> np.ndarray:
    """Return the affine for indices in the order x, y, z."""
    return affine[:, [2, 1, 0, 3]]


def cases() -> list[tuple[str, str, int]]:
    return [
        (name, kind, dims)
        for name in WRITERS
        for dims in sorted(datasets.get(name).dims)
        for kind in KINDS
    ]


@pytest.fixture
def held(request, tmp_path):
    """Return the dataset, or skip where the format says that it cannot hold such a one."""
    name, kind, dims = request.param
    # A segmentation in DICOM is drawn on a series.
    dataset = made(tmp_path / "in", kind, dims, as_series=name == "dicomseg")
    chosen = datasets.get(name)
    refused = []
    for item in dataset.items:
        try:
            chosen.hold(dataset.read(item), dataset, options=Options())
        except InputError as error:
            refused.append(str(error))
    if refused:
        assert kind not in ("classes", "objects"), f"{name} refuses plain {kind}: {refused[0]}"
        assert "; " in refused[0]
        pytest.skip(f"{name} says of {kind}: {refused[0]}")
    return name, dataset, tmp_path


ALL = pytest.mark.parametrize(
    "held", cases(), indirect=True, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}d"
)


@ALL
def test_a_written_set_opens_as_it_was_held(held):
    name, dataset, folder = held
    receipt = convert_dataset(dataset, folder / "out", name)
    assert receipt.verdict == "PASS"
    back = open_dataset(folder / "out", format=name)
    named = {item.name: item for item in back.items}
    chosen = datasets.get(name)
    for item in dataset.items:
        sample = chosen.hold(dataset.read(item), dataset, options=Options()).sample
        found = named.get(item.name.replace(".", "_"))
        if found is None:
            assert not any(mask.data.any() for mask in sample.masks)
        else:
            assert difference(sample, back.read(found)) == ""


@ALL
def test_a_change_is_always_told(held):
    name, dataset, _ = held
    chosen = datasets.get(name)
    for item in dataset.items:
        before = dataset.read(item)
        after = chosen.hold(before, dataset, options=Options())
        if difference(before, after.sample):
            assert any(after.losses.values()), difference(before, after.sample)
        grids = [m.masks[0].geometry for m in (before, after.sample)]
        if grids[0].unit == "mm" and grids[1].unit != "mm":
            assert any(after.losses.values())


@ALL
def test_same_set_same_bytes(held):
    name, dataset, folder = held
    one = convert_dataset(dataset, folder / "one", name)
    other = convert_dataset(dataset, folder / "other", name)
    assert one.sha256 == other.sha256


@ALL
def test_the_shelf_knows_it_again(held):
    name, dataset, folder = held
    convert_dataset(dataset, folder / "out", name)
    assert datasets.format_of(folder / "out").name == name


@ALL
def test_what_holds_once_holds_again(held):
    """A set that went through a format goes through it again without a loss of pixels."""
    name, dataset, folder = held
    convert_dataset(dataset, folder / "out", name)
    again = plan(folder / "out", name, format=name)
    back = again.dataset
    for item in back.items:
        sample = back.read(item)
        twice = datasets.get(name).hold(sample, back, options=Options()).sample
        assert difference(sample, twice) == ""


@pytest.mark.parametrize("name", list(datasets.DATASETS))
def test_sniff_answers_on_anything(name, tmp_path):
    found = datasets.get(name)
    empty = tmp_path / "empty"
    empty.mkdir()
    for file, text in {
        "a.json": b"{",
        "b.json": b"[]",
        "c.xml": b"<",
        "d.txt": b"\xff\x00",
        "data.yaml": b"",
        "dataset.json": b"null",
    }.items():
        (tmp_path / file).write_bytes(text)
        assert found.sniff(tmp_path / file) in (True, False)
    assert not found.sniff(empty)
    assert found.sniff(tmp_path / "missing") is False


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_that_cannot_hold_an_axis_says_so(name, tmp_path):
    chosen = datasets.get(name)
    for dims in {2, 3} - chosen.dims:
        dataset = made(tmp_path / str(dims), "classes", dims)
        with pytest.raises(InputError, match="expected"):
            chosen.hold(dataset.read(dataset.items[0]), dataset, options=Options())


@pytest.mark.parametrize("name", WRITERS)
def test_names_that_lead_out_are_refused(name, tmp_path):
    dims = min(datasets.get(name).dims)
    dataset = made(tmp_path / "in", "classes", dims)
    bad = replace(dataset.items[0], name="../../outside")
    sample = replace(dataset.read(dataset.items[0]), item=bad)
    evil = replace(dataset, items=(bad,), reader=lambda item, job: sample)
    with pytest.raises(InputError, match="inside"):
        convert_dataset(evil, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()
