"""The dock: a section for each verb, objects, review and comparison, over a line of words."""

from __future__ import annotations

import logging
from typing import Any

import napari.viewer
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from maskloop.gui.cutout_box import CutoutBox
from maskloop.gui.dataset_convert import ConvertBox
from maskloop.gui.host import Host
from maskloop.gui.section import Section
from maskloop.gui.sections.compare import CompareSection
from maskloop.gui.sections.correct import CorrectSection
from maskloop.gui.sections.dataset import DatasetSection
from maskloop.gui.sections.export import ExportSection
from maskloop.gui.sections.load import LoadSection
from maskloop.gui.sections.objects import ObjectsSection
from maskloop.gui.sections.predict import PredictSection
from maskloop.gui.sections.review import ReviewSection
from maskloop.gui.sections.train import TrainSection
from maskloop.gui.upright import Upright

_log = logging.getLogger(__name__)
_WIDTH = 340  # a line of a receipt; leaves 700 pixels of picture on a screen of 1366
_STYLE = """
#maskloop_header { font-weight: bold; border: none; padding: 4px; text-align: left; }
#maskloop_main { font-weight: bold; padding: 5px; }
#maskloop_tool { padding: 4px 2px; }
#maskloop_tool:checked { background-color: #4459c9; }
"""


class Panel(QWidget):
    """Load, a dataset's list, predict, correct with objects and review, compare, export, train.

    Parameters
    ----------
    viewer : napari.Viewer
        Given by napari, which looks for this very annotation.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.setStyleSheet(_STYLE)
        self.host = Host(viewer)
        self.load = LoadSection(self.host)
        self.predict = PredictSection(self.host)
        self.dataset = DatasetSection(self.host, self.predict)
        self.correct = CorrectSection(self.host)
        self.objects = ObjectsSection(self.host)
        self.review = ReviewSection(self.host)
        self.compare = CompareSection(self.host)
        self.export = ExportSection(self.host)
        self.convert = ConvertBox(self.host, self.dataset.session)
        self.cutout = CutoutBox(self.host)
        self.export.rows.addWidget(self.cutout)
        self.export.rows.addWidget(self.convert)
        self.train = TrainSection(self.host)
        self._upright = Upright(viewer, self.load.chosen_convention)
        self.load.convention.currentIndexChanged.connect(self._face)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(2, 2, 2, 2)
        column.setSpacing(2)
        for section in self.sections:
            column.addWidget(section)
        column.addStretch(1)
        self.area = _Column(inside)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.area, 1)
        rows.addWidget(self.host)
        self.setMinimumWidth(_WIDTH)
        host, parts, upright = self.host, self.sections, self._upright
        self.destroyed.connect(lambda: _release(host, parts, upright))

    def _face(self) -> None:
        self._upright.convention = self.load.chosen_convention

    @property
    def letters(self) -> dict[str, str]:
        """What stands at the edges of the picture: ``top bottom left right``."""
        return self._upright.letters

    @property
    def sections(self) -> tuple[Section, ...]:
        """The parts, in the order of the loop; what opens only when wanted is closed at first."""
        first = self.load, self.dataset, self.predict
        return (
            *first,
            self.correct,
            self.objects,
            self.review,
            self.compare,
            self.export,
            self.train,
        )


class _Column(QScrollArea):
    """Scrolls up and down only: never narrower than what it holds, so that nothing is cut off."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setWidget(inside)
        self._inside = inside
        inside.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the width that the content needs."""
        if event.type() == QEvent.Type.LayoutRequest:
            bar = self.width() - self.viewport().width()
            self.setMinimumWidth(self._inside.minimumSizeHint().width() + bar)
        return False


def _release(host: Host, sections: tuple[Section, ...], upright: Any) -> None:  # Any: Upright
    """Let go of the viewer; the widgets themselves are gone already."""
    for part in (*sections, upright, host):
        try:
            part.release()
        except RuntimeError:  # Qt took something first; the others must be let go all the same
            _log.debug("closing the panel", exc_info=True)
