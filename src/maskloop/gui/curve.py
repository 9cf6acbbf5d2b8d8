"""Loss and held-out scores while a model learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

LOSS = "#e69f00"
SCORES = ("#56b4e9", "#7ee2a8", "#cc79a7", "#f0e442")
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 30, 22, 20

Points = list[tuple[float, float]]


def parse(note: str) -> tuple[float | None, dict[str, float]]:
    """Return loss and held-out scores of a note ``loss=0.12 held_out_dice:tumour=0.61``.

    Examples
    --------
    >>> parse("loss=0.12 held_out_dice:tumour=0.61")
    (0.12, {'tumour': 0.61})
    """
    loss, scores = None, {}
    for part in note.split():
        key, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            continue
        if key == "loss":
            loss = number
        elif key.startswith("held_out"):
            scores[key.partition(":")[2].replace("_", " ")] = number
    return loss, scores


class Curve(QWidget):
    """A small plot: loss on the left scale, scores from 0 to 1 on the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(150)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.loss: Points = []
        self.scores: dict[str, Points] = {}
        self.steps = 1

    def clear(self) -> None:
        """Begin anew."""
        self.loss, self.scores = [], {}
        self.update()

    def add(self, step: int, steps: int, note: str) -> None:
        """Take one report of the training."""
        loss, scores = parse(note)
        self.steps = max(steps, 1)
        if loss is not None and math.isfinite(loss):
            self.loss.append((step, loss))
        for name, value in scores.items():
            points = self.scores.setdefault(name, [])
            if math.isfinite(value) and (not points or points[-1] != (step, value)):
                points.append((step, value))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, lines and legend."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)
        high = max((v for _, v in self.loss), default=1.0) or 1.0
        self._draw_axes(painter, area, high)
        self._draw_line(painter, area, self.loss, high, LOSS)
        for colour, points in zip(SCORES, self.scores.values(), strict=False):
            self._draw_line(painter, area, points, 1.0, colour, dots=True)
        self._draw_legend(painter)
        painter.end()

    def _draw_axes(self, painter: QPainter, area: QRectF, high: float) -> None:
        text = self.palette().color(self.foregroundRole())
        faint = QColor(text)
        faint.setAlphaF(0.25)
        font = painter.font()
        font.setPointSizeF(8)
        painter.setFont(font)
        for share in (0.0, 0.5, 1.0):
            y = area.bottom() - share * area.height()
            painter.setPen(faint)
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(QColor(LOSS))
            left = QRectF(0, y - 8, _LEFT - 4, 16)
            right_middle = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(left, right_middle, f"{share * high:.2g}")
            painter.setPen(QColor(SCORES[0]))
            right = QRectF(area.right() + 4, y - 8, _RIGHT - 4, 16)
            left_middle = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(right, left_middle, f"{share:g}")
        painter.setPen(text)
        below = QRectF(area.left(), area.bottom() + 2, area.width(), 16)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, "0")
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "step")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, str(self.steps))

    def _draw_line(
        self,
        painter: QPainter,
        area: QRectF,
        points: Sequence[tuple[float, float]],
        high: float,
        colour: str,
        *,
        dots: bool = False,
    ) -> None:
        line = [
            QPointF(
                area.left() + area.width() * step / self.steps,
                area.bottom() - area.height() * min(max(value / high, 0.0), 1.0),
            )
            for step, value in points
        ]
        painter.setPen(QPen(QColor(colour), 1.6))
        painter.drawPolyline(QPolygonF(line))
        if dots:
            painter.setBrush(QColor(colour))
            for point in line:
                painter.drawEllipse(point, 3, 3)
            painter.setBrush(Qt.BrushStyle.NoBrush)

    def _draw_legend(self, painter: QPainter) -> None:
        names = [("loss", LOSS)]
        names += [(n, c) for n, c in zip(self.scores, SCORES, strict=False)]
        x = float(_LEFT)
        for name, colour in names:
            painter.setPen(QColor(colour))
            text = name if colour == LOSS else f"held-out {name}"
            painter.drawText(QPointF(x, 14), text)
            x += painter.fontMetrics().horizontalAdvance(text) + 12
