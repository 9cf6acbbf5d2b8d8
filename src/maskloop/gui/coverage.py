"""Which slices were really looked at, and in which window: a watch, and a strip that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, QRect, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import QApplication, QSizePolicy, QToolTip, QWidget

from maskloop.core.review import Review
from maskloop.gui import layers
from maskloop.gui.windows import WINDOWS

OWN_WINDOW = "own window"
TICK_MS = 100
# Longer than this between two ticks, the machine slept or the window hung: nobody looked.
MOST_S = 0.5
UNSEEN = "#4a4f58"
# As the windows stand in the panel; told apart with every common colour blindness (Okabe, Ito).
COLOURS = {
    **dict(
        zip(
            (w.name for w in WINDOWS),
            ("#009e73", "#56b4e9", "#e69f00", "#f0e442", "#cc79a7"),
            strict=True,
        )
    ),
    OWN_WINDOW: "#d55e00",
    "": "#56b4e9",
}


@dataclass(frozen=True, slots=True)
class Look:
    """What the picture shows: one slice of the true grid, in one window.

    Parameters
    ----------
    axis, index : int
        Of the true array.
    window : str
        Name of the window, ``"own window"``, or "" for what is no CT.
    """

    axis: int
    index: int
    window: str


def look_of(viewer: Any, image: Any, *, is_ct: bool) -> Look | None:  # Any: napari is untyped
    """Return which slice of an image the picture shows, or None in 3D, on pictures and beside."""
    if image is None or not image.visible or viewer.dims.ndisplay != 2:
        return None
    place = layers.placement_of(image)
    if place.geometry.ndim != 3:
        return None
    first = len(viewer.dims.point) - image.ndim
    hidden = [a - first for a in viewer.dims.not_displayed if a - first >= place.lead]
    if first < 0 or len(hidden) != 1:
        return None
    own = hidden[0]
    at = float(image.world_to_data(viewer.dims.point[first:])[own])
    index = int(np.floor(at + 0.5))
    axis, is_flipped = place.axes[own - place.lead], place.flips[own - place.lead]
    count = place.geometry.shape[axis]
    if not 0 <= index < count:
        return None
    window = window_of(image) if is_ct else ""
    return Look(axis, count - 1 - index if is_flipped else index, window)


def window_of(image: Any) -> str:  # Any: napari layers are untyped
    """Return the name of the window that a CT is shown in."""
    limits = tuple(image.contrast_limits)
    fitting = (w.name for w in WINDOWS if np.allclose(limits, w.limits, atol=0.5))
    return next(fitting, OWN_WINDOW)


def is_looked_at() -> bool:
    """Whether one of our windows is the active one on the screen."""
    return QApplication.activeWindow() is not None


class Watch(QObject):
    """Adds the time that each slice is on screen to the review.

    Parameters
    ----------
    viewer : napari.Viewer
    image : callable
        Returns the image layer looked at, or None.
    review : callable
        Returns the `Review` to keep it in, or None.
    parent : QObject

    Attributes
    ----------
    is_active : callable
        Whether somebody can be looking; time counts only then.

    Signals
    -------
    seen()
        Some slice counts as looked at that did not before, or another slice is shown.
    """

    seen = Signal()

    def __init__(
        self,
        viewer: Any,  # Any: napari is untyped
        image: Callable[[], Any],  # Any: a napari layer or None
        review: Callable[[], Review | None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self.is_active = is_looked_at
        self._viewer = viewer
        self._image = image
        self._review = review
        self._look: Look | None = None
        self._since = time.monotonic()
        self._heard: Any = None  # Any: the image layer whose window is followed
        self._is_ct = False
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.settle)
        viewer.dims.events.current_step.connect(self.settle)
        viewer.dims.events.order.connect(self.settle)
        viewer.dims.events.ndisplay.connect(self.settle)
        self._timer.start()

    def settle(self, event: Any = None) -> None:  # Any: napari events are untyped
        """Count the time since the last call for what was shown, then see what is shown now."""
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        before = self._look
        self._look = look_of(self._viewer, self._follow(), is_ct=self._is_ct)
        review = self._review()
        if review is None:
            return
        is_news = before != self._look
        if before is not None and 0 < elapsed <= MOST_S and self.is_active():
            was = bool(review.seen(before.axis)[before.index : before.index + 1].any())
            review.see(before.axis, before.index, elapsed, before.window)
            is_news |= not was and bool(review.seen(before.axis)[before.index])
        if is_news:
            self.seen.emit()

    def release(self) -> None:
        """Stop listening to the viewer."""
        self._timer.stop()
        events = self._viewer.dims.events
        for event in (events.current_step, events.order, events.ndisplay):
            event.disconnect(self.settle)
        if self._heard is not None:
            self._heard.events.contrast_limits.disconnect(self.settle)
            self._heard = None

    def _follow(self) -> Any:  # Any: napari layers are untyped
        image = self._image()
        if image is not self._heard:
            if self._heard is not None:
                self._heard.events.contrast_limits.disconnect(self.settle)
            if image is not None:
                image.events.contrast_limits.connect(self.settle)
            self._heard = image
            self._is_ct = image is not None and layers.is_ct(image)
        return image


class CoverageStrip(QWidget):
    """A thin bar over the slices of one axis: dark where nobody looked yet.

    Signals
    -------
    chosen(int)
        A slice was clicked: its index along the axis of the true grid.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(22)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._colours: list[str] = []
        self._words: list[str] = []
        self._wanted = range(0)
        self._now = -1
        self._is_turned = False

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour of each slice, in the order of the true grid."""
        return tuple(self._colours)

    def show_review(
        self, review: Review | None, axis: int, count: int, *, wanted: range, now: int, turned: bool
    ) -> None:
        """Show what was seen along one axis.

        Parameters
        ----------
        review : Review, optional
        axis, count : int
            Axis of the true grid, and its length.
        wanted : range
            Slices that are to be looked at; the others are drawn low.
        now : int
            The slice shown, or -1.
        turned : bool
            Whether the slider counts against the true axis.
        """
        self._wanted, self._now, self._is_turned = wanted, now, turned
        self._colours = [UNSEEN] * count
        self._words = [f"slice {i}: not looked at yet" for i in range(count)]
        if review is not None:
            self._read(review, axis, count)
        self.update()

    def _read(self, review: Review, axis: int, count: int) -> None:
        names = review.windows(axis)
        total, is_seen = review.seconds(axis), review.seen(axis)
        by_window = {name: review.seconds(axis, name) for name in names}
        for i in range(min(count, len(total))):
            if total[i] <= 0:
                continue
            longest = max(names, key=lambda name: by_window[name][i])
            parts = [f"{by_window[n][i]:.1f} s {n}".strip() for n in names if by_window[n][i] > 0]
            self._words[i] = f"slice {i}: {', '.join(parts)}"
            if is_seen[i]:
                self._colours[i] = COLOURS.get(longest, COLOURS[OWN_WINDOW])

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint a column a pixel; where several slices share one, an unseen one wins."""
        painter = QPainter(self)
        count, width, height = len(self._colours), self.width(), self.height()
        if not count:
            return
        for x in range(width):
            here = self._slices_at(x)
            unseen = any(self._colours[i] == UNSEEN for i in here)
            colour = UNSEEN if unseen else self._colours[here[0]]
            is_wanted = any(i in self._wanted for i in here)
            top = 4 if is_wanted else height // 2 + 1
            painter.fillRect(QRect(x, top, 1, height - 4 - top), QColor(colour))
        if 0 <= self._now < count:
            at = (count - 1 - self._now if self._is_turned else self._now) + 0.5
            x = round(at * width / count)
            painter.fillRect(QRect(max(0, x - 1), 0, 3, height), QColor("#ffffff"))

    def _slices_at(self, x: int) -> range:
        count, width = len(self._colours), max(self.width(), 1)
        first = x * count // width
        stop = max(first + 1, -(-(x + 1) * count // width) if count > width else first + 1)
        found = range(min(first, count - 1), min(stop, count))
        return range(count - found.stop, count - found.start) if self._is_turned else found

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the slice under the mouse."""
        if self._colours:
            x = min(max(int(event.position().x()), 0), self.width() - 1)
            self.chosen.emit(self._slices_at(x)[0])

    def event(self, event: QEvent) -> bool:
        """Tell of the slice under the mouse."""
        if isinstance(event, QHelpEvent) and self._words:
            x = min(max(event.pos().x(), 0), self.width() - 1)
            text = f"{self._words[self._slices_at(x)[0]]}\n{self.toolTip()}"
            QToolTip.showText(event.globalPos(), text, self)
            return True
        return super().event(event)
