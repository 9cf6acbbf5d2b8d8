"""A form from a tool's parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from maskloop.core.errors import InputError
from maskloop.core.labels import LabelTable
from maskloop.core.parameters import Parameter, Points
from maskloop.gui.choices import slim
from maskloop.gui.pickers import Picker

_FAR = 1_000_000
_MILLIMETRES = re.compile(r"\bmm[23\u00b2\u00b3]?(?!\w)")


class Form(QWidget):
    """One row a parameter.

    Parameters
    ----------
    parameters : sequence of Parameter
        As from `maskloop.core.parameters.parameters_of`.
    labels : LabelTable
        The labels to choose from, where an option names one.
    picker : callable, optional
        Makes what draws a `Points` option in the picture; without it they are written as text.
    unit : str
        What lengths are counted in: on a picture, pixels.

    Signals
    -------
    changed()
        Something was chosen, written or drawn.
    """

    changed = Signal()

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        labels: LabelTable | None = None,
        picker: Callable[[Parameter], Picker] | None = None,
        unit: str = "mm",
    ) -> None:
        super().__init__()
        self.parameters = tuple(parameters)
        self.fields = {p.name: _field(p, picker) for p in parameters}
        rows = QFormLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for parameter in parameters:
            field = self.fields[parameter.name]
            text = _sentence(parameter, unit)
            field.setToolTip(parameter.help or text)
            rows.addRow(text, field)
            _told(field, self.changed.emit)
        self.set_labels(labels or LabelTable())

    @property
    def pickers(self) -> tuple[Picker, ...]:
        """The fields that are drawn in the picture."""
        return tuple(field for field in self.fields.values() if isinstance(field, Picker))

    @property
    def problem(self) -> str:
        """What is still to be filled in, or ""."""
        for parameter in self.parameters:
            value = _value(parameter, self.fields[parameter.name])
            if value in (None, ""):
                word = "Draw" if parameter.type is Points else "Choose"
                if parameter.is_required:
                    return f"{word} first: {parameter.label or parameter.name}."
                continue
            try:
                parameter.checked(value)
            except InputError as error:
                return f"{str(error)[:1].upper()}{str(error)[1:]}."
        return ""

    def values(self) -> dict[str, object]:
        """Return what the person chose, by parameter; optional ones left empty are None.

        What is empty and may not be None is left out.
        """
        found = {p.name: _value(p, self.fields[p.name]) for p in self.parameters}
        may = {p.name for p in self.parameters if p.is_optional}
        return {k: v for k, v in found.items() if v is not None or k in may}

    def set_labels(self, labels: LabelTable, *, but: int = 0) -> None:
        """Offer these labels where an option names one, but not the one that is corrected."""
        for parameter in self.parameters:
            box = self.fields[parameter.name]
            if not parameter.is_label or not isinstance(box, QComboBox):
                continue
            kept = box.currentData()
            before = box.blockSignals(True)
            box.clear()
            if parameter.is_optional:
                box.addItem("none", None)
            for row in labels.values():
                if row.id != but:
                    box.addItem(row.name, str(row.id))
            wanted = box.findData(kept if kept is not None else parameter.default)
            box.setCurrentIndex(max(wanted, 0))
            box.blockSignals(before)


def _sentence(parameter: Parameter, unit: str) -> str:
    text = parameter.label or parameter.name.replace("_", " ")
    if unit != "mm":
        text = _MILLIMETRES.sub(unit, text)
    return text[:1].upper() + text[1:]


def _told(field: QWidget, hear: Callable[[], None]) -> None:
    """Call `hear` when the person changes a field."""
    if isinstance(field, QComboBox):
        field.currentIndexChanged.connect(lambda _: hear())
    elif isinstance(field, QCheckBox):
        field.toggled.connect(lambda _: hear())
    elif isinstance(field, QLineEdit):
        field.textChanged.connect(lambda _: hear())
    elif isinstance(field, QSpinBox | QDoubleSpinBox):
        field.valueChanged.connect(lambda _: hear())
    elif isinstance(field, Picker):
        field.changed.connect(hear)


def _field(parameter: Parameter, picker: Callable[[Parameter], Picker] | None) -> QWidget:
    default = parameter.default
    if parameter.type is Points:
        return QLineEdit() if picker is None else picker(parameter)
    if parameter.is_label:
        return _narrow(QComboBox())
    if parameter.choices:
        box = _narrow(QComboBox())
        box.addItems([str(choice) for choice in parameter.choices])
        if default is not None:
            box.setCurrentText(str(default))
        return box
    if parameter.is_optional or parameter.type is str:
        line = QLineEdit("" if default is None else str(default))
        if parameter.is_optional:
            line.setPlaceholderText("none")
        return line
    if parameter.type is bool:
        tick = QCheckBox()
        tick.setChecked(bool(default))
        return tick
    low = -_FAR if parameter.minimum is None else parameter.minimum
    high = _FAR if parameter.maximum is None else parameter.maximum
    start = float(str(default)) if default is not None else max(0.0, float(low))
    if parameter.type is int:
        whole = QSpinBox()
        whole.setRange(int(low), int(high))
        whole.setValue(round(start))
        return whole
    number = QDoubleSpinBox()
    number.setDecimals(2)
    number.setRange(float(low), float(high))
    number.setSingleStep(1.0 if float(high) - float(low) > 50 else 0.5)
    number.setValue(start)
    return number


def _narrow(box: QComboBox) -> QComboBox:
    """Let a menu stand beside a long label; return it."""
    slim(box).setMinimumContentsLength(4)
    return box


def _value(parameter: Parameter, field: QWidget) -> object:
    if isinstance(field, Picker):
        return field.value()
    if parameter.is_label and isinstance(field, QComboBox):
        return field.currentData()
    if isinstance(field, QComboBox):
        return parameter.choices[field.currentIndex()]
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, QLineEdit):
        text = field.text().strip()
        is_empty = not text and (parameter.is_optional or parameter.type is Points)
        return None if is_empty else text
    return field.value() if isinstance(field, QSpinBox | QDoubleSpinBox) else None
