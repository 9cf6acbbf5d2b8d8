"""Nothing of a person's identity leaves a DICOM file: not in reports, notes, titles, messages."""

from __future__ import annotations

import json
import logging

import pydicom
import pytest

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices
from maskloop.formats.dicom_head import IDENTIFYING
from tests.formats.dicom_slices import series, write

MARK = "ZQXJ"
BY_KIND = {"DA": "19010203", "TM": "040506.070809", "PN": f"{MARK}^PERSON", "SQ": None}
# Free text and dates beyond those the report names: also never shown.
MORE = (
    *("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "StationName"),
    *("DeviceSerialNumber", "StudyDate", "SeriesDate", "StudyTime", "ContentTime", "StudyID"),
    *("AcquisitionTime", "PatientAge", "EthnicGroup", "Manufacturer", "CountryOfResidence"),
)


def planted() -> dict[str, object]:
    found: dict[str, object] = {}
    for name in (*IDENTIFYING.values(), *MORE):
        kind = pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(name))
        value = {"AS": "091Y"}.get(kind, BY_KIND.get(kind, f"{MARK} {name[:6]}"))
        found[name] = value
    return found


def said(path, **choices):
    """Return every word that inspecting and loading give, whether they succeed or not."""
    job = Job()
    words = []
    try:
        found = dicom.inspect(path, job=job)
        words += [json.dumps({k: v for k, v in found.items() if k != "path"})]
        words += [dicom.intake_text(found)]
    except MaskloopError as error:
        words.append(f"{error} {error.args}")
    try:
        image = dicom.read_image(path, choices=Choices(**choices), job=job)
        words += [image.title, image.name, repr(image.header), repr(image)]
        words = [text.replace(str(path), "") for text in words]
    except MaskloopError as error:
        words.append(f"{error} {error.args}")
    return "\n".join([*words, *job.notes])


CASES = {
    "regular": [0, 1, 2],
    "gap": [0, 1, 3],
    "uneven": [0, 1, 2.4, 3],
    "repeated": [0, 1, 1, 2],
    "single": [0],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("choices", [{}, {"fill_gap": True, "resample": True}, {"series": "9"}])
def test_no_planted_identity_is_shown(tmp_path, caplog, case, choices):
    caplog.set_level(logging.DEBUG)
    more = planted()
    for number, height in enumerate(CASES[case]):
        for part in range(2 if case == "repeated" else 1):
            write(tmp_path / f"{number}_{part}", (0, 0, height), InstanceNumber=number, **more)
    text = said(tmp_path, **choices) + caplog.text
    for secret in (MARK, "SECRET", "4711", "19010203", "040506", "091Y"):
        assert secret not in text
    assert "PatientName" in text  # that the field is filled, not with what


def test_identity_in_other_elements_is_not_shown_either(tmp_path):
    series(tmp_path, [0, 1, 2], number=None, **planted())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.add_new((0x0008, 0x0060), "LO", MARK)  # as a modality
        data.add_new((0x0008, 0x0008), "LO", f"ORIGINAL\\\\{MARK}")  # as an image type
        data.add_new((0x0020, 0x0011), "LO", f"{MARK} 7")  # as a series number
        data.add_new((0x0020, 0x000E), "LO", f"{MARK}.1")  # as a UID
        data.save_as(path, enforce_file_format=True)
    text = said(tmp_path)
    assert MARK not in text.upper()


def test_folder_names_are_not_in_messages_or_titles(tmp_path):
    place = tmp_path / f"{MARK}_PERSON"
    (place / "below").mkdir(parents=True)
    series(place / "below", [0, 3, 9])
    (place / "below" / "cut").write_bytes((place / "below" / "image_0").read_bytes()[:700])
    assert MARK not in said(place)
    series(place, [0, 1], series="9.9", number=8)
    assert MARK not in said(place)


def test_damaged_files_with_identity_do_not_leak_it(tmp_path):
    series(tmp_path, [0, 1, 2], **planted())
    for length in (400, 700, 900, 1200):
        for path in sorted(tmp_path.iterdir())[:3]:
            (tmp_path / f"cut{length}").write_bytes(path.read_bytes()[:length])
    assert MARK not in said(tmp_path)
