"""A form from a tool's parameters."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from maskloop.core.parameters import Parameter
from maskloop.gui.choices import slim

_FAR = 1_000_000


class Form(QWidget):
    """One row a parameter.

    Parameters
    ----------
    parameters : sequence of Parameter
        As from `maskloop.core.parameters.parameters_of`.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        super().__init__()
        self.parameters = tuple(parameters)
        self.fields = {p.name: _field(p) for p in parameters}
        rows = QFormLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for parameter in parameters:
            field = self.fields[parameter.name]
            field.setToolTip(parameter.help or _sentence(parameter))
            rows.addRow(_sentence(parameter), field)

    def values(self) -> dict[str, object]:
        """Return what the person chose, by parameter; optional ones left empty are None."""
        return {p.name: _value(p, self.fields[p.name]) for p in self.parameters}


def _sentence(parameter: Parameter) -> str:
    text = parameter.label or parameter.name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _field(parameter: Parameter) -> QWidget:
    default = parameter.default
    if parameter.choices:
        box = slim(QComboBox())
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


def _value(parameter: Parameter, field: QWidget) -> object:
    if isinstance(field, QComboBox):
        return parameter.choices[field.currentIndex()]
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, QLineEdit):
        text = field.text().strip()
        return None if not text and parameter.is_optional else text
    return field.value() if isinstance(field, QSpinBox | QDoubleSpinBox) else None
