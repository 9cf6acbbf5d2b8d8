"""RTSTRUCT: outlines filled without a shift, holes kept, foreign ones refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from skimage.measure import find_contours, points_in_poly

from maskloop.core.errors import FormatError, GeometryError, InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.desk.check import info
from maskloop.formats import rtstruct
from maskloop.loop.export import export
from maskloop.loop.load import load_mask, load_masks
from tests.formats.ct_series import FRAME, ORIENTATIONS, SHAPE, geometry_of, write_series


def box(z, y0, y1, x0, x1) -> np.ndarray:
    """Return a ring of index points (z, y, x)."""
    return np.array([(z, y0, x0), (z, y0, x1), (z, y1, x1), (z, y1, x0)], float)


def write(
    path: Path,
    geometry: Geometry,
    rois: dict[str, list[np.ndarray]],
    *,
    kind="CLOSED_PLANAR",
    frame=FRAME,
    numbers=None,
    syntax=ExplicitVRLittleEndian,
    digits=6,
) -> Path:
    """Write a structure set whose outlines are given as index points of `geometry`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = "2.25.77"
    meta.TransferSyntaxUID = syntax
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.77"
    data.PatientName, data.Modality, data.SeriesNumber = "SECRET^PERSON", "RTSTRUCT", 12
    data.StructureSetLabel = "SECRET LABEL"
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    numbers = numbers or range(1, len(rois) + 1)
    for number, (name, rings) in zip(numbers, rois.items(), strict=True):
        roi, drawn = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = frame
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, 128, number]
        drawn.ContourSequence = []
        for ring in rings:
            contour = pydicom.Dataset()
            places = geometry.to_world(ring) * (-1, -1, 1)
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(ring)
            contour.ContourData = [f"{n:.{digits}f}"[:16] for n in places.ravel()]
            drawn.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(drawn)
    data.save_as(path, enforce_file_format=True)
    return path


def blank(geometry: Geometry) -> Image:
    return Image(np.zeros(geometry.shape, np.int16), geometry, title="CT series 4")


@pytest.mark.parametrize("cosines", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_square_along_pixel_edges_holds_exactly_these_pixels(cosines, syntax, tmp_path):
    geometry = geometry_of(cosines)
    rings = [box(z, 3.5, 9.5, 4.5, 11.5) for z in (1, 2, 3)]
    path = write(tmp_path / "a.dcm", geometry, {"liver": rings}, syntax=syntax)
    mask = load_mask(path, image=blank(geometry))
    meant = np.zeros(SHAPE, np.uint8)
    meant[1:4, 4:10, 5:12] = 1
    np.testing.assert_array_equal(mask.data, meant)
    assert mask.labels[1].name == "liver"
    assert mask.labels[1].colour == "#ff8001"
    assert mask.title == "RTSTRUCT series 12"


def test_a_square_through_pixel_centres_holds_these_pixels_too(tmp_path):
    geometry = geometry_of(ORIENTATIONS["oblique"])
    path = write(tmp_path / "a.dcm", geometry, {"a": [box(2, 3, 9, 4, 11)]}, digits=4)
    mask = load_mask(path, image=blank(geometry))
    meant = np.zeros(SHAPE, np.uint8)
    meant[2, 3:10, 4:12] = 1
    np.testing.assert_array_equal(mask.data, meant)


@pytest.mark.parametrize("centre", [(60.0, 60.0), (60.37, 59.81), (60.5, 60.5)])
@pytest.mark.parametrize("radius", [20.3, 45.0])
def test_a_circle_has_its_area_and_its_centre(centre, radius):
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    ring = np.column_stack([centre[0] + radius * np.sin(turn), centre[1] + radius * np.cos(turn)])
    found_box, region = rtstruct.fill([ring], (120, 120))
    whole = np.zeros((120, 120), bool)
    whole[found_box] = region
    assert whole.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    np.testing.assert_allclose(np.argwhere(whole).mean(axis=0), centre, atol=0.1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(-5, 25, width=32), st.floats(-5, 25, width=32)),
        min_size=3,
        max_size=12,
    )
)
def test_simple_rings_equal_scikit_image_away_from_the_edge(points):
    # Turned into a ring that does not cross itself: sorted by angle about the middle.
    ring = np.array(points, float)
    middle = ring.mean(axis=0)
    ring = ring[np.argsort(np.arctan2(*(ring - middle).T))]
    whole = np.zeros((20, 20), bool)
    found = rtstruct.fill([ring], (20, 20))
    if found is not None:
        whole[found[0]] = found[1]
    centres = np.argwhere(np.ones((20, 20), bool)).astype(float)
    after = np.roll(ring, -1, axis=0)
    along = after - ring
    share = np.einsum("pej,ej->pe", centres[:, None] - ring, along)
    share = np.clip(share / np.maximum((along**2).sum(axis=1), 1e-12), 0, 1)
    near = np.linalg.norm(centres[:, None] - ring - share[..., None] * along, axis=2).min(axis=1)
    is_clear = near > 0.01
    inside = points_in_poly(centres, ring)
    np.testing.assert_array_equal(whole.ravel()[is_clear], inside[is_clear])


def test_outlines_of_any_mask_bring_it_back(tmp_path):
    generator = np.random.default_rng(5)
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(generator.normal(size=(40, 50)), 2.0)
    region = noise > 0.02
    region[[0, -1]] = region[:, [0, -1]] = False
    rings = find_contours(region.astype(float), 0.5)
    assert len(rings) > 8
    whole = np.zeros(region.shape, bool)
    found = rtstruct.fill(rings, region.shape)
    whole[found[0]] = found[1]
    np.testing.assert_array_equal(whole, region)


def test_holes_and_islands_go_by_even_and_odd(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    rings = [box(2, 1.5, 15.5, 1.5, 20.5), box(2, 4.5, 12.5, 4.5, 16.5), box(2, 6.5, 9.5, 7.5, 9.5)]
    mask = load_mask(write(tmp_path / "a.dcm", geometry, {"a": rings}), image=blank(geometry))
    meant = np.zeros(SHAPE[1:], np.uint8)
    meant[2:16, 2:21] = 1
    meant[5:13, 5:17] = 0
    meant[7:10, 8:10] = 1
    np.testing.assert_array_equal(mask.data[2], meant)
    assert not mask.data[[0, 1, 3, 4, 5]].any()


def test_a_keyhole_is_a_hole(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    ring = [(1.5, 1.5), (1.5, 20.5), (15.5, 20.5), (15.5, 1.5), (8.25, 1.5)]
    ring += [(8.25, 4.5), (12.5, 4.5), (12.5, 16.5), (4.5, 16.5), (4.5, 4.5), (8.25, 4.5)]
    ring += [(8.25, 1.5)]
    points = np.array([(2, *p) for p in ring])
    mask = load_mask(write(tmp_path / "a.dcm", geometry, {"a": [points]}), image=blank(geometry))
    meant = np.zeros(SHAPE[1:], np.uint8)
    meant[2:16, 2:21] = 1
    meant[5:13, 5:17] = 0
    np.testing.assert_array_equal(mask.data[2], meant)


def test_overlapping_regions_come_as_for_segmentations(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    rois = {
        "liver": [box(2, 1.5, 15.5, 1.5, 20.5)],
        "tumour": [box(2, 4.5, 9.5, 4.5, 9.5)],
        "spleen": [box(2, 4.5, 9.5, 21.5, 25.5)],
    }
    path = write(tmp_path / "a.dcm", geometry, rois, numbers=[3, 8, 9])
    image = blank(geometry)
    with pytest.raises(InputError, match=r"ROI 8 \(tumour\) over 3 \(liver\).*--entry N"):
        load_mask(path, image=image)
    masks = load_masks(path, image=image)
    assert [m.labels.names for m in masks] == [{3: "liver", 9: "spleen"}, {8: "tumour"}]
    for entry in (8, "8", "tumour"):
        one = load_mask(path, image=image, entry=entry)
        assert np.argwhere(one.data == 8).tolist() == np.argwhere(masks[1].data).tolist()
    with pytest.raises(UnknownNameError, match=r"3 \(liver\)"):
        load_mask(path, image=image, entry="heart")


def test_numbers_that_are_no_label_ids_count_from_one_and_say_so(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    rois = {"a": [box(2, 1.5, 5.5, 1.5, 5.5)], "b": [box(3, 1.5, 5.5, 1.5, 5.5)]}
    path = write(tmp_path / "a.dcm", geometry, rois, numbers=[0, 1])
    job = Job()
    mask = load_mask(path, image=blank(geometry), job=job)
    assert mask.labels.names == {1: "a", 2: "b"}
    assert any("count from 1" in note for note in job.notes)
    assert load_mask(path, image=blank(geometry), entry=0).labels.names == {1: "a"}


@pytest.mark.parametrize(("off", "is_told"), [(0.05, False), (0.3, True)])
def test_outlines_beside_their_slice_go_to_the_nearest_and_say_so(off, is_told, tmp_path):
    geometry = geometry_of(ORIENTATIONS["sagittal"])
    path = write(tmp_path / "a.dcm", geometry, {"a": [box(2 + off, 1.5, 5.5, 1.5, 5.5)]})
    job = Job()
    mask = load_mask(path, image=blank(geometry), job=job)
    assert np.flatnonzero(mask.data.any(axis=(1, 2))).tolist() == [2]
    assert any("of a slice beside" in note for note in job.notes) == is_told


def test_what_encloses_nothing_or_lies_outside_or_is_missing_is_told(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    rings = [box(1, 1.5, 5.5, 1.5, 5.5), box(4, 1.5, 5.5, 1.5, 5.5), box(9, 1.5, 5.5, 1.5, 5.5)]
    job = Job()
    mask = load_mask(
        write(tmp_path / "a.dcm", geometry, {"a": rings}), image=blank(geometry), job=job
    )
    assert np.flatnonzero(mask.data.any(axis=(1, 2))).tolist() == [1, 4]
    told = "\n".join(job.notes)
    assert "1 outlines lie outside" in told
    assert "left empty: 2 of 'a'" in told
    job = Job()
    path = write(tmp_path / "b.dcm", geometry, {"mark": [box(1, 2, 5, 2, 5)]}, kind="POINT")
    assert not load_mask(path, image=blank(geometry), job=job).data.any()
    assert any("left out: 1 of 'mark'" in note for note in job.notes)


def test_outlines_on_other_planes_are_refused(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    ring = np.array([(0, 5, 5), (4, 5, 5), (4, 5, 15), (0, 5, 15)], float)
    path = write(tmp_path / "a.dcm", geometry, {"a": [ring]})
    with pytest.raises(GeometryError, match="leaves its slice by 2 slices"):
        load_mask(path, image=blank(geometry))


def test_another_frame_of_reference_is_refused_where_both_are_known(tmp_path):
    image = write_series(tmp_path / "ct")
    rois = {"a": [box(2, 1.5, 5.5, 1.5, 5.5)]}
    path = write(tmp_path / "a.dcm", image.geometry, rois, frame="2.25.999")
    with pytest.raises(GeometryError, match="frame of reference of 'CT series 4'"):
        load_mask(path, image=image)
    assert load_mask(path, image=blank(image.geometry)).data.any()
    own = write(tmp_path / "b.dcm", image.geometry, rois)
    assert load_mask(own, image=image).data.any()


def test_a_structure_set_becomes_a_segmentation_of_its_series(tmp_path):
    image = write_series(tmp_path / "ct", ORIENTATIONS["coronal"])
    path = write(tmp_path / "a.dcm", image.geometry, {"liver": [box(2, 1.5, 5.5, 1.5, 5.5)]})
    mask = load_mask(path, image=image)
    assert export(mask, tmp_path / "a.seg.dcm").verdict == "PASS"
    np.testing.assert_array_equal(load_mask(tmp_path / "a.seg.dcm").data, mask.data)
    assert b"SECRET" not in (tmp_path / "a.seg.dcm").read_bytes()


def test_an_image_is_asked_for_in_words(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    path = write(tmp_path / "a.dcm", geometry, {"a": [box(2, 1.5, 5.5, 1.5, 5.5)]})
    with pytest.raises(InputError, match=r"outlines alone have no grid.*--image"):
        load_mask(path)
    picture = Image(np.zeros((5, 5), np.uint8), Geometry.pixels((5, 5)))
    with pytest.raises(GeometryError, match="a volume in mm"):
        load_mask(path, image=picture)


def test_info_lists_the_regions_without_an_image(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    rois = {"liver": [box(z, 1.5, 5.5, 1.5, 5.5) for z in (1, 2)], "spleen": []}
    found = info(write(tmp_path / "a.dcm", geometry, rois, numbers=[4, 7]))
    assert found["kind"] == "outlines"
    rows = [(row["number"], row["name"], row["outlines"]) for row in found["regions"]]
    assert rows == [(4, "liver", 2), (7, "spleen", 0)]
    assert "SECRET" not in repr(found)


def test_damage_is_refused(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    path = write(tmp_path / "a.dcm", geometry, {"a": [box(2, 1.5, 5.5, 1.5, 5.5)]})
    whole = path.read_bytes()
    image = blank(geometry)
    meant = load_mask(path, image=image).data
    for share in range(1, 40):
        path.write_bytes(whole[: len(whole) * share // 40])
        try:
            found = rtstruct.read_mask(path, image=image, entry=None, kind=None, job=Job())
        except InputError:
            continue
        assert found.data.sum() in (0, meant.sum())
    at = whole.index(b"\\", whole.index(b"CLOSED_PLANAR"))
    path.write_bytes(whole[: at + 1] + b"x" + whole[at + 2 :])
    with pytest.raises(FormatError, match="while reading it"):
        load_mask(path, image=image)


@pytest.mark.filterwarnings("ignore:The value for the data element")
@pytest.mark.filterwarnings("ignore:With tag")
def test_far_away_and_endless_outlines_ask_for_no_memory(tmp_path):
    geometry = geometry_of(ORIENTATIONS["axial"])
    far = box(2, -1e7, 1e7, -1e7, 1e7)
    path = write(tmp_path / "a.dcm", geometry, {"a": [far]}, digits=2)
    mask = load_mask(path, image=blank(geometry))
    assert mask.data[2].all()
    zigzag = np.array([(2, (n % 2) * 20.0, n % 30) for n in range(20_000)])
    # More than 64 kB of points: explicit syntaxes can store them as unknown bytes only.
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        path = write(tmp_path / "b.dcm", geometry, {"a": [zigzag]}, syntax=syntax)
        assert load_mask(path, image=blank(geometry)).data[2].any()


def test_only_structure_sets_are_recognised(tmp_path):
    image = write_series(tmp_path / "ct")
    path = write(tmp_path / "a.bin", image.geometry, {"a": [box(2, 1.5, 5.5, 1.5, 5.5)]})
    assert rtstruct.sniff(path)
    assert not rtstruct.sniff(image.header.files[0])
    with pytest.raises(FormatError, match="another kind of file"):
        rtstruct.read_mask(
            replace(image).header.files[0], image=image, entry=None, kind=None, job=Job()
        )
