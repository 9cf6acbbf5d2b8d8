"""Files, samples and saving through napari's own doors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.gui import contributions

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
    assert contributions.get_reader(str(tmp_path)) is None
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
