"""Cut-outs: half opacity is the mask, nothing of the rest is given away, files are proved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Picture
from scipy import ndimage

from maskloop.cli import commands
from maskloop.core.errors import GeometryError, InputError, VerificationError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.cutout import cutout, opacity
from maskloop.formats import picture_png

SHAPE = (40, 50)
GRID = Geometry.pixels(SHAPE)


def photo(dtype: str = "uint8") -> Image:
    rng = np.random.default_rng(0)
    data = rng.integers(1, 255, (*SHAPE, 3)).astype(dtype)
    return Image(data, GRID, has_channels=True)


def drawn() -> Mask:
    ids = np.zeros(SHAPE, np.uint8)
    ids[5:25, 8:30] = 1
    ids[30:38, 35:48] = 2
    ids[0:3, 0:3] = 3
    rows = [
        Label(1, "left", category="cat", is_thing=True),
        Label(2, "right", category="cat", is_thing=True),
        Label(3, "void", ignore=True),
    ]
    return Mask(ids, GRID, LabelTable(rows))


def pixels(path) -> np.ndarray:
    with Picture.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("soft", [0, 0.5, 1, 3, 12.5, 100])
def test_half_opacity_is_the_mask(soft, tmp_path):
    done = cutout(photo(), drawn(), tmp_path / "a.png", labels=["left"], soft_px=soft)
    found = pixels(done.path)
    np.testing.assert_array_equal(found[..., 3] >= 128, drawn().data == 1)
    assert done.pixels == 20 * 22


def test_what_can_be_seen_keeps_its_colours_and_the_rest_is_black(tmp_path):
    found = pixels(cutout(photo(), drawn(), tmp_path / "a.png", soft_px=4).path)
    seen = found[..., 3] > 0
    np.testing.assert_array_equal(found[seen][:, :3], photo().data[seen])
    assert not found[~seen].any()


def test_opacity_falls_in_a_straight_line_across_a_straight_border():
    region = np.zeros((5, 20), bool)
    region[:, :10] = True
    row = opacity(region, 4)[2].tolist()
    expected = [255] * 8 + [round(255 * s) for s in (0.875, 0.625, 0.375, 0.125)] + [0] * 8
    assert row == expected


def test_opacity_follows_the_distance_to_a_round_border():
    y, x = np.mgrid[:61, :61] - 30
    radius = np.hypot(y, x)
    share = opacity(radius <= 20, 8) / 255
    assert np.abs(share - np.clip((20 - radius) / 8 + 0.5, 0, 1)).max() < 0.1


def test_the_pictures_own_border_is_no_edge():
    region = np.zeros((9, 9), bool)
    region[:, :5] = True
    assert (opacity(region, 4)[:, 0] == 255).all()
    assert (opacity(np.ones((9, 9), bool), 4) == 255).all()


def test_a_class_is_all_its_objects_and_ignored_regions_are_left_out(tmp_path):
    for labels in (["cat"], ["left", 2], []):
        found = pixels(cutout(photo(), drawn(), tmp_path / "a.png", labels=labels).path)
        expected = np.isin(drawn().data, [1, 2])
        np.testing.assert_array_equal(found[..., 3] > 0, expected)


def test_a_crop_says_where_it_lies(tmp_path):
    done = cutout(photo(), drawn(), tmp_path / "a.png", labels=[2], soft_px=2, crop=True)
    whole = pixels(cutout(photo(), drawn(), tmp_path / "b.png", labels=[2], soft_px=2).path)
    (box,) = ndimage.find_objects((whole[..., 3] > 0).astype(int))
    assert done.corner == (box[1].start, box[0].start)
    np.testing.assert_array_equal(pixels(done.path), whole[box])


def test_gray_values_beyond_bytes_are_stretched_and_told(tmp_path):
    from maskloop.core.job import Job

    said = []
    gray = Image(np.linspace(-1000, 3000, 2000).reshape(SHAPE), GRID)
    job = Job(lambda *a: said.append(str(a)))
    found = pixels(cutout(gray, drawn(), tmp_path / "a.png", job=job).path)
    assert any("from -1000 to 3000" in words for words in said)
    assert found[24, 20, 0] == round(255 * (24 * 50 + 20) / 1999)


def test_a_file_that_reads_back_otherwise_is_not_put_in_place(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    packed = picture_png.packed
    monkeypatch.setattr(picture_png, "packed", lambda data, p: packed(np.roll(data, 1, 1), p))
    with pytest.raises(VerificationError, match="read back"):
        cutout(photo(), drawn(), target, labels=["left"])
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"out": "a.jpg"}, InputError, "only PNG"),
        ({"soft_px": -1}, InputError, "0 to 100"),
        ({"soft_px": float("nan")}, InputError, "0 to 100"),
        ({"labels": ["dog"]}, LookupError, "right"),
        ({"mask": Mask(np.zeros(SHAPE, np.uint8), GRID, LabelTable())}, InputError, "nothing"),
        (
            {"mask": Mask(np.ones((9, 9), np.uint8), Geometry.pixels((9, 9)), LabelTable())},
            GeometryError,
            "grid",
        ),
        (
            {"image": Image(np.zeros((3, *SHAPE)), Geometry((3, *SHAPE), np.eye(4)))},
            InputError,
            "slice",
        ),
    ],
)
def test_what_cannot_be_cut_out_is_refused(change, error, words, tmp_path):
    given = {"image": photo(), "mask": drawn(), "out": "a.png", **change}
    given["out"] = tmp_path / given["out"]
    with pytest.raises(error, match=words):
        cutout(**given)
    assert not list(tmp_path.iterdir())


def test_the_command_cuts_out_and_never_over_its_own_picture(tmp_path):
    Picture.fromarray(photo().data).save(tmp_path / "photo.png")
    Picture.fromarray(drawn().data).save(tmp_path / "mask.png")
    paths = [str(tmp_path / name) for name in ("photo.png", "mask.png")]
    asked = ["cutout", *paths, "-o", str(tmp_path / "c.png"), "--label", "2", "--soft", "3"]
    answer = CliRunner().invoke(commands, [*asked, "--crop", "--json"])
    told = json.loads(answer.stdout)
    assert (told["verdict"], told["pixels"]) == ("PASS", 8 * 13)
    assert pixels(tmp_path / "c.png").shape[2] == 4
    before = (tmp_path / "photo.png").read_bytes()
    over = CliRunner().invoke(commands, ["cutout", *paths, "-o", paths[0]])
    assert isinstance(over.exception, InputError)
    assert (tmp_path / "photo.png").read_bytes() == before
