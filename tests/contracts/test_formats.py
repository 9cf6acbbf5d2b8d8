"""What every format on the shelf must do; a new file is tested before its author writes a line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskloop import formats
from maskloop.core.errors import FormatError, MaskloopError, MissingFileError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.formats.base import Format
from maskloop.formats.dicom_head import DicomHeader
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask

NAMES = list(formats.FORMATS)
WRITERS = [n for n in NAMES if formats.get(n).write_mask is not None]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_module_says(name):
    found = formats.get(name)
    assert isinstance(found, Format)
    assert found.name == name
    assert found.title
    assert found.suffixes == formats.suffixes()[name]
    assert all(s.startswith(".") and s == s.lower() for s in found.suffixes)
    assert found.read_image is not None or found.read_mask is not None
    assert found.proof in ("real data", "synthetic data only", "experimental")


@pytest.mark.parametrize("name", NAMES)
def test_a_writer_comes_with_a_plan_and_a_second_reader(name):
    found = formats.get(name)
    parts = (found.write_mask, found.plan, found.reread, found.read_mask)
    if found.write_mask is not None:
        assert all(part is not None for part in parts)
        assert found.reader


def test_suffixes_belong_to_one_format():
    every = [s for ends in formats.suffixes().values() for s in ends]
    assert len(every) == len(set(every))


def test_the_shelf_imports_no_format_and_no_heavy_package():
    code = (
        "import sys; from pathlib import Path; from maskloop import formats;"
        "formats.by_suffix(Path('a.nii.gz')); formats.FORMATS.names();"
        "bad = {'nibabel', 'pydicom', 'PIL', 'tifffile', 'torch', 'maskloop.formats.nifti'};"
        "bad &= set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def scene(name: str) -> Mask:
    ids = np.zeros((5, 20, 30), np.uint16)
    ids[1:3, 4:9, 5:21] = 2
    ids[2, 12:18, 1:7] = 300
    table = LabelTable.classes({2: "liver", 300: "tumour"})
    if name in ("coco", "picture"):
        return Mask(ids[2].copy(), Geometry.pixels((20, 30)), table)
    mask = Mask(ids, Geometry.regular((5, 20, 30), (3, 0.7, 0.8), (1, 2, 3)), table)
    return replace(mask, header=series_header(5)) if name == "dicomseg" else mask


def series_header(planes: int) -> DicomHeader:
    """Say that a mask was drawn on a CT series; its files are asked for identity only."""
    return DicomHeader(
        files=tuple(Path(f"{n}.dcm") for n in range(planes)),
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        sop_instances=tuple(f"2.25.7.{n}" for n in range(planes)),
        study="2.25.1",
        series="2.25.2",
        frame_of_reference="2.25.3",
    )


@pytest.mark.parametrize("name", WRITERS)
def test_a_mask_goes_there_and_back(name, tmp_path):
    mask = scene(name)
    out = tmp_path / f"mask{formats.get(name).suffixes[0]}"
    receipt = export(mask, out)
    assert receipt.verdict == "PASS"
    assert {row.id: row.voxels for row in receipt.labels} == {
        i: int((mask.data == i).sum()) for i in (2, 300)
    }
    again = load_mask(out)
    np.testing.assert_array_equal(again.data, mask.data)
    assert dict(again.labels) == dict(mask.labels)
    assert again.geometry.matches(mask.geometry)


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_mask_goes_there_and_back(name, tmp_path):
    mask = scene(name)
    empty = replace(mask, data=np.zeros_like(mask.data), labels=LabelTable())
    out = tmp_path / f"mask{formats.get(name).suffixes[0]}"
    assert export(empty, out).labels == []
    assert load_mask(out).ids() == []


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_mask_gives_the_same_file(name, tmp_path):
    suffix = formats.get(name).suffixes[0]
    first, second = (export(scene(name), tmp_path / f"{n}{suffix}") for n in "ab")
    assert first.sha256[f"a{suffix}"] == second.sha256[f"b{suffix}"]


@pytest.mark.parametrize("name", WRITERS)
def test_the_written_file_is_known_by_content(name, tmp_path):
    found = formats.get(name)
    out = tmp_path / f"mask{found.suffixes[0]}"
    export(scene(name), out)
    knowing = [n for n in NAMES if formats.get(n).sniff(out)]
    assert knowing == [name]


SUFFIXES = [(n, s) for n in NAMES for s in formats.get(n).suffixes]


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"hello, this is only text\n" * 50, bytes(range(256)) * 8]
)
def test_rubbish_is_refused_in_three_parts(name, suffix, content, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    found = formats.get(name)
    reader = load if found.read_image is not None else load_mask
    with pytest.raises(FormatError, match=r"expected .*got .*; "):
        reader(path)


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_a_missing_file_is_told(name, suffix, tmp_path):
    for reader in (load, load_mask):
        with pytest.raises(MissingFileError, match="got nothing there; check"):
            reader(tmp_path / f"nowhere{suffix}")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_never_reads_as_something_else(name, share, tmp_path):
    mask = scene(name)
    out = tmp_path / f"mask{formats.get(name).suffixes[0]}"
    export(mask, out)
    whole = out.read_bytes()
    out.write_bytes(whole[: int(len(whole) * share)])
    try:
        found = load_mask(out)
    except MaskloopError:
        return
    # Nothing but an end mark was missing.
    np.testing.assert_array_equal(found.data, mask.data)


@pytest.mark.parametrize("name", WRITERS)
def test_progress_is_told_and_a_cancelled_job_writes_nothing(name, tmp_path):
    seen = []
    out = tmp_path / f"mask{formats.get(name).suffixes[0]}"
    export(scene(name), out, job=Job(seen.append))
    assert seen[-1].done == seen[-1].total
    out.unlink()
    job = Job()
    job.cancel()
    with pytest.raises(MaskloopError, match="stopped as asked"):
        export(scene(name), out, job=job)
    assert not out.exists()
