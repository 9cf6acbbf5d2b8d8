"""Train on datasets: read item by item, own splits and patients kept apart, unreviewed left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.datasets import Options, convert_dataset, open_dataset
from maskloop.loop.train import train
from maskloop.models.cards import find_card, save_card
from maskloop.models.unet import FAMILY
from maskloop.training.cases import side_of, sided, split_as_told

SIZE = (48, 56)
DISC = LabelTable([Label(1, "disc", is_thing=True)])


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with one bright disc as uint8, and the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx, radius = rng.uniform(14, 34), rng.uniform(14, 42), rng.uniform(8, 13)
    ids = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return (rng.normal(60, 20, SIZE) + 120 * ids).clip(0, 255).astype(np.uint8), ids


def made(folder: Path, splits: dict[str, str], groups: dict[str, str] | None = None) -> Dataset:
    """Return a dataset of discs, an object each, whose pictures lie in a folder."""
    from PIL import Image as Picture

    folder.mkdir()
    items = []
    for seed, (name, split) in enumerate(splits.items()):
        path = folder / f"{name}.png"
        Picture.fromarray(picture(seed)[0]).save(path)
        group = (groups or {}).get(name, "")
        items.append(Item(name, path, shape=SIZE, group=group, split=split, ref=seed))

    def read(item: Item, job: Job) -> Sample:
        ids = picture(item.ref)[1].astype(np.uint8)
        row = Label(1, "disc 1", category="disc", is_thing=True)
        return Sample(item, (Mask(ids, Geometry.pixels(SIZE), LabelTable([row])),))

    return Dataset("discs", "made", folder, DISC, tuple(items), read, "objects")


@pytest.fixture
def tiny(home: Path, tmp_path: Path) -> str:
    """A small untaught network of pictures on the menu."""
    from maskloop.models.base import write_state

    torch.manual_seed(3)
    plain = FAMILY.card("2015", DISC)
    card = replace(
        plain,
        name="tiny",
        title="A tiny network",
        parameters={
            **plain.parameters,
            "width": 1 / 16,
            "augmentation": ["noise"],
            "recipe": {"rate": 1e-2, "batch": 2, "steps": 30},
        },
    )
    path = tmp_path / "tiny.safetensors"
    write_state(FAMILY.build(card), path)
    save_card(card, {"tiny.safetensors": path})
    return "tiny"


def test_a_dataset_folder_is_learnt_and_its_validation_set_held_out(tiny: str, tmp_path: Path):
    splits = {"a": "train", "b": "train", "c": "train", "d": "train", "e": "val", "f": "test"}
    convert_dataset(made(tmp_path / "in", splits), tmp_path / "set", "indexed")
    job = Job()
    report = train(tmp_path / "set", tiny, "discs", job=job)
    assert report.trained_on == ("a", "b", "c", "d")
    assert report.held_out == ("e",)
    assert report.split == "the dataset's own"
    assert report.old is not None
    assert report.new["disc"] > report.old["disc"] + 0.1
    assert any("1 of 6 items are neither trained on nor scored" in note for note in job.notes)
    assert find_card("discs").metrics["held_out"]["split"] == "the dataset's own"


def test_a_patient_on_both_sides_is_not_trained_on(tiny: str, tmp_path: Path):
    groups = {"a": "p1", "b": "p2", "c": "p3", "d": "p1"}
    given = made(tmp_path / "in", {"a": "train", "b": "train", "c": "train", "d": "val"}, groups)
    job = Job()
    report = train(given, tiny, "apart", steps=2, job=job)
    assert report.trained_on == ("b", "c")
    assert report.held_out == ("d",)
    assert any("1 training cases share a patient" in note for note in job.notes)


def test_without_splits_whole_groups_are_held_out(tiny: str, tmp_path: Path):
    groups = {name: f"p{i // 2}" for i, name in enumerate("abcdef")}
    given = made(tmp_path / "in", dict.fromkeys("abcdef", ""), groups)
    report = train(given, tiny, "groups", steps=2)
    assert len(report.held_out) == 2
    assert len({groups[name] for name in report.held_out}) == 1
    assert {groups[n] for n in report.held_out}.isdisjoint(groups[n] for n in report.trained_on)


def test_unreviewed_voxels_are_neither_learnt_nor_scored(tiny: str, tmp_path: Path):
    given = made(tmp_path / "in", {"a": "train", "b": "train", "c": "train", "d": "val"})
    seen = np.zeros(SIZE, bool)
    seen[:, :30] = True

    def spoiled(value: int) -> Dataset:
        def read(item: Item, job: Job) -> Sample:
            sample = given.read(item, job)
            ids = sample.masks[0].data.copy()
            ids[:, 30:] = value
            return replace(
                sample, masks=(replace(sample.masks[0], data=ids),), reviewed=seen.copy()
            )

        return replace(given, reader=read)

    one = train(spoiled(0), tiny, "one", steps=3)
    other = train(spoiled(1), tiny, "other", steps=3)
    assert [p.loss for p in one.curve] == [p.loss for p in other.curve]
    assert one.new == other.new
    plain = train(given, tiny, "plain", steps=3)
    assert [p.loss for p in plain.curve] != [p.loss for p in one.curve]


def test_masks_are_read_one_at_a_time(tiny: str, tmp_path: Path):
    import weakref

    given = made(tmp_path / "in", {"a": "train", "b": "train", "c": "train", "d": "val"})
    alive: list[weakref.ref] = []
    most = 0

    def read(item: Item, job: Job) -> Sample:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        sample = given.read(item, job)
        alive.append(weakref.ref(sample.masks[0].data))
        return sample

    train(replace(given, reader=read), tiny, "lazy", steps=2)
    assert len(alive) >= 8
    assert most <= 1


def _classes(dataset: Dataset) -> dict[int, str]:
    from maskloop.desk.training_set import training_cases
    from maskloop.loop.train import _base_card

    def never(item: Item, job: Job) -> Sample:
        raise AssertionError("the classes are known without reading a mask")

    cases = training_cases(replace(dataset, reader=never), Job())
    return _base_card("patchnet", cases, Job())[0].labels.names


def test_a_network_from_nothing_learns_the_classes_that_are_listed(home: Path, tmp_path: Path):
    given = made(tmp_path / "in", {"a": "train", "b": "train", "c": "val"})
    scheme = LabelTable([*DISC.values(), Label(7, "square"), Label(9, "void", ignore=True)])
    listed = [replace(item, classes=frozenset({"disc"})) for item in given.items]
    known = replace(given, scheme=scheme, items=tuple(listed))
    assert _classes(known) == {1: "disc"}
    assert _classes(replace(given, scheme=scheme)) == {1: "disc", 7: "square"}


def test_a_status_is_chosen_and_pairs_have_none(tiny: str, tmp_path: Path):
    given = made(tmp_path / "in", dict.fromkeys("abcde", ""))
    items = [replace(i, status="done" if i.name != "c" else "draft") for i in given.items]
    report = train(replace(given, items=tuple(items)), tiny, "done", steps=1, only="done")
    assert sorted(report.trained_on + report.held_out) == ["a", "b", "d", "e"]
    image = Image(picture(0)[0], Geometry.pixels(SIZE))
    mask = Mask(picture(0)[1].astype(np.uint8), Geometry.pixels(SIZE), DISC)
    with pytest.raises(InputError, match="pairs, which have no status"):
        train([(image, mask)], tiny, "pairs", only="done")


def test_corrected_cases_are_learnt_patient_by_patient(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from PIL import Image as Picture

    from maskloop.cli import run
    from maskloop.core.standing import Standing, put_standing
    from maskloop.desk.cases import open_case

    for number in range(8):
        folder = tmp_path / "cases" / f"p{number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels, ids = picture(number)
        path = folder / f"im{number}.png"
        Picture.fromarray(pixels).save(path)
        start = Mask(ids.astype(np.uint8), Geometry.pixels(SIZE), DISC)
        with open_case(path, mask=start) as case:
            made = case.folder
        put_standing(made, Standing("done" if number < 6 else "in work"))
    words = ["train", str(tmp_path / "cases"), "--base", tiny, "--name", "cases", "--steps", "1"]
    assert run([*words, "--only", "done", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    sides = [{name.split("/")[0] for name in told[key]} for key in ("trained_on", "held_out")]
    assert sides[0] | sides[1] == {"p0", "p1", "p2"}
    assert not sides[0] & sides[1]
    job = Job()
    again = train(tmp_path / "cases", tiny, "all", steps=1, job=job)
    assert len(again.trained_on + again.held_out) == 6
    assert any("2 cases in which nothing was reviewed" in note for note in job.notes)


def test_items_without_pictures_are_told(tiny: str, tmp_path: Path):
    given = made(tmp_path / "in", dict.fromkeys("abcd", ""))
    items = [replace(i, image=None if i.name == "a" else i.image) for i in given.items]
    job = Job()
    report = train(replace(given, items=tuple(items)), tiny, "three", steps=1, job=job)
    assert len(report.trained_on + report.held_out) == 3
    assert any("1 items have no picture" in note for note in job.notes)
    none = tuple(replace(i, image=None) for i in given.items)
    with pytest.raises(InputError, match="4 without a picture"):
        train(replace(given, items=none), tiny, "none")


def test_volumes_that_are_slices_on_disk_are_learnt(home: Path, tmp_path: Path):
    from maskloop.models.base import write_state
    from maskloop.models.unet import FAMILY as UNET

    shape = (8, 20, 22)
    grid = Geometry.regular(shape, (3.0, 3.0, 3.0))
    (tmp_path / "in").mkdir()
    items = []
    for number in range(3):
        path = tmp_path / "in" / f"ct{number}.nii.gz"
        values = np.random.default_rng(number).normal(0, 50, shape).astype(np.int16)
        export_volume(values, grid, path)
        items.append(Item(f"ct{number}", path, shape=shape, group=f"p{number}"))

    def read(item: Item, job: Job) -> Sample:
        ids = np.zeros(shape, np.uint8)
        ids[2:6, 5:15, 6:16] = 1
        return Sample(item, (Mask(ids, grid, LabelTable.classes(["liver"])),))

    scheme = LabelTable.classes(["liver"])
    given = Dataset("cts", "made", tmp_path / "in", scheme, tuple(items), read)
    convert_dataset(given, tmp_path / "set", "coco-volume", options=Options(empty="all"))
    assert all(item.image is None for item in open_dataset(tmp_path / "set").items)
    card = UNET.card("residual3d", scheme)
    told = {**card.parameters, "width": 2, "patch": [8, 16, 16], "tile": [8, 24, 24]}
    card = replace(card, name="small", spacing=None, parameters=told)
    path = tmp_path / "small.safetensors"
    write_state(UNET.build(card), path)
    save_card(card, {"small.safetensors": path})
    report = train(tmp_path / "set", "small", "sliced", steps=1)
    assert len(report.trained_on + report.held_out) == 3
    assert report.new["liver"] >= 0


def export_volume(values: np.ndarray, grid: Geometry, path: Path) -> None:
    """Write a volume of axes (z, y, x) as NIfTI, whose axes are the other way round."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(values.T, grid.affine[:, [2, 1, 0, 3]]), path)


def test_sides_of_datasets_words():
    words = {"train2017": "train", "Val": "val", "validation": "val", "testing": "test", "x": ""}
    assert {word: side_of(word) for word in words} == words


def test_a_test_set_is_kept_where_there_is_a_validation_set(tmp_path: Path):
    from maskloop.desk.training_set import training_cases

    def names(**splits: str) -> list[tuple[str, str]]:
        folder = tmp_path / "-".join(splits.values())
        return [(c.name, c.split) for c in sided(training_cases(made(folder, splits), Job()))]

    assert names(a="train", b="val", c="test") == [("a", "train"), ("b", "val")]
    assert names(a="train", b="test") == [("a", "train"), ("b", "test")]
    assert names(a="train", b="train") == [("a", ""), ("b", "")]
    assert names(a="odd", b="words") == [("a", ""), ("b", "")]


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(InputError, match="other patients than the held-out"):
        split_as_told("ab", ["train", "val"], patients=["p", "p"])
