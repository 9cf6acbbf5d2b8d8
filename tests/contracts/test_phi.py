"""Nothing of a person leaves a DICOM series unless asked: every way out is searched."""

from __future__ import annotations

import datetime
import gzip
import io
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from maskloop import formats
from maskloop.cli import run
from maskloop.core.errors import MaskloopError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask, load_masks
from tests.formats.ct_series import SHAPE, write_series

_TEXTS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC"}
_PERSONAL = re.compile(
    r"Patient|Physician|Institution|Operator|Person|Requesting|Responsible|Performe|Referring|"
    r"Accession|Station|Date|Description|Comments|Address|Telephone|StudyID|History|Occupation|"
    r"Ethnic|Protocol|Admi|Visit|Diagnos|Reason|Issuer|Creator|Observer|Verifying|Author|Reviewer|"
    r"DeviceSerial|Detector|Plate|Gantry|Order|Location|Contact|Insurance|Military|Country|Region"
)
# Read as words of the format itself: they decide how the pixels are read, and hold no person.
_STRUCTURAL = {"PatientOrientation", "ImagePositionPatient", "ImageOrientationPatient"}


def planted() -> dict[str, str]:
    """Return a value of its own for every attribute that may tell of a person."""
    values = {}
    day = datetime.date(1842, 3, 1)
    for number, (tag, entry) in enumerate(sorted(DicomDictionary.items())):
        kind, keyword = entry[0], entry[4]
        if tag >> 16 in (0x0000, 0x0002, 0xFFFE) or keyword in _STRUCTURAL:
            continue
        if not keyword or not _PERSONAL.search(keyword):
            continue
        if kind in _TEXTS:
            values[keyword] = f"ZQ{number}X^GIVEN" if kind == "PN" else f"ZQ{number}X"
        elif kind in ("DA", "DT"):
            values[keyword] = (day + datetime.timedelta(days=number)).strftime("%Y%m%d")
    return values


PLANTED = planted()
NEEDLES = sorted({value.split("^")[0] for value in PLANTED.values()} | {"ZQPRIVATEX", "ZQFOLDERX"})


def occurring(content: bytes) -> list[str]:
    """Return what of the planted identity occurs in bytes, packed or plain, in any encoding."""
    whole = content
    if content[:2] == b"\x1f\x8b":
        whole += gzip.decompress(content)
    upper = whole.upper()
    wide = whole.replace(b"\0", b"").upper()
    found = []
    for needle in NEEDLES:
        forms = [needle]
        if needle.isdigit():
            forms.append(f"{needle[:4]}-{needle[4:6]}-{needle[6:]}")
        if any(form.encode() in upper or form.encode() in wide for form in forms):
            found.append(needle)
    return found


def test_the_search_finds_what_is_there():
    assert len(PLANTED) > 300
    assert {"PatientName", "PatientBirthDate", "InstitutionName", "StudyDescription"} <= set(
        PLANTED
    )
    name = PLANTED["PatientName"].split("^")[0]
    day = PLANTED["PatientBirthDate"]
    assert occurring(f"...{name.lower()}...".encode()) == [name]
    assert occurring(name.encode("utf-16")) == [name]
    assert occurring(gzip.compress(day.encode())) == [day]
    assert occurring(f"{day[:4]}-{day[4:6]}-{day[6:]}".encode()) == [day]
    assert occurring(b"nothing") == []


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Write a series full of a person, in a folder that bears the name too."""
    folder = tmp_path / "in" / "ZQFOLDERX"
    write_series(folder)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        for keyword, value in PLANTED.items():
            setattr(data, keyword, value)
        other = pydicom.Dataset()
        other.PatientID, other.IssuerOfPatientID = PLANTED["PatientID"], "ZQPRIVATEX"
        data.OtherPatientIDsSequence = [other]
        block = data.private_block(0x0009, "ZQPRIVATEX", create=True)
        block.add_new(1, "LO", "ZQPRIVATEX")
        data.save_as(path, enforce_file_format=True)
    name = PLANTED["PatientName"].split("^")[0]
    assert all(name.encode() in path.read_bytes() for path in folder.iterdir())
    return folder


class Traces:
    """All that a run leaves behind: what it said, logged and wrote."""

    def __init__(self, out: Path, caplog, capfd) -> None:
        self.out, self._caplog, self._capfd = out, caplog, capfd
        self.said = io.StringIO()
        self.job = Job(lambda progress: self.said.write(f"{progress}\n"))

    def texts(self) -> dict[str, bytes]:
        out, err = self._capfd.readouterr()
        logged = "\n".join(f"{r.getMessage()} {r.exc_text}" for r in self._caplog.records)
        return {
            "stdout": out.encode(),
            "stderr": err.encode(),
            "log": logged.encode(),
            "job": ("\n".join(self.job.notes) + self.said.getvalue()).encode(),
        }

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file()
        }

    def require_none(self, *, but: tuple[str, ...] = ()) -> None:
        """Fail, naming place and value, if anything planted occurs outside `but`."""
        everything = {**self.texts(), **self.files()}
        found = {
            place: occurring(place.encode() + b"\n" + content)
            for place, content in everything.items()
            if place not in but
        }
        assert {place: values for place, values in found.items() if values} == {}


@pytest.fixture
def traces(tmp_path: Path, monkeypatch, caplog, capfd, home: Path) -> Traces:
    """Send temporary files, the cache and the working folder to where they are searched."""
    out = tmp_path / "out"
    for name in ("tmp", "home", "work"):
        (out / name).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(out / "tmp"))
    for variable in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, str(out / "tmp"))
    monkeypatch.setenv("MASKLOOP_HOME", str(out / "home"))
    monkeypatch.chdir(out / "work")
    caplog.set_level(logging.DEBUG)
    return Traces(out, caplog, capfd)


def drawn(image: Image) -> Mask:
    ids = np.zeros(SHAPE, np.uint8)
    ids[1:4, 3:9, 4:12] = 1
    ids[2, 5:7, 6:9] = 2
    return Mask.like(image, ids, LabelTable.classes({1: "liver", 2: "tumour"}))


MASK_SUFFIXES = [
    (name, suffix)
    for name in formats.FORMATS
    for suffix in formats.get(name).suffixes
    if formats.get(name).write_mask is not None
]
IMAGE_SUFFIXES = [
    (name, suffix)
    for name in formats.FORMATS
    for suffix in formats.get(name).suffixes
    if formats.get(name).write_image is not None
]


HOLD_VOLUMES = {".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd", ".seg.dcm"}


def tried(step: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a step gives, and the words and cause of its refusal."""
    try:
        return step(), ""
    except MaskloopError as error:
        return None, f"{error} {error.__cause__}"


def test_loading_and_its_values_tell_nothing(series, traces):
    image = load(series, job=traces.job)
    mask = drawn(image)
    words = f"{image.title} {image.name} {mask.title} {mask.name} {mask.labels!r}"
    assert occurring(words.encode()) == []
    held = {n: getattr(image.header, n) for n in image.header.__slots__ if n != "files"}
    assert occurring(repr(held).encode()) == []
    traces.require_none()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_info_tells_nothing_but_the_path_that_was_typed(flags, series, traces):
    assert run(["info", str(series), *flags]) == 0
    out, err = traces._capfd.readouterr()
    assert "CT" in out
    shown = (out + err).replace(series.name, "").replace(str(series), "")
    assert occurring(shown.encode()) == []
    traces.require_none()


@pytest.mark.parametrize("keep_phi", [False, True])
@pytest.mark.parametrize(("name", "suffix"), MASK_SUFFIXES)
def test_masks_carry_nobody_and_only_a_segmentation_may(name, suffix, keep_phi, series, traces):
    mask = drawn(load(series, job=traces.job))
    out = traces.out / "work" / f"mask{suffix}"
    receipt, refusal = tried(lambda: export(mask, out, keep_phi=keep_phi, job=traces.job))
    if receipt is None:
        # Pictures hold no volume, others no identity; the refusal must not tell either.
        assert suffix not in HOLD_VOLUMES or (keep_phi and name != "dicomseg")
        assert occurring(refusal.encode()) == []
        traces.require_none()
        return
    assert occurring((receipt.to_text() + str(receipt.to_json())).encode()) == []
    asked = name == "dicomseg" and keep_phi
    traces.require_none(but=(f"work/{out.name}",) if asked else ())
    if asked:
        kept = occurring(out.read_bytes())
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDescription"):
            assert PLANTED[keyword].split("^")[0] in kept
        # The person and the study were asked for: nothing else of the source comes along.
        for keyword in ("InstitutionName", "OperatorsName", "StationName", "ProtocolName"):
            assert PLANTED[keyword].split("^")[0] not in kept
        assert "ZQPRIVATEX" not in kept
    back = load_mask(out, job=traces.job)
    assert occurring(f"{back.title} {back.labels!r}".encode()) == []


@pytest.mark.parametrize(("name", "suffix"), IMAGE_SUFFIXES)
def test_images_written_elsewhere_carry_nobody(name, suffix, series, traces):
    out = traces.out / "work" / f"image{suffix}"
    code = run(["convert", str(series), "-o", str(out)])
    assert code == 0 or suffix not in HOLD_VOLUMES or suffix == ".seg.nrrd"
    traces.require_none()


def test_the_command_line_carries_nobody(series, traces):
    mask = drawn(load(series, job=traces.job))
    export(mask, traces.out / "work/a.nii.gz", job=traces.job)
    image = ["--image", str(series)]
    assert run(["export", "a.nii.gz", *image, "-o", "b.seg.dcm"]) == 0
    assert run(["export", "b.seg.dcm", *image, "-o", "c.nrrd", "--json"]) == 0
    assert run(["export", "b.seg.dcm", "-o", "d.seg.dcm", "--entry", "2"]) == 0
    assert run(["info", "b.seg.dcm"]) == 0
    assert run(["score", "a.nii.gz", "b.seg.dcm"]) == 0
    assert {"b.seg.dcm", "c.nrrd", "d.seg.dcm"} <= {p.name for p in Path().iterdir()}
    traces.require_none()


def test_a_segmentation_with_a_person_loses_it_when_written_again(series, traces, tmp_path):
    mask = drawn(load(series))
    source = tmp_path / "in" / "mask.seg.dcm"
    export(mask, source, keep_phi=True)
    assert len(occurring(source.read_bytes())) > 10
    again = load_mask(source, job=traces.job)
    assert load_masks(source, job=traces.job)[0].labels == again.labels
    for suffix in (".seg.dcm", ".nii.gz", ".seg.nrrd", ".mha"):
        export(again, traces.out / "work" / f"again{suffix}", job=traces.job)
    traces.require_none()
    kept = traces.out / "work" / "kept.seg.dcm"
    export(again, kept, keep_phi=True)
    assert PLANTED["PatientName"].split("^")[0] in occurring(kept.read_bytes())


def test_refusals_tell_nothing(series, traces):
    files = sorted(series.iterdir())
    failures = []

    def attempt(step: Callable[[], Any]) -> None:
        failures.append(tried(step)[1])

    files[2].rename(series.parent / "aside")
    attempt(lambda: load(series, job=traces.job))
    (series.parent / "aside").rename(files[2])
    whole = files[1].read_bytes()
    for share in (0.05, 0.3, 0.6, 0.95):
        files[1].write_bytes(whole[: int(len(whole) * share)])
        attempt(lambda: load(series, job=traces.job))
    files[1].write_bytes(whole)
    mask = drawn(load(series))
    source = series.parent / "m.seg.dcm"
    export(mask, source, keep_phi=True)
    whole = source.read_bytes()
    for share in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        source.write_bytes(whole[: int(len(whole) * share)])
        attempt(lambda: load_mask(source, job=traces.job))
    attempt(lambda: load_mask(files[0], job=traces.job))
    attempt(lambda: export(mask, traces.out / "work" / "mask.json", job=traces.job))
    assert sum(map(bool, failures)) > 6
    shown = "\n".join(failures).replace(str(series), "").replace(series.name, "")
    assert occurring(shown.encode()) == []
    texts = traces.texts()
    found = {k: occurring(v.replace(series.name.encode(), b"")) for k, v in texts.items()}
    assert not any(found.values()), found
