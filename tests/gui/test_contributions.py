"""Files, samples and saving through napari's own doors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.image import Image
from maskloop.gui import contributions, layers
from tests.formats.ct_series import ORIENTATIONS as CT_ORIENTATIONS
from tests.formats.ct_series import geometry_of
from tests.formats.test_rtstruct import box
from tests.formats.test_rtstruct import write as write_contours

OBLIQUE = np.array(
    [[-0.9, 0.2, 0.0, 40.0], [0.2, 0.9, 0.3, -30.0], [0.0, -0.2, 2.4, 10.0], [0, 0, 0, 1]]
)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """Write a small oblique CT, left-posterior ordered."""
    pixels = np.random.default_rng(3).integers(-1000, 900, (6, 5, 4)).astype(np.int16)
    path = tmp_path / "ct.nii.gz"
    nibabel.Nifti1Image(pixels, OBLIQUE).to_filename(path)
    return path


def test_reader_takes_our_files_and_leaves_others(tmp_path: Path, ct: Path) -> None:
    assert contributions.get_reader(str(ct)) is not None
    assert contributions.get_reader([str(ct)]) is not None
    assert contributions.get_reader([str(ct), str(ct)]) is None
    assert contributions.get_reader(str(tmp_path / "notes.txt")) is None
    assert contributions.get_reader(str(tmp_path)) is contributions.read_list, "a folder of CT"
    (tmp_path / "empty").mkdir()
    assert contributions.get_reader(str(tmp_path / "empty")) is None
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert contributions.get_reader(str(tmp_path)) is not None


@pytest.mark.parametrize(
    ("name", "is_mask"),
    [
        ("ct.nii.gz", False),
        ("ct_mask.nii.gz", True),
        ("liver-seg.nii", True),
        ("segway.png", False),
        ("labels.tif", True),
        ("unmasked.png", False),
    ],
)
def test_masks_are_known_by_their_names(tmp_path: Path, name: str, is_mask: bool) -> None:
    assert contributions.looks_like_mask(tmp_path / name) is is_mask


def test_a_ct_opens_painted_saved_and_lies_where_it_was(
    make_napari_viewer: Any, ct: Path, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    (image,) = viewer.open(str(ct), plugin="napari-maskloop")
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.data_setitem((np.array([1, 2]), np.array([3, 3]), np.array([2, 2])), 1)
    out = tmp_path / "out.nii.gz"

    written = viewer.layers.save(str(out), selected=True, plugin="napari-maskloop")

    assert written == [str(out)]
    found = nibabel.load(out)
    assert np.allclose(found.affine, OBLIQUE, atol=1e-5)
    source = nibabel.load(ct).get_fdata()
    marked = np.sort(source[np.asarray(found.dataobj) > 0])
    assert np.array_equal(marked, np.sort(image.data[labels.data > 0].astype(float)))


def test_a_saved_mask_opens_again_as_labels(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image, mask = viewer.open_sample("napari-maskloop", "phantom-ct-with-mask")
    assert mask.scale.tolist() == image.scale.tolist()
    assert np.array_equal(mask.translate, image.translate)
    out = tmp_path / "phantom.nii.gz"
    viewer.layers.selection = {mask}
    viewer.layers.save(str(out), selected=True, plugin="napari-maskloop")
    (again,) = viewer.open(str(out), plugin="napari-maskloop")
    assert type(again).__name__ == "Labels"
    assert np.array_equal(again.data, mask.data)
    assert list(again.features["name"]) == ["background", "liver", "tumour"]


def test_a_picture_opens_in_colour_and_its_labels_save_as_png(
    make_napari_viewer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    Picture.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(path)
    viewer = make_napari_viewer()
    (image,) = viewer.open(str(path), plugin="napari-maskloop")
    assert image.rgb
    labels = viewer.add_labels(np.eye(30, 40, dtype=np.uint8))
    viewer.layers.selection = {labels}
    out = tmp_path / "photo_labels.png"
    assert viewer.layers.save(str(out), selected=True, plugin="napari-maskloop") == [str(out)]
    assert np.array_equal(np.asarray(Picture.open(out)), np.eye(30, 40, dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".seg.nrrd", ".mha", ".mhd"])
def test_new_labels_on_an_oblique_ct_are_saved_where_the_ct_lies(
    make_napari_viewer: Any, ct: Path, tmp_path: Path, suffix: str
) -> None:
    viewer = make_napari_viewer()
    (image,) = viewer.open(str(ct), plugin="napari-maskloop")
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.brush_size = 2
    labels.paint((1, 2, 1), 1)
    viewer.layers.selection = {labels}
    out = tmp_path / f"painted_mask{suffix}"
    assert viewer.layers.save(str(out), selected=True, plugin="napari-maskloop") == [str(out)]

    found = contributions.load_items(out)
    assert isinstance(found, list)
    (mask,) = found
    affine = OBLIQUE[:, [2, 1, 0, 3]]
    assert np.allclose(mask.geometry.affine, affine, atol=1e-4)
    place = layers.placement_of(layers.bare(image))
    assert np.array_equal(place.shown(mask.data) > 0, labels.data > 0)
    (again,) = viewer.open(str(out), plugin="napari-maskloop")
    assert type(again).__name__ == "Labels"
    assert np.array_equal(again.data > 0, labels.data > 0)


def test_contours_open_as_labels_on_the_image_that_is_open(
    make_napari_viewer: Any, tmp_path: Path
) -> None:
    geometry = geometry_of(CT_ORIENTATIONS["oblique"])
    rings = [box(z, 3.5, 9.5, 4.5, 11.5) for z in (1, 2, 3)]
    path = write_contours(tmp_path / "plan.dcm", geometry, {"liver": rings})
    viewer = make_napari_viewer()
    with pytest.raises(Exception, match="image"):
        viewer.open(str(path), plugin="napari-maskloop")
    image = Image(np.zeros(geometry.shape, np.int16), geometry, title="CT series 4")
    data, options, _ = layers.image_layers(image)[0]
    shown = viewer.add_image(data, **options)
    (contours,) = viewer.open(str(path), plugin="napari-maskloop")
    assert contours.name == "RTSTRUCT series 12"
    assert layers.same_grid(contours, shown)
    assert (contours.data > 0).sum() == 3 * 6 * 7
    assert list(contours.features["name"]) == ["background", "liver"]


def test_labels_of_unknown_place_are_refused_and_nothing_is_written(
    make_napari_viewer: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((4, 5, 6)), scale=(3, 1, 1), units=("mm",) * 3, name="theirs")
    viewer._new_labels()
    out = tmp_path / "out.nii.gz"
    with pytest.raises(contributions.NotSavedError, match="open the image with maskloop"):
        viewer.layers.save(str(out), selected=True, plugin="napari-maskloop")
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("name", ["a.nrrd", "a.seg.nrrd", "a.nhdr", "a.mha", "a.MHD", "a.mgz"])
def test_reader_takes_the_volume_formats(name: str) -> None:
    assert contributions.get_reader(f"/nowhere/{name}") is not None


def test_dicom_is_saved_as_segmentation_and_opens_as_labels_of_the_series(
    make_napari_viewer: Any, tmp_path: Path, shared_data: Path
) -> None:
    """A real CT series of three slices and its segmentation, there and back through the window."""
    with zipfile.ZipFile(shared_data / "dicom" / "dcmqi_seg" / "segmentations.zip") as packed:
        packed.extractall(tmp_path / "in")
    slices = next(p for p in sorted((tmp_path / "in").rglob("ct-3slice")) if p.is_dir())
    viewer = make_napari_viewer()
    (image,) = viewer.open(str(slices), plugin="napari-maskloop")
    assert image.name.startswith("CT")
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.brush_size = 30
    labels.paint((1, 200, 200), 1)
    viewer.layers.selection = {labels}
    out = tmp_path / "liver.dcm"
    assert viewer.layers.save(str(out), selected=True, plugin="napari-maskloop") == [str(out)]
    (again,) = viewer.open(str(out), plugin="napari-maskloop")
    assert type(again).__name__ == "Labels"
    assert np.array_equal(again.data > 0, labels.data > 0)
    assert np.allclose(again.translate, image.translate, atol=1e-3)


def test_what_a_format_cannot_hold_is_said_in_words(
    make_napari_viewer: Any, tmp_path: Path
) -> None:
    """napari drops the words of a ValueError: a person would read that there is no such writer."""
    viewer = make_napari_viewer()
    viewer.open_sample("napari-maskloop", "phantom-ct-with-mask")
    viewer.layers.selection = {viewer.layers[-1]}
    with pytest.raises(contributions.NotSavedError, match="expected"):
        viewer.layers.save(str(tmp_path / "a.png"), selected=True, plugin="napari-maskloop")


def test_a_damaged_file_is_refused_in_words(make_napari_viewer: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"not gzip at all")
    viewer = make_napari_viewer()
    with pytest.raises(Exception, match=r"broken\.nii\.gz"):
        viewer.open(str(path), plugin="napari-maskloop")
    assert len(viewer.layers) == 0


@pytest.mark.parametrize("key", ["phantom-ct", "nuclei"])
def test_samples_open_offline(make_napari_viewer: Any, key: str) -> None:
    viewer = make_napari_viewer()
    layers = viewer.open_sample("napari-maskloop", key)
    assert layers[0].data.size > 10_000
