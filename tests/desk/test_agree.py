"""Two readers: every number as MONAI, pycocotools or SimpleITK have it; matches as by hand."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.cli import run
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.agree import agree
from maskloop.desk.cases import open_case
from maskloop.loop.export import export
from maskloop.ops.matches import matched

LIVER = LabelTable([Label(1, "liver"), Label(2, "tumour", is_thing=True)])
SPACING = (3.0, 0.8, 0.7)


def lesions(seed: int, *, moved: int = 0, without: int | None = None) -> Mask:
    """Return a liver with six tumours; each moved by some voxels, one perhaps not drawn."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((14, 40, 60), np.uint8)
    ids[2:12, 5:35, 5:55] = 1
    axes = np.ogrid[:14, :40, :60]
    for number, (y, x) in enumerate(itertools.product((12, 26), (14, 30, 46))):
        if number == without:
            continue
        centre = np.array([7, y, x]) + rng.integers(-1, 2, 3) * moved
        ids[
            sum((a - c) ** 2 / r**2 for a, c, r in zip(axes, centre, (2, 4, 5), strict=True)) <= 1
        ] = 2
    return Mask(ids, Geometry.regular(ids.shape, SPACING), LIVER)


def cells(seed: int, count: int = 12) -> Sample:
    """Return discs that overlap, an object each on a mask of its own."""
    rng = np.random.default_rng(seed)
    masks = []
    y, x = np.mgrid[:60, :70]
    for number in range(1, count + 1):
        place = np.random.default_rng(number).uniform(8, 52, 2) + rng.integers(-2, 3, 2)
        ids = ((y - place[0]) ** 2 + (x - place[1]) ** 2 < rng.uniform(4, 7) ** 2).astype(np.uint8)
        row = Label(number, f"cell {number}", category="cell", is_thing=True)
        masks.append(Mask(ids * np.uint8(number), Geometry.pixels((60, 70)), LabelTable([row])))
    return Sample(Item("a"), tuple(masks))


def dataset_of(name: str, *samples: Sample, format: str = "made") -> Dataset:
    by_name = {sample.item.name: sample for sample in samples}
    items = tuple(sample.item for sample in samples)
    scheme = LabelTable.classes(["cell"])
    return Dataset(name, format, Path(), scheme, items, lambda i, job: by_name[i.name], "objects")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI's own use of what it gives up
def test_each_lesion_scores_as_monai_scores_it():
    metrics = pytest.importorskip("monai.metrics")
    import torch

    a, b = lesions(0), lesions(1, moved=1)
    found = agree(a, b, names=("anna", "bert"))
    pairs = [one for one in found.objects if one.category == "tumour"]
    assert len(pairs) == 6
    pieces = [ndimage.label(mask.data == 2, np.ones((3, 3, 3)))[0] for mask in (a, b)]
    for one in pairs:
        z, y, x = (slice(part.start, part.stop) for part in one.box)
        numbers = [int(np.bincount(p[z, y, x].ravel())[1:].argmax()) + 1 for p in pieces]
        regions = [p == n for p, n in zip(pieces, numbers, strict=True)]
        both = [torch.from_numpy(r)[None, None].float() for r in regions]
        theirs = metrics.compute_hausdorff_distance(
            *both, include_background=True, percentile=95, spacing=SPACING
        )
        assert one.dice == pytest.approx(float(metrics.compute_dice(*both)), abs=1e-6)
        assert one.hd95 == pytest.approx(float(theirs), abs=1e-4)
        assert (one.voxels_a, one.voxels_b) == tuple(int(r.sum()) for r in regions)
        assert one.volume_a == pytest.approx(one.voxels_a * np.prod(SPACING))


def test_classes_score_as_simpleitk_scores_them():
    sitk = pytest.importorskip("SimpleITK")
    a, b = lesions(0), lesions(1, moved=1, without=3)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(m.data) for m in (a, b)))
    rows = {row["class"]: row for row in agree(a, b).class_rows()}
    for number, name in LIVER.names.items():
        assert rows[name]["dice"] == pytest.approx(measures.GetDiceCoefficient(number))
    assert rows["tumour"]["hd95"] is not None
    assert (rows["tumour"]["matched"], rows["tumour"]["missed"], rows["tumour"]["added"]) == (
        5,
        1,
        0,
    )
    assert rows["tumour"]["f1"] == pytest.approx(10 / 11)


def test_cells_that_overlap_match_as_pycocotools_matches_them():
    coco = pytest.importorskip("pycocotools.mask")
    a, b = cells(1), cells(2)
    runs = [
        [coco.encode(np.asfortranarray(m.data > 0).astype(np.uint8)) for m in sample.masks]
        for sample in (a, b)
    ]
    ious = coco.iou(runs[0], runs[1], [0] * len(runs[1]))
    found = agree(dataset_of("x", a), dataset_of("y", b), least=0.3)
    pairs = [one for one in found.objects if one.status == "matched"]
    assert len(pairs) > 6
    for one in pairs:
        assert one.iou == pytest.approx(ious[one.a - 1, one.b - 1])
    from scipy.optimize import linear_sum_assignment

    kept = np.where(ious >= 0.3, ious, 0)
    best = kept[linear_sum_assignment(kept, maximize=True)].sum()
    assert sum(one.iou for one in pairs) == pytest.approx(best)
    status = [one.status for one in found.objects]
    assert status.count("missed") == status.count("added") == 12 - len(pairs)


@given(st.integers(0, 60))
def test_the_matching_is_the_best_there_is(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 5, 2)
    ious = {
        (i + 1, j + 1): float(v)
        for (i, j), v in np.ndenumerate(rng.random(shape) * (rng.random(shape) < 0.5))
        if v
    }
    found = matched(ious, 0.2)
    total = sum(ious[pair] for pair in found.items())
    assert all(ious[pair] >= 0.2 for pair in found.items())
    assert len(set(found.values())) == len(found)
    best = 0.0
    pairs = [pair for pair, v in ious.items() if v >= 0.2]
    for size in range(len(pairs) + 1):
        for chosen in itertools.combinations(pairs, size):
            if len({a for a, _ in chosen}) == len({b for _, b in chosen}) == size:
                best = max(best, sum(ious[pair] for pair in chosen))
    assert total == pytest.approx(best)


def test_a_reader_agrees_with_herself():
    for one in agree(lesions(0), lesions(0)).objects:
        assert (one.status, one.dice, one.hd95) == ("matched", 1.0, 0.0)


def test_swapped_readers_miss_what_the_other_added():
    a, b = lesions(0, without=2), lesions(1, moved=1, without=4)
    one, other = agree(a, b), agree(b, a)
    assert [o.status for o in one.objects].count("missed") == 1
    assert [o.status for o in one.objects].count("added") == 1
    for here, there in zip(one.class_rows(), other.class_rows(), strict=True):
        assert (here["missed"], here["added"]) == (there["added"], there["missed"])
        assert here["dice"] == there["dice"]


def test_an_object_of_another_class_is_told_as_such():
    ids = np.zeros((20, 20), np.uint8)
    ids[2:8, 2:8] = 1

    def mask(name: str) -> Mask:
        table = LabelTable([Label(1, f"{name} 1", category=name), Label(2, "z", category="zebra")])
        full = ids.copy()
        full[12:18, 12:18] = 2
        return Mask(full, Geometry.pixels(ids.shape), table)

    found = agree(mask("cat"), mask("dog"))
    assert [(o.category, o.category_b, o.status, o.dice) for o in found.objects] == [
        ("zebra", "zebra", "matched", 1.0),
        ("cat", "dog", "other class", 1.0),
    ]
    rows = {row["class"]: row for row in found.class_rows()}
    assert (rows["cat"]["missed"], rows["dog"]["added"], rows["cat"]["matched"]) == (1, 1, 0)


def test_single_classes_are_matched_whatever_they_are_called():
    a = lesions(0)
    b = replace(a, labels=LabelTable([Label(1, "Leber"), Label(2, "x", ignore=True)]))
    a = replace(a, labels=LabelTable([Label(1, "liver"), Label(2, "y", ignore=True)]))
    found = agree(a, b)
    assert any("'Leber' is taken for 'liver'" in note for note in found.notes)
    assert [o.dice for o in found.objects] == [1.0]


def test_a_cat_alone_and_a_dog_alone_are_no_single_class():
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 1

    def reader(name: str) -> Dataset:
        table = LabelTable([Label(1, name)])
        made = dataset_of(name, Sample(Item("x"), (Mask(ids, Geometry.pixels((9, 9)), table),)))
        return replace(made, scheme=LabelTable.classes(["cat", "dog"]))

    assert [o.status for o in agree(reader("cat"), reader("dog")).objects] == ["other class"]


def test_what_was_not_reviewed_or_is_ignored_counts_for_nobody():
    a, b = lesions(0), lesions(0, without=0)
    seen = np.ones(a.data.shape, bool)
    seen[:, :20] = False
    left = dataset_of("a", Sample(Item("x"), (a,), reviewed=seen))
    right = dataset_of("b", Sample(Item("x"), (b,)))
    found = agree(left, right, reviewed=True)
    assert {o.status for o in found.objects} == {"matched"}
    assert any("is left out" in note for note in found.notes)
    assert {o.status for o in agree(left, right).objects} == {"matched", "missed"}


def test_specks_that_match_nothing_are_told_as_a_number():
    a = lesions(0)
    ids = a.data.copy()
    ids[0, 0, 0] = ids[0, 0, 5] = 2
    b = replace(a, data=ids)
    assert [o.status for o in agree(a, b).objects].count("added") == 2
    found = agree(a, b, smallest=2)
    assert {o.status for o in found.objects} == {"matched"}
    assert "2 objects below 2 voxels match nothing and are not listed" in found.notes
    assert found.class_rows()[1]["dice"] < 1


def test_a_class_is_one_object_where_asked():
    found = agree(lesions(0), lesions(1, moved=1, without=3), by="labels")
    assert [(o.category, o.status) for o in found.objects] == [
        ("liver", "matched"), ("tumour", "matched"),
    ]  # fmt: skip


def test_huge_ids_take_no_memory_of_their_size():
    ids = np.zeros((9, 9), np.uint32)
    ids[1:4, 1:4] = 4_000_000_000
    row = Label(4_000_000_000, "cell", category="cell")
    mask = Mask(ids, Geometry.pixels((9, 9)), LabelTable([row]))
    (one,) = agree(mask, mask).objects
    assert (one.a, one.dice) == (4_000_000_000, 1.0)


def test_datasets_are_compared_item_by_item():
    left = [replace(cells(n), item=Item(f"set/{name}")) for n, name in enumerate("abc")]
    right = [replace(cells(n + 1), item=Item(name)) for n, name in enumerate("bcd")]
    found = agree(dataset_of("one", *left), dataset_of("two", *right), least=0.3)
    assert found.items == ("set/b", "set/c")
    assert (found.only_a, found.only_b) == (("set/a",), ("d",))
    assert {o.dice for o in found.objects} == {1.0}
    assert [row["matched"] for row in found.item_rows()] == [12, 12]
    with pytest.raises(InputError, match="items of the same names"):
        agree(dataset_of("one", left[0], left[1]), dataset_of("two", right[2]))


def test_case_folders_and_files_are_compared_from_the_command_line(tmp_path, capsys):
    a, b = lesions(0), lesions(1, moved=1, without=3)
    for reader, mask in (("anna", a), ("bert", b)):
        (tmp_path / reader).mkdir()
        export(mask, tmp_path / reader / "mask.nii.gz")
    table = tmp_path / "lesions.csv"
    paths = [str(tmp_path / reader / "mask.nii.gz") for reader in ("anna", "bert")]
    assert run(["agree", *paths, "--names", "anna", "bert", "--csv", str(table)]) == 0
    shown = capsys.readouterr().out
    assert "tumour" in shown
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [line["status"] for line in lines].count("missed") == 1
    image = tmp_path / "ct.nii.gz"
    world = a.geometry.affine[:, [2, 1, 0, 3]]  # NIfTI's axes are the other way round
    nibabel.save(nibabel.Nifti1Image(a.data.astype(np.int16).T, world), image)
    with open_case(image, mask=replace(b, source=None)) as case:
        folder = case.folder
    assert run(["agree", paths[0], str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["class"]: row["missed"] for row in told["classes"]}["tumour"] == 1


def test_two_readers_folders_of_cases_are_compared_case_by_case(tmp_path, capsys):
    from maskloop.core.standing import Standing, put_standing

    world = lesions(0).geometry.affine[:, [2, 1, 0, 3]]  # NIfTI's axes are the other way round
    for reader, without in (("anna", None), ("bert", 2)):
        for number in range(3):
            folder = tmp_path / reader / f"p{number}"
            folder.mkdir(parents=True)
            pixels = lesions(number).data.astype(np.int16).T
            nibabel.save(nibabel.Nifti1Image(pixels, world), folder / "ct.nii.gz")
            start = lesions(number, without=without)
            with open_case(folder / "ct.nii.gz", mask=start) as case:
                made = case.folder
            put_standing(made, Standing("done" if number else "in work"))
    words = ["agree", str(tmp_path / "anna"), str(tmp_path / "bert"), "--only", "done", "--json"]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in told["items"]] == ["p1/ct", "p2/ct"]
    assert [(row["matched"], row["missed"], row["added"]) for row in told["items"]] == [
        (6, 1, 0), (6, 1, 0),
    ]  # fmt: skip


def test_a_folder_of_pairs_is_a_reader_too(tmp_path):
    for reader, shift in (("anna", 0), ("bert", 1)):
        for kind in ("images", "masks"):
            (tmp_path / reader / kind).mkdir(parents=True)
        for number in range(2):
            ids = np.zeros((20, 20), np.uint8)
            ids[4 + shift : 12 + shift, 4:12] = 1
            mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable.classes(["cell"]))
            export(mask, tmp_path / reader / "masks" / f"im{number}.png")
            export(mask, tmp_path / reader / "images" / f"im{number}.png")
    found = agree(tmp_path / "anna", tmp_path / "bert")
    assert [o.dice for o in found.objects] == [pytest.approx(7 / 8)] * 2
    assert found.items == ("im0", "im1")


def test_refusals_are_in_words():
    a = lesions(0)
    moved = Geometry.regular(a.data.shape, (3.0, 0.8, 0.8))
    with pytest.raises(GeometryError, match="resample"):
        agree(a, replace(a, geometry=moved))
    with pytest.raises(InputError, match="from 0 to 1"):
        agree(a, a, least=2)
