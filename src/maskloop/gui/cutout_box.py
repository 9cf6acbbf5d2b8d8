"""What labels cover of a picture as a PNG with a soft edge and nothing around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.gui import layers, parents
from maskloop.gui.choices import slim
from maskloop.gui.host import Host
from maskloop.gui.section import beside, tipped
from maskloop.gui.tips import TIPS

_SELECTED = 1


class CutoutBox(QWidget):
    """Cuts out of the picture behind the chosen labels layer; shown for pictures only.

    Parameters
    ----------
    host : Host
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self.what = tipped(slim(QComboBox()), TIPS["cutout_what"])
        self.what.addItems(["all labels", "the label selected"])
        self.soft = tipped(QDoubleSpinBox(), TIPS["cutout_soft"])
        self.soft.setRange(0, 100)
        self.soft.setValue(2)
        self.soft.setSuffix(" px soft")
        self.crop = tipped(QCheckBox("Cropped"), TIPS["cutout_crop"])
        self.run = tipped(QPushButton("Cut out ..."), TIPS["cutout"])
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 6, 0, 0)
        rows.addWidget(beside(self.what, self.soft))
        rows.addWidget(beside(self.crop, self.run))
        self.run.clicked.connect(self._ask)
        host.labels.changed.connect(self._check)
        host.busy.connect(lambda _: self._check())
        self._check()

    def save(self, path: Path) -> None:
        """Write the cut-out, read it back, compare, and only then put it in place."""
        layer, behind = self._layers()
        if layer is None or behind is None:
            return
        try:
            seen = layers.capture_labels(layer, behind)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        pixels = layers.capture(behind)
        chosen = (int(layer.selected_label),) if self.what.currentIndex() == _SELECTED else ()
        soft, is_cropped = self.soft.value(), self.crop.isChecked()

        def work(job: Job) -> Any:  # Any: a Cutout
            from maskloop.desk.cutout import cutout

            mask = seen.mask().checked()
            image = pixels.image()
            return cutout(image, mask, path, labels=chosen, soft_px=soft, crop=is_cropped, job=job)

        self._host.start(work, f"Writing {path.name}", self._written)

    def _written(self, found: Any) -> None:  # Any: a Cutout
        self._host.say(found.to_text(), "good")

    def _layers(self) -> tuple[Any, Any]:  # Any: napari layers
        layer = self._host.labels.layer
        shown = [layers.bare(x) for x in self._host.viewer.layers]
        behind = None if layer is None else parents.image_behind(layer, shown)
        return layer, behind

    def _check(self) -> None:
        layer, behind = self._layers()
        is_picture = behind is not None and layers.shape_of(behind) == layers.shape_of(layer)
        self.setVisible(is_picture and len(layers.shape_of(layer)) == 2)
        self.run.setEnabled(not self._host.is_busy)

    def _ask(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Cut out", "cutout.png", "PNG (*.png)")
        if name:
            self.save(Path(name if name.lower().endswith(".png") else f"{name}.png"))
