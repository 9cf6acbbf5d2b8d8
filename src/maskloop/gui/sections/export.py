"""Export: choose format and file, get a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
)

from maskloop.core.errors import MaskloopError
from maskloop.core.image import stem_of
from maskloop.core.job import Job
from maskloop.core.labels import Kind
from maskloop.gui import layers, parents
from maskloop.gui.choices import slim
from maskloop.gui.host import Host
from maskloop.gui.section import Section, beside, tipped, words
from maskloop.gui.tips import TIPS

# Second names of what is offered, and pictures that blur ids.
_NOT_OFFERED = (".tiff", ".jpg", ".jpeg", ".nhdr")


class ExportSection(Section):
    """Write the chosen labels layer, verified."""

    def __init__(self, host: Host) -> None:
        super().__init__("Export")
        self._host = host
        self._suffixes: list[str] = []
        self._proposed = ""
        # The layer and the kind of its ids that the format was last proposed for.
        self._labels: tuple[Any, Kind] | None = None  # Any: a napari layer
        self.what = words()
        self.format = tipped(slim(QComboBox()), TIPS["format"])
        self.kind = tipped(slim(QComboBox()), TIPS["kind"])
        self.kind.addItems(["classes", "objects"])
        self.only_shown = tipped(QCheckBox("Only the frame shown"), TIPS["only_shown"])
        self.only_shown.setChecked(True)
        self.path = tipped(QLineEdit(), TIPS["path"])
        self.path.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.browse = tipped(QPushButton("..."), TIPS["browse"])
        self.browse.setMaximumWidth(32)
        self.run = tipped(QPushButton("Export"), TIPS["export"])
        self.run.setObjectName("maskloop_main")
        self.receipt = tipped(QPlainTextEdit(), TIPS["receipt"])
        self.receipt.setReadOnly(True)
        self.receipt.setMinimumHeight(190)
        # As the command line prints it: columns, long hashes to the right.
        self.receipt.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        font.setPointSizeF(8)
        self.receipt.setFont(font)
        self.receipt.hide()
        self.rows.addWidget(self.what)
        self.form_rows = self.form()
        self.form_rows.addRow("Format", self.format)
        self.form_rows.addRow("Ids are", self.kind)
        self.form_rows.addRow(self.only_shown)
        self.form_rows.addRow("File", beside(self.path, self.browse))
        self.warnings = words()
        self.warnings.setStyleSheet("color: #ffcf66; background: transparent;")
        for widget in (self.warnings, self.run, self.receipt):
            self.rows.addWidget(widget)
        self._fill_formats()
        self.format.currentIndexChanged.connect(lambda _: self._propose())
        self.path.textChanged.connect(lambda _: self._check())
        self.browse.clicked.connect(self._ask)
        self.run.clicked.connect(self.start)
        host.labels.changed.connect(self._labels_changed)
        host.busy.connect(lambda _: self._check())
        host.busy.connect(lambda _: self._labels_changed())  # a model brings the kind of its ids
        host.reviewed.connect(self._warn)
        self.header.toggled.connect(lambda _: self._warn())
        self._labels_changed()

    def start(self) -> None:
        """Write the layer to the chosen file."""
        layer = self._host.labels.layer
        if layer is None or self._problem():
            return
        out = Path(self.path.text()).expanduser()
        frame = self._frame(layer)
        try:
            behind = parents.parent_of(layer, list(self._host.viewer.layers))
            seen = layers.capture_labels(layer, behind, frame=frame)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        kind: Kind | None = "classes" if self.kind.currentIndex() == 0 else "objects"
        if seen.placement.labels:
            kind = None
        has_file = behind is not None and layers.placement_of(behind).source is not None
        pixels = layers.capture(behind, frame=frame) if has_file else None
        editor = self._editor()
        review = editor.case.review if editor is not None else None

        def work(job: Job) -> Any:  # Any: a Receipt; its type would import a shelf
            from maskloop.loop.export import export

            image = pixels.image() if pixels is not None else None
            return export(seen.mask(), out, image=image, kind=kind, review=review, job=job)

        self._host.start(work, f"Writing {out.name}", lambda found: self._show(found, seen.note))

    def _show(self, receipt: Any, note: str) -> None:  # Any: a Receipt
        self.receipt.setPlainText(f"{note}\n{receipt.to_text()}".strip())
        self.receipt.show()
        left = "The receipt tells what was not reviewed. " if receipt.warnings else ""
        self._host.say(
            f"{receipt.path.name}: {receipt.verdict}, read back with {receipt.reader}. "
            f"{left}{note}".strip(),
            "warning" if note or left else "good",
        )

    def _editor(self) -> Any:  # Any: a LayerEditor, or None where the layer has no case
        layer = self._host.labels.layer
        editor = self._host.editors.of(layer) if layer is not None else None
        return editor if editor is not None and editor.is_open else None

    def _warn(self) -> None:
        """Say, before anything is written, what the reader has not looked at or decided."""
        editor = self._editor() if self.header.isChecked() else None
        found: tuple[str, ...] = ()
        if editor is not None:
            case, shape = editor.case, editor.case.mask.geometry.shape
            boxes = [b for i in case.mask.labels if (b := case.extent(i)) is not None]
            spans = [[box[a - len(shape)] for box in boxes] for a in range(len(shape))]
            found = case.review.report(
                [
                    range(min(p.start for p in parts), max(p.stop for p in parts))
                    if parts
                    else range(length)
                    for parts, length in zip(spans, shape, strict=True)
                ]
            ).warnings
        self.warnings.setText("\n".join(f"{w[:1].upper()}{w[1:]}." for w in found))
        self.warnings.setVisible(bool(found))

    def _fill_formats(self) -> None:
        from maskloop.desk.catalogue import list_formats

        for row in list_formats():
            if row["state"] != "present" or "masks" not in row["writes"]:
                continue
            for suffix in row["suffixes"]:
                if suffix not in _NOT_OFFERED:
                    self.format.addItem(f"{suffix}  {row['title']}")
                    self._suffixes.append(suffix)

    def _labels_changed(self) -> None:
        layer = self._host.labels.layer
        known = None if layer is None else (layer, layers.table_of(layer).kind)
        if known is not None and known != self._labels:
            self._labels = known
            is_volume = layers.placement_of(layer).geometry.ndim == 3
            wanted = ".nii.gz" if is_volume else (".json" if known[1] == "objects" else ".png")
            if wanted in self._suffixes:
                self.format.setCurrentIndex(self._suffixes.index(wanted))
        if layer is None:
            self._labels = None
        self._propose()

    def _propose(self) -> None:
        layer = self._host.labels.layer
        if layer is not None and self._suffixes and self.path.text() in ("", self._proposed):
            behind = parents.image_behind(layer, list(self._host.viewer.layers))
            place = layers.placement_of(behind if behind is not None else layer)
            source = place.source
            folder = source.parent if source is not None and source.exists() else Path.home()
            name = layer.name.replace("/", "-").replace(" ", "_")
            # What has a title of its own must not be known by its file: a patient's name, often.
            is_named = source is not None and source.is_file() and not place.title
            if source is not None and is_named and not name.startswith(stem_of(source)):
                name = f"{stem_of(source)}_{name}"
            self._proposed = str(folder / f"{name}{self._suffixes[self.format.currentIndex()]}")
            self.path.setText(self._proposed)
        elif self._suffixes and self.path.text():
            self.path.setText(_with_suffix(self.path.text(), self._suffixes, self.format))
        self._check()

    def _ask(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Export labels", self.path.text(), self._filter()
        )
        if name:
            self.path.setText(name)

    def _filter(self) -> str:
        return ";;".join(f"{self.format.itemText(i)} (*{s})" for i, s in enumerate(self._suffixes))

    def _frame(self, layer: Any) -> layers.Frame:  # Any: a napari layer
        names = layers.frames_of(layer)
        if not names or not self.only_shown.isChecked():
            return ()
        index = layer.world_to_data(list(self._host.viewer.dims.point)[-layer.ndim :])
        return tuple(
            min(max(round(float(at)), 0), size - 1)
            for at, size, _ in zip(index, layers.shape_of(layer), names, strict=False)
        )

    def _problem(self) -> str:
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if self._host.labels.layer is None:
            return "There are no labels to export yet."
        if not self.path.text().strip():
            return "Choose a file."
        return ""

    def _check(self) -> None:
        problem = self._problem()
        layer = self._host.labels.layer
        self._warn()
        self.what.setText(problem if layer is None else f"Labels: {layer.name}")
        self.run.setEnabled(not problem)
        self.run.setToolTip(problem or TIPS["export"])
        self.form_rows.setRowVisible(self.kind, layer is not None and not layers.table_of(layer))
        self.form_rows.setRowVisible(
            self.only_shown, layer is not None and bool(layers.frames_of(layer))
        )


def _with_suffix(text: str, suffixes: list[str], format_: QComboBox) -> str:
    wanted = suffixes[format_.currentIndex()]
    found = max((s for s in suffixes if text.endswith(s)), key=len, default="")
    return f"{text.removesuffix(found)}{wanted}" if found else text
