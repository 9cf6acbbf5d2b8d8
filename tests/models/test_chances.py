"""Families that tell chances: the labels are the same, the chances lie on the image's grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.models import FAMILIES, liver
from maskloop.models.base import GivesChances, things_of
from maskloop.models.cards import ModelCard, find_card
from maskloop.ops.candidates import TOP, steps_of
from maskloop.ops.device import CPU
from maskloop.ops.phantom import phantom_ct
from tests.contracts.test_models import NAMES as INSTALLED

NAMES = [name for name in INSTALLED if isinstance(FAMILIES.get(name), GivesChances)]
SMALL = {
    "liver": {"liver_tile": [54, 54, 54], "lesions_tile": [62, 100, 100]},
    "deeplab": {"width": 0.125},
    "fcn": {"width": 0.0625},
    "meshnet": {"features": 4, "dilations": [1, 2, 1]},
    "patchnet": {"width": 0.25},
    "segnet": {"width": 0.125},
    "smp": {"encoder": "mobilenet_v2"},
    "torchsemantic": {"shortest": 64, "longest": 96},
    "unet": {"width": 0.125},
}
LIGHT = {"torchsemantic": "lraspp_mobilenet_v3_large"}
LABELS = LabelTable([Label(1, "liver"), Label(2, "tumour", is_thing=True)])


def small(name: str) -> ModelCard:
    family = FAMILIES.get(name)
    card = family.card(LIGHT.get(name, family.variants[0]), LABELS)
    return dataclasses.replace(card, parameters={**card.parameters, **SMALL[name]})


def picture_or_scan(card: ModelCard) -> Image:
    rng = np.random.default_rng(0)
    if card.ndim == 2:
        pixels = rng.integers(0, 256, (48, 56, 3), dtype=np.uint8)
        return Image(pixels, Geometry.pixels((48, 56)), has_channels=True)
    straight = Geometry.regular((20, 34, 30), (3.0, 2.5, 2.5))
    grid = straight.transposed((1, 2, 0), (True, False, True))
    return Image(rng.integers(-150, 250, grid.shape).astype(np.int16), grid)


def test_the_dense_families_and_the_liver_nets_tell_chances() -> None:
    assert {"unet", "fcn", "torchsemantic", "liver"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_asking_for_chances_changes_no_label(name: str) -> None:
    torch.manual_seed(0)
    family, card = FAMILIES.get(name), small(name)
    network, image = family.build(card).eval(), picture_or_scan(card)
    plain = family.segment(network, image, card=card, device=CPU, job=Job())
    found = family.segment_with_chances(network, image, card=card, device=CPU, job=Job())
    assert plain.chances is None
    np.testing.assert_array_equal(found.ids, plain.ids)
    assert found.chances is not None
    assert found.chances.ids == (2,)
    assert found.chances.codes.shape == image.geometry.shape
    assert found.chances.codes.dtype == np.uint8


def test_a_2d_network_gives_the_chances_of_a_volume_slice_by_slice() -> None:
    torch.manual_seed(0)
    family, card = FAMILIES.get("torchsemantic"), small("torchsemantic")
    network = family.build(card).eval()
    rng = np.random.default_rng(0)
    scan = Image(
        rng.integers(0, 255, (40, 3, 44), dtype=np.uint8),
        Geometry.regular((40, 3, 44), (1.0, 4.0, 1.0)),
    )
    found = family.segment_with_chances(network, scan, card=card, device=CPU, job=Job())
    middle = Image(scan.data[:, 1], Geometry.pixels((40, 44)))
    alone = family.segment_with_chances(network, middle, card=card, device=CPU, job=Job())
    assert found.chances is not None
    assert alone.chances is not None
    np.testing.assert_array_equal(found.chances.codes[:, 1], alone.chances.codes)


def test_lesion_chances_come_back_through_both_crops_and_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A known field in the lesion net's place lies where the same points of the scan are."""
    scan, truth = phantom_ct(3, shape=(40, 64, 64), spacing=(5.0, 4.0, 4.0), lesions=(0, 0))
    axes, flips = (2, 0, 1), (False, True, True)
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    image = Image(scan.data.transpose(axes)[steps], scan.geometry.transposed(axes, flips))
    organ = truth.data > 0
    index = tuple(int(n) for n in np.argwhere(ndimage.binary_erosion(organ, iterations=3))[40])
    blob = np.zeros(organ.shape, np.float32)
    blob[tuple(slice(i - 1, i + 2) for i in index)] = 0.4

    monkeypatch.setattr(liver, "find_liver", lambda *a, **k: organ)

    def read(network: object, data: object, starts: object, **more: object) -> np.ndarray:
        view = liver.lesion_view(liver.Scan.of(image, card), organ)
        return liver.resample(blob[view.box], (5.0, 4.0, 4.0), liver.LESION_SPACING)[view.inner]

    monkeypatch.setattr(liver, "run_lesions", read)
    card = small("liver")
    family = FAMILIES.get("liver")
    found = family.segment_with_chances(family.build(card), image, card=card, device=CPU, job=Job())
    assert found.chances is not None
    chance = found.chances.codes / (steps_of(1) - 1) * TOP
    back = liver.Scan.of(image, card).turned(chance)
    assert back[index] == pytest.approx(0.4, abs=0.05)
    assert back.max() == pytest.approx(0.4, abs=0.01)
    centre = ndimage.center_of_mass(back)
    assert np.abs(np.subtract(centre, index)).max() < 0.2
    assert (found.ids != 2).all()


def test_without_a_mark_every_class_can_be_missed() -> None:
    card = FAMILIES.get("unet").card("residual3d", LABELS)
    card = dataclasses.replace(card, parameters={**card.parameters, "tile": [16, 16, 16]})
    assert things_of(card) == (2,)
    unmarked = dataclasses.replace(card, labels=LabelTable.classes(["liver", "tumour"]))
    assert things_of(unmarked) == (1, 2)


@pytest.mark.parametrize("name", ["phantom-liver", "liver-tumour"])
def test_the_liver_models_look_for_tumours_not_for_livers(name: str) -> None:
    card = find_card(name)
    assert [card.labels[i].name for i in things_of(card)] == ["tumour"]
