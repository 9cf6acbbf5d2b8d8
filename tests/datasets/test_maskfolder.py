"""Every profile on a tiny set of its real layout, and folders by profiles of one's own."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from maskloop import datasets
from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.job import Job
from maskloop.datasets import maskfolder, maskfolder_profile
from maskloop.datasets.base import Options, class_of, regions
from maskloop.datasets.maskfolder_formula import Formula
from maskloop.desk.datasets import open_dataset
from tests.datasets.profile_sets import (
    CASES,
    U8,
    ade20k,
    bdd100k_instances,
    daimler,
    graz02,
    msrc,
    picture,
    save,
    text,
    voc,
)


@pytest.mark.parametrize(
    ("name", "build", "is_known", "items", "words"), CASES, ids=[c[1].__name__ for c in CASES]
)
def test_a_set_in_its_real_layout_opens(tmp_path, name, build, is_known, items, words):
    root = tmp_path / "set"
    root.mkdir()
    build(root)
    if is_known:
        assert datasets.format_of(root).name == name
    found = open_dataset(root, format=name)
    assert [(i.name, i.split, i.group) for i in found.items] == items
    assert all(item.image is not None and item.image.is_file() for item in found.items)
    sample = found.read(found.items[0])
    wanted = Counter(words.split())
    got = Counter(f"{class_of(r.label).replace(' ', '-')}:{r.area}" for r in regions(sample))
    assert got == wanted
    names = {row.name for row in found.scheme.values()}
    assert {class_of(r.label) for r in regions(sample)} <= names
    for mask in sample.masks:
        assert set(mask.ids()) <= set(mask.labels)


def test_every_shipped_profile_is_on_the_shelf_and_tested():
    shipped = {path.stem for path in maskfolder_profile.FOLDER.glob("*.toml")}
    assert shipped == set(datasets.PROFILES)
    assert shipped == {name for name, *_ in CASES}
    for name in shipped:
        profile = maskfolder_profile.shipped(name)
        assert profile.title
        assert profile.source
        assert profile.layout


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("voc", {"void"}),
        ("camvid", {"Void"}),
        ("sceneparse", {"other"}),
        ("bdd100k", {"unlabeled"}),
        ("stanford-background", {"unknown"}),
    ],
)
def test_void_is_a_label_that_is_ignored(tmp_path, name, ignored):
    root = tmp_path / "set"
    root.mkdir()
    next(build for known, build, *_ in CASES if known == name)(root)
    found = open_dataset(root, format=name)
    sample = found.read(found.items[0])
    assert {r.label.name for r in regions(sample) if r.label.ignore} == ignored


PROFILE = """
masks = "labels/{name}_L.png"
images = ["pictures/{name}.*"]
class = "V//10"
classes = [{value = 0, name = "ground", id = 9}, {value = 2, name = "tree", colour = "#00ff00"}]
nothing = []
"""


def test_a_profile_of_ones_own_reads_a_folder(tmp_path):
    save(tmp_path / "labels/a_L.png", U8([[5, 25, 20]]))
    picture(tmp_path / "pictures/a.jpg", (1, 3))
    text(tmp_path / "own.toml", PROFILE)
    options = Options(profile=tmp_path / "own.toml")
    found = open_dataset(tmp_path, format="maskfolder", options=options)
    mask = found.read(found.items[0]).masks[0]
    assert mask.data.tolist() == [[9, 2, 2]]
    assert found.scheme.names == {2: "tree", 9: "ground"}
    assert found.items[0].image == tmp_path / "pictures/a.jpg"


def test_a_profile_in_the_folder_makes_it_known(tmp_path):
    save(tmp_path / "labels/a_L.png", U8([[20]]))
    text(tmp_path / maskfolder.PROFILE, PROFILE)
    assert datasets.format_of(tmp_path).name == "maskfolder"
    assert len(open_dataset(tmp_path)) == 1


def test_a_folder_without_a_profile_says_how_to_give_one(tmp_path):
    with pytest.raises(InputError, match="--profile FILE"):
        open_dataset(tmp_path, format="maskfolder")


def test_values_of_no_class_are_told_and_kept(tmp_path):
    save(tmp_path / "labels/a_L.png", U8([[70, 20]]))
    text(tmp_path / maskfolder.PROFILE, PROFILE)
    found, job = open_dataset(tmp_path), Job()
    sample = found.read(found.items[0], job)
    assert {r.label.name for r in regions(sample)} == {"value 7", "tree"}
    assert "no class has value 7" in job.notes[0]


def test_a_jpeg_mask_is_read_with_a_loud_warning(tmp_path):
    data = np.zeros((16, 16), U8)
    data[4:12, 4:12] = 255
    save(tmp_path / "Ground_Truth/GroundT_FacePhoto/a.jpg", data)
    picture(tmp_path / "Pratheepan_Dataset/FacePhoto/a.jpg", (16, 16))
    job = Job()
    found = open_dataset(tmp_path, job=job)
    assert found.format == "pratheepan"
    assert job.notes[0].startswith("WARNING: 1 of 1 masks are JPEGs")
    assert np.array_equal(found.read(found.items[0]).masks[0].data, data // 255)


def test_colours_that_jpeg_blurred_go_to_the_nearest_class(tmp_path):
    data = np.zeros((16, 16, 3), U8)
    data[:, :8] = (0, 128, 0)
    data[:, 8:] = (128, 64, 128)
    (tmp_path / "GroundTruth").mkdir()
    Pillow.fromarray(data).save(tmp_path / "GroundTruth/a_GT.jpg", quality=95, subsampling=0)
    text(
        tmp_path / maskfolder.PROFILE,
        'masks = "GroundTruth/{name}_GT.jpg"\ncolours = true\nclasses_of = "msrc"\n',
    )
    found = open_dataset(tmp_path)
    mask = found.read(found.items[0]).masks[0]
    assert {mask.labels[i].name for i in mask.ids()} == {"grass", "road"}
    assert np.array_equal(mask.labels.names[int(mask.data[0, 0])], "grass")


def test_numbers_in_a_jpeg_are_refused(tmp_path):
    save(tmp_path / "labels/a.jpg", U8([[7, 7], [8, 8]]))
    text(tmp_path / maskfolder.PROFILE, 'masks = "labels/{name}.jpg"\n')
    found = open_dataset(tmp_path)
    with pytest.raises(FormatError, match="numbers are blurred"):
        found.read(found.items[0])


@pytest.mark.parametrize("coding", ["colours = true", 'class = "R*65536+G*256+B"'])
def test_a_photograph_is_no_mask(tmp_path, coding):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), U8)
    save(tmp_path / "labels/a.png", noise)
    text(tmp_path / maskfolder.PROFILE, f'masks = "labels/{{name}}.png"\n{coding}\n')
    found = open_dataset(tmp_path)
    with pytest.raises(FormatError, match="photograph"):
        found.read(found.items[0])


def test_two_masks_for_one_picture_are_refused(tmp_path):
    save(tmp_path / "masks/a.png", U8([[1]]))
    save(tmp_path / "masks/a.bmp", U8([[1]]))
    with pytest.raises(FormatError, match=r"a\.bmp and a\.png"):
        open_dataset(tmp_path, format="binary")


def test_objects_of_overlapping_files_stay_whole(tmp_path):
    graz02(tmp_path)
    found = open_dataset(tmp_path)
    masks = found.read(found.items[0]).masks
    assert [mask.data.tolist() for mask in masks] == [[[5, 5, 0]], [[0, 6, 6]]]


def test_bdd_flags_of_ignored_and_crowds_make_an_object_ignored(tmp_path):
    bdd100k_instances(tmp_path)
    found = open_dataset(tmp_path)
    rows = [r.label for r in regions(found.read(found.items[0]))]
    assert [row.ignore for row in rows] == [False, True, True, False]
    assert [row.name for row in rows] == ["car 1", "car 2", "car 3", "car 256"]


def test_ade_counts_objects_without_reading_masks(tmp_path, monkeypatch):
    from maskloop.datasets import maskfolder_values

    ade20k(tmp_path)
    monkeypatch.setattr(maskfolder_values, "stored", None)
    item = open_dataset(tmp_path).items[0]
    assert item.count == 2
    assert item.classes == {"sky"}


@pytest.mark.parametrize("has_colours", [True, False])
def test_voc_masks_in_colours_open_as_cvat_and_datumaro_write_them(tmp_path, has_colours):
    """As datumaro 1.13.12 exported: RGB pictures, colours of the map or VOC's own."""
    cat, dog = ((9, 9, 200), (7, 70, 7)) if has_colours else ((128, 0, 0), (0, 128, 0))
    black, first, second, third = (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)
    save(tmp_path / "SegmentationClass/a.png", np.array([[black, cat, dog, dog, dog]], U8))
    save(
        tmp_path / "SegmentationObject/a.png", np.array([[black, first, second, third, third]], U8)
    )
    lines = ["background", "cat", "dog"]
    colours = ["0,0,0", "9,9,200", "7,70,7"] if has_colours else ["", "", ""]
    words = [f"{name}:{rgb}::" for name, rgb in zip(lines, colours, strict=True)]
    text(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(words))
    found = open_dataset(tmp_path)
    assert found.format == "voc"
    named = [(r.label.name, r.area) for r in regions(found.read(found.items[0]))]
    assert named == [("cat 1", 1), ("dog 2", 1), ("dog 3", 2)]


def test_voc_without_object_files_holds_classes(tmp_path):
    voc(tmp_path)
    shutil.rmtree(tmp_path / "SegmentationObject")
    found = open_dataset(tmp_path)
    assert found.kind == "classes"
    ids = found.read(found.items[0]).masks[0].data
    assert ids.tolist() == [[15, 15, 15], [255, 0, 12]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("masks = 3", "'masks'"),
        ('masks = "../{name}.png"', "inside the dataset"),
        ('masks = "/etc/{name}.png"', "inside the dataset"),
        ('masks = "m/{name}.png"\nclass = "__import__(1)"', "arithmetic"),
        ('masks = "m/{name}.png"\nclass = "V//0"', "arithmetic"),
        ('masks = "m/{name}.png"\nclass = "V**9"', "arithmetic"),
        ('masks = "m/{name}.png"\nclass = "V+"', "arithmetic"),
        ('masks = "m/{name}.png"\ngroup = "("', "'group'"),
        ('masks = "m/{name}.png"\nkind = "boxes"', "'kind'"),
        ('masks = "m/{name}.png"\nsuffix = "x"', "known entry"),
        ('masks = "m/{name}.png"\nclasses = [{value = 1}]', "without: 'name'"),
        ('masks = "m/{name}.png"\nclasses = [{value = 1, name = "a", colour = "red"}]', "#rrggbb"),
        (
            'masks = "m/{name}.png"\nclasses = [{value=1,name="a"},{value=1,name="b"}]',
            "once",
        ),
        ('masks = "m/{name}.png"\nimages = ["i/{city}.png"]', "{city}"),
        ("masks = [", "TOML"),
        ('masks = "m/{name}.png"\nclasses_of = "../../x"', "name of a profile"),
        ('masks = "m/{name}.png"\nclasses = [{value = 99999999999, name = "a"}]', "larger"),
    ],
)
def test_a_wrong_profile_is_told_in_words(tmp_path, words, says):
    save(tmp_path / "m/a.png", U8([[1]]))
    text(tmp_path / maskfolder.PROFILE, words)
    with pytest.raises(MaskloopError, match=says.replace("{", r"\{")) as met:
        open_dataset(tmp_path)
    assert "; " in str(met.value)


def test_formulas_compute_as_python_does():
    values = np.arange(70_000)
    for words in ("V//1000 + (V<1000)*V", "(V>=1000)*(V%1000+1)", "V*2-1", "(V!=3)*V", "-1 + V"):
        wanted = [int(eval(words, {"V": int(v)})) for v in values[::777]]
        assert Formula(words)({"V": values[::777]}).tolist() == wanted


@pytest.mark.parametrize("build", [c[1] for c in CASES], ids=[c[1].__name__ for c in CASES])
def test_damaged_files_are_told_in_words(tmp_path, build):
    """Cut every file short, and fill it with noise: only errors that we meant may come."""
    name = next(name for name, one, *_ in CASES if one is build)
    whole = tmp_path / "whole"
    whole.mkdir()
    build(whole)
    words: list[str] = []
    noise = np.random.default_rng(0).integers(0, 256, 4000, U8).tobytes()
    for number, path in enumerate(sorted(p for p in whole.rglob("*") if p.is_file())):
        size = path.stat().st_size
        head = path.read_bytes()
        for bad, content in enumerate((b"", head[: size // 2], head[:20] + noise, noise)):
            root = tmp_path / f"{number}-{bad}"
            shutil.copytree(whole, root)
            (root / path.relative_to(whole)).write_bytes(content)
            try:
                found = open_dataset(root, format=name)
                for item in found.items:
                    if item.has_mask:
                        found.read(item)
            except MaskloopError as error:
                words.append(str(error))
            shutil.rmtree(root)
    assert [one for one in words if "; " not in one] == []


def test_lists_may_hold_names_with_spaces_and_hidden_files_are_passed_over(tmp_path):
    voc(tmp_path)
    shutil.copy(tmp_path / "SegmentationClass/2007_01.png", tmp_path / "SegmentationClass/a b.PNG")
    (tmp_path / "SegmentationClass/._2007_01.png").write_bytes(b"a Mac was here")
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a b\n")
    found = open_dataset(tmp_path)
    assert {item.name: item.split for item in found.items} == {"2007_01": "val", "a b": "train"}


def test_masks_without_a_picture_are_told(tmp_path):
    voc(tmp_path)
    (tmp_path / "JPEGImages/2007_01.jpg").unlink()
    assert open_dataset(tmp_path).notices == (
        "1 of 1 masks have no picture in JPEGImages/{path}.*",
    )


@pytest.mark.parametrize("build", [daimler, msrc])
def test_pictures_of_old_kinds_open(tmp_path, build):
    from maskloop.core.image import Image
    from maskloop.datasets.base import read_image
    from maskloop.loop.load import load

    build(tmp_path)
    item = open_dataset(tmp_path, format=build.__name__).items[0]
    image = read_image(item, Job())
    with Pillow.open(item.image) as stored:
        assert np.array_equal(image.data, np.array(stored))
    assert isinstance(load(item.image), Image)


def test_two_thousand_items_are_listed_unread(tmp_path, monkeypatch):
    from time import perf_counter

    from maskloop.datasets import maskfolder_values

    monkeypatch.setattr(maskfolder_values, "stored", None)
    for folder in ("annotations/training", "images/training"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(2_000):
        (tmp_path / f"annotations/training/ADE_train_{number:08}.png").touch()
        (tmp_path / f"images/training/ADE_train_{number:08}.jpg").touch()
    start = perf_counter()
    found = open_dataset(tmp_path)
    assert len(found) == 2_000
    assert found.format == "sceneparse"
    assert perf_counter() - start < 2


def test_real_em_pictures_open_with_membranes_as_a_class(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "images2d/isbi2012_em/train.zip") as packed:
        packed.extractall(tmp_path)
    found = open_dataset(tmp_path, format="isbi-em")
    assert len(found) == 30
    sample = found.read(found.items[0])
    with Pillow.open(tmp_path / "label" / f"{found.items[0].name}.png") as stored:
        black = int((np.array(stored) < 128).sum())
    areas = {r.label.name: r.area for r in regions(sample)}
    assert areas == {"membrane": black, "cell": sample.masks[0].data.size - black}


def test_real_nuclei_open_as_objects(shared_data):
    from maskloop.datasets.maskfolder_values import distinct, stored

    path = shared_data / "images2d/stardist_samples/mask2d.tif"
    found = distinct(stored(path, Job(), key="", with_colours=False), path)
    assert found.channels["V"][found.place].tolist() == tifffile.imread(path).tolist()


def test_the_page_of_profiles_is_what_the_package_ships():
    import importlib.util

    from tests.conftest import ROOT

    spec = importlib.util.spec_from_file_location("docs_profiles", ROOT / "docs" / "profiles.py")
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    written = docs.PAGE.read_text(encoding="utf-8")
    assert written == docs.page(written), "run: python docs/profiles.py"
