"""Which slices were looked at, and in which window: time on screen, on the true grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.review import Review
from maskloop.gui import coverage, layers
from maskloop.gui.coverage import COLOURS, UNSEEN, CoverageStrip, Watch, look_of
from maskloop.gui.windows import WINDOWS

SHAPE = (9, 24, 20)
# Head first along the array: the slider of the picture counts the other way round.
AFFINE = np.array([[0, 0, 2.0, 0], [0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def looked(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Any, Review, Watch, Callable[[float], None]]]:
    """Return (viewer, ct, review, watch, a function that lets seconds pass)."""
    clock = Clock()
    monkeypatch.setattr(coverage, "time", clock)
    viewer = make_napari_viewer()
    pixels = np.full(SHAPE, -1000, np.int16)
    pixels[2:7, 4:20, 4:16] = 60
    data, options, _ = layers.image_layers(Image(pixels, Geometry(SHAPE, AFFINE)), name="ct")[0]
    image = layers.bare(viewer.add_image(data, **options))
    review = Review(shape=SHAPE)
    watch = Watch(viewer, lambda: image, lambda: review, viewer.window._qt_window)
    watch._timer.stop()  # the test's own clock ticks
    watch.is_active = lambda: True

    def pass_(seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            clock.now += 0.1
            watch.settle()

    watch.settle()
    yield viewer, image, review, watch, pass_
    watch.release()


def test_a_slice_counts_after_a_moment_on_screen(looked: Any) -> None:
    viewer, image, review, _, pass_ = looked
    turned = layers.placement_of(image).flips[0]
    viewer.dims.set_current_step(0, 2)
    pass_(0.2)
    assert not review.seen(0).any()
    pass_(0.2)
    index = SHAPE[0] - 1 - 2 if turned else 2
    assert turned
    assert np.flatnonzero(review.seen(0)).tolist() == [index]


def test_scrolling_past_is_not_looking(looked: Any) -> None:
    viewer, _, review, _, pass_ = looked
    for step in range(SHAPE[0]):
        viewer.dims.set_current_step(0, step)
        pass_(0.1)
    assert not review.seen(0).any()
    assert review.seconds(0).sum() > 0.5


def test_time_away_from_the_window_does_not_count(looked: Any) -> None:
    _, _, review, watch, pass_ = looked
    watch.is_active = lambda: False
    pass_(2)
    assert review.seconds(0).sum() == 0


def test_a_pause_of_the_machine_does_not_count(
    looked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, review, watch, _ = looked
    coverage.time.now += 3600  # type: ignore[attr-defined]  # the test's own clock
    watch.settle()
    assert review.seconds(0).sum() == 0


def test_the_window_is_kept_with_the_time(looked: Any) -> None:
    viewer, image, review, _, pass_ = looked
    viewer.dims.set_current_step(0, 4)
    image.contrast_limits = WINDOWS[0].limits
    pass_(0.4)
    image.contrast_limits = (-100, 333)
    pass_(0.6)
    assert review.windows(0) == (coverage.OWN_WINDOW, WINDOWS[0].name)
    assert review.seconds(0, WINDOWS[0].name)[4] == pytest.approx(0.4, abs=0.11)


def test_another_plane_is_another_axis(looked: Any) -> None:
    viewer, image, review, _, pass_ = looked
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 7)
    pass_(0.5)
    place = layers.placement_of(image)
    axis = place.axes[1]
    at = SHAPE[axis] - 1 - 7 if place.flips[1] else 7
    assert np.flatnonzero(review.seen(axis)).tolist() == [at]
    assert not review.seen(place.axes[0]).any()


def test_nothing_is_seen_in_3d_or_of_a_hidden_image(looked: Any) -> None:
    viewer, image, _, _, _ = looked
    assert look_of(viewer, image, is_ct=True) is not None
    image.visible = False
    assert look_of(viewer, image, is_ct=True) is None


def test_a_picture_has_no_slices(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_layer(Layer.create(np.zeros((20, 30)), {}, "image"))
    assert look_of(viewer, layer, is_ct=False) is None


def is_near(colour: Any, wanted: str) -> bool:
    """Whether two colours are one, on a screen of 16 bits a pixel."""
    other = QColor(wanted)
    pairs = zip(colour.getRgb()[:3], other.getRgb()[:3], strict=True)
    return max(abs(a - b) for a, b in pairs) <= 8


def strip_of(qtbot: Any, review: Review, **options: Any) -> CoverageStrip:
    strip = CoverageStrip()
    qtbot.addWidget(strip)
    strip.resize(options.pop("width", 300), strip.height())
    plain = {"wanted": range(options["count"]), "now": -1, "turned": False}
    strip.show_review(review, 0, **{**plain, **options})
    return strip


def test_the_strip_shows_windows_and_leaves_the_unseen_dark(qtbot: Any) -> None:
    review = Review(shape=(6, 4, 4))
    review.see(0, 1, 2.0, "Liver")
    review.see(0, 3, 0.2, "Liver")
    review.see(0, 4, 0.5, "Lung")
    strip = strip_of(qtbot, review, count=6)
    assert strip.colours == (UNSEEN, COLOURS["Liver"], UNSEEN, UNSEEN, COLOURS["Lung"], UNSEEN)
    shot = strip.grab().toImage()
    for number, colour in enumerate(strip.colours):
        assert is_near(shot.pixelColor(number * 50 + 25, 11), colour), number


def test_an_unseen_slice_is_never_hidden_by_its_neighbours(qtbot: Any) -> None:
    review = Review(shape=(1000, 4, 4))
    for i in range(1000):
        if i != 501:
            review.see(0, i, 1.0)
    strip = strip_of(qtbot, review, count=1000, width=100)
    shot = strip.grab().toImage()
    dark = [x for x in range(100) if is_near(shot.pixelColor(x, 11), UNSEEN)]
    assert 1 <= len(dark) <= 2
    assert 50 in dark


@pytest.mark.parametrize("turned", [False, True])
def test_a_click_on_the_strip_names_the_slice(qtbot: Any, turned: bool) -> None:
    strip = strip_of(qtbot, Review(shape=(6, 4, 4)), count=6, turned=turned)
    chosen: list[int] = []
    strip.chosen.connect(chosen.append)
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(75, 8))
    assert chosen == [4 if turned else 1]
