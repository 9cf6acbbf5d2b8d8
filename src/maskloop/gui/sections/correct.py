"""Correct: the class table, and tools that change the selected label in one undoable step."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers, parents
from maskloop.gui.choices import slim
from maskloop.gui.forms import Form
from maskloop.gui.host import Host, setting
from maskloop.gui.journal import Journals
from maskloop.gui.label_table import MOST_ROWS, LabelTableView
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS


class CorrectSection(Section):
    """Classes and tools of the chosen labels layer."""

    def __init__(self, host: Host) -> None:
        super().__init__("Correct")
        self._host = host
        self.new = tipped(QPushButton("New"), TIPS["new_labels"])
        self.form().addRow("Labels", host.labels)
        self.table = tipped(LabelTableView(), TIPS["table"])
        self.table.setMinimumHeight(110)
        self.table.setMaximumHeight(170)
        self.rows.addWidget(self.table)
        self.more = words()
        self.rows.addWidget(self.more)
        self.add_label = tipped(QPushButton("Add class"), TIPS["add_label"])
        self.scan = tipped(QPushButton("List ids"), TIPS["scan_labels"])
        self.recover = tipped(QPushButton("Recover earlier corrections"), TIPS["recover"])
        self.add(self.new, self.add_label, self.scan)
        self.rows.addWidget(self.recover)
        self.tool = tipped(slim(QComboBox()), TIPS["tool"])
        self.target = QLabel()
        form = self.form()
        form.addRow("Tool", self.tool)
        form.addRow("On label", self.target)
        self.options = Form(())
        self.rows.addWidget(self.options)
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.rows.addWidget(self.reason)
        self.apply = tipped(QPushButton("Apply"), TIPS["apply"])
        self.apply.setObjectName("maskloop_main")
        self.undo = tipped(QPushButton("Undo"), TIPS["undo"])
        self.redo = tipped(QPushButton("Redo"), TIPS["redo"])
        self.add(self.apply, self.undo, self.redo)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.journals = Journals(self._news.put)
        self._clock = QTimer(self)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._tell_news)
        self._fill_tools()
        self._connect()
        self._labels_changed()

    def start(self) -> None:
        """Run the chosen tool on the selected label."""
        layer = self._host.labels.layer
        if layer is None or self._problem():
            return
        tool, values = self.tool.currentText(), self.options.values()
        label = int(layer.selected_label)
        behind = parents.image_behind(layer, list(self._host.viewer.layers))
        try:
            seen = layers.capture_labels(layer, behind)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        is_grey = behind is not None and not behind.rgb
        pixels = layers.capture(behind) if is_grey else None
        author = str(setting("author", ""))

        def work(job: Job) -> Any:  # Any: a Correction; its type would import the loop
            from maskloop.loop.correct import correct

            image = pixels.image() if pixels is not None else None
            return correct(
                seen.mask(),
                tool,
                image=image,
                label=label,
                parameters=values,
                author=author,
                job=job,
            )

        self._host.start(work, tool, lambda found: self._show(layer, seen, found))

    def recover_case(self) -> None:
        """Open what the journal beside the image leads to as a labels layer."""
        folder = self._case_folder()
        if folder is None:
            return

        def work(job: Job) -> Any:  # Any: a Mask
            from maskloop.desk.cases import replay

            return replay(folder)

        self._host.start(work, f"Recovering {folder.name}", self._show_recovered)

    def release(self) -> None:
        """Stop listening to the layer; write what is pending."""
        self.journals.close()
        self.table.release()

    def _show(self, layer: Any, seen: layers.LabelsCapture, found: Any) -> None:  # Any: untyped
        if not any(layers.bare(x) is layer for x in self._host.viewer.layers):
            self._host.say(
                "The labels layer was deleted meanwhile; nothing was changed.", "warning"
            )
            return
        if not layers.holds(layer, found.mask.labels):
            self._host.say(f"{layer.name} ({layer.data.dtype}) has no room for more ids.", "error")
            return
        layers.set_table(layer, found.mask.labels)
        changed = layers.apply_ids(layer, found.mask.data, since=seen.ids)
        self.table.refill()
        text = f"{found.edit.words}: {changed:,} voxels changed. {' '.join(found.notes)}"
        self._host.say(text.strip(), "good" if changed else "warning")

    def _fill_tools(self) -> None:
        from maskloop.desk.catalogue import list_tools

        for row in list_tools():
            if row["state"] == "present":
                self.tool.addItem(row["name"])
        self.tool.setCurrentIndex(0)
        self._tool_changed()

    def _tool_changed(self) -> None:
        from maskloop.desk.catalogue import list_tools, tool_parameters

        name = self.tool.currentText()
        summary = next((row["summary"] for row in list_tools() if row["name"] == name), "")
        self.tool.setToolTip(f"{TIPS['tool']}\n{name}: {summary}" if name else TIPS["tool"])
        old = self.options
        self.options = Form(tool_parameters(name) if name else ())
        self.rows.replaceWidget(old, self.options)
        old.hide()
        old.deleteLater()

    def _connect(self) -> None:
        self.tool.currentIndexChanged.connect(lambda _: self._tool_changed())
        self.apply.clicked.connect(self.start)
        self.undo.clicked.connect(lambda: self._step("undo"))
        self.redo.clicked.connect(lambda: self._step("redo"))
        self.new.clicked.connect(self.make_labels)
        self.add_label.clicked.connect(self.add_class)
        self.scan.clicked.connect(self.list_ids)
        self.recover.clicked.connect(self.recover_case)
        self.table.itemSelectionChanged.connect(self._check)
        self.table.followed.connect(self._check)
        self._host.labels.changed.connect(self._labels_changed)
        self._host.image.changed.connect(self._check)
        self._host.busy.connect(lambda _: self._busy_changed())

    def _busy_changed(self) -> None:
        # A prediction may have brought new classes.
        if not self._host.is_busy:
            self.table.refill()
        self._check()

    def make_labels(self) -> None:
        """Add an empty labels layer on the chosen image."""
        from napari.layers import Layer

        image = self._host.image.layer
        if image is None:
            return
        data = layers.blank_like(image, LabelTable.classes(["label 1"]), f"{image.name}_labels")
        added = self._host.viewer.add_layer(Layer.create(*data))
        self._host.labels.choose(added)

    def add_class(self) -> None:
        """Add a class with the next free id and choose it for painting."""
        layer = self._host.labels.layer
        if layer is None:
            return
        table = layers.table_of(layer)
        number = max(table, default=0) + 1
        if number > layers.highest_id(layer):
            self._host.say(f"{layer.name} ({layer.data.dtype}) has no room for more ids.", "error")
            return
        like = next(iter(table.values()), None)
        category = like.category if like is not None else None
        row = Label(number, f"{category or 'label'} {number}", category=category)
        layers.set_table(layer, table.with_rows([row]))
        layer.selected_label = number
        self.table.refill()

    def list_ids(self) -> None:
        """Give every id that occurs a row."""
        layer = self._host.labels.layer
        if layer is not None:
            try:
                layers.set_table(layer, layers.table_with_present(layer))
            except MaskloopError as error:
                self._host.say(str(error), "error")
            self.table.refill()
            self._check()

    def _step(self, word: str) -> None:
        layer = self._host.labels.layer
        if layer is not None:
            getattr(self.journals.of(layer) or layer, word)()

    def _labels_changed(self) -> None:
        layer = self._host.labels.layer
        others = [layers.bare(x) for x in self._host.viewer.layers]
        if layer is not None:
            parents.adopt(layer, others)
        self.table.show_layer(layer)
        if layer is not None and setting("journal", True):
            author = str(setting("author", ""))
            if self.journals.begin(layer, others, author=author) is not None:
                self._clock.start()
        self._check()

    def _tell_news(self) -> None:
        while not self._news.empty():
            self._host.say(self._news.get(), "warning")

    def _show_recovered(self, mask: Mask) -> None:
        from napari.layers import Layer

        image = self._host.image.layer
        name = f"{image.name if image is not None else mask.name}_recovered"
        self._host.viewer.add_layer(Layer.create(*layers.mask_layer(mask, name=name)))
        self._host.say(f"{name}: as the journal beside the image has it.", "good")

    def _case_folder(self) -> Path | None:
        from maskloop.desk.cases import case_folder

        image = self._host.image.layer
        source = layers.placement_of(image).source if image is not None else None
        folder = case_folder(source) if source is not None else None
        return folder if folder is not None and folder.is_dir() else None

    def _problem(self) -> str:
        layer = self._host.labels.layer
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if layer is None:
            return "Predict, open a mask, or press New."
        if layer.multiscale:
            return f"{layer.name} is multiscale; napari cannot edit it."
        if layer.selected_label == 0:
            return "Select a label in the table; background cannot be corrected."
        return ""

    def _check(self) -> None:
        layer = self._host.labels.layer
        problem = self._problem()
        self.reason.setText(problem)
        self.reason.setVisible(bool(problem))
        self.apply.setEnabled(not problem)
        self.apply.setToolTip(problem or TIPS["apply"])
        for button in (self.undo, self.redo, self.add_label, self.scan):
            button.setEnabled(layer is not None)
        self.recover.setVisible(self._case_folder() is not None)
        self.new.setEnabled(self._host.image.layer is not None)
        table = LabelTable() if layer is None else layers.table_of(layer)
        number = 0 if layer is None else int(layer.selected_label)
        name = table[number].name if number in table else f"label {number}"
        self.target.setText(name if number else "none")
        hidden = len(table) - MOST_ROWS
        self.more.setText(f"{hidden} more rows are not listed." if hidden > 0 else "")
        self.more.setVisible(hidden > 0)
