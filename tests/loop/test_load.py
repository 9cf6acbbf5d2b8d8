"""load and load_mask find the format, keep the grid, and say what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from maskloop.core.errors import FormatError, GeometryError, InputError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask

GRID = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 3))


def volume(path, grid=GRID):
    export(Mask(np.ones(grid.shape, np.uint8), grid, LabelTable.classes(["a"])), path)
    return path


def test_a_file_is_known_by_content_where_its_suffix_says_nothing(tmp_path):
    path = volume(tmp_path / "m.nii.gz").rename(tmp_path / "no_suffix")
    assert load(path).geometry.matches(GRID)
    path = volume(tmp_path / "m.nii").rename(tmp_path / "case.dat")
    assert load(str(path)).geometry.matches(GRID)


def test_an_unknown_file_lists_the_known_suffixes(tmp_path):
    (tmp_path / "a.xyz").write_text("hello")
    with pytest.raises(FormatError, match=r"\.nii\.gz, \.nii, .*got 'a\.xyz'; convert"):
        load(tmp_path / "a.xyz")


@pytest.mark.parametrize("name", ["m.nii.gz", "m.mha", "m.tif"])
def test_an_entry_of_a_file_of_one_mask_is_not_passed_over(tmp_path, name):
    export(Mask(np.ones(GRID.shape, np.uint8), GRID, LabelTable()), tmp_path / name)
    with pytest.raises(InputError, match=r"choose 'liver' from, got m.* which holds one; leave"):
        load_mask(tmp_path / name, entry="liver")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["pipe", "pipe.nii.gz", "pipe.dcm"])
def test_a_pipe_is_refused_and_not_waited_on(tmp_path, name):
    os.mkfifo(tmp_path / name)
    code = "import sys; from maskloop import load; load(sys.argv[1])"
    call = [sys.executable, "-c", code, tmp_path / name]
    found = subprocess.run(call, capture_output=True, text=True, timeout=30, check=False)
    assert "got 'pipe" in found.stderr
    assert "which is neither" in found.stderr


def test_suffixes_are_read_in_any_case(tmp_path):
    path = volume(tmp_path / "m.nii.gz").rename(tmp_path / "M.NII.GZ")
    assert load(path).name == "M"


def test_labels_only_and_images_only_are_told_apart(tmp_path):
    picture = Mask(np.ones((3, 4), np.uint8), Geometry.pixels((3, 4)), LabelTable())
    export(picture, tmp_path / "m.json")
    with pytest.raises(InputError, match="holds labels only; pass it as a mask"):
        load(tmp_path / "m.json")
    with pytest.raises(InputError, match="holds images only; choose a label file"):
        load_mask(tmp_path)


def test_a_mask_on_another_grid_is_refused_with_the_distance(tmp_path):
    volume(tmp_path / "m.nii.gz")
    moved = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 4, 3))
    image = Image(np.zeros((4, 5, 6), np.int16), moved, tmp_path / "ct.nii.gz")
    with pytest.raises(GeometryError, match=r"lies 2 mm away; resample it or choose its own image"):
        load_mask(tmp_path / "m.nii.gz", image=image)
    assert load_mask(tmp_path / "m.nii.gz").ids() == [1]


def test_a_table_of_classes_can_be_read_as_objects_and_back(tmp_path):
    volume(tmp_path / "m.nii.gz")
    objects = load_mask(tmp_path / "m.nii.gz", kind="objects").labels
    assert (objects.kind, objects[1].category, objects[1].name) == ("objects", "a", "a")
    assert load_mask(tmp_path / "m.nii.gz", kind="classes").labels.kind == "classes"


def test_an_unreadable_file_is_told(tmp_path, monkeypatch):
    from pathlib import Path

    path = volume(tmp_path / "m.nii.gz")

    def refuse(self, *args, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"expected to read .*Permission denied"):
        load(path)


def test_opening_and_exporting_never_import_torch(tmp_path):
    volume(tmp_path / "m.nii.gz")
    code = (
        "import sys; from maskloop.loop.load import load, load_mask;"
        "from maskloop.loop.export import export;"
        f"export(load_mask({str(tmp_path / 'm.nii.gz')!r}), {str(tmp_path / 'n.nii.gz')!r},"
        f" image=load({str(tmp_path / 'm.nii.gz')!r}));"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
