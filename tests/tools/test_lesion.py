from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from maskloop.core.case import Case
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.ops.lesions import from_long_axis
from maskloop.ops.scores import dice
from maskloop.tools.lesion import lesion

SPACING = (3.0, 1.0, 0.8)
SHAPE = (25, 80, 90)
MIDDLE = (12, 40, 45)


def ellipsoid(along: float, width: float, height: float, turn: float = 0.0) -> np.ndarray:
    """An ellipsoid of half axes in mm, its long one turned in the slice."""
    offset = np.indices(SHAPE) - np.array(MIDDLE)[:, None, None, None]
    z, y, x = offset * np.array(SPACING)[:, None, None, None]
    u, w = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
    return (u / along) ** 2 + (w / width) ** 2 + (z / height) ** 2 <= 1


def line(along: float, turn: float = 0.0) -> tuple[tuple[float, ...], ...]:
    y, x = along * np.sin(turn) / SPACING[1], along * np.cos(turn) / SPACING[2]
    return tuple((MIDDLE[0], MIDDLE[1] + s * y, MIDDLE[2] + s * x) for s in (-1, 1))


def scene(pixels: np.ndarray, ids: np.ndarray | None = None) -> tuple[Image, Mask]:
    image = Image(pixels.astype(np.int16), Geometry.regular(pixels.shape, SPACING))
    labels = LabelTable([Label(1, "tumour"), Label(2, "liver"), Label(3, "vessel", locked=True)])
    return image, Mask.like(image, np.zeros(SHAPE, np.uint8) if ids is None else ids, labels)


def seen(true: np.ndarray, inside: float, outside: float, noise: float) -> np.ndarray:
    soft = ndimage.gaussian_filter(np.where(true, inside, outside), [0.3, 0.8, 0.8])
    return soft + np.random.default_rng(0).normal(0, noise, SHAPE)


@pytest.mark.parametrize("turn", [0.0, 0.7, 2.2])
@pytest.mark.parametrize(
    ("halves", "inside"), [((20, 15, 12), 60), ((20, 12, 18), 150), ((11, 9, 9), 70)]
)
def test_an_ellipsoid_is_found_from_its_long_axis(turn, halves, inside):
    true = ellipsoid(*halves, turn=turn)
    image, mask = scene(seen(true, inside, 110, noise=12))
    found = lesion(mask, image, label=1, line=line(halves[0], turn))
    assert dice(found == 1, true) > 0.88


def test_a_flat_volume_gives_the_ellipsoid_on_the_line():
    image, mask = scene(np.full(SHAPE, 100.0))
    found = lesion(mask, image, label=1, line=line(20.0)) == 1
    assert dice(found, ellipsoid(20, 16, 15)) > 0.96
    assert not from_long_axis(image.data, SPACING, *line(20.0)).has_contrast


def test_noise_alone_is_no_contrast():
    pixels = np.random.default_rng(0).normal(100, 15, SHAPE)
    image, mask = scene(pixels)
    found = lesion(mask, image, label=1, line=line(20.0)) == 1
    assert dice(found, ellipsoid(20, 16, 15)) > 0.96


def test_nothing_lies_further_from_an_end_than_the_longest_diameter_allows():
    image, mask = scene(seen(ellipsoid(60, 60, 60), 60, 110, noise=10))
    found = np.argwhere(lesion(mask, image, label=1, line=line(12.0)) == 1) * SPACING
    for end in np.array(line(12.0)) * SPACING:
        assert np.linalg.norm(found - end, axis=1).max() <= 24 * 1.07 + max(SPACING)


def test_it_takes_the_label_it_lies_in_and_neither_locked_ones_nor_others():
    true = ellipsoid(18, 15, 14)
    ids = np.full(SHAPE, 2, np.uint8)
    ids[:, 38:40] = 3  # a locked vessel through it
    ids[:6] = 4  # another organ, which the line does not meet
    image, mask = scene(seen(true, 60, 110, noise=5), ids)
    found = lesion(mask, image, label=1, line=line(18.0))
    assert dice(found == 1, true & (ids == 2)) > 0.88
    assert np.array_equal(found == 3, ids == 3)
    assert np.array_equal(found == 4, ids == 4)


def test_a_lesion_joins_those_of_its_label_in_one_step_that_can_be_undone():
    true = ellipsoid(15, 12, 12)
    ids = np.zeros(SHAPE, np.uint8)
    ids[2, 4:9, 4:9] = 1
    image, mask = scene(seen(true, 60, 110, noise=5), ids)
    case = Case.in_memory(mask, author="Ada")
    correct(case, "lesion", image=image, label="tumour", parameters={"line": line(15.0)})
    assert (case.mask.data[2, 4:9, 4:9] == 1).all()
    assert dice(case.mask.data == 1, true | (ids == 1)) > 0.88
    case.undo()
    assert np.array_equal(case.mask.data, ids)


def test_a_new_name_begins_a_label():
    image, mask = scene(seen(ellipsoid(15, 12, 12), 60, 110, noise=5))
    done = correct(mask, "lesion", image=image, label="met 1", parameters={"line": line(15.0)})
    number = done.mask.labels.id_of("met 1")
    assert number not in mask.labels
    assert (done.mask.data == number).any()


def test_it_drafts_a_disc_in_a_picture():
    y, x = np.indices((90, 90))
    true = np.hypot((y - 45) / 0.8, x - 40) <= 22
    pixels = np.where(true, 180.0, 60.0) + np.random.default_rng(0).normal(0, 15, true.shape)
    image = Image(pixels, Geometry.pixels(true.shape))
    mask = Mask.like(image, np.zeros(true.shape, int), ["cell"])
    found = lesion(mask, image, label=1, line=((45, 18), (45, 62)))
    assert dice(found == 1, true) > 0.95


@pytest.mark.parametrize("given", [None, ((4, 5, 6),), ((4, 5, 6), (4, 5, 6))])
def test_a_line_is_needed(given):
    image, mask = scene(np.zeros(SHAPE))
    with pytest.raises(InputError, match="long axis"):
        lesion(mask, image, label=1, line=given)


def test_real_tumours_are_drafted_from_their_long_axes(shared_data: Path, tmp_path: Path):
    # The long axes of the truth, as scripts/prove_lesion.py finds them: slice, then y and x.
    from maskloop.loop.load import load, load_mask
    from maskloop.ops import components

    axes = {
        89029: ((92, 167, 339), (92, 176, 235)),
        96961: ((96, 230, 119), (96, 144, 135)),
    }
    with zipfile.ZipFile(shared_data / "ct_liver/ircadb17/PATIENT_DICOM.zip") as packed:
        packed.extractall(tmp_path / "ct")
    image = load(tmp_path / "ct")
    truth = load_mask(shared_data / "ct_liver/ircadb17/labels.nii.gz", image=image)
    pieces, count = components.label(truth.data == 2)
    sizes = components.sizes(pieces, count).tolist()
    empty = Mask.like(image, np.zeros(truth.data.shape, np.uint8), LabelTable())
    for voxels, axis in axes.items():
        done = correct(empty, "lesion", image=image, label="tumour", parameters={"line": axis})
        assert dice(done.mask.data > 0, pieces == sizes.index(voxels)) >= 0.8
