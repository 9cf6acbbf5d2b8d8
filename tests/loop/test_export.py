"""export: the format by suffix or by word, on the image's grid, proved."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from maskloop.core.errors import (
    GeometryError,
    InputError,
    MissingFileError,
    StorageError,
    UnknownNameError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.convert import convert
from maskloop.formats.base import Choices
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from tests.formats.dicom_slices import series

GRID = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 3))
PHOTO = Geometry.pixels((5, 6))


def ones(grid=GRID, labels=None, source=None) -> Mask:
    return Mask(np.ones(grid.shape, np.uint8), grid, labels or LabelTable(), source)


def test_a_file_becomes_another_format(tmp_path):
    export(ones(PHOTO), tmp_path / "m.png")
    receipt = export(tmp_path / "m.png", str(tmp_path / "m.json"))
    assert (receipt.format, receipt.source) == ("coco", "m.png")
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["images"][0] == {"id": 1, "width": 6, "height": 5, "file_name": "m.png"}


@pytest.mark.parametrize("to", ["nifti", "nii.gz", ".nii.gz", "NII.GZ"])
def test_the_word_overrides_the_suffix(tmp_path, to):
    receipt = export(ones(), tmp_path / "mask.dat", to=to)
    assert receipt.format == "nifti"
    assert (tmp_path / "mask.dat").read_bytes()[:2] == b"\x1f\x8b"
    assert load_mask(tmp_path / "mask.dat").geometry.matches(GRID)


@pytest.mark.parametrize(
    ("name", "to"), [("m.xyz", None), ("m", None), ("m.nii", "papyrus"), ("m.mgz", None)]
)
def test_unknown_formats_list_those_that_hold_masks(tmp_path, name, to):
    with pytest.raises(
        UnknownNameError, match=r"choose one of: coco .*nifti \(\.nii\.gz, \.nii\), .*picture"
    ):
        export(ones(), tmp_path / name, to=to)


def test_a_dicom_name_means_a_segmentation_of_a_series(tmp_path):
    with pytest.raises(InputError, match="expected a mask drawn on a DICOM series"):
        export(ones(), tmp_path / "m.dcm")


def test_export_refuses_a_foreign_grid(tmp_path):
    moved = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 13))
    image = Image(np.zeros((4, 5, 6), np.int16), moved, tmp_path / "ct.nii.gz")
    with pytest.raises(GeometryError, match=r"corner voxel at index \(0, 0, 0\) lies 10 mm away"):
        export(ones(), tmp_path / "m.nii.gz", image=image)
    smaller = Image(np.zeros((4, 5, 5), np.int16), Geometry.regular((4, 5, 5), (3, 1, 1)))
    with pytest.raises(GeometryError, match="shape"):
        export(ones(), tmp_path / "m.nii.gz", image=smaller)
    assert list(tmp_path.iterdir()) == []


def test_the_images_header_is_taken_where_it_is_given(tmp_path):
    affine = np.diag((-0.8, -0.7, 3, 1.0))
    source = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine)
    source.set_sform(affine, code=4)
    source.set_qform(None, code=0)
    nib.save(source, tmp_path / "ct.nii.gz")
    image = load(tmp_path / "ct.nii.gz")
    receipt = export(ones(image.geometry), tmp_path / "m.nii.gz", image=tmp_path / "ct.nii.gz")
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 0)
    assert receipt.source == "ct.nii.gz"


def test_ids_without_rows_get_rows(tmp_path):
    data = np.zeros((5, 6), np.uint8)
    data[0, :3] = (1, 2, 5)
    some = LabelTable.classes({1: "liver"})
    receipt = export(Mask(data, PHOTO, some), tmp_path / "m.png")
    assert [row.name for row in receipt.labels] == ["liver", "label 2", "label 5"]
    receipt = export(Mask(data, PHOTO, LabelTable()), tmp_path / "m.png")
    assert [row.name for row in receipt.labels] == ["object 1", "object 2", "object 5"]
    receipt = export(Mask(data, PHOTO, LabelTable()), tmp_path / "m.png", kind="classes")
    assert [row.name for row in receipt.labels] == ["label 1", "label 2", "label 5"]


def test_photos_have_no_volume_and_volumes_have(tmp_path):
    assert export(ones(PHOTO), tmp_path / "m.nii.gz").labels[0].volume_ml is None
    assert export(ones(), tmp_path / "m.nii.gz").labels[0].volume_ml == pytest.approx(
        120 * 1.68 / 1000
    )


def test_a_time_axis_is_kept_or_refused(tmp_path):
    data = np.zeros((2, 4, 5, 6), np.uint8)
    data[1, 2, 3, 4] = 1
    mask = Mask(data, GRID, LabelTable())
    for name in ("m.nii.gz", "m.nrrd", "m.mha", "m.tif"):
        export(mask, tmp_path / name)
        np.testing.assert_array_equal(load_mask(tmp_path / name).data, data)
    assert nib.load(tmp_path / "m.nii.gz").shape == (6, 5, 4, 2)
    for name in ("m.png", "m.json", "m.seg.dcm"):
        with pytest.raises(InputError):
            export(mask, tmp_path / name)


def test_bad_paths_are_told(tmp_path):
    with pytest.raises(MissingFileError):
        export(tmp_path / "nowhere.nii.gz", tmp_path / "m.nii.gz")
    with pytest.raises(StorageError, match="add a name"):
        export(ones(), tmp_path)


def test_exporting_onto_the_masks_own_file_is_safe(tmp_path):
    export(ones(), tmp_path / "m.nii.gz")
    export(tmp_path / "m.nii.gz", tmp_path / "m.nii.gz", kind="classes")
    assert load_mask(tmp_path / "m.nii.gz").labels.kind == "classes"


def test_the_image_of_a_mask_is_never_written_over(tmp_path):
    ct, link = tmp_path / "ct.nii.gz", tmp_path / "link.nii.gz"
    convert(Image(np.ones(GRID.shape, np.int16), GRID), ct)
    link.symlink_to(ct)
    before = ct.read_bytes()
    for out in (ct, link, tmp_path / "." / "ct.nii.gz"):
        with pytest.raises(InputError, match="other than its image"):
            export(ones(), out, image=ct)
    assert ct.read_bytes() == before
    export(ones(), tmp_path / "mask.nii.gz", image=ct)


def test_a_slice_is_never_written_over(tmp_path):
    series(tmp_path, [0, 3, 6])
    ct = load(tmp_path)
    mask, first = ones(ct.geometry), min(tmp_path.iterdir()).rename(tmp_path / "a.dcm")
    before = first.read_bytes()
    with pytest.raises(InputError, match="other than its image"):
        export(mask, first, image=ct)
    assert first.read_bytes() == before
    for _ in range(2):  # an older segmentation is no image
        export(mask, tmp_path / "mask.dcm", image=ct)


def test_choices_without_a_folder_to_heed_them_are_told(tmp_path):
    with pytest.raises(InputError, match="--fill-gap, --series applies, got none; add --image"):
        export(ones(), tmp_path / "m.nii.gz", choices=Choices(series="2", fill_gap=True))


def test_identity_is_not_asked_of_formats_without_a_place_for_it(tmp_path):
    with pytest.raises(InputError, match="leave --keep-phi out"):
        export(ones(), tmp_path / "m.nii.gz", keep_phi=True)
    assert list(tmp_path.iterdir()) == []
