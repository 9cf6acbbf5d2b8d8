"""Things and stuff through the verbs: trained from mixed tables, scored by PQ, predicted."""

from __future__ import annotations

import numpy as np

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.predict import predict
from maskloop.loop.train import train


def pair(seed: int) -> tuple[Image, Mask]:
    """Return a picture of a meadow under a sky, with two cows."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((64, 64), np.uint8)
    ids[:24], ids[24:] = 1, 2
    for number, x in ((3, 6), (4, 38)):
        y, left = 30 + rng.integers(0, 14), x + rng.integers(0, 8)
        ids[y : y + 14, left : left + 16] = number
    colours = np.array([(0, 0, 0), (150, 190, 240), (60, 140, 50), (120, 70, 30), (120, 70, 30)])
    pixels = np.clip(colours[ids] + rng.normal(0, 10, (64, 64, 3)), 0, 255).astype(np.uint8)
    rows = [Label(1, "sky"), Label(2, "grass")]
    rows += [Label(i, f"cow {i}", category="cow", is_thing=True) for i in (3, 4)]
    image = Image(pixels, Geometry.pixels((64, 64)), has_channels=True)
    return image, Mask.like(image, ids, LabelTable(rows))


def test_a_panoptic_network_is_trained_scored_and_used() -> None:
    pairs = [pair(seed) for seed in range(3)]
    report = train(pairs, "panoptic", "meadow", steps=1, recipe="cpu", device="cpu")
    assert report.measure == "PQ"
    assert set(report.new) == {"sky", "grass", "cow"}
    assert all(0 <= score <= 1 for score in report.new.values())
    card = report.card
    assert card.task == "panoptic"
    assert [row.is_thing for row in card.labels.values()] == [False, False, True]
    assert card.parameters["norm"] == "group"
    assert card.parameters["least_stuff"] < 4096
    assert len(card.parameters["anchors"]) == 5
    found = predict(pairs[0][0], "meadow", device="cpu").mask
    assert set(found.ids()) <= set(found.labels)
    assert {row.category or row.name for row in found.labels.values()} <= {"sky", "grass", "cow"}
