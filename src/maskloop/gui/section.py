"""A titled part of the panel that opens and closes."""

from __future__ import annotations

from typing import TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

W = TypeVar("W", bound=QWidget)


class Section(QWidget):
    """A header to click and a body of rows.

    Parameters
    ----------
    title : str
    is_open : bool
    """

    def __init__(self, title: str, *, is_open: bool = False) -> None:
        super().__init__()
        self.header = QToolButton()
        self.header.setText(title)
        self.header.setToolTip(f"Show or hide {title}.")
        self.header.setCheckable(True)
        self.header.setChecked(is_open)
        self.header.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.header.setObjectName("maskloop_header")
        self.header.toggled.connect(self._toggle)
        self.body = QWidget()
        self.rows = QVBoxLayout(self.body)
        self.rows.setContentsMargins(10, 2, 8, 8)
        self.rows.setSpacing(6)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.header)
        column.addWidget(self.body)
        self._toggle(is_open)

    def open(self) -> None:
        """Show the body."""
        self.header.setChecked(True)

    def add(self, *widgets: QWidget) -> None:
        """Add one row of widgets side by side."""
        self.rows.addWidget(beside(*widgets))

    def form(self) -> QFormLayout:
        """Add and return rows of a label and a field."""
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(8)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.rows.addLayout(form)
        return form

    def release(self) -> None:
        """Let go of the viewer; called once, when the panel closes."""

    def _toggle(self, is_open: bool) -> None:
        self.header.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.body.setVisible(is_open)


def beside(*widgets: QWidget) -> QWidget:
    """Return a row of widgets side by side."""
    row = QWidget()
    line = QHBoxLayout(row)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(6)
    for widget in widgets:
        line.addWidget(widget)
    return row


def words(text: str = "") -> QLabel:
    """Return a label that wraps and never widens its panel, however long a word (a path)."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def tipped(widget: W, tip: str) -> W:
    """Give a widget its tooltip; return it."""
    widget.setToolTip(tip)
    return widget
