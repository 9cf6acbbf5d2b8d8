"""The intake report: every series of a folder, what it is, and what was left out and why."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pydicom
import pytest

from maskloop.core.errors import FormatError, MaskloopError, UnknownNameError
from maskloop.core.job import Job
from maskloop.desk.check import info
from maskloop.formats import dicom
from maskloop.formats.base import Choices
from maskloop.formats.dicom_report import intake_text
from maskloop.loop.load import load
from tests.formats.dicom_slices import COLUMNS, ROWS, series, write

SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"


def look(path):
    found = dicom.inspect(path, job=Job())
    json.dumps(found)
    return found


def read(path, job=None, **choices):
    return dicom.read_image(path, choices=Choices(**choices), job=job or Job())


def level(number, value=0):
    """Return pixels that tell slices and rows apart."""
    return np.full((ROWS, COLUMNS), 100 * value + number, np.int16)


def test_one_series_has_the_grid_keys_of_a_volume(tmp_path):
    found = look(series(tmp_path, [9.0, 0.0, 6.0, 3.0]))
    image = read(tmp_path)
    assert (found["kind"], found["format"], found["shape"]) == (
        "dicom series",
        "dicom",
        [4, ROWS, COLUMNS],
    )
    np.testing.assert_allclose(found["affine"], image.geometry.affine)
    assert found["orientation"] == image.geometry.orientation == "SPL"
    np.testing.assert_allclose(found["spacing_mm"], [3, 0.8, 0.7])
    (row,) = found["series"]
    assert (row["what"], row["slices"], row["number"]) == ("axial volume", 4, "4")
    assert row["steps"] == {"min": 3.0, "max": 3.0, "usual": 3.0}
    assert (row["loads"], row["can_decode"], row["problems"]) == (True, True, [])
    assert row["transfer_syntax"] == "uncompressed"


def test_series_below_the_folder_are_found_whatever_their_names(tmp_path):
    for folder in ("b/c", "a.txt"):
        (tmp_path / folder).mkdir(parents=True)
    series(tmp_path / "b/c", [0, 1, 2], number=9)
    series(tmp_path / "a.txt", [0, 2, 4, 6], series="1.5", number=2)
    found = look(tmp_path)
    assert found["kind"] == "dicom folder"
    assert [(r["row"], r["number"], r["slices"]) for r in found["series"]] == [
        (1, "2", 4),
        (2, "9", 3),
    ]
    assert "shape" not in found
    assert look(tmp_path) == found


def test_what_is_left_out_is_told_with_the_reason(tmp_path):
    series(tmp_path, [0, 1, 2])
    (tmp_path / "notes.dcm").write_text("no DICOM, whatever its suffix says")
    (tmp_path / "cut").write_bytes((tmp_path / "image_0").read_bytes()[:300])
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    directory = pydicom.Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2"
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.FileSetID = "X"
    directory.save_as(tmp_path / "index", enforce_file_format=True)
    found = look(tmp_path)
    why = {entry["file"]: entry["why"] for entry in found["left_out"]}
    assert why["notes.dcm"] == "not DICOM"
    assert why["cut"].startswith("damaged")
    assert why["nothing"].startswith("unreadable")
    assert "link" in why["loop"]
    assert why["index"] == "DICOMDIR"
    with pytest.raises(FormatError, match="got the index 'index'; choose the folder it lies in"):
        read(tmp_path / "index")
    assert found["series"][0]["slices"] == 3
    job = Job()
    assert read(tmp_path, job).data.shape[0] == 3
    assert any("cut" in note and "damaged" in note for note in job.notes)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_left_out(tmp_path):
    series(tmp_path, [0, 1, 2])
    (tmp_path / "image_1").chmod(0)
    assert look(tmp_path)["left_out"][0]["why"].startswith("unreadable")


def test_segmentations_contours_and_documents_are_rows_but_no_images(tmp_path):
    series(tmp_path, [0, 1, 2])
    for number, uid in enumerate((SEG, RTSTRUCT, REPORT)):
        path = write(tmp_path / f"other{number}", (0, 0, 0), series=f"7.{number}", SOPClassUID=uid)
        data = pydicom.dcmread(path)
        if uid != SEG:
            del data.PixelData, data.Rows, data.Columns
        data.save_as(path, enforce_file_format=True)
    found = look(tmp_path)
    assert [row["what"] for row in found["series"]] == [
        "axial volume",
        "segmentation",
        "contours",
        "document",
    ]
    assert found["kind"] == "dicom series"
    assert read(tmp_path).data.shape[0] == 3
    for number, is_image in enumerate((False, False, True)):
        assert dicom.sniff(tmp_path / f"other{number}") is is_image
    assert dicom.sniff(tmp_path / "image_0")
    (tmp_path / "only").mkdir()
    shutil.move(tmp_path / "other1", tmp_path / "only")
    with pytest.raises(FormatError, match="got contours objects"):
        read(tmp_path / "only")


def test_the_series_is_chosen_by_row_or_uid_or_file(tmp_path):
    for number in range(3):
        write(tmp_path / f"a{number}", (0, 0, number), pixels=level(number))
        write(
            tmp_path / f"b{number}",
            (0, 0, 2 * number),
            series="9.9",
            number=7,
            pixels=level(number, 2),
        )
    with pytest.raises(FormatError, match=r"got 2 series.*row 2.*--series"):
        read(tmp_path)
    assert read(tmp_path, series="1").title == "CT series 4"
    assert read(tmp_path, series="9.9").data[1, 0, 0] == 201 - 1024
    assert read(tmp_path, series="2").geometry.spacing[0] == 2
    assert read(tmp_path / "b0").title == "CT series 7"
    assert look(tmp_path / "b0")["series"][0]["uid"] == "9.9"
    with pytest.raises(UnknownNameError, match="choose one of: 1, 2"):
        read(tmp_path, series="3")


def test_a_localizer_in_the_same_series_is_a_row_of_its_own(tmp_path):
    series(tmp_path, [0, 3, 6])
    write(tmp_path / "scout", (0, 0, 3), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = look(tmp_path)
    assert sorted(row["what"] for row in found["series"]) == ["axial volume", "localizer"]


@pytest.mark.parametrize(
    ("element", "values", "told"),
    [
        ("EchoTime", (4.6, 2.3), "echo time 2.3 ms"),
        ("EchoNumbers", (1, 2), "echo 1"),
        ("TemporalPositionIdentifier", (1, 2), "time 1"),
        ("TriggerTime", (20, 340), "trigger at 20 ms"),
        ("AcquisitionNumber", (2, 3), "acquisition 2"),
        ("AcquisitionTime", ("101500", "101700"), "phase 1 of 2"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type M"),
    ],
)
def test_what_repeats_places_makes_rows(tmp_path, element, values, told):
    for part, value in enumerate(values):
        for number in range(3):
            write(
                tmp_path / f"{number}{part}",
                (0, 0, number),
                pixels=level(number, part),
                SOPInstanceUID=f"1.2.{part}.{number}",
                **{element: value},
            )
    found = look(tmp_path)
    assert [row["slices"] for row in found["series"]] == [3, 3]
    assert found["series"][0]["told_apart_by"] == [told]
    if element == "AcquisitionTime":
        assert "101500" not in json.dumps(found)
    first = read(tmp_path, series="1")
    assert first.title == f"CT series 4, {told}"
    assert len({int(v) // 100 for v in first.data[:, 0, 0] + 1024}) == 1
    with pytest.raises(FormatError, match="got 2 parts of one series"):
        read(tmp_path)
    with pytest.raises(FormatError, match="got one of 2"):
        read(tmp_path, series="1.2.3")


def test_acquisition_numbers_that_count_along_the_stack_do_not_split_it(tmp_path):
    for number in range(8):
        write(tmp_path / str(number), (0, 0, number), AcquisitionNumber=number // 2)
    (row,) = look(tmp_path)["series"]
    assert (row["slices"], row["loads"]) == (8, True)


def test_identical_copies_are_used_once_and_told(tmp_path):
    (tmp_path / "again").mkdir()
    for number in range(4):
        path = write(
            tmp_path / str(number),
            (0, 0, number),
            pixels=level(number),
            SOPInstanceUID=f"1.2.3.{number}",
        )
        if number < 2:
            shutil.copy(path, tmp_path / "again" / str(number))
    # The same slice once more, sent under a new UID.
    write(tmp_path / "sent", (0, 0, 3), pixels=level(3), SOPInstanceUID="1.2.99")
    (row,) = look(tmp_path)["series"]
    assert (row["slices"], row["duplicates"], row["loads"]) == (4, 3, True)
    assert row["files"] == sum(one.is_file() for one in tmp_path.rglob("*"))
    job = Job()
    assert read(tmp_path, job).data[:, 0, 0].tolist() == [n - 1024 for n in range(4)]
    assert any("3 files hold a slice a second time" in note for note in job.notes)


def test_one_uid_for_all_slices_makes_no_copies_of_them(tmp_path):
    for number, height in enumerate((0, 1, 1, 2)):
        write(tmp_path / str(number), (0, 0, height), pixels=level(number), SOPInstanceUID="1.2.3")
    (row,) = look(tmp_path)["series"]
    assert (row["duplicates"], row["problems"][0]["name"]) == (0, "repeated positions")


def test_orientation_that_differs_by_rounding_stays_one_row(tmp_path):
    for number in range(3):
        turned = (1, 0, 0.00004 * number, 0, 1, 0)
        write(tmp_path / str(number), (0, 0, number), orientation=turned)
    (row,) = look(tmp_path)["series"]
    assert row["slices"] == 3


def test_empty_uids_and_no_series_number_still_make_a_volume(tmp_path):
    for number in range(3):
        write(tmp_path / str(number), (0, 0, number), series="", number=None, Modality="")
    image = read(tmp_path)
    assert (image.title, image.data.shape[0]) == ("DICOM image", 3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"PatientIdentityRemoved": "YES"}, "yes: stated"),
        ({}, "no: 2 identifying fields are filled"),
        ({"PatientName": "", "PatientID": ""}, "not stated"),
    ],
)
def test_the_state_of_identity_names_fields_never_values(tmp_path, more, words):
    (row,) = look(series(tmp_path, [0, 1, 2], **more))["series"]
    assert row["deidentified"] == words
    assert row["identifying"] == ([] if words == "not stated" else ["PatientID", "PatientName"])


def test_the_report_in_lines_names_problems_and_the_flag_that_settles_them(tmp_path):
    series(tmp_path, [0, 3, 9, 12])
    (tmp_path / "x.txt").write_text("x")
    text = dicom.intake_text(look(tmp_path))
    for words in ("row 1  CT series 4: axial volume", "missing     1: 1 after 3.00 mm"):
        assert words in text
    assert "loads       with --fill-gap" in text
    assert "not DICOM: x.txt" in text
    assert "2 identifying fields are filled: PatientID, PatientName" in text


def test_gap_steps_and_tilt_are_in_the_report(tmp_path):
    for number, height in enumerate((0.0, 3.0, 9.0, 12.0)):
        write(tmp_path / str(number), (0, height * 0.2, height))
    (row,) = look(tmp_path)["series"]
    assert row["missing"] == {"count": 1, "where": ["1 after 3.00 mm"]}
    assert row["steps"] == {"min": 3.0, "max": 6.0, "usual": 3.0}
    assert row["tilt_degrees"] == pytest.approx(np.degrees(np.arctan(0.2)), abs=0.01)
    assert row["problems"][0]["choices"] == ["--fill-gap"]


def test_a_file_that_is_no_dicom_is_refused(tmp_path):
    series(tmp_path, [0, 1])
    (tmp_path / "a.txt").write_text("hello, this is a text that is long enough")
    with pytest.raises(MaskloopError, match=r"got a\.txt, which is none"):
        look(tmp_path / "a.txt")


def test_the_header_tells_files_in_slice_order_and_no_identity(tmp_path):
    series(tmp_path, [9.0, 0.0, 6.0, 3.0], StudyInstanceUID="1.2.8", FrameOfReferenceUID="1.2.7")
    image = read(tmp_path)
    heights = [pydicom.dcmread(p).ImagePositionPatient[2] for p in image.header.files]
    assert heights == [0, 3, 6, 9]
    assert (image.header.is_derived, image.header.frames) == (False, None)
    assert (image.header.study, image.header.series) == ("1.2.8", "1.2.3")
    assert image.header.frame_of_reference == "1.2.7"
    assert "SECRET" not in repr(image.header)


def test_many_time_points_take_a_few_lines(tmp_path):
    for part in range(6):
        for number in range(2):
            write(
                tmp_path / f"{part}{number}",
                (0, 0, number),
                pixels=level(number, part),
                TemporalPositionIdentifier=part + 1,
            )
    found = look(tmp_path)
    assert len(found["series"]) == 6
    text = dicom.intake_text(found)
    assert "rows 2 to 6: alike, time 2 to time 6" in text
    assert text.count("slices   ") == 1


def test_pixels_are_not_read_where_headers_tell_phases_apart(tmp_path, monkeypatch):
    from maskloop.formats import dicom_series

    for part in range(2):
        for number in range(3):
            write(tmp_path / f"{part}{number}", (0, 0, number), AcquisitionNumber=part)
    monkeypatch.setattr(dicom_series, "_digest", None)
    assert [row["slices"] for row in look(tmp_path)["series"]] == [3, 3]


def test_a_file_stands_for_its_own_folder_only_and_damage_beside_it_is_told(tmp_path):
    (tmp_path / "below").mkdir()
    series(tmp_path, [0, 1, 2])
    series(tmp_path / "below", [3, 4])
    (tmp_path / "cut").write_bytes((tmp_path / "image_0").read_bytes()[:400])
    job = Job()
    assert read(tmp_path / "image_0", job).data.shape[0] == 3
    assert any("cut" in note for note in job.notes)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8, np.int32])
@pytest.mark.parametrize("more", [{}, {"BitsStored": 12}, {"slope": 0.5}, {"intercept": 0}])
def test_a_type_in_the_report_is_the_one_that_loads(tmp_path, kind, more):
    more = {**more, "BitsStored": min(more.get("BitsStored", 64), 8 * np.dtype(kind).itemsize)}
    for z in range(2):
        write(tmp_path / str(z), (0, 0, z), pixels=np.full((ROWS, COLUMNS), z, kind), **more)
    stated = look(tmp_path)["dtype"]
    assert stated in (None, str(read(tmp_path).data.dtype))


def test_rows_that_read_alike_say_where_they_lie(tmp_path):
    for number, name in enumerate(("liver", "bone")):
        (tmp_path / name).mkdir()
        series(tmp_path / name, [0, 3, 6], series=f"1.2.{number}")
    found = info(tmp_path)
    assert {row["folder"] for row in found["series"]} == {"liver", "bone"}
    text = intake_text(found)
    assert "1.2.0, in liver" in text
    assert "1.2.1, in bone" in text
    assert ", in " not in intake_text(info(tmp_path / "liver"))


def test_a_series_that_is_not_there_is_told_how_to_name_one(tmp_path):
    series(tmp_path, [0, 3, 6])
    with pytest.raises(UnknownNameError, match="row or the SeriesInstanceUID"):
        load(tmp_path, choices=Choices(series="1.2.99"))
    assert load(tmp_path, choices=Choices(series=" 1 ")).data.shape[0] == 3
