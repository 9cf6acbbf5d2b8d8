"""Large pictures are seen window by window, and what windows cut is one object again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn

from maskloop.core.labels import LabelTable
from maskloop.loop.load import load_mask
from maskloop.loop.predict import Prediction, predict, predict_all
from maskloop.models import FAMILIES, instances, pasting
from maskloop.models.base import write_state
from maskloop.models.cards import ModelCard, save_card
from maskloop.models.instances import InstanceFamily
from maskloop.models.objects import Found
from maskloop.models.pasting import View
from maskloop.ops.device import Device


class Bright(InstanceFamily):
    """Finds bright pieces, each as sure as its window holds much of it."""

    name = "bright"
    variants = ("one",)

    def build(self, card: ModelCard) -> nn.Module:
        return nn.Linear(1, 1)

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        from skimage.measure import label

        ids = label((view.picture[0, 0] > 0.5).numpy())
        if not ids.max():
            return []
        maps = torch.from_numpy(np.stack([ids == i for i in range(1, ids.max() + 1)])).float()
        scores = (maps.sum((1, 2)) / 1e5).tolist()
        regions = pasting.from_maps(maps, view)
        return instances.listed(regions, [1] * len(maps), scores, card)


BRIGHT = Bright()
SQUARES = (  # y0, y1, x0, x1
    (20, 44, 20, 44),  # in one window
    (40, 110, 50, 125),  # cut by four, whole in none
    (150, 170, 60, 300),  # longer than two
    (0, 5, 310, 320),  # at the edge
)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "bright", "tests.loop.test_windows:BRIGHT")


def saved(folder: Path, **told: object) -> str:
    file = folder / "w.safetensors"
    write_state(nn.Linear(1, 1), file)
    card = ModelCard(
        name="windows",
        title="windows",
        family="bright",
        task="instance",
        ndim=2,
        labels=LabelTable.classes(["cell"]),
        channels=1,
        parameters={"normalise": "unit", "slices": False, **told},
    )
    save_card(card, {file.name: file}, overwrite=True)
    return card.name


def picture(folder: Path) -> tuple[Path, np.ndarray]:
    truth = np.zeros((200, 320), np.uint8)
    for y0, y1, x0, x1 in SQUARES:
        truth[y0:y1, x0:x1] = 255
    Picture.fromarray(truth).save(folder / "wide.png")
    return folder / "wide.png", truth > 0


def objects(found: Prediction) -> list[tuple[int, int, int, int]]:
    return sorted(box_of(one) for one in found.objects)


def box_of(one: Found) -> tuple[int, int, int, int]:
    y, x = (at + part.start for at, part in zip(np.nonzero(one.region), one.box, strict=True))
    return int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1


@pytest.mark.parametrize("window", [80, 96])
def test_an_object_cut_by_four_windows_is_one(tmp_path: Path, window: int) -> None:
    path, truth = picture(tmp_path)
    found = predict(path, saved(tmp_path, window=window), device="cpu", overlaps=True)
    assert objects(found) == sorted(SQUARES)
    np.testing.assert_array_equal(found.mask.data > 0, truth)
    for y0, y1, x0, x1 in SQUARES:
        assert len(np.unique(found.mask.data[y0:y1, x0:x1])) == 1
    # Exported and read back it is the same picture.
    (outcome,) = predict_all([path], "windows", tmp_path / "m.tif", device="cpu")
    assert outcome.state == "done"
    np.testing.assert_array_equal(load_mask(tmp_path / "m.tif").data, found.mask.data)


def test_windows_that_are_not_joined_cut_objects_apart(tmp_path: Path) -> None:
    path, _ = picture(tmp_path)
    found = predict(path, saved(tmp_path, window=96, joining=1.1), device="cpu", overlaps=True)
    assert len(found.objects) > len(SQUARES)
    assert (20, 44, 20, 44) in objects(found)
    assert (40, 110, 50, 125) not in objects(found)


def test_windows_see_no_more_than_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = picture(tmp_path)
    seen: list[tuple[int, int]] = []
    plain = Bright.find

    def find(self: Bright, network: nn.Module, view: View, **told: object) -> list[Found]:
        seen.append(view.size)
        return plain(self, network, view, **told)

    monkeypatch.setattr(Bright, "find", find)
    predict(path, saved(tmp_path, window=96), device="cpu")
    assert len(seen) > 6
    assert set(seen) == {(96, 96)}
    seen.clear()
    predict(path, saved(tmp_path, window=0), device="cpu")
    assert seen == [(200, 320)]
