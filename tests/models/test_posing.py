"""What a network sees: pixels on its scale, in its channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.models import posing


def test_normalisation_follows_the_formula_of_each_rule() -> None:
    data = np.random.default_rng(0).normal(40, 300, (2, 5, 6, 7)).astype(np.float32)
    plain = data.copy()
    found, _ = posing.normalise(data, {"clip": [-100, 200], "mean": 50, "std": 25})
    np.testing.assert_allclose(found, (np.clip(plain, -100, 200) - 50) / 25, rtol=1e-5)
    np.testing.assert_array_equal(data, plain)
    found, _ = posing.normalise(data, {"mean": [1, 2], "std": [3, 4]})
    np.testing.assert_allclose(found[1], (plain[1] - 2) / 4, rtol=1e-4)
    found, _ = posing.normalise(data, "zscore")
    np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1, rtol=1e-4)
    found, _ = posing.normalise(data, {"percentile": [1, 99]})
    for channel in range(2):
        low, high = np.percentile(plain[channel], [1, 99])
        np.testing.assert_allclose(
            found[channel], (plain[channel] - low) / (high - low), rtol=1e-4, atol=1e-5
        )


def test_imagenet_rule_equals_torchvisions_transform() -> None:
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 9), dtype=np.uint8)
    wanted = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )(torch.from_numpy(pixels))
    found, notes = posing.normalise(pixels, "imagenet")
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
    assert notes == ()


@pytest.mark.parametrize("rule", ["magic", {"clip": [0, 1], "magic": 1}, {}])
def test_an_unknown_rule_is_refused_or_empty(rule: object) -> None:
    data = np.ones((1, 2, 2), np.float32)
    if rule == {}:
        np.testing.assert_array_equal(posing.normalise(data, {})[0], data)
        return
    with pytest.raises(InputError, match="rule of normalisation"):
        posing.normalise(data, rule)  # type: ignore[arg-type]


def test_wide_pixels_are_stretched_for_photo_networks_and_said_so() -> None:
    data = np.linspace(0, 4095, 3 * 64).astype(np.uint16).reshape(3, 8, 8)
    found, notes = posing.normalise(data, "unit")
    assert 0 <= found.min() < 0.01
    assert 0.99 < found.max() <= 1
    assert "stretched" in notes[0]


def test_channels_are_converted_and_said_so() -> None:
    grid = Geometry.pixels((4, 5))
    grey = Image(np.arange(20, dtype=np.uint8).reshape(4, 5), grid)
    rgb = Image(np.full((4, 5, 3), (10, 20, 30), np.uint8), grid, has_channels=True)
    rgba = Image(np.full((4, 5, 4), (10, 20, 30, 255), np.uint8), grid, has_channels=True)
    repeated, notes = posing.fit_channels(grey, 3)
    assert repeated.shape == (3, 4, 5)
    assert "repeated" in notes[0]
    same, notes = posing.fit_channels(rgb, 3)
    assert notes == ()
    assert same[2, 0, 0] == 30
    light, notes = posing.fit_channels(rgba, 1)
    assert light[0, 0, 0] == pytest.approx(0.2126 * 10 + 0.7152 * 20 + 0.0722 * 30)
    assert notes == ("alpha channel dropped", "RGB converted to luminance")
